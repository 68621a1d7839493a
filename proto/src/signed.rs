//! Documents that somebody signs, and the envelope they travel in.
//!
//! The envelope keeps the signed bytes as they were: what is verified is what is stored, never a re-encoding.
//! Signed is `CONTEXT || 0x00 || BLAKE3(payload)`, so a signature made for one kind of document is never one for another.

use ed25519_dalek::{Signature, Signer, SigningKey, Verifier, VerifyingKey};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::ids::{ContentHash, PrincipalName};

/// Why bytes are not the document they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Longer than any valid one.
    #[error("{bytes} bytes, allowed is {bytes_max}")]
    TooLong {
        /// Found.
        bytes: usize,
        /// Allowed.
        bytes_max: usize,
    },
    /// Written by another version of this software.
    #[error("format {found}, this software reads {known}: update the older side")]
    Format {
        /// Found.
        found: u8,
        /// Understood.
        known: u8,
    },
    /// Cut short, too long or not this document.
    #[error("not a {context} document")]
    Malformed {
        /// What it should have been.
        context: &'static str,
    },
    /// Reads well, but breaks a rule of the document.
    #[error("{what}")]
    Invalid {
        /// Which rule, with the figures.
        what: String,
    },
}

/// Why an envelope is not trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TrustError {
    /// Fewer trusted signers than needed. Signatures of unknown keys, repeated ones and wrong ones do not count.
    #[error("{valid} valid signatures of trusted keys, needed are {threshold}")]
    Threshold {
        /// How many distinct trusted keys signed.
        valid: usize,
        /// How many must.
        threshold: usize,
    },
    /// Trusted, but not readable.
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

/// A document that has a canonical encoding: one format byte, then postcard.
pub trait Document: Serialize + DeserializeOwned {
    /// Domain separation for signatures.
    const CONTEXT: &'static str;
    /// Leading byte; grows when the meaning of the bytes changes.
    const FORMAT: u8;
    /// Longest encoding that is read.
    const BYTES_MAX: usize;
    /// Rules that the types cannot carry.
    ///
    /// # Errors
    /// [`DecodeError::Invalid`] names the broken rule.
    fn check(&self) -> Result<(), DecodeError>;

    /// The canonical bytes.
    #[must_use]
    fn encode(&self) -> Vec<u8> {
        let body = postcard::to_stdvec(self).expect("documents hold only types that postcard writes");
        let mut bytes = Vec::with_capacity(body.len() + 1);
        bytes.push(Self::FORMAT);
        bytes.extend_from_slice(&body);
        bytes
    }
    /// Reads canonical bytes; trailing bytes are refused.
    ///
    /// # Errors
    /// Any [`DecodeError`].
    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() > Self::BYTES_MAX {
            return Err(DecodeError::TooLong {
                bytes: bytes.len(),
                bytes_max: Self::BYTES_MAX,
            });
        }
        let malformed = || DecodeError::Malformed { context: Self::CONTEXT };
        let (&found, body) = bytes.split_first().ok_or_else(malformed)?;
        if found != Self::FORMAT {
            return Err(DecodeError::Format {
                found,
                known: Self::FORMAT,
            });
        }
        let (document, rest) = postcard::take_from_bytes::<Self>(body).map_err(|_| malformed())?;
        if !rest.is_empty() {
            return Err(malformed());
        }
        document.check()?;
        Ok(document)
    }
    /// The document's identity: BLAKE3 of its canonical bytes.
    #[must_use]
    fn id(&self) -> ContentHash {
        ContentHash::of(&self.encode())
    }
}

/// An Ed25519 public key. Text: 64 lowercase hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(pub [u8; 32]);

impl PublicKey {
    /// The public half of `key`.
    #[must_use]
    pub fn of(key: &SigningKey) -> Self {
        Self(key.verifying_key().to_bytes())
    }
    /// Whether `signature` was made by this key over `message`.
    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        VerifyingKey::from_bytes(&self.0)
            .is_ok_and(|key| key.verify(message, &Signature::from_bytes(signature)).is_ok())
    }
}
impl std::fmt::Display for PublicKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&crate::ids::hex(&self.0))
    }
}
impl std::fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}..", crate::ids::hex(&self.0[..4]))
    }
}
impl std::str::FromStr for PublicKey {
    type Err = DecodeError;
    fn from_str(text: &str) -> Result<Self, DecodeError> {
        let wrong = || DecodeError::Invalid {
            what: "a public key is 64 lowercase hex digits".to_owned(),
        };
        crate::ids::unhex32(text).map(Self).ok_or_else(wrong)
    }
}
impl Serialize for PublicKey {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if s.is_human_readable() {
            s.collect_str(self)
        } else {
            self.0.serialize(s)
        }
    }
}
impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        if d.is_human_readable() {
            String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
        } else {
            <[u8; 32]>::deserialize(d).map(Self)
        }
    }
}

/// One signature in an envelope.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeySignature {
    /// Who.
    pub key: PublicKey,
    /// 64 bytes of Ed25519; another length never verifies.
    pub signature: Vec<u8>,
}

/// A document's bytes and who signed them. Holding one proves nothing: [`Signed::open`] does.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signed {
    /// Canonical bytes of a [`Document`].
    pub payload: Vec<u8>,
    /// At most [`Signed::SIGNATURES_MAX`] count.
    pub signatures: Vec<KeySignature>,
}

impl std::fmt::Debug for Signed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Signed({:?}, {} signatures)", self.id(), self.signatures.len())
    }
}

fn message(context: &str, payload: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(context.len() + 33);
    message.extend_from_slice(context.as_bytes());
    message.push(0);
    message.extend_from_slice(ContentHash::of(payload).as_bytes());
    message
}

impl Signed {
    /// Signatures looked at in one envelope.
    pub const SIGNATURES_MAX: usize = 16;

    /// Signs `document` with one key.
    #[must_use]
    pub fn seal<D: Document>(document: &D, key: &SigningKey) -> Self {
        let mut signed = Self {
            payload: document.encode(),
            signatures: Vec::new(),
        };
        signed.add::<D>(key);
        signed
    }
    /// Adds one more signature.
    pub fn add<D: Document>(&mut self, key: &SigningKey) {
        let signature = key.sign(&message(D::CONTEXT, &self.payload));
        self.signatures.push(KeySignature {
            key: PublicKey::of(key),
            signature: signature.to_bytes().to_vec(),
        });
    }
    /// Identity of the document inside.
    #[must_use]
    pub fn id(&self) -> ContentHash {
        ContentHash::of(&self.payload)
    }
    /// How many distinct keys of `trusted` signed this.
    #[must_use]
    pub fn valid_signers<D: Document>(&self, trusted: &[PublicKey]) -> usize {
        let message = message(D::CONTEXT, &self.payload);
        let mut valid: Vec<PublicKey> = Vec::new();
        for s in self.signatures.iter().take(Self::SIGNATURES_MAX) {
            let Ok(signature) = <&[u8; 64]>::try_from(s.signature.as_slice()) else {
                continue;
            };
            if trusted.contains(&s.key) && !valid.contains(&s.key) && s.key.verifies(&message, signature) {
                valid.push(s.key);
            }
        }
        valid.len()
    }
    /// Verifies first, then reads.
    ///
    /// # Errors
    /// [`TrustError::Threshold`] before anything is parsed; [`TrustError::Decode`] after.
    pub fn open<D: Document>(&self, trusted: &[PublicKey], threshold: usize) -> Result<D, TrustError> {
        let valid = self.valid_signers::<D>(trusted);
        if valid < threshold.max(1) {
            return Err(TrustError::Threshold {
                valid,
                threshold: threshold.max(1),
            });
        }
        Ok(D::decode(&self.payload)?)
    }
}

/// A person who may sign manifests, plans and commands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operator {
    /// Name in the log.
    pub name: PrincipalName,
    /// Their key; it never lies on the control plane.
    pub key: PublicKey,
}

/// What a part trusts before it has talked to anybody: installed with it, as `trust.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustBundle {
    /// Name of the fleet; part of every identity.
    pub fleet: PrincipalName,
    /// The release log's C2SP verifier key, `name+hash+base64`; its name is the log's origin.
    pub log_vkey: String,
    /// Signs RegionStates and RouterViews.
    pub state_key: PublicKey,
    /// Sign manifests, plans and commands.
    pub operators: Vec<Operator>,
    /// How many operators must sign a plan.
    pub threshold: usize,
}

impl TrustBundle {
    /// The operators' keys.
    #[must_use]
    pub fn operator_keys(&self) -> Vec<PublicKey> {
        self.operators.iter().map(|o| o.key).collect()
    }
}
