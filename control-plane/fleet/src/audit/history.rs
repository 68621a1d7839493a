//! A copy of the log that has been checked from its first entry to its signed root.

use std::collections::BTreeMap;
use std::path::Path;

use proto::entry::{Body, Fleet, Leaf};
use proto::ids::{NodeId, UnixMs};
use proto::merkle::{self, Hash, Tree};
use proto::note::{Checkpoint, open_checkpoint};
use proto::proof::Proof;
use proto::signed::PublicKey;
use proto::tile::walk;

use super::{AuditError, Fault, moment, read_text};

/// A key while its node was known by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KeySpan {
    pub(super) key: PublicKey,
    pub(super) from: UnixMs,
    /// When the node was revoked, or enrolled with another key.
    pub(super) until: Option<UnixMs>,
}

/// Notes whose key begins and whose ends with an entry of the log.
fn hold(keys: &mut BTreeMap<NodeId, Vec<KeySpan>>, time: UnixMs, body: Body) {
    let (node, key) = match body {
        Body::NodeEnrol { node, key, .. } => (node, Some(key)),
        Body::NodeRevoke { node } => (node, None),
        _ => return,
    };
    let held = keys.entry(node).or_default();
    if let Some(last) = held.last_mut() {
        last.until.get_or_insert(time);
    }
    held.extend(key.map(|key| KeySpan {
        key,
        from: time,
        until: None,
    }));
}

/// All that a sound log says. Holding one proves that every check has passed.
pub(super) struct History {
    pub(super) note: String,
    pub(super) checkpoint: Checkpoint,
    pub(super) fleet: Fleet,
    pub(super) leaves: Vec<Hash>,
    entries: Vec<Vec<u8>>,
    /// Keys that each node has had, in the order of the log.
    pub(super) keys: BTreeMap<NodeId, Vec<KeySpan>>,
    pub(super) kinds: BTreeMap<&'static str, u64>,
    /// When the first and the last entry were written.
    pub(super) span: Option<(UnixMs, UnixMs)>,
    pub(super) tiles: u64,
}

impl History {
    /// Reads and checks the log in `folder`, signed by `vkey`.
    pub(super) fn read(folder: &Path, vkey: &str) -> Result<Self, AuditError> {
        let note = read_text(&folder.join("checkpoint"))?;
        let opened = open_checkpoint(&note, vkey);
        let checkpoint = opened.map_err(|source| AuditError::Checkpoint { which: "log's", source })?;
        let (mut fleet, mut leaves, mut entries) = (Fleet::default(), Vec::new(), Vec::new());
        let (mut kinds, mut keys) = (BTreeMap::new(), BTreeMap::new());
        let mut span: Option<(UnixMs, UnixMs)> = None;
        let entry = |_, bytes: &[u8]| {
            let (Leaf { time, .. }, _) = Leaf::decode(bytes)?;
            if let Some((_, before)) = span
                && time < before
            {
                return Err(Fault::Time {
                    time: moment::write(time),
                    before: moment::write(before),
                });
            }
            let body = fleet.apply(bytes)?;
            *kinds.entry(body.kind()).or_default() += 1;
            hold(&mut keys, time, body);
            span = Some((span.map_or(time, |(first, _)| first), time));
            leaves.push(merkle::leaf_hash(bytes));
            entries.push(bytes.to_vec());
            Ok(())
        };
        let read = |path: &str| std::fs::read(folder.join(path)).map_err(Fault::from);
        let (_, tiles) = walk(&checkpoint, read, entry).map_err(|e| AuditError::Unsound(Box::new(e)))?;
        Ok(Self {
            note,
            checkpoint,
            fleet,
            leaves,
            entries,
            keys,
            kinds,
            span,
            tiles,
        })
    }

    /// Whether the log extends `earlier`, a checkpoint that somebody kept.
    pub(super) fn extends(&self, earlier: &Checkpoint) -> Result<(), AuditError> {
        let (size, known) = (self.checkpoint.size, earlier.size);
        let first = usize::try_from(known).ok().and_then(|n| self.leaves.get(..n));
        match first {
            Some(first) if merkle::root_of(first) == earlier.root => Ok(()),
            Some(_) => Err(AuditError::Forked { size: known }),
            None => Err(AuditError::Shorter { size, earlier: known }),
        }
    }

    /// The text of entry `index`; the fold has proven that it is JSON.
    pub(super) fn entry(&self, index: u64) -> String {
        let bytes = usize::try_from(index).ok().and_then(|i| self.entries.get(i));
        bytes
            .map(|bytes| String::from_utf8_lossy(bytes).into_owned())
            .unwrap_or_default()
    }

    /// That entry `index` stands under the checkpoint, as C2SP `tlog-proof`: anybody can check it with the entry's bytes
    /// and the log's key.
    pub(super) fn proof(&self, index: u64) -> String {
        let proof = Proof {
            entry: Vec::new(),
            index,
            hashes: Tree::of(self.leaves.clone()).inclusion(index),
            checkpoint: self.note.clone(),
        };
        proof.write()
    }
}
