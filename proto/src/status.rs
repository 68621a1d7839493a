//! What the control plane shows people: the answer to `GET /v1/status`, in JSON. A picture, never evidence: what counts
//! is in the log.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::entry::{Activation, PlanStatus};
use crate::ids::{
    BoundaryId, ContentHash, ModelName, ModelVersion, NodeClass, NodeId, PrincipalName, Release, TenantId, UnixMs,
};
use crate::region_state::RegionInfo;

/// The fleet, or one region of it where the asker may see no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Status {
    /// Name of the fleet.
    pub fleet: PrincipalName,
    /// Size of the log that this was folded from.
    pub epoch: u64,
    /// The signed checkpoint at `epoch`.
    pub checkpoint: String,
    /// When this was made.
    pub now: UnixMs,
    /// Why rollouts are stopped: somebody showed a checkpoint of another history.
    pub fork: Option<String>,
    /// Regions by name.
    pub regions: Vec<RegionStatus>,
    /// Plans in log order.
    pub plans: Vec<PlanLine>,
    /// Releases by model and version.
    pub releases: Vec<ReleaseLine>,
    /// Customers who may ask, by name.
    pub tenants: Vec<TenantLine>,
}

/// One region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RegionStatus {
    /// Name and place.
    pub region: RegionInfo,
    /// Number of the newest state made for it; 0 before the first.
    pub seq: u64,
    /// What it is to serve and what it answers with, by model.
    pub models: Vec<RegionModel>,
    /// Its nodes by name, revoked ones too.
    pub nodes: Vec<NodeStatus>,
}

/// One model in one region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RegionModel {
    /// Which model.
    pub model: ModelName,
    /// What it is to serve.
    pub target: Release,
    /// The target's manifest.
    pub manifest: ContentHash,
    /// On the word of which plan.
    pub plan: ContentHash,
    /// What it answers with by the log; none before its first activation.
    pub active: Option<Activation>,
}

/// One node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct NodeStatus {
    /// Name.
    pub node: NodeId,
    /// Its hardware.
    pub class: NodeClass,
    /// Its HTTPS ingress.
    pub ingress: SocketAddr,
    /// `false` once revoked.
    pub enrolled: bool,
    /// When its last report arrived; none since the control plane started.
    pub last_seen: Option<UnixMs>,
    /// The number of the state it follows.
    pub seq: u64,
    /// Requests in its queues.
    pub queued: u32,
    /// Why its activations are stopped, if they are.
    pub stopped: Option<String>,
    /// What it does with each model.
    pub models: Vec<NodeModel>,
}

/// One model on one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct NodeModel {
    /// The manifest it works with.
    pub manifest: ContentHash,
    /// The release of that manifest, if it is published.
    pub release: Option<Release>,
    /// `fetching`, `warming`, `serving` or `refused`.
    pub stage: String,
    /// Why it is refused.
    pub why: Option<String>,
    /// Bytes that came over the network so far.
    pub fetched_bytes: u64,
    /// Bytes of its files.
    pub need_bytes: u64,
}

/// One plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PlanLine {
    /// Digest of the document.
    pub plan: ContentHash,
    /// Counts up per model.
    pub serial: u64,
    /// To which release.
    pub to: Release,
    /// Its manifest.
    pub manifest: ContentHash,
    /// How many waves.
    pub waves: usize,
    /// Where it stands.
    pub status: PlanStatus,
    /// What the next wave waits for, in words, while it is open.
    pub waits_for: Option<String>,
}

/// One release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ReleaseLine {
    /// Which model.
    pub model: ModelName,
    /// Which version.
    pub version: ModelVersion,
    /// Its manifest.
    pub manifest: ContentHash,
    /// When it was published.
    pub published: UnixMs,
}

/// One customer; never their key's hash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct TenantLine {
    /// Name.
    pub tenant: TenantId,
    /// Where their data may be.
    pub boundary: BoundaryId,
}
