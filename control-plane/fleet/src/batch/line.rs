//! Lines of a batch: what is asked, and what became of it. Pure.

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use http::StatusCode;
use proto::ids::ContentHash;
use proto::limits::BATCH_LINE_BYTES_MAX;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// The last level of priority: everybody else's requests go first.
const PRIORITY: u64 = 5;

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    /// Its line in the input, from 1.
    pub(super) line: u64,
    /// Its own id, else its line.
    pub(super) id: String,
    /// Digest of the line as it was written.
    pub(super) digest: ContentHash,
    /// What is sent.
    pub(super) body: Bytes,
}

impl Asked {
    /// Reads one line: an inference request of the Open Inference Protocol, with or without `id`.
    ///
    /// # Errors
    /// It is none.
    pub(super) fn read(line: u64, text: &str) -> Result<Self> {
        ensure!(
            text.len() <= BATCH_LINE_BYTES_MAX,
            "line {line} has more than {BATCH_LINE_BYTES_MAX} bytes"
        );
        let mut request: Map<String, Value> =
            serde_json::from_str(text).with_context(|| format!("line {line} is not a JSON object"))?;
        ensure!(
            request.get("inputs").is_some_and(Value::is_array),
            "line {line} has no `inputs`: write an inference request, {{\"id\": .., \"inputs\": [..]}}"
        );
        let id = match request.get("id") {
            None => line.to_string(),
            Some(Value::String(id)) => id.clone(),
            Some(Value::Number(id)) => id.to_string(),
            Some(_) => bail!("line {line} has an `id` that is neither text nor number"),
        };
        request.insert("id".to_owned(), Value::String(id.clone()));
        let parameters = request.entry("parameters").or_insert_with(|| Value::Object(Map::new()));
        let Value::Object(parameters) = parameters else {
            bail!("line {line} has `parameters` that are no object");
        };
        parameters.insert("priority".to_owned(), PRIORITY.into());
        Ok(Self {
            line,
            id,
            digest: ContentHash::of(text.as_bytes()),
            body: serde_json::to_vec(&request)?.into(),
        })
    }
}

/// One line of the output, and of the journal that becomes it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Ended {
    /// The request's id.
    pub(super) id: String,
    /// Its line in the input, from 1.
    pub(super) line: u64,
    /// Digest of that line: a line that was changed since is asked again.
    pub(super) asked: ContentHash,
    /// The status of the last answer; 0 where there was none.
    pub(super) status: u16,
    /// The answer, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) answer: Option<Box<RawValue>>,
    /// Why there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<String>,
}

impl Ended {
    /// What became of `asked`.
    #[must_use]
    pub(super) fn of(asked: &Asked, got: Result<(StatusCode, &[u8]), String>) -> Self {
        let (status, answer, error) = match got {
            Ok((status, body)) if status.is_success() => match serde_json::from_slice(body) {
                Ok(answer) => (status.as_u16(), Some(answer), None),
                Err(_) => (status.as_u16(), None, Some("the answer is not JSON".to_owned())),
            },
            Ok((status, body)) => (status.as_u16(), None, Some(said(body))),
            Err(why) => (0, None, Some(why)),
        };
        Self {
            id: asked.id.clone(),
            line: asked.line,
            asked: asked.digest,
            status,
            answer,
            error,
        }
    }
    /// Reads a line of a journal; `None` for what is none, such as one that a kill cut off.
    #[must_use]
    pub(super) fn read(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }
    /// With its end of line.
    #[must_use]
    pub(super) fn write(&self) -> String {
        serde_json::to_string(self).expect("texts, numbers and JSON are all that JSON needs to write") + "\n"
    }
}

/// The sentence of a refusal.
fn said(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Refusal {
        error: String,
    }
    let text = serde_json::from_slice(body).map(|refusal: Refusal| refusal.error);
    text.unwrap_or_else(|_| String::from_utf8_lossy(body).chars().take(200).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_line_is_sent_as_it_is_but_last_in_the_queue_and_with_an_id() {
        let asked = Asked::read(3, r#"{"inputs":[{"name":"x"}],"parameters":{"priority":1,"k":true}}"#).unwrap();
        let sent: Value = serde_json::from_slice(&asked.body).unwrap();
        assert_eq!((asked.id.as_str(), &sent["id"]), ("3", &"3".into()));
        assert_eq!(sent["parameters"], serde_json::json!({"priority": 5, "k": true}));
        assert_eq!(Asked::read(1, r#"{"id":"a","inputs":[]}"#).unwrap().id, "a");
        for bad in [
            "",
            "[]",
            "{}",
            r#"{"inputs":1}"#,
            r#"{"inputs":[],"id":[]}"#,
            r#"{"inputs":[],"parameters":1}"#,
        ] {
            assert!(
                Asked::read(1, bad).unwrap_err().to_string().starts_with("line 1 "),
                "{bad}"
            );
        }
    }

    proptest! {
        #[test]
        fn what_ended_is_read_back_and_a_line_that_was_cut_off_is_none(id in ".{0,20}", cut in 0_usize..400) {
            let asked = Asked { line: 1, id, digest: ContentHash::of(b"x"), body: Bytes::new() };
            let text = Ended::of(&asked, Ok((StatusCode::OK, br#"{"outputs":[1.50]}"#))).write();
            let back = Ended::read(&text).unwrap();
            prop_assert_eq!(back.write(), text.clone());
            let cut = (0..=cut.min(text.len() - 2)).rev().find(|at| text.is_char_boundary(*at)).unwrap();
            prop_assert!(Ended::read(&text[..cut]).is_none());
        }
        #[test]
        fn no_line_makes_the_readers_panic(text in ".{0,200}") {
            let _ = (Asked::read(1, &text), Ended::read(&text));
        }
    }
}
