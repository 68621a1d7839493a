//! What is asked: requests of the Open Inference Protocol in JSON over HTTP/1.1, to everybody the same bytes.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

/// Writes the n-th request.
pub type Requests = Arc<dyn Fn(u64, &mut Vec<u8>) + Send + Sync>;

/// Requests of tables before they repeat: the sides of an iris in tenths.
const TABLES: u64 = 40 * 30 * 60 * 25;
/// What follows the numbers of a table.
const ROW_END: &str = "]}]}";
/// Texts before they repeat.
const TEXTS: usize = 400;
/// Sentences of a longer text.
const SENTENCES: usize = 4;
/// Characters of texts that cost about as much as each other, and of a passage at least: as long as what is cut for retrieval.
const ALIKE: Range<usize> = 50..70;
const PASSAGE: usize = 1_000;

/// To whom a request goes and as whom it is asked.
#[derive(Clone, Debug)]
pub struct Door {
    /// Name of the model in the path.
    pub model: String,
    /// Key of the tenant; peers get it too, and do not look at it.
    pub key: String,
    /// Further headers, a line each, `\r\n` after each.
    pub headers: String,
}

impl Door {
    fn request(&self, body: &str) -> Vec<u8> {
        let Self { model, key, headers } = self;
        format!(
            "POST /v2/models/{model}/infer HTTP/1.1\r\nhost: infer.example\r\nauthorization: Bearer {key}\r\ncontent-type: \
             application/json\r\n{headers}content-length: {}\r\n\r\n{body}",
            body.len()
        )
        .into_bytes()
    }

    /// One row of four lengths, different each time; the tensor is called `input`.
    #[must_use]
    pub fn tables(&self, input: &str) -> Requests {
        let first = self.request(&row(0, input));
        // All are as long, so that only their last bytes differ.
        let sides_from = first.len() - ROW_END.len() - sides(0).len();
        Arc::new(move |n, request| {
            request.extend_from_slice(&first[..sides_from]);
            request.extend_from_slice(&sides(n));
            request.extend_from_slice(ROW_END.as_bytes());
        })
    }

    /// A text each, in turn.
    ///
    /// # Errors
    /// There are none.
    pub fn texts(&self, texts: &[String]) -> Result<Requests> {
        ensure!(!texts.is_empty(), "no text to ask");
        let body = |text: &String| {
            json!({"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": [text]}]}).to_string()
        };
        let all: Vec<Vec<u8>> = texts.iter().map(|text| self.request(&body(text))).collect();
        let count = u64::try_from(all.len())?;
        Ok(Arc::new(move |n, request| {
            let one = usize::try_from(n % count).ok().and_then(|at| all.get(at));
            request.extend_from_slice(one.expect("a remainder lies within"));
        }))
    }
}

fn row(n: u64, input: &str) -> String {
    let sides = sides(n);
    let sides = String::from_utf8_lossy(&sides);
    format!(r#"{{"inputs":[{{"name":"{input}","datatype":"FP32","shape":[1,4],"data":[{sides}{ROW_END}"#)
}

/// The n-th table's numbers as JSON writes them, by hand: each request has its own, and the client shares its cores with the server.
fn sides(n: u64) -> [u8; 15] {
    // A stride that shares no factor with their number visits all of them.
    let n = n.wrapping_mul(7_919) % TABLES;
    let all = [40 + n % 40, 20 + n / 40 % 30, 10 + n / 1_200 % 60, 1 + n / 72_000];
    let mut text = *b"0.0,0.0,0.0,0.0";
    for (side, tenths) in text.chunks_mut(4).zip(all) {
        let digit = |n: u64| b'0' + u8::try_from(n % 10).unwrap_or_default();
        (side[0], side[2]) = (digit(tenths / 10), digit(tenths));
    }
    text
}

/// How long texts are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// Of 20, five names of a few words, nine sentences and six paragraphs of four.
    Mixed,
    /// One sentence of 50 to 69 characters: each is as much work as another, so answers can be counted as work.
    Alike,
    /// A thousand characters and more.
    Passage,
}

/// Texts from the file by which `minilm-l6` is judged (functions of Python's library and the first sentences of their docstrings).
///
/// # Errors
/// The file is not there or holds something else.
pub fn texts(file: &Path, length: Length) -> Result<Vec<String>> {
    let (mut names, mut sentences) = (Vec::new(), Vec::new());
    let lines = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    for line in lines.lines() {
        let pair: Value = serde_json::from_str(line)?;
        let text = |side: &str| pair[side][0]["data"][0].as_str().map(str::to_owned);
        names.push(text("query").context("a query")?);
        sentences.push(text("answer").context("an answer")?);
    }
    ensure!(sentences.len() >= SENTENCES, "{} holds too little", file.display());
    let sentence = |at: usize| sentences[at % sentences.len()].as_str();
    let mixed = |at: usize| match at * 7 % 20 {
        0..5 => names[at % names.len()].clone(),
        5..14 => sentence(at).to_owned(),
        _ => (at..at + SENTENCES).map(sentence).collect::<Vec<_>>().join(" "),
    };
    let passage = |at: usize| {
        let mut text = sentence(at).to_owned();
        let mut more = (at + 1..).map(sentence);
        while text.len() < PASSAGE {
            text.push(' ');
            text.push_str(more.next().unwrap_or_default());
        }
        text
    };
    Ok(match length {
        Length::Mixed => (0..TEXTS).map(mixed).collect(),
        Length::Alike => sentences
            .into_iter()
            .filter(|text| ALIKE.contains(&text.len()))
            .collect(),
        Length::Passage => (0..TEXTS).map(passage).collect(),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn door() -> Door {
        Door {
            model: "m".to_owned(),
            key: "k".to_owned(),
            headers: "cache-control: no-cache\r\n".to_owned(),
        }
    }

    fn asked(requests: &Requests, n: u64) -> (String, Value) {
        let mut bytes = Vec::new();
        requests(n, &mut bytes);
        let text = String::from_utf8(bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let told = head.split("content-length: ").nth(1).unwrap();
        assert_eq!(told.parse(), Ok(body.len()), "request {n}");
        assert!(head.starts_with("POST /v2/models/m/infer HTTP/1.1\r\n"));
        assert!(head.contains("\r\ncache-control: no-cache\r\n"));
        (head.to_owned(), serde_json::from_str(body).unwrap())
    }

    #[test]
    fn rows_of_tables_differ_for_as_long_as_a_run_lasts() {
        let requests = door().tables("features");
        let rows: BTreeSet<String> = (0..200_000).map(|n| row(n, "features")).collect();
        assert_eq!(rows.len(), 200_000);
        for n in [0, 1, TABLES - 1, TABLES, u64::MAX] {
            let (_, body) = asked(&requests, n);
            assert_eq!(body["inputs"][0]["name"], "features");
            assert_eq!(body["inputs"][0]["data"].as_array().map(Vec::len), Some(4));
        }
    }

    #[test]
    fn texts_are_short_and_long_and_the_same_for_everybody() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/zoo/judge/names.jsonl");
        let texts = super::texts(&file, Length::Mixed).unwrap();
        let long = |from: usize, to: usize| texts.iter().filter(|t| (from..to).contains(&t.len())).count();
        assert!(
            long(1, 40) >= TEXTS / 5 && long(150, 1_200) >= TEXTS / 5,
            "of mixed lengths"
        );
        let requests = door().texts(&texts).unwrap();
        let (_, body) = asked(&requests, 3);
        assert_eq!(body["inputs"][0]["data"][0], texts[3].as_str());
        assert_eq!(asked(&requests, 3), asked(&requests, 3 + 400));
        assert!(door().texts(&[]).is_err());
        let all = |length| super::texts(&file, length).unwrap();
        let alike = all(Length::Alike);
        assert!(alike.len() >= 100 && alike.iter().all(|text| ALIKE.contains(&text.len())));
        assert!(
            all(Length::Passage)
                .iter()
                .all(|text| (PASSAGE..PASSAGE + 300).contains(&text.len()))
        );
    }
}
