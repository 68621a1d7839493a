//! What a region must run, signed by the control plane; and the rules by which a node believes it.
//!
//! Order of checks: signature, region, then `seq`, then epoch floor, then expiry, then log consistency; any of these
//! refuses the whole state. Then each model's plan, which refuses that model only. Nothing is persisted before all were
//! judged. (CVE-2025-2888 is the other order.)

mod accept;

pub use accept::{Accepted, Consistency, Forbidden, Permitted, Refused, accept, reopen};

use serde::{Deserialize, Serialize};

use crate::ids::{BoundaryId, ContentHash, ModelName, NodeId, RegionId, Release, TenantId, UnixMs};
use crate::limits::{EVIDENCE_MAX, MODELS_MAX, NODES_MAX, TENANTS_MAX};
use crate::signed::{DecodeError, Document, Signed};

/// One model that a region must serve, with the proof that it may.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Desired {
    /// What to serve.
    pub release: Release,
    /// From which manifest.
    pub manifest: ContentHash,
    /// The signed [`crate::plan::Plan`] that permits it.
    pub plan: Signed,
    /// Signed [`crate::plan::ReadyReport`]s: after the bake by a quorum of each region of the waves before this region's
    /// own, and the first ones by a quorum of this region once it has begun. At most [`EVIDENCE_MAX`].
    pub evidence: Vec<Signed>,
}

/// A customer, as nodes and routers need to know them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tenant {
    /// Name.
    pub id: TenantId,
    /// Data of this tenant never leaves these regions.
    pub boundary: BoundaryId,
    /// BLAKE3 of the API key's text. The key itself is shown once, to the operator who made it.
    pub key_hash: ContentHash,
}

/// Where a region stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionInfo {
    /// Name.
    pub id: RegionId,
    /// ISO 3166-1 alpha-2, such as `DE`: decides which boundaries hold it.
    pub country: String,
    /// Millionths of a degree north.
    pub lat_e6: i32,
    /// Millionths of a degree east.
    pub lon_e6: i32,
}

/// What one region must run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionState {
    /// Which region.
    pub region: RegionInfo,
    /// Orders this region's states: strictly increasing.
    pub seq: u64,
    /// Size of the release log that this state was folded from.
    pub epoch: u64,
    /// After this moment nothing new is accepted from it; what is active goes on serving.
    pub expires: UnixMs,
    /// What to serve; a model that is not named is not served.
    pub desired: Vec<Desired>,
    /// Who may ask.
    pub tenants: Vec<Tenant>,
    /// The signed checkpoint of the log at `epoch`, C2SP signed-note text.
    pub checkpoint: String,
}

impl Document for RegionState {
    const CONTEXT: &'static str = "meridian/region-state/v1";
    const FORMAT: u8 = 1;
    const BYTES_MAX: usize = 3 << 20;
    fn check(&self) -> Result<(), DecodeError> {
        bounded("models", self.desired.len(), MODELS_MAX)?;
        bounded("tenants", self.tenants.len(), TENANTS_MAX)?;
        let evidence = |d: &Desired| bounded("reports for one model", d.evidence.len(), EVIDENCE_MAX);
        self.desired.iter().try_for_each(evidence)?;
        let twice = |(i, d): (usize, &Desired)| self.desired[..i].iter().any(|o| o.release.model == d.release.model);
        match self.desired.iter().enumerate().find(|&d| twice(d)) {
            Some((_, d)) => Err(DecodeError::Invalid {
                what: format!("model `{}` is desired twice", d.release.model),
            }),
            None => Ok(()),
        }
    }
}

fn bounded(what: &str, found: usize, max: usize) -> Result<(), DecodeError> {
    if found > max {
        return Err(DecodeError::Invalid {
            what: format!("{found} {what}, allowed is {max}"),
        });
    }
    Ok(())
}

/// A node as routers need to know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Name.
    pub id: NodeId,
    /// Where its HTTPS ingress listens, `address:port`.
    pub ingress: std::net::SocketAddr,
}

/// What routers steer by, signed by the control plane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouterView {
    /// Strictly increasing.
    pub seq: u64,
    /// Size of the release log that this view was folded from.
    pub epoch: u64,
    /// After this moment it is stale; a router goes on steering by it and says so.
    pub expires: UnixMs,
    /// All regions.
    pub regions: Vec<RegionInfo>,
    /// All enrolled nodes.
    pub nodes: Vec<NodeInfo>,
    /// What each region serves.
    pub serving: Vec<(RegionId, Release)>,
    /// Who may ask, and where their data may go.
    pub tenants: Vec<Tenant>,
    /// The signed checkpoint of the log at `epoch`.
    pub checkpoint: String,
}

impl Document for RouterView {
    const CONTEXT: &'static str = "meridian/router-view/v1";
    const FORMAT: u8 = 1;
    const BYTES_MAX: usize = 3 << 20;
    fn check(&self) -> Result<(), DecodeError> {
        bounded("nodes", self.nodes.len(), NODES_MAX)?;
        bounded("tenants", self.tenants.len(), TENANTS_MAX)
    }
}

/// What a node must never go below. It is kept through every restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Floors {
    /// Highest `seq` accepted.
    pub seq: u64,
    /// Highest `epoch` accepted.
    pub epoch: u64,
    /// Highest plan serial accepted, per model, with the plan's digest: the one plan that is in force for this model.
    pub plans: Vec<(ModelName, u64, ContentHash)>,
}

impl Floors {
    /// Serial and digest of the plan in force for `model`.
    #[must_use]
    pub fn plan_of(&self, model: &ModelName) -> Option<(u64, ContentHash)> {
        self.plans
            .iter()
            .find(|(of, ..)| of == model)
            .map(|(_, serial, id)| (*serial, *id))
    }
    fn raise(&mut self, model: &ModelName, serial: u64, id: ContentHash) {
        match self.plans.iter_mut().find(|(of, ..)| of == model) {
            Some(floor) => (floor.1, floor.2) = (serial, id),
            None => self.plans.push((model.clone(), serial, id)),
        }
    }
}

#[cfg(test)]
mod tests;
