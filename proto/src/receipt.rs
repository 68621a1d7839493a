//! Receipts: what a node writes into its own log of each answer that somebody wants proof of, and how the answer's head
//! promises it.
//!
//! ```text
//!   answer --> Receipt (JSON, one log entry) --+--> log of the node, fsynced            GET /v1/receipts/ID -> tlog-proof
//!                                              +--> tree of a batch, signed at once  -> Meridian-Receipt: id, key, proof
//! ```
//! A promise is itself a `tlog-proof`: of the entry in the batch's own tree, whose signed root is a checkpoint of the log
//! `ORIGIN/promises`. So one verifier reads both, and a promise whose entry never stands at its index is evidence that a
//! court can read: it has the entry's text.
//!
//! An entry names the answer by commitments under a key that only the client has: the log tells nobody what was asked.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use crate::ids::{
    ContentHash, ModelName, ModelVersion, NodeId, PrincipalName, Release, UnixMs, VariantId, hex, unhex32,
};
use crate::limits::{LOG_ENTRY_BYTES_MAX, PROOF_BYTES_MAX};
use crate::merkle::{Hash, leaf_hash};
use crate::note::Checkpoint;
use crate::proof::{Proof, ProofError};
use crate::signed::PublicKey;

/// The entry's format, its first member.
const FORMAT: u8 = 1;
/// Ends the name of the log that batches of promises are signed for.
const PROMISES: &str = "/promises";

/// Why a text is no receipt, or not the one that it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiptError {
    /// Not a log entry of this kind.
    #[error("not a receipt: {what}")]
    Malformed {
        /// What is wrong.
        what: &'static str,
    },
    /// Not a promise as `Meridian-Receipt` carries it.
    #[error("not a promise: {what}; copy the whole value of Meridian-Receipt")]
    Promise {
        /// What is wrong.
        what: &'static str,
    },
    /// The proof does not hold.
    #[error(transparent)]
    Proof(#[from] ProofError),
    /// A checkpoint of a log that no node with that key has.
    #[error("signed for `{found}`, and the receipt is one of `{expected}`")]
    Origin {
        /// Of the checkpoint.
        found: String,
        /// Of the node that the receipt names.
        expected: String,
    },
}

/// What one key makes of some bytes: HMAC-SHA256. Text: `hmac-sha256:` and 64 lowercase hex digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Commitment([u8; 32]);

impl Commitment {
    /// Commits to `content` under `key`.
    #[must_use]
    pub fn of(key: &CommitmentKey, content: &[u8]) -> Self {
        let mut mac = Hmac::<Sha256>::new_from_slice(&key.0).expect("HMAC takes keys of any length");
        mac.update(content);
        Self(mac.finalize().into_bytes().into())
    }
}

impl fmt::Display for Commitment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "hmac-sha256:{}", hex(&self.0))
    }
}
impl fmt::Debug for Commitment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
impl TryFrom<String> for Commitment {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, &'static str> {
        let digits = text.strip_prefix("hmac-sha256:").and_then(unhex32);
        digits
            .map(Self)
            .ok_or("a commitment is `hmac-sha256:` and 64 lowercase hex digits")
    }
}
impl Serialize for Commitment {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}
impl<'de> Deserialize<'de> for Commitment {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.try_into().map_err(serde::de::Error::custom)
    }
}

/// Opens the commitments of one receipt. Whoever lacks it learns nothing from them, not even whether two answers are alike.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct CommitmentKey(pub [u8; 32]);

impl fmt::Debug for CommitmentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CommitmentKey(..)")
    }
}

/// One answer, as its node's log has it: UTF-8 JSON of at most 1 KiB.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// Format of the entry.
    receipt: u8,
    /// Where it stands in its log, from 0.
    pub index: u64,
    /// When the answer was written.
    pub time: UnixMs,
    /// Who answered.
    pub node: NodeId,
    /// With which model.
    pub model: ModelName,
    /// And which version of it.
    pub version: ModelVersion,
    /// Digest of its manifest.
    pub manifest: ContentHash,
    /// With which form of the weights.
    pub variant: VariantId,
    /// By which arithmetic: the numerics class. Equal class, equal file and equal input mean equal bits.
    pub numerics: String,
    /// The request's body, unpacked.
    pub input: Commitment,
    /// The answer's body, before it was compressed.
    pub output: Commitment,
}

/// What a receipt says of an answer, before it has its place in a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// With which release.
    pub release: Release,
    /// Digest of its manifest.
    pub manifest: ContentHash,
    /// With which form of the weights.
    pub variant: VariantId,
    /// By which arithmetic.
    pub numerics: String,
    /// The request's body.
    pub input: Commitment,
    /// The answer's body.
    pub output: Commitment,
}

impl Receipt {
    /// The receipt of `node` for an answer that was written at `time`, as entry `index` of its log.
    #[must_use]
    pub fn of(node: NodeId, index: u64, time: UnixMs, answered: Answered) -> Self {
        Self {
            receipt: FORMAT,
            index,
            time,
            node,
            model: answered.release.model,
            version: answered.release.version,
            manifest: answered.manifest,
            variant: answered.variant,
            numerics: answered.numerics,
            input: answered.input,
            output: answered.output,
        }
    }

    /// The log entry.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("receipts hold only types that JSON writes")
    }

    /// Reads a log entry.
    ///
    /// # Errors
    /// [`ReceiptError::Malformed`].
    pub fn decode(entry: &[u8]) -> Result<Self, ReceiptError> {
        let wrong = |what| ReceiptError::Malformed { what };
        if entry.len() > LOG_ENTRY_BYTES_MAX {
            return Err(wrong("longer than any log entry"));
        }
        let read: Self = serde_json::from_slice(entry).map_err(|_| wrong("not the JSON of one"))?;
        if read.receipt != FORMAT {
            return Err(wrong("a format that this software does not read: update it"));
        }
        Ok(read)
    }
}

/// Name of the log in which `node` keeps its receipts while it has `key`. A node that is enrolled anew begins a new log.
#[must_use]
pub fn origin(fleet: &PrincipalName, node: &NodeId, key: &PublicKey) -> String {
    format!("{fleet}/receipts/{node}/{}", hex(&key.0[..4]))
}

/// Name that batches of promises to the log `origin` are signed for.
#[must_use]
pub fn promises(origin: &str) -> String {
    format!("{origin}{PROMISES}")
}

/// Names one receipt: its node, so that the page about it can be routed, its place, and the hash of its entry, so that it
/// cannot be guessed. Text: `eu-fra:n1:12-` and 64 lowercase hex digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceiptId {
    /// Whose log.
    pub node: NodeId,
    /// Where it stands there.
    pub index: u64,
    /// Its leaf hash.
    pub leaf: Hash,
}

impl fmt::Display for ReceiptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let NodeId { region, name } = &self.node;
        write!(f, "{region}:{name}:{}-{}", self.index, hex(&self.leaf))
    }
}

/// The text names no receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is no receipt: an id is `region:node:index-` and 64 hex digits, as Meridian-Receipt gave it")]
pub struct NotAReceipt;

impl FromStr for ReceiptId {
    type Err = NotAReceipt;
    fn from_str(text: &str) -> Result<Self, NotAReceipt> {
        let mut parts = text.splitn(3, ':');
        let (Some(region), Some(name), Some(place)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(NotAReceipt);
        };
        let region = region.parse().map_err(|_| NotAReceipt)?;
        let name = name.parse().map_err(|_| NotAReceipt)?;
        let (index, leaf) = place.split_once('-').ok_or(NotAReceipt)?;
        let id = Self {
            node: NodeId { region, name },
            index: index.parse().map_err(|_| NotAReceipt)?,
            leaf: unhex32(leaf).ok_or(NotAReceipt)?,
        };
        // Numbers have one spelling here.
        (id.to_string() == text).then_some(id).ok_or(NotAReceipt)
    }
}

/// What the head of an answer promises: RFC 9651 dictionary `id="..", key=:..:, proof=:..:`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promise {
    /// Where the receipt will be found.
    pub id: ReceiptId,
    /// Opens its commitments.
    pub key: CommitmentKey,
    /// The entry in its batch's tree.
    pub proof: Proof,
}

impl Promise {
    /// The value of `Meridian-Receipt`.
    #[must_use]
    pub fn write(&self) -> String {
        let proof = STANDARD.encode(self.proof.write());
        let key = STANDARD.encode(self.key.0);
        format!("id=\"{}\", key=:{key}:, proof=:{proof}:", self.id)
    }

    /// Reads the value of `Meridian-Receipt`; members that are not known are passed over. Its id is that of the entry in its proof.
    ///
    /// # Errors
    /// [`ReceiptError::Promise`], or what is wrong with the proof in it.
    pub fn read(text: &str) -> Result<Self, ReceiptError> {
        let wrong = |what| ReceiptError::Promise { what };
        if text.len() > 2 * PROOF_BYTES_MAX {
            return Err(wrong("longer than any"));
        }
        let members = text.split(',').filter_map(|member| member.trim().split_once('='));
        let (mut id, mut key, mut proof) = (None, None, None);
        for (name, value) in members {
            match name {
                "id" => id = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')),
                "key" => key = bytes(value),
                "proof" => proof = bytes(value),
                _ => {}
            }
        }
        let id: ReceiptId = id
            .and_then(|id| id.parse().ok())
            .ok_or_else(|| wrong("no member `id` that names a receipt"))?;
        let key = key.and_then(|key| <[u8; 32]>::try_from(key).ok());
        let key = key.ok_or_else(|| wrong("no member `key` of 32 bytes in base64 between colons"))?;
        let proof = proof.and_then(|proof| String::from_utf8(proof).ok());
        let proof = proof.ok_or_else(|| wrong("no member `proof` in base64 between colons"))?;
        let proof = Proof::read(&proof)?;
        let entry = Receipt::decode(&proof.entry)?;
        if (&id.node, id.index, id.leaf) != (&entry.node, entry.index, leaf_hash(&proof.entry)) {
            return Err(wrong("its id is that of another receipt than its proof has"));
        }
        let key = CommitmentKey(key);
        Ok(Self { id, key, proof })
    }
}

/// A byte sequence of RFC 9651.
fn bytes(text: &str) -> Option<Vec<u8>> {
    let inner = text.strip_prefix(':')?.strip_suffix(':')?;
    STANDARD.decode(inner).ok()
}

/// What a proof shows of a receipt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The node has promised to log it.
    Promised,
    /// It stands in the node's log, under this checkpoint.
    Logged(Checkpoint),
}

/// The receipt in `proof`, if the node that it names signed for it with `key`, in `fleet`.
///
/// # Errors
/// [`ReceiptError`] says what does not hold.
pub fn open(proof: &Proof, fleet: &PrincipalName, key: &PublicKey) -> Result<(Receipt, Standing), ReceiptError> {
    let receipt = Receipt::decode(&proof.entry)?;
    let log = origin(fleet, &receipt.node, key);
    let found = proof.checkpoint.lines().next().unwrap_or_default();
    let verify = |name: &str| {
        let verifier = crate::note::Verifier::new(name, *key).map_err(ProofError::from)?;
        proof.verify(&verifier)
    };
    if found == promises(&log) {
        verify(found)?;
        return Ok((receipt, Standing::Promised));
    }
    if found != log {
        let (found, expected) = (found.to_owned(), log);
        return Err(ReceiptError::Origin { found, expected });
    }
    let checkpoint = verify(&log)?;
    if proof.index != receipt.index {
        return Err(ReceiptError::Malformed {
            what: "it stands at another index than it says",
        });
    }
    Ok((receipt, Standing::Logged(checkpoint)))
}

#[cfg(test)]
mod tests;
