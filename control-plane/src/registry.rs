//! What nodes last told about themselves: telemetry, in memory, gone with a restart and told again within seconds.
//!
//! Nothing here decides what runs where; signed reports inside do, and those go to [`crate::rollout::evidence`]. The
//! one thing that counts: a node that shows a signed checkpoint of another history proves that the log has forked.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use proto::ids::{NodeId, UnixMs};
use proto::message::NodeReport;
use proto::note::Verifier;

use crate::ledger::Ledger;

/// A node's last report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// What it said.
    pub report: NodeReport,
    /// When it arrived, by our clock.
    pub at: UnixMs,
}

/// How a checkpoint that somebody has seen relates to our log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// A part of our history.
    Ours,
    /// Not signed by our log's key, or not a checkpoint: says nothing.
    Unsigned,
    /// Signed by our log's key for a tree that is not ours, or that is larger than ours.
    Fork,
}

/// Reports by node, and the first sign of a fork. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    nodes: BTreeMap<NodeId, Seen>,
    fork: Option<String>,
}

impl Registry {
    /// Keeps `report` in place of the node's last one.
    pub fn put(&self, node: NodeId, report: NodeReport, at: UnixMs) {
        self.lock().nodes.insert(node, Seen { report, at });
    }

    /// The last report of every node that has sent one.
    #[must_use]
    pub fn all(&self) -> BTreeMap<NodeId, Seen> {
        self.lock().nodes.clone()
    }

    /// Looks at the last reports without copying them.
    pub fn look<T>(&self, look: impl FnOnce(&BTreeMap<NodeId, Seen>) -> T) -> T {
        look(&self.lock().nodes)
    }

    /// Forgets the nodes for which `keep` is false.
    pub fn retain(&self, keep: impl Fn(&NodeId) -> bool) {
        self.lock().nodes.retain(|node, _| keep(node));
    }

    /// Remembers that a fork was seen. True the first time.
    pub fn mark_fork(&self, what: String) -> bool {
        let mut inner = self.lock();
        let first = inner.fork.is_none();
        inner.fork.get_or_insert(what);
        first
    }

    /// What the first fork looked like, if one was seen: no step is begun any more until people have looked at it.
    #[must_use]
    pub fn fork(&self) -> Option<String> {
        self.lock().fork.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How `text`, a checkpoint that somebody has seen, relates to our log. Blocking.
#[must_use]
pub fn standing(log_key: &Verifier, text: &str, ledger: &Ledger) -> Standing {
    if text == ledger.snapshot().checkpoint {
        return Standing::Ours;
    }
    let Ok(seen) = log_key.open_checkpoint(text) else {
        return Standing::Unsigned;
    };
    if seen.size > ledger.size() {
        return Standing::Fork;
    }
    match ledger.root_at(seen.size) {
        Ok(root) if root == seen.root => Standing::Ours,
        Ok(_) => Standing::Fork,
        Err(error) => {
            tracing::error!(
                error = runtime::telemetry::chain(&error),
                size = seen.size,
                "cannot read our own log"
            );
            Standing::Unsigned
        }
    }
}
