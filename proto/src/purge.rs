//! What a node is asked to forget: the person that answers are of, the body of `POST /v1/purge`, and what it answers.
//!
//! ```text
//!   {"model": "minilm", "subject": "p-7f3a"}   ->   {"memory_entries": 3, "disk_keys": 1}
//! ```
//! Each field may be left out: what is left out is not asked about. An empty object names all that the asker may purge.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::{ModelName, TenantId};
use crate::limits::{PURGE_BODY_BYTES_MAX, SUBJECT_BYTES_MAX};

/// The person whose data a request carries, by an id of the tenant's own that means nothing to anybody else. Shape: 1 to
/// [`SUBJECT_BYTES_MAX`] printable ASCII characters, no blanks. It is never shown: not in logs, and not by `Debug`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subject(Box<str>);

/// A text that names no subject. It does not repeat the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a subject is 1 to {SUBJECT_BYTES_MAX} printable ASCII characters without blanks")]
pub struct SubjectError;

impl Subject {
    /// The id as the tenant wrote it: for hashing, never for showing.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl std::str::FromStr for Subject {
    type Err = SubjectError;
    fn from_str(text: &str) -> Result<Self, SubjectError> {
        let good = (1..=SUBJECT_BYTES_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        good.then(|| Self(text.into())).ok_or(SubjectError)
    }
}
impl TryFrom<String> for Subject {
    type Error = SubjectError;
    fn try_from(text: String) -> Result<Self, SubjectError> {
        text.parse()
    }
}
impl From<Subject> for String {
    fn from(subject: Subject) -> Self {
        subject.0.into()
    }
}
impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Subject(..)")
    }
}

/// What is to be forgotten: whatever fits all that is named.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PurgeRequest {
    /// Whose answers; a tenant's own key stands for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantId>,
    /// Of which model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelName>,
    /// About whom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Subject>,
}

/// What a node forgot; durable when it says so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Purged {
    /// Answers that were dropped from memory.
    pub memory_entries: u64,
    /// Keys that were destroyed on disk, each with all answers under it; 0 where nothing is kept on disk.
    pub disk_keys: u64,
}

/// Why a body asks for nothing that can be done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PurgeError {
    /// More than any wish takes.
    #[error("the body has {bytes} bytes, allowed is {PURGE_BODY_BYTES_MAX}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// Not the object that is read here. Its text is not repeated: it may name a person.
    #[error(
        "the body is not a JSON object of `tenant`, `model` and `subject`, each a text or left out: line {line}, column {column}"
    )]
    Json {
        /// Where, from 1.
        line: usize,
        /// Where, from 1.
        column: usize,
    },
}

/// Reads a body.
///
/// # Errors
/// [`PurgeError`], in words for whoever sent it.
pub fn read_purge(body: &[u8]) -> Result<PurgeRequest, PurgeError> {
    if body.len() > PURGE_BODY_BYTES_MAX {
        return Err(PurgeError::TooLong { bytes: body.len() });
    }
    // A list of the fields' values would be read too, and nothing says in which order they stand.
    if body.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
        return Err(PurgeError::Json { line: 1, column: 1 });
    }
    serde_json::from_slice(body).map_err(|error| PurgeError::Json {
        line: error.line(),
        column: error.column(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_field_may_be_left_out_and_no_other_is_read() {
        assert_eq!(read_purge(b" {}"), Ok(PurgeRequest::default()));
        let whole = read_purge(br#"{"model": "m", "subject": "p-7", "tenant": "acme"}"#).unwrap();
        assert_eq!(whole.subject.as_ref().map(Subject::as_bytes), Some(b"p-7".as_slice()));
        assert_eq!(
            serde_json::to_string(&whole).unwrap(),
            r#"{"tenant":"acme","model":"m","subject":"p-7"}"#
        );
        for wrong in [
            "",
            "[]",
            r#"["acme","m","p"]"#,
            r#"{"subjct": "p"}"#,
            r#"{"subject": ""}"#,
            r#"{"subject": "two words"}"#,
            r#"{"subject": "p", "subject": "q"}"#,
            r#"{"model": "M"}"#,
            r#"{"model": 1}"#,
            "{} {}",
        ] {
            assert!(read_purge(wrong.as_bytes()).is_err(), "{wrong}");
        }
        let long = format!("{{}}{}", " ".repeat(PURGE_BODY_BYTES_MAX));
        assert_eq!(
            read_purge(long.as_bytes()),
            Err(PurgeError::TooLong { bytes: long.len() })
        );
    }

    #[test]
    fn a_subject_is_shown_nowhere_not_even_by_an_error() {
        let subject: Subject = "alice".parse().unwrap();
        assert_eq!(format!("{subject:?}"), "Subject(..)");
        for body in [
            r#"{"subject": "alice b"}"#,
            r#"{"alice": 1}"#,
            r#"{"model": "ALICE"}"#,
            r#""alice""#,
        ] {
            let error = read_purge(body.as_bytes()).unwrap_err().to_string().to_lowercase();
            assert!(!error.contains("alice"), "{error}");
        }
        assert!("a".repeat(SUBJECT_BYTES_MAX + 1).parse::<Subject>().is_err());
        assert!("a".repeat(SUBJECT_BYTES_MAX).parse::<Subject>().is_ok());
    }

    proptest! {
        #[test]
        fn no_body_makes_the_reader_panic_and_what_it_reads_it_writes_the_same(
            body in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..64),
                r#"\{("(model|tenant|subject)": ?"[!-~ ]{0,12}",? ?){0,4}\}"#.prop_map(String::into_bytes),
            ],
        ) {
            if let Ok(read) = read_purge(&body) {
                let written = serde_json::to_vec(&read).unwrap();
                prop_assert_eq!(read_purge(&written), Ok(read));
            }
        }
    }
}
