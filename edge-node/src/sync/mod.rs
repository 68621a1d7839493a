//! River 2: how a release that the log names reaches this node and becomes what answers.
//!
//! ```text
//!   control plane ==QUIC==> follow -> belief (accept, keep) -> orders -> release -> serving -> river 1
//!        ^                     ^          ^                                 |
//!        +------ report -------+          +---- gossip <- routers           +-> status -> report
//! ```
//! With the control plane dead a node starts from what it kept and serves. With the log forked or the state expired it
//! goes on serving what is active and changes nothing. A model whose plan forbids its change stays as it is, and the rest
//! of the state takes effect.
//!
//! Never here: a byte that is acted on before its signature or digest was checked; a wait without an end.

mod backoff;
mod belief;
mod follow;
mod gossip;
mod history;
mod instruments;
mod link;
mod report;

#[cfg(test)]
pub(crate) mod fixture;

use std::path::Path;
use std::sync::Arc;

use engine::pack::PackedFolder;
use proto::ids::{ContentHash, NodeClass, NodeId};
use proto::signed::TrustBundle;
use runtime::identity::{Identity, Role};
use runtime::lifecycle::Lifecycle;
use tokio::sync::{mpsc, watch};

pub use backoff::Backoff;
pub use belief::{Belief, OfferError, Orders};
pub use history::{Heard, History, Seen};
pub use instruments::{ByOutcome, Instruments, Outcome};
pub use link::{DialError, Link};

use crate::memory::Memory;
use crate::release::{self, Fetcher, Loader, Shelf, Status, Tools};
use crate::serving::Serving;
use crate::store::{Kept, StoreError};

/// Why river 2 cannot start. Nothing runs then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The certificate is for something else.
    #[error("the identity in use is that of {role}: enrol this machine as a node")]
    NotANode {
        /// What it is for.
        role: Role,
    },
    /// What was kept cannot be read.
    #[error(transparent)]
    Kept(#[from] StoreError),
    /// The folder of packed weights cannot be made.
    #[error("make the folder `packed` in the data folder")]
    Packed(#[source] std::io::Error),
    /// The artifact store cannot be opened.
    #[error("open the artifact store")]
    Artifacts(#[from] models::store::StoreError),
}

/// What river 2 is made of.
pub struct Parts<'a> {
    /// `host:port` of the control plane.
    pub control_plane: &'a str,
    /// The node's data folder; this river uses `state/`, `artifacts/` and `packed/` in it.
    pub data: &'a Path,
    /// What hardware this is: the plan fixes one variant per class.
    pub class: NodeClass,
    /// Who this node is; signs its reports.
    pub identity: Arc<Identity>,
    /// Whom it believes.
    pub trust: TrustBundle,
    /// Where the result goes.
    pub serving: Serving,
    /// Checkpoints that routers have seen.
    pub gossip: mpsc::Receiver<String>,
    /// Turns packages into models.
    pub loader: Arc<dyn Loader>,
    /// Keeps the models that are loaded.
    pub memory: Memory,
    /// What is counted.
    pub instruments: Instruments,
}

/// Starts every loop of river 2 under `lifecycle` and returns at once: what is on disk is loaded in the background and
/// published when it is warm.
///
/// # Errors
/// [`StartError`]; nothing runs then.
pub fn start(parts: Parts<'_>, lifecycle: &Lifecycle) -> Result<(), StartError> {
    let Parts {
        control_plane,
        data,
        class,
        identity,
        trust,
        serving,
        gossip,
        loader,
        memory,
        instruments,
    } = parts;
    let Role::Node(node) = identity.role.clone() else {
        return Err(StartError::NotANode {
            role: identity.role.clone(),
        });
    };
    let kept = Arc::new(Kept::open(&data.join("state"))?);
    // What lies in the folder is believed only if this very node wrote it.
    let key = blake3::derive_key("meridian edge-node packed weights", identity.signing_key().as_bytes());
    let packed = PackedFolder::new(data.join("packed"), key).map_err(StartError::Packed)?;
    let shelf = Shelf::open(&data.join("artifacts"), packed, trust.operator_keys())?;
    let belief = Belief::restore(Arc::clone(&kept), node.region.clone(), trust)?;
    let seed = seed_of(&node.to_string());
    let link = Link::new(control_plane, Arc::clone(&identity));
    instruments.forked.set(i64::from(belief.orders().borrow().forked));
    instruments
        .seq
        .set(i64::try_from(belief.position().0).unwrap_or(i64::MAX));
    let (orders, lifecycle) = (belief.orders(), lifecycle.clone());
    let (releases, status) = release::releases(Tools {
        fetcher: Fetcher {
            link: link.clone(),
            shelf,
            instruments: instruments.clone(),
            seed,
        },
        loader,
        memory: memory.clone(),
        kept,
        serving: serving.clone(),
        class,
        orders,
        lifecycle: lifecycle.clone(),
    });
    lifecycle.spawn("releases", releases.run());
    let talk = Talk {
        link,
        belief,
        memory,
        instruments,
        lifecycle,
    };
    talk.follow(seed);
    talk.listen(gossip);
    talk.report(serving, status, node, identity);
    Ok(())
}

/// What every loop that talks to the control plane holds.
struct Talk {
    link: Link,
    belief: Belief,
    memory: Memory,
    instruments: Instruments,
    lifecycle: Lifecycle,
}

impl Talk {
    fn follow(&self, seed: u64) {
        let follower = follow::Follower {
            link: self.link.clone(),
            belief: self.belief.clone(),
            instruments: self.instruments.clone(),
            lifecycle: self.lifecycle.clone(),
            seed,
        };
        self.lifecycle.spawn("follow", follower.run());
    }

    fn listen(&self, heard: mpsc::Receiver<String>) {
        let listener = gossip::Listener {
            link: self.link.clone(),
            belief: self.belief.clone(),
            instruments: self.instruments.clone(),
            lifecycle: self.lifecycle.clone(),
            heard,
        };
        self.lifecycle.spawn("gossip", listener.run());
    }

    fn report(self, serving: Serving, status: watch::Receiver<Status>, node: NodeId, identity: Arc<Identity>) {
        let tasks = self.lifecycle.clone();
        let reporter = report::Reporter {
            link: self.link,
            belief: self.belief,
            memory: self.memory,
            serving,
            status,
            node,
            identity,
            instruments: self.instruments,
            lifecycle: self.lifecycle,
        };
        tasks.spawn("report", reporter.run());
    }
}

/// Each node its own waits, the same ones at each start.
fn seed_of(node: &str) -> u64 {
    let digest = ContentHash::of(node.as_bytes());
    u64::from_le_bytes(*digest.as_bytes().first_chunk().expect("a digest has 32 bytes"))
}

#[cfg(test)]
mod tests;
