//! `fleet audit receipt`: what a node signed for, and whether the release log bears it out.
//!
//! ```text
//!   promise or proof --> who signed (the node's key is an entry of the release log) --> what it says
//!                    --> is that release published with that manifest?  do the bodies open its commitments?
//! ```

use std::fmt;
use std::path::Path;

use proto::ids::{ContentHash, ModelName, ModelVersion, NodeId, UnixMs, VariantId};
use proto::proof::Proof;
use proto::receipt::{self, Commitment, CommitmentKey, Promise, ReceiptId, Standing};
use serde::Serialize;

use super::history::{self, History};
use super::{AuditError, moment};

/// What somebody holds of a receipt.
#[derive(Clone, Debug, Default)]
pub struct Held {
    /// The value of `Meridian-Receipt`.
    pub promise: Option<String>,
    /// The proof that the node's log has it: C2SP `tlog-proof` text.
    pub proof: Option<String>,
    /// The body that was asked with.
    pub question: Option<Vec<u8>>,
    /// The body that came back.
    pub answer: Option<Vec<u8>>,
}

impl Held {
    /// The proof with the entry's text, which a node may keep no longer and a promise has.
    #[must_use]
    pub fn whole_proof(&self) -> Option<String> {
        let mut proof = Proof::read(self.proof.as_deref()?).ok()?;
        let promise = self.promise.as_deref().and_then(|text| Promise::read(text.trim()).ok());
        if let (true, Some(promise)) = (proof.entry.is_empty(), promise) {
            proof.entry = promise.proof.entry;
        }
        Some(proof.write())
    }
}

/// What holds of a receipt, after every check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// Who signed.
    pub node: NodeId,
    /// When the answer was written, RFC 3339.
    pub time: String,
    /// Which model answered.
    pub model: ModelName,
    /// Which version of it.
    pub version: ModelVersion,
    /// Its manifest: the one that the release log has for that version.
    pub manifest: ContentHash,
    /// Which form of its weights.
    pub variant: VariantId,
    /// By which arithmetic.
    pub numerics: String,
    /// Its place in the node's log.
    pub index: u64,
    /// Entries of that log when it was proven; `None` where it is only promised.
    pub logged: Option<u64>,
    /// When the node was revoked or enrolled with another key, RFC 3339: whoever has the key since may have written any time before
    /// that into it.
    pub key_ended: Option<String>,
    /// The question is the one that was given; `None` where none was.
    pub question: Option<bool>,
    /// The same of the answer.
    pub answer: Option<bool>,
}

/// Why a receipt shows nothing, beside what makes a log show nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiptFault {
    /// It does not hold by itself.
    #[error(transparent)]
    Receipt(#[from] receipt::ReceiptError),
    /// Nobody of that name is in the fleet.
    #[error("the release log has no node {node} with the key that signed")]
    Node {
        /// As the receipt names it.
        node: NodeId,
    },
    /// It names another manifest than was published.
    #[error("it names {found} for {model}@{version}, and the release log has {expected}")]
    Manifest {
        /// The receipt's.
        found: ContentHash,
        /// Which model.
        model: ModelName,
        /// Which version.
        version: ModelVersion,
        /// The log's, or that it has none.
        expected: String,
    },
    /// Bodies, and nothing that opens the commitments to them.
    #[error("only the promise has the key that opens its commitments: give the value of Meridian-Receipt too")]
    NoKey,
    /// Neither.
    #[error("give the value of Meridian-Receipt, a .tlog-proof, or both")]
    Nothing,
    /// Of two receipts.
    #[error("promise and proof are of different receipts")]
    Different,
    /// The node signed for two entries at one place of its log: it has not kept its promise.
    #[error(
        "{node} promised this receipt as entry {index} of its log, and its log has another there: keep both, the node signed both"
    )]
    Broken {
        /// Who.
        node: NodeId,
        /// Where.
        index: u64,
    },
    /// Its text is needed and nobody has it.
    #[error(
        "the node keeps the text of this old receipt no longer: give the promise too (--promise FILE), which has it"
    )]
    Forgotten,
    /// Dated when it cannot have been written.
    #[error("dated {time}, and {why}")]
    Dated {
        /// As it says.
        time: String,
        /// Why it cannot be.
        why: String,
    },
}

/// Checks what is `held` of a receipt against the release log in `folder`, signed by `vkey`.
///
/// # Errors
/// [`AuditError`]: the log is not sound, or the first thing of the receipt that does not hold.
pub fn receipt(folder: &Path, vkey: &str, held: &Held) -> Result<Verified, AuditError> {
    let history = History::read(folder, vkey)?;
    Ok(verified(&history, held)?)
}

fn verified(history: &History, held: &Held) -> Result<Verified, ReceiptFault> {
    let promise = held
        .promise
        .as_deref()
        .map(|text| Promise::read(text.trim()))
        .transpose()?;
    let proof = held.proof.as_deref().map(Proof::read).transpose();
    let mut proof = proof.map_err(receipt::ReceiptError::from)?;
    // A log that forgot the text of an old entry gives the proof without it, and the promise has it.
    if let (Some(proof), Some(promise)) = (&mut proof, &promise) {
        if proof.entry.is_empty() {
            proof.entry.clone_from(&promise.proof.entry);
        }
        let promised = opened(history, &promise.proof)?.0;
        if proof.entry != promise.proof.entry {
            return Err(other_than_promised(history, &promised, proof)?);
        }
    }
    let shown = proof.as_ref().or(promise.as_ref().map(|promise| &promise.proof));
    let shown = shown.ok_or(ReceiptFault::Nothing)?;
    if shown.entry.is_empty() {
        return Err(ReceiptFault::Forgotten);
    }
    let (said, standing, held_key) = opened(history, shown)?;
    let published = history
        .fleet
        .releases
        .get(&said.model)
        .and_then(|all| all.get(&said.version));
    if published.is_none_or(|published| published.manifest != said.manifest) {
        return Err(ReceiptFault::Manifest {
            found: said.manifest,
            expected: published.map_or_else(|| "no such release".to_owned(), |release| release.manifest.to_string()),
            model: said.model,
            version: said.version,
        });
    }
    let published = published.map_or(0, |release| release.time);
    dated(said.time, published, &held_key)?;
    let matches = |body: &Option<Vec<u8>>, commitment: Commitment| match (body, &promise) {
        (None, _) => Ok(None),
        (Some(_), None) => Err(ReceiptFault::NoKey),
        (Some(body), Some(promise)) => Ok(Some(opens(&promise.key, body, commitment))),
    };
    Ok(Verified {
        question: matches(&held.question, said.input)?,
        answer: matches(&held.answer, said.output)?,
        time: moment::write(said.time),
        key_ended: held_key.until.map(moment::write),
        node: said.node,
        model: said.model,
        version: said.version,
        manifest: said.manifest,
        variant: said.variant,
        numerics: said.numerics,
        index: said.index,
        logged: match standing {
            Standing::Promised => None,
            Standing::Logged(checkpoint) => Some(checkpoint.size),
        },
    })
}

fn opens(key: &CommitmentKey, body: &[u8], commitment: Commitment) -> bool {
    Commitment::of(key, body) == commitment
}

/// Clocks of nodes and of the control plane differ by less, milliseconds.
const CLOCKS_DIFFER_MS: u64 = 60_000;

/// Whether a receipt can have been written at `time`: by a node of that key, with a release of the time `published`.
fn dated(time: UnixMs, published: UnixMs, key: &history::KeySpan) -> Result<(), ReceiptFault> {
    let before = |since: UnixMs| time.saturating_add(CLOCKS_DIFFER_MS) < since;
    let why = if before(key.from) {
        format!("its node was enrolled with that key at {}", moment::write(key.from))
    } else if before(published) {
        format!("its release was published at {}", moment::write(published))
    } else if let Some(until) = key.until.filter(|until| until.saturating_add(CLOCKS_DIFFER_MS) < time) {
        format!("its node was known by that key until {}", moment::write(until))
    } else {
        return Ok(());
    };
    let time = moment::write(time);
    Err(ReceiptFault::Dated { time, why })
}

/// What it means that `proof` has another entry than the one that was `promised`.
fn other_than_promised(
    history: &History,
    promised: &receipt::Receipt,
    proof: &Proof,
) -> Result<ReceiptFault, ReceiptFault> {
    let (found, standing, _) = opened(history, proof)?;
    let same_place = (&found.node, found.index) == (&promised.node, promised.index);
    Ok(if same_place && matches!(standing, Standing::Logged(_)) {
        ReceiptFault::Broken {
            node: found.node,
            index: found.index,
        }
    } else {
        ReceiptFault::Different
    })
}

/// The receipt in `proof`, signed by a key that the log has had for the node that it names.
fn opened(history: &History, proof: &Proof) -> Result<(receipt::Receipt, Standing, history::KeySpan), ReceiptFault> {
    let said = receipt::Receipt::decode(&proof.entry)?;
    let (Some(fleet), Some(keys)) = (&history.fleet.name, history.keys.get(&said.node)) else {
        return Err(ReceiptFault::Node { node: said.node });
    };
    let origin = proof.checkpoint.lines().next().unwrap_or_default();
    let of_key = keys.iter().rev().find(|held| {
        let log = receipt::origin(fleet, &said.node, &held.key);
        origin == log || origin == receipt::promises(&log)
    });
    match of_key {
        Some(held) => {
            let (receipt, standing) = receipt::open(proof, fleet, &held.key)?;
            Ok((receipt, standing, *held))
        }
        None => Err(ReceiptFault::Node { node: said.node }),
    }
}

impl Verified {
    /// Whether nothing speaks against it: bodies that were given are those that it is about.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.question != Some(false) && self.answer != Some(false)
    }
}

impl fmt::Display for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            node,
            model,
            version,
            time,
            ..
        } = self;
        write!(f, "{node} answered with {model}@{version} at {time}")?;
        write!(f, "\n  manifest    {}, as published", self.manifest)?;
        write!(f, "\n  ran as      {}, {}", self.variant, self.numerics)?;
        match self.logged {
            Some(size) => write!(f, "\n  logged      entry {} of {size} in the node's log", self.index)?,
            None => write!(
                f,
                "\n  promised    as entry {} of the node's log, which was not seen: fetch the proof with fleet audit receipt ID",
                self.index
            )?,
        }
        for (name, told) in [("question", self.question), ("answer", self.answer)] {
            let told = match told {
                Some(true) => "the one that was given",
                Some(false) => "NOT the one that was given",
                None => "not given: only its commitment was seen",
            };
            write!(f, "\n  {name:<11} {told}")?;
        }
        if let Some(ended) = &self.key_ended {
            write!(
                f,
                "\n  key         ended at {ended}: whoever has it since may have dated this earlier"
            )?;
        }
        Ok(())
    }
}

/// What `text` is: an id, a promise or a proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named {
    /// To be fetched from its node.
    Id(ReceiptId),
    /// The value of `Meridian-Receipt`.
    Promise(String),
    /// A `.tlog-proof`.
    Proof(String),
}

impl Named {
    /// Tells a proof from a promise. Heads of answers are taken as they are: the line with the header is looked for.
    #[must_use]
    pub fn of(text: &str) -> Self {
        if text.starts_with("c2sp.org/") {
            return Self::Proof(text.to_owned());
        }
        let header = "meridian-receipt:";
        // Of several heads, as curl writes those of redirections, the last is the answer's.
        let line = text.lines().rfind(|line| {
            line.get(..header.len())
                .is_some_and(|name| name.eq_ignore_ascii_case(header))
        });
        Self::Promise(line.map_or(text, |line| &line[header.len()..]).trim().to_owned())
    }
}
