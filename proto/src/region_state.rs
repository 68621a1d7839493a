//! What a region must run, signed by the control plane; and the rules by which a node believes it.
//!
//! Order of checks: signature, then `seq`, then epoch floor, then expiry, then log consistency, then the plans.
//! Nothing is persisted before all hold. (CVE-2025-2888 is the other order.)

use serde::{Deserialize, Serialize};

use crate::ids::{BoundaryId, ContentHash, ModelName, NodeId, RegionId, Release, TenantId, UnixMs};
use crate::limits::{MODELS_MAX, NODES_MAX, TENANTS_MAX};
use crate::plan::{NotPermitted, Plan};
use crate::signed::{DecodeError, Document, Signed, TrustBundle, TrustError};

/// One model that a region must serve, with the proof that it may.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Desired {
    /// What to serve.
    pub release: Release,
    /// From which manifest.
    pub manifest: ContentHash,
    /// The signed [`Plan`] that permits it.
    pub plan: Signed,
    /// Signed [`crate::plan::ReadyReport`]s of the waves before this region's own.
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
    /// Highest plan serial accepted, per model, with the plan's digest.
    pub plans: Vec<(ModelName, u64, ContentHash)>,
}

/// Whether a state's checkpoint belongs to the one history that this node knows. Passed in so that this module stays a plain decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// Signed by the log and an extension of what was seen.
    Proven,
    /// Not signed by the log, not for `epoch`, or the proof does not hold.
    Broken,
    /// Two signed checkpoints exclude each other.
    Fork,
}

/// Why a state is refused. What is active stays active.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// Not signed by the control plane's state key, or not readable.
    #[error("state: {0}")]
    Trust(#[from] TrustError),
    /// For another region.
    #[error("a state of region `{found}` was sent to a node of `{own}`")]
    OtherRegion {
        /// Named in the state.
        found: RegionId,
        /// This node's.
        own: RegionId,
    },
    /// Not newer than what was accepted before.
    #[error("seq {found}, accepted was {floor}")]
    Seq {
        /// Sent.
        found: u64,
        /// Kept.
        floor: u64,
    },
    /// Folded from a shorter log than what was accepted before.
    #[error("epoch {found}, accepted was {floor}")]
    Epoch {
        /// Sent.
        found: u64,
        /// Kept.
        floor: u64,
    },
    /// Too old.
    #[error("expired at {expires}, now is {now}")]
    Expired {
        /// Unix milliseconds.
        expires: UnixMs,
        /// Unix milliseconds.
        now: UnixMs,
    },
    /// The checkpoint is not part of the history this node knows.
    #[error("the checkpoint does not extend the log this node has seen")]
    Inconsistent,
    /// The log signed two histories. No activation until people have looked at it.
    #[error("the log has forked: activations are stopped; compare checkpoints with `fleet log verify`")]
    Fork,
    /// A model would change without a plan that permits it.
    #[error("{release}: {source}")]
    Plan {
        /// Which change.
        release: Release,
        /// Why not.
        source: NotPermitted,
    },
    /// A plan older than one accepted before, or another plan of the same serial.
    #[error("{release}: plan serial {found}, accepted was {floor}")]
    PlanSerial {
        /// Which change.
        release: Release,
        /// Sent.
        found: u64,
        /// Kept.
        floor: u64,
    },
}

/// Decides whether a node of `own` accepts `signed` after `floors`, and gives the state, its plans and the new floors.
///
/// # Errors
/// [`Refused`], the first rule that does not hold, in the order of the module's header.
pub fn accept(
    signed: &Signed,
    own: &RegionId,
    trust: &TrustBundle,
    floors: &Floors,
    now: UnixMs,
    consistency: impl FnOnce(&RegionState) -> Consistency,
) -> Result<(RegionState, Vec<Plan>, Floors), Refused> {
    let state = signed.open::<RegionState>(&[trust.state_key], 1)?;
    if &state.region.id != own {
        return Err(Refused::OtherRegion {
            found: state.region.id,
            own: own.clone(),
        });
    }
    if state.seq <= floors.seq {
        return Err(Refused::Seq {
            found: state.seq,
            floor: floors.seq,
        });
    }
    if state.epoch < floors.epoch {
        return Err(Refused::Epoch {
            found: state.epoch,
            floor: floors.epoch,
        });
    }
    if state.expires < now {
        return Err(Refused::Expired {
            expires: state.expires,
            now,
        });
    }
    match consistency(&state) {
        Consistency::Proven => {}
        Consistency::Broken => return Err(Refused::Inconsistent),
        Consistency::Fork => return Err(Refused::Fork),
    }
    let mut next = Floors {
        seq: state.seq,
        epoch: state.epoch,
        plans: floors.plans.clone(),
    };
    let mut plans = Vec::with_capacity(state.desired.len());
    for desired in &state.desired {
        plans.push(permitted(desired, own, trust, &mut next, now)?);
    }
    Ok((state, plans, next))
}

fn permitted(
    desired: &Desired,
    own: &RegionId,
    trust: &TrustBundle,
    floors: &mut Floors,
    now: UnixMs,
) -> Result<Plan, Refused> {
    let refuse = |source| Refused::Plan {
        release: desired.release.clone(),
        source,
    };
    let plan = desired
        .plan
        .open::<Plan>(&trust.operator_keys(), trust.threshold)
        .map_err(|e| refuse(NotPermitted::Plan(e)))?;
    if plan.to != desired.release || plan.manifest != desired.manifest {
        let what = format!("the plan is for {} {}", plan.to, plan.manifest);
        return Err(refuse(NotPermitted::Plan(DecodeError::Invalid { what }.into())));
    }
    let id = desired.plan.id();
    match floors
        .plans
        .iter_mut()
        .find(|(model, ..)| *model == desired.release.model)
    {
        // The same plan again: permitted when it was first accepted, however old it is by now.
        Some((_, serial, known)) if *serial == plan.serial && *known == id => return Ok(plan),
        Some((_, serial, _)) if *serial >= plan.serial => {
            return Err(Refused::PlanSerial {
                release: desired.release.clone(),
                found: plan.serial,
                floor: *serial,
            });
        }
        Some(floor) => {
            plan.permits(own, &desired.evidence, now).map_err(refuse)?;
            *floor = (desired.release.model.clone(), plan.serial, id);
        }
        // A node that is new here joins what the region has long been running: the step began before the plan expired.
        None => {
            plan.permits(own, &desired.evidence, now.min(plan.expires))
                .map_err(refuse)?;
            floors.plans.push((desired.release.model.clone(), plan.serial, id));
        }
    }
    Ok(plan)
}

#[cfg(test)]
mod tests;
