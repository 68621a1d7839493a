//! Questions that judge one form of a model by another: inputs only, because the f32 form's answers are the right ones.
//!
//! One JSON object a line, with tensors as in a golden file; a file holds lines of one kind:
//!
//! ```text
//!   {"inputs": [tensor, ..]}                            what a request gives
//!   {"query": [tensor, ..], "answer": [tensor, ..]}     row i of the answer is what row i of the query should find
//! ```
//! They must be others than the golden vectors, on which the int8 form was settled: [`same_as_golden`] finds those that are not.
//! [`Figures`] say how close the forms are, and [`Bounds`] whether that is close enough.

use std::collections::BTreeSet;

use proto::oip::Tensor;
use serde::Deserialize;

use super::{TensorJson, Vector, elements, tensors};

mod figures;
pub use figures::{Bounds, Figures, Recall, figures, figures_of_pairs};

/// Lines of one file.
pub const LINES_MAX: usize = 4096;

/// A judging file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Questions {
    /// Inputs of each request.
    Plain(Vec<Vec<Tensor>>),
    /// Inputs of each query, and of the answer that it should find.
    Pairs(Vec<(Vec<Tensor>, Vec<Tensor>)>),
}

/// Why bytes are no judging file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JudgingError {
    /// A line is not one question.
    #[error("judging inputs, line {line}: {what}")]
    Line {
        /// From 1.
        line: usize,
        /// What is wrong with it.
        what: String,
    },
    /// Nothing to judge by.
    #[error(
        "the judging file is empty: write one JSON object {{\"inputs\": [..]}} or {{\"query\": [..], \"answer\": [..]}} a line"
    )]
    Empty,
    /// More than are read.
    #[error("more than {LINES_MAX} lines of judging inputs")]
    TooMany,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LineJson {
    inputs: Option<Vec<TensorJson>>,
    query: Option<Vec<TensorJson>>,
    answer: Option<Vec<TensorJson>>,
}

/// Reads a judging file. Empty lines are skipped.
///
/// # Errors
/// [`JudgingError`] names the line.
pub fn read(bytes: &[u8]) -> Result<Questions, JudgingError> {
    let (mut plain, mut pairs) = (Vec::new(), Vec::new());
    for (at, line) in bytes.split(|b| *b == b'\n').enumerate() {
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        if plain.len() + pairs.len() == LINES_MAX {
            return Err(JudgingError::TooMany);
        }
        let wrong = |what: String| JudgingError::Line { line: at + 1, what };
        let json: LineJson = serde_json::from_slice(line).map_err(|e| wrong(e.to_string()))?;
        let given = |json| tensors(json).map_err(wrong);
        match (json.inputs, json.query, json.answer) {
            (Some(inputs), None, None) => plain.push(given(inputs)?),
            (None, Some(query), Some(answer)) => pairs.push((given(query)?, given(answer)?)),
            _ => {
                return Err(wrong(
                    "holds neither `inputs` alone nor `query` and `answer`".to_owned(),
                ));
            }
        }
        if !plain.is_empty() && !pairs.is_empty() {
            return Err(wrong("the lines before were of the other kind".to_owned()));
        }
    }
    match (plain.is_empty(), pairs.is_empty()) {
        (true, true) => Err(JudgingError::Empty),
        (false, _) => Ok(Questions::Plain(plain)),
        (true, false) => Ok(Questions::Pairs(pairs)),
    }
}

impl Questions {
    /// Lines.
    #[must_use]
    pub const fn lines(&self) -> usize {
        match self {
            Self::Plain(lines) => lines.len(),
            Self::Pairs(lines) => lines.len(),
        }
    }

    fn tensors(&self) -> Vec<&[Tensor]> {
        match self {
            Self::Plain(lines) => lines.iter().map(Vec::as_slice).collect(),
            Self::Pairs(lines) => lines.iter().flat_map(|(q, a)| [q.as_slice(), a.as_slice()]).collect(),
        }
    }
}

/// Which line asks what a golden vector asks, from 1: the same inputs, or one of its texts or files. A form that was settled on
/// a question is not judged by it.
#[must_use]
pub fn same_as_golden(questions: &Questions, golden: &[Vector]) -> Option<usize> {
    let per_line = match questions {
        Questions::Plain(_) => 1,
        Questions::Pairs(_) => 2,
    };
    let texts = |inputs: &[Tensor]| -> Vec<Vec<u8>> {
        let bytes = inputs.iter().filter_map(|tensor| {
            let texts = (tensor.datatype == proto::manifest::DataType::Bytes).then_some(&tensor.data)?;
            elements::byte_strings(texts)
        });
        bytes.flatten().map(<[u8]>::to_vec).collect()
    };
    let known: BTreeSet<Vec<u8>> = golden.iter().flat_map(|vector| texts(&vector.inputs)).collect();
    let asked = |inputs: &&[Tensor]| {
        golden.iter().any(|vector| vector.inputs == **inputs) || texts(inputs).iter().any(|text| known.contains(text))
    };
    let at = questions.tensors().iter().position(asked)?;
    Some(at / per_line + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &str = r#"{"inputs":[{"name":"text","datatype":"BYTES","shape":[1],"data":["a"]}]}"#;
    const PAIR: &str = r#"{"query":[{"name":"text","datatype":"BYTES","shape":[1],"data":["q"]}],"answer":[{"name":"text","datatype":"BYTES","shape":[1],"data":["a"]}]}"#;

    #[test]
    fn a_file_holds_inputs_or_pairs_and_not_both() {
        assert_eq!(read(format!("{PLAIN}\n\n{PLAIN}\n").as_bytes()).unwrap().lines(), 2);
        assert!(matches!(read(PAIR.as_bytes()).unwrap(), Questions::Pairs(pairs) if pairs.len() == 1));
        let both = read(format!("{PLAIN}\n{PAIR}").as_bytes());
        assert!(matches!(both, Err(JudgingError::Line { line: 2, .. })));
    }

    #[test]
    fn what_is_no_question_is_named_by_its_line() {
        for bad in [
            "{}",
            r#"{"query":[]}"#,
            r#"{"inputs":[],"answer":[]}"#,
            "nonsense",
            r#"{"outputs":[]}"#,
        ] {
            let error = read(format!("{PLAIN}\n{bad}").as_bytes()).unwrap_err();
            assert!(matches!(error, JudgingError::Line { line: 2, .. }), "{bad}: {error}");
        }
        assert!(matches!(read(b"\n"), Err(JudgingError::Empty)));
        let many = format!("{PLAIN}\n").repeat(LINES_MAX + 1);
        assert!(matches!(read(many.as_bytes()), Err(JudgingError::TooMany)));
    }

    #[test]
    fn a_question_that_the_golden_vectors_ask_is_found() {
        let asked = |texts: &str| {
            let inputs = format!(r#""inputs":[{{"name":"text","datatype":"BYTES","shape":[2],"data":[{texts}]}}]"#);
            let output = r#""outputs":[{"name":"y","datatype":"FP32","shape":[1],"data":[1]}]"#;
            super::super::read(format!("{{{inputs},{output}}}").as_bytes()).unwrap()
        };
        let pairs = read(format!("{PAIR}\n{}", PAIR.replace("\"q\"", "\"r\"")).as_bytes()).unwrap();
        assert_eq!(same_as_golden(&pairs, &asked(r#""b","r""#)), Some(2));
        assert_eq!(same_as_golden(&pairs, &asked(r#""b","c""#)), None);
    }
}
