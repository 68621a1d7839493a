//! What clients write about work that is answered later: a job's id, `Prefer`, `Idempotency-Key`.

use std::fmt;
use std::str::FromStr;

use crate::ids::{NodeId, hex};
use crate::limits::IDEMPOTENCY_KEY_BYTES_MAX;

/// Names one job of the fleet: the node that holds it and 128 random bits, so that it can be routed and not guessed.
/// Text: `eu-fra:n1:` and 32 lowercase hex digits. Whoever holds one may not see the job by that alone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JobId {
    /// Where it lies, and nowhere else.
    pub node: NodeId,
    /// Which one of that node.
    pub key: JobKey,
}

/// A job inside its node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct JobKey(pub [u8; 16]);

impl JobKey {
    /// 32 lowercase hex digits.
    #[must_use]
    pub fn hex(&self) -> String {
        hex(&self.0)
    }
    /// Reads [`JobKey::hex`] and nothing else.
    #[must_use]
    pub fn of_hex(text: &str) -> Option<Self> {
        let digit = |b: u8| match b {
            b'0'..=b'9' => Some(b - b'0'),
            b'a'..=b'f' => Some(b - b'a' + 10),
            _ => None,
        };
        let (pairs, []) = text.as_bytes().as_chunks::<2>() else {
            return None;
        };
        let bytes: Option<Vec<u8>> = pairs
            .iter()
            .map(|&[high, low]| Some(digit(high)? << 4 | digit(low)?))
            .collect();
        bytes?.try_into().ok().map(Self)
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.node.region, self.node.name, self.key.hex())
    }
}

impl FromStr for JobId {
    type Err = NotAJob;
    fn from_str(text: &str) -> Result<Self, NotAJob> {
        let mut parts = text.split(':');
        let (Some(region), Some(name), Some(key), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(NotAJob);
        };
        let region = region.parse().map_err(|_| NotAJob)?;
        let name = name.parse().map_err(|_| NotAJob)?;
        let key = JobKey::of_hex(key).ok_or(NotAJob)?;
        let node = NodeId { region, name };
        Ok(Self { node, key })
    }
}

/// The text names no job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is no job: an id is `region:node:` and 32 hex digits, as `Location` gave it")]
pub struct NotAJob;

/// Whether the value of a `Prefer` header asks for an answer later.
///
/// # Source
/// RFC 7240, sections 2 and 4.1: preferences by commas, parameters by semicolons, names in any case. A comma inside a
/// quoted text separates as well here: no preference that we know has one.
#[must_use]
pub fn prefers_async(prefer: &str) -> bool {
    prefer.split(',').any(|preference| {
        let name = preference.split(';').next().unwrap_or_default();
        name.trim().eq_ignore_ascii_case("respond-async")
    })
}

/// Whether `text` can be an idempotency key: 1 to 255 printable ASCII characters.
#[must_use]
pub fn is_idempotency_key(text: &str) -> bool {
    (1..=IDEMPOTENCY_KEY_BYTES_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic() || b == b' ')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_client_asks_for_an_answer_later_by_the_one_word_of_the_standard() {
        for yes in [
            "respond-async",
            "Respond-Async",
            "wait=10, respond-async",
            " respond-async ; x=1,b",
        ] {
            assert!(prefers_async(yes), "{yes}");
        }
        for no in [
            "",
            "respond-asynchronously",
            "x=respond-async",
            "return=minimal",
            "; respond-async",
        ] {
            assert!(!prefers_async(no), "{no}");
        }
    }

    #[test]
    fn what_is_not_exactly_an_id_names_no_job() {
        let good = "eu-fra:n1:00112233445566778899aabbccddeeff";
        assert_eq!(good.parse::<JobId>().unwrap().to_string(), good);
        for bad in [
            "",
            "eu-fra:n1:",
            "eu-fra:n1:00112233445566778899aabbccddeef",
            "eu-fra:n1:00112233445566778899AABBCCDDEEFF",
            "eu-fra:n1:00112233445566778899aabbccddeeff00",
            "eu-fra/n1:00112233445566778899aabbccddeeff",
            ":n1:00112233445566778899aabbccddeeff",
            "eu-fra:n1:00112233445566778899aabbccddeeff:",
        ] {
            assert_eq!(bad.parse::<JobId>(), Err(NotAJob), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn every_id_is_read_back_and_no_text_makes_the_readers_panic(key: [u8; 16], text in ".{0,80}") {
            let id = JobId { node: "us-iad/n.2".parse().unwrap(), key: JobKey(key) };
            prop_assert_eq!(id.to_string().parse::<JobId>(), Ok(id));
            if let Ok(read) = text.parse::<JobId>() {
                prop_assert_eq!(read.to_string(), text.clone());
            }
            let _ = (prefers_async(&text), is_idempotency_key(&text));
        }
    }
}
