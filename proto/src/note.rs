//! Signed notes and checkpoints, as C2SP `signed-note` and `tlog-checkpoint` say: text that people can read and that
//! stock verifiers accept.
//!
//! ```text
//!   dev.meridian/log            origin: the log's name, which is its key's name
//!   42                          number of leaves
//!   CsUYapGGPo4dkMgIAUqom/...=  root hash
//!
//!   — dev.meridian/log az3grlgt...
//! ```

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signer as _, SigningKey};
use sha2::{Digest, Sha256};

use crate::ids::hex;
use crate::limits::NOTE_BYTES_MAX;
use crate::merkle::Hash;
use crate::signed::PublicKey;

/// Signature algorithm byte of Ed25519.
const ED25519: u8 = 1;
/// Signature lines looked at.
const SIGNATURES_MAX: usize = 16;

/// Why a text is not a key, or not a note that a key signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoteError {
    /// Not `name+hash+base64`.
    #[error("not a note key: {what}")]
    Key {
        /// What is wrong.
        what: &'static str,
    },
    /// Not a note at all.
    #[error("not a signed note: {what}")]
    Malformed {
        /// What is wrong.
        what: &'static str,
    },
    /// No valid signature of the key that was asked for.
    #[error("no valid signature by `{name}`")]
    Unsigned {
        /// Name of the key.
        name: String,
    },
    /// The note's text is not a checkpoint.
    #[error("not a checkpoint: {what}")]
    Checkpoint {
        /// What is wrong.
        what: &'static str,
    },
}

/// Size and root of a log at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Name of the log.
    pub origin: String,
    /// Number of leaves.
    pub size: u64,
    /// Root of the tree over them.
    pub root: Hash,
}

/// A log's private key. Text: `PRIVATE+KEY+name+hash+base64`.
#[derive(Clone)]
pub struct Signer {
    name: String,
    key: SigningKey,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Signer({})", self.name)
    }
}

/// A log's public key. Text: `name+hash+base64`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verifier {
    name: String,
    key: PublicKey,
}

fn key_hash(name: &str, key: &PublicKey) -> [u8; 4] {
    let mut hasher = Sha256::new();
    hasher.update(name.as_bytes());
    hasher.update([b'\n', ED25519]);
    hasher.update(key.0);
    let digest: [u8; 32] = hasher.finalize().into();
    [digest[0], digest[1], digest[2], digest[3]]
}

fn check_name(name: &str) -> Result<(), NoteError> {
    if name.is_empty() || name.len() > 256 || name.contains('+') || name.chars().any(char::is_whitespace) {
        return Err(NoteError::Key {
            what: "a name is 1 to 256 bytes without blanks and `+`",
        });
    }
    Ok(())
}

/// Splits `name+hash+base64` into name, hash text and the 32 bytes behind the algorithm byte.
fn read_key(text: &str) -> Result<(&str, &str, [u8; 32]), NoteError> {
    let wrong = |what| NoteError::Key { what };
    let mut parts = text.trim_end().splitn(3, '+');
    let (Some(name), Some(hash), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(wrong("write `name+hash+base64`"));
    };
    check_name(name)?;
    let key = STANDARD.decode(key).map_err(|_| wrong("the last part is not base64"))?;
    match key.split_first() {
        Some((&ED25519, key)) => Ok((
            name,
            hash,
            key.try_into().map_err(|_| wrong("not 32 bytes of Ed25519"))?,
        )),
        _ => Err(wrong("not an Ed25519 key")),
    }
}

impl Signer {
    /// The key called `name` from 32 random bytes.
    ///
    /// # Errors
    /// [`NoteError::Key`]: the name is no key name.
    pub fn new(name: &str, seed: [u8; 32]) -> Result<Self, NoteError> {
        check_name(name)?;
        Ok(Self {
            name: name.to_owned(),
            key: SigningKey::from_bytes(&seed),
        })
    }
    /// Reads the private text.
    ///
    /// # Errors
    /// [`NoteError::Key`].
    pub fn from_skey(text: &str) -> Result<Self, NoteError> {
        let rest = text.trim().strip_prefix("PRIVATE+KEY+");
        let (name, hash, seed) = read_key(rest.ok_or(NoteError::Key {
            what: "a private key begins with PRIVATE+KEY+",
        })?)?;
        let signer = Self::new(name, seed)?;
        if hash != hex(&key_hash(name, &PublicKey::of(&signer.key))) {
            return Err(NoteError::Key {
                what: "its hash is another key's",
            });
        }
        Ok(signer)
    }
    /// The private text, for a file that only its owner reads.
    #[must_use]
    pub fn skey(&self) -> String {
        let hash = hex(&key_hash(&self.name, &PublicKey::of(&self.key)));
        let mut bytes = vec![ED25519];
        bytes.extend_from_slice(&self.key.to_bytes());
        format!("PRIVATE+KEY+{}+{hash}+{}", self.name, STANDARD.encode(bytes))
    }
    /// The public text.
    #[must_use]
    pub fn vkey(&self) -> String {
        self.verifier().to_string()
    }
    /// The public half.
    #[must_use]
    pub fn verifier(&self) -> Verifier {
        Verifier {
            name: self.name.clone(),
            key: PublicKey::of(&self.key),
        }
    }
    /// Name of the key, which is the log's origin.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
    /// The signed note of a checkpoint of this log.
    #[must_use]
    pub fn sign_checkpoint(&self, size: u64, root: &Hash) -> String {
        let text = format!("{}\n{size}\n{}\n", self.name, STANDARD.encode(root));
        let mut signature = key_hash(&self.name, &PublicKey::of(&self.key)).to_vec();
        signature.extend_from_slice(&self.key.sign(text.as_bytes()).to_bytes());
        format!("{text}\n\u{2014} {} {}\n", self.name, STANDARD.encode(signature))
    }
}

impl std::fmt::Display for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut bytes = vec![ED25519];
        bytes.extend_from_slice(&self.key.0);
        write!(
            f,
            "{}+{}+{}",
            self.name,
            hex(&key_hash(&self.name, &self.key)),
            STANDARD.encode(bytes)
        )
    }
}

impl std::str::FromStr for Verifier {
    type Err = NoteError;
    fn from_str(text: &str) -> Result<Self, NoteError> {
        let (name, hash, key) = read_key(text)?;
        let key = PublicKey(key);
        if hash != hex(&key_hash(name, &key)) {
            return Err(NoteError::Key {
                what: "its hash is another key's",
            });
        }
        Ok(Self {
            name: name.to_owned(),
            key,
        })
    }
}

impl Verifier {
    /// The key called `name`.
    ///
    /// # Errors
    /// [`NoteError::Key`]: the name is no key name.
    pub fn new(name: &str, key: PublicKey) -> Result<Self, NoteError> {
        check_name(name)?;
        Ok(Self {
            name: name.to_owned(),
            key,
        })
    }
    /// Name of the key, which is the log's origin.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
    /// The note's text, if this key signed it. Signatures of others are passed over.
    ///
    /// # Errors
    /// [`NoteError::Malformed`] or [`NoteError::Unsigned`].
    pub fn open<'a>(&self, note: &'a str) -> Result<&'a str, NoteError> {
        let wrong = |what| NoteError::Malformed { what };
        if note.len() > NOTE_BYTES_MAX {
            return Err(wrong("longer than any note"));
        }
        if note.chars().any(|c| c.is_control() && c != '\n') {
            return Err(wrong("it holds control characters"));
        }
        let end = note
            .rfind("\n\n")
            .ok_or_else(|| wrong("no blank line before signatures"))?
            + 1;
        let (text, signatures) = (&note[..end], &note[end + 1..]);
        if !signatures.ends_with('\n') {
            return Err(wrong("the last line does not end"));
        }
        let expected = key_hash(&self.name, &self.key);
        for line in signatures.lines().take(SIGNATURES_MAX) {
            let rest = line
                .strip_prefix("\u{2014} ")
                .ok_or_else(|| wrong("a signature line begins with `— `"))?;
            let (name, signature) = rest
                .split_once(' ')
                .ok_or_else(|| wrong("a signature line without signature"))?;
            let bytes = STANDARD
                .decode(signature)
                .map_err(|_| wrong("a signature that is not base64"))?;
            let Some((hash, signature)) = bytes.split_first_chunk::<4>() else {
                return Err(wrong("a short signature"));
            };
            if name != self.name || *hash != expected {
                continue;
            }
            let signature: &[u8; 64] = signature.try_into().map_err(|_| wrong("not 64 bytes of Ed25519"))?;
            return if self.key.verifies(text.as_bytes(), signature) {
                Ok(text)
            } else {
                Err(NoteError::Unsigned {
                    name: self.name.clone(),
                })
            };
        }
        Err(NoteError::Unsigned {
            name: self.name.clone(),
        })
    }
    /// The checkpoint in `note`, if this log signed it.
    ///
    /// # Errors
    /// Any [`NoteError`].
    pub fn open_checkpoint(&self, note: &str) -> Result<Checkpoint, NoteError> {
        let checkpoint = read_checkpoint(self.open(note)?)?;
        if checkpoint.origin != self.name {
            return Err(NoteError::Checkpoint {
                what: "it is of another log",
            });
        }
        Ok(checkpoint)
    }
}

/// Reads a checkpoint's text: origin, size, root; further lines are extensions and are passed over.
fn read_checkpoint(text: &str) -> Result<Checkpoint, NoteError> {
    let wrong = |what| NoteError::Checkpoint { what };
    let mut lines = text.lines();
    let (Some(origin), Some(size), Some(root)) = (lines.next(), lines.next(), lines.next()) else {
        return Err(wrong("fewer than three lines"));
    };
    let plain = size.bytes().all(|b| b.is_ascii_digit()) && (size == "0" || !size.starts_with('0'));
    let size = size
        .parse()
        .ok()
        .filter(|_| plain)
        .ok_or_else(|| wrong("the size is not a plain number"))?;
    let root = STANDARD
        .decode(root)
        .ok()
        .and_then(|r| r.try_into().ok())
        .ok_or_else(|| wrong("the root is not 32 bytes"))?;
    Ok(Checkpoint {
        origin: origin.to_owned(),
        size,
        root,
    })
}

/// The checkpoint in `note`, if the log with the public key text `vkey` signed it.
///
/// # Errors
/// Any [`NoteError`].
pub fn open_checkpoint(note: &str, vkey: &str) -> Result<Checkpoint, NoteError> {
    vkey.parse::<Verifier>()?.open_checkpoint(note)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn signer() -> Signer {
        Signer::new("dev.meridian/log", [7; 32]).unwrap()
    }

    /// The example key and note of Go's `golang.org/x/mod/sumdb/note` documentation.
    #[test]
    fn a_note_that_go_signed_is_accepted() {
        let vkey = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
        let note = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n\n\
            \u{2014} PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";
        assert!(vkey.parse::<Verifier>().unwrap().open(note).is_ok());
        assert!(
            vkey.parse::<Verifier>()
                .unwrap()
                .open(&note.replace("answer", "question"))
                .is_err()
        );
    }

    #[test]
    fn keys_and_checkpoints_read_back_as_themselves() {
        let signer = signer();
        assert_eq!(Signer::from_skey(&signer.skey()).unwrap().vkey(), signer.vkey());
        let note = signer.sign_checkpoint(42, &[9; 32]);
        let open = open_checkpoint(&note, &signer.vkey()).unwrap();
        assert_eq!((open.size, open.root), (42, [9; 32]));
    }

    #[test]
    fn a_checkpoint_of_another_key_is_refused() {
        let note = Signer::new("dev.meridian/log", [8; 32])
            .unwrap()
            .sign_checkpoint(1, &[0; 32]);
        assert!(matches!(
            open_checkpoint(&note, &signer().vkey()),
            Err(NoteError::Unsigned { .. })
        ));
    }

    proptest! {
        #[test]
        fn no_text_makes_a_reader_panic(text in "(\\PC|\n){0,300}") {
            let _ = text.parse::<Verifier>();
            let _ = Signer::from_skey(&text);
            let _ = signer().verifier().open_checkpoint(&text);
        }
        #[test]
        fn no_flipped_bit_survives(bit in 0..8_u8, at in 0..400_usize) {
            let signer = signer();
            let note = signer.sign_checkpoint(42, &[9; 32]);
            let mut bytes = note.clone().into_bytes();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            if let Ok(text) = String::from_utf8(bytes) {
                // Base64 ends in bits that carry nothing; the strict reader refuses those too.
                prop_assert!(signer.verifier().open_checkpoint(&text).is_err(), "{text}");
            }
        }
    }
}
