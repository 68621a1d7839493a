//! Proofs that an entry stands in a log, as C2SP `tlog-proof` says: one text that stock verifiers check offline.
//!
//! ```text
//!   c2sp.org/tlog-proof@v1
//!   extra eyJyZWNlaXB0Ijox...        here: the entry itself, so that the text is all a verifier needs
//!   index 12
//!   gSKyXoYZUgZ6jduWYrkDOARinOMGJveXjgMkBTcdPlQ=
//!
//!   dev/receipts/eu-fra/n1/9f2c0a11      a signed checkpoint
//!   ..
//! ```

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::limits::{LOG_ENTRY_BYTES_MAX, PROOF_BYTES_MAX, PROOF_HASHES_MAX};
use crate::merkle::{self, Hash};
use crate::note::{Checkpoint, NoteError, Verifier};

const HEADER: &str = "c2sp.org/tlog-proof@v1";

/// Why a text is no proof, or proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProofError {
    /// Not a proof at all.
    #[error("not a tlog-proof: {what}")]
    Malformed {
        /// What is wrong.
        what: &'static str,
    },
    /// Its checkpoint is not one of the log that was asked for.
    #[error("the proof's checkpoint is not this log's")]
    Checkpoint(#[from] NoteError),
    /// The entry does not stand there.
    #[error("the proof does not lead from entry {index} to the checkpoint's root")]
    NotIncluded {
        /// Where it should stand.
        index: u64,
    },
}

/// An entry and where it stands in a log. Holding one proves nothing: [`Proof::verify`] does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// The entry's own bytes; empty where whoever holds the proof has them from elsewhere.
    pub entry: Vec<u8>,
    /// Its place in the log, from 0.
    pub index: u64,
    /// The way from it to the root, leaf's side first.
    pub hashes: Vec<Hash>,
    /// The signed note of a checkpoint.
    pub checkpoint: String,
}

impl Proof {
    /// The text. Lines end in a newline.
    #[must_use]
    pub fn write(&self) -> String {
        let mut text =
            String::with_capacity(160 + self.entry.len() * 4 / 3 + self.hashes.len() * 45 + self.checkpoint.len());
        text.push_str(HEADER);
        text.push('\n');
        if !self.entry.is_empty() {
            text.push_str("extra ");
            STANDARD.encode_string(&self.entry, &mut text);
            text.push('\n');
        }
        text.push_str("index ");
        text.push_str(&self.index.to_string());
        text.push('\n');
        for hash in &self.hashes {
            STANDARD.encode_string(hash, &mut text);
            text.push('\n');
        }
        text.push('\n');
        text.push_str(&self.checkpoint);
        text
    }

    /// Reads the text.
    ///
    /// # Errors
    /// [`ProofError::Malformed`].
    pub fn read(text: &str) -> Result<Self, ProofError> {
        let wrong = |what| ProofError::Malformed { what };
        if text.len() > PROOF_BYTES_MAX {
            return Err(wrong("longer than any proof"));
        }
        let (head, checkpoint) = text
            .split_once("\n\n")
            .ok_or_else(|| wrong("no blank line before the checkpoint"))?;
        let mut lines = head.split('\n').peekable();
        if lines.next() != Some(HEADER) {
            return Err(wrong("it does not begin with `c2sp.org/tlog-proof@v1`"));
        }
        let entry = match lines.next_if(|line| line.starts_with("extra ")) {
            None => Vec::new(),
            Some(line) => bytes(&line["extra ".len()..]).ok_or_else(|| wrong("`extra` is not base64"))?,
        };
        if entry.len() > LOG_ENTRY_BYTES_MAX {
            return Err(wrong("`extra` is longer than any entry"));
        }
        let index = lines.next().and_then(|line| line.strip_prefix("index "));
        let index = index.and_then(number).ok_or_else(|| wrong("no line `index NUMBER`"))?;
        let hashes: Option<Vec<Hash>> = lines.take(PROOF_HASHES_MAX + 1).map(hash).collect();
        let hashes = hashes.ok_or_else(|| wrong("a line that is not a hash of 32 bytes in base64"))?;
        if hashes.len() > PROOF_HASHES_MAX {
            return Err(wrong("more hashes than any proof has"));
        }
        Ok(Self {
            entry,
            index,
            hashes,
            checkpoint: checkpoint.to_owned(),
        })
    }

    /// Whether `log` has the entry where the proof says; gives the checkpoint that says so.
    ///
    /// # Errors
    /// [`ProofError::Checkpoint`] or [`ProofError::NotIncluded`].
    pub fn verify(&self, log: &Verifier) -> Result<Checkpoint, ProofError> {
        let known = log.open_checkpoint(&self.checkpoint)?;
        let leaf = merkle::leaf_hash(&self.entry);
        if merkle::verify_inclusion(&leaf, self.index, known.size, &self.hashes, &known.root) {
            Ok(known)
        } else {
            Err(ProofError::NotIncluded { index: self.index })
        }
    }
}

fn bytes(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

fn hash(text: &str) -> Option<Hash> {
    bytes(text)?.try_into().ok()
}

/// A number without sign or leading zeros.
fn number(text: &str) -> Option<u64> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merkle::Tree;
    use crate::note::Signer;
    use proptest::prelude::*;

    fn signer() -> Signer {
        Signer::new("dev.meridian/log", [7; 32]).unwrap()
    }

    fn proof(index: u64, size: u64) -> Proof {
        let entry = |i: u64| format!("entry {i}").into_bytes();
        let tree = Tree::of((0..size).map(|i| merkle::leaf_hash(&entry(i))).collect());
        Proof {
            entry: entry(index),
            index,
            hashes: tree.inclusion(index),
            checkpoint: signer().sign_checkpoint(size, &tree.root()),
        }
    }

    #[test]
    fn golden_text_does_not_change() {
        let text = proof(0, 2).write();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[..5],
            [
                "c2sp.org/tlog-proof@v1",
                "extra ZW50cnkgMA==",
                "index 0",
                "Lfs2xvZsrDYUKc9G34aKuCQtOmRB8Qmcj7P5jsXRCKQ=",
                "",
            ]
        );
        assert_eq!(lines[5..7], ["dev.meridian/log", "2"]);
    }

    #[test]
    fn every_entry_of_a_log_is_proven_and_no_other_is() {
        for (index, size) in [(0, 1), (0, 2), (3, 7), (6, 7), (255, 256), (12, 300)] {
            let proof = Proof::read(&proof(index, size).write()).unwrap();
            assert_eq!(proof.verify(&signer().verifier()).unwrap().size, size);
            let (mut other, mut elsewhere) = (proof.clone(), proof.clone());
            other.entry.push(b'!');
            assert_eq!(
                other.verify(&signer().verifier()),
                Err(ProofError::NotIncluded { index })
            );
            elsewhere.index += 1;
            assert!(elsewhere.verify(&signer().verifier()).is_err());
            let stranger = Signer::new("dev.meridian/log", [8; 32]).unwrap().verifier();
            assert!(matches!(proof.verify(&stranger), Err(ProofError::Checkpoint(_))));
        }
    }

    #[test]
    fn what_is_not_exactly_a_proof_is_refused() {
        let good = proof(3, 7).write();
        for (part, with) in [
            ("@v1", "@v2"),
            ("index 3", "index 03"),
            ("index 3", "index -3"),
            ("index 3\n", ""),
            ("extra ", "extra !"),
            ("\n\n", "\n"),
            ("extra ", "more "),
        ] {
            assert!(Proof::read(&good.replacen(part, with, 1)).is_err(), "{part} -> {with}");
        }
        let without = good
            .lines()
            .filter(|line| !line.starts_with("extra "))
            .fold(String::new(), |all, l| all + l + "\n");
        assert!(Proof::read(&without).unwrap().entry.is_empty());
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in "(c2sp.org/tlog-proof@v1\n)?(extra [A-Za-z0-9=]{0,20}\n)?(index [0-9]{0,22}\n)?(\\PC|\n){0,200}") {
            if let Ok(read) = Proof::read(&text) {
                let _ = read.verify(&signer().verifier());
            }
        }
        #[test]
        fn no_flipped_bit_survives(bit in 0..8_u8, at in 0..1_000_usize) {
            let mut bytes = proof(12, 300).write().into_bytes();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            if let Ok(text) = String::from_utf8(bytes) {
                let verified = Proof::read(&text).and_then(|proof| proof.verify(&signer().verifier()));
                prop_assert!(verified.is_err(), "{text}");
            }
        }
    }
}
