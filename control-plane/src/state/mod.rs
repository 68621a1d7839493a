//! What regions and routers are told: folded from the log, signed with the state key, pushed on every change.
//!
//! [`region_state_for`] and [`router_view_for`] are plain functions of what is known; [`maker`] gives them numbers and
//! signatures and hands them to whoever follows. This module never decides a change: it repeats the log's.

pub mod maker;
pub mod seq;

use proto::entry::{Fleet, Target};
use proto::ids::{ContentHash, RegionId, Release, UnixMs};
use proto::region_state::{Desired, NodeInfo, RegionState, RouterView};

use crate::artifacts::documents::Plans;
use crate::rollout::evidence::Evidence;

/// Why a state cannot be made. The last one stays in force: leaving a model out would take it out of service.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// Not in the log.
    #[error("region `{region}` is not in the log")]
    Region {
        /// Asked for.
        region: RegionId,
    },
    /// The log names a plan that the store does not hold.
    #[error("the store lacks plan {plan:?}, on which {release} in `{region}` rests: put the plan again")]
    Plan {
        /// For which region.
        region: RegionId,
        /// For which release.
        release: Release,
        /// Missing.
        plan: ContentHash,
    },
}

/// All that states and views are made from, at one moment.
#[derive(Clone, Copy)]
pub struct Moment<'a> {
    /// The log, folded.
    pub fleet: &'a Fleet,
    /// The plans that its targets rest on.
    pub plans: &'a Plans,
    /// What witnesses have said.
    pub evidence: &'a Evidence,
    /// The log's signed checkpoint at `fleet.epoch`.
    pub checkpoint: &'a str,
    /// Until when what is made now may be accepted.
    pub expires: UnixMs,
}

/// What `region` must run, numbered `seq`.
///
/// # Errors
/// [`StateError`].
pub fn region_state_for(moment: &Moment<'_>, region: &RegionId, seq: u64) -> Result<RegionState, StateError> {
    let fleet = moment.fleet;
    let info = fleet
        .regions
        .get(region)
        .ok_or_else(|| StateError::Region { region: region.clone() })?;
    let targets = fleet.targets.iter().filter(|((of, _), _)| of == region);
    let desired = targets
        .map(|(_, target)| desired(moment, region, target))
        .collect::<Result<_, _>>()?;
    Ok(RegionState {
        region: info.clone(),
        seq,
        epoch: fleet.epoch,
        expires: moment.expires,
        desired,
        tenants: fleet.tenants.values().cloned().collect(),
        checkpoint: moment.checkpoint.to_owned(),
    })
}

fn desired(moment: &Moment<'_>, region: &RegionId, target: &Target) -> Result<Desired, StateError> {
    let missing = || StateError::Plan {
        region: region.clone(),
        release: target.release.clone(),
        plan: target.plan,
    };
    let doc = moment.plans.get(&target.plan).ok_or_else(missing)?;
    Ok(Desired {
        release: target.release.clone(),
        manifest: target.manifest,
        plan: doc.signed.clone(),
        evidence: moment.evidence.proof_for(&target.plan, &doc.plan, region),
    })
}

/// What routers steer by, numbered `seq`.
#[must_use]
pub fn router_view_for(moment: &Moment<'_>, seq: u64) -> RouterView {
    let fleet = moment.fleet;
    let nodes = fleet.nodes.iter().filter(|(_, node)| node.enrolled);
    let serving = fleet
        .activations
        .iter()
        .filter_map(|((region, _), all)| Some((region.clone(), all.last()?.release.clone())));
    RouterView {
        seq,
        epoch: fleet.epoch,
        expires: moment.expires,
        regions: fleet.regions.values().cloned().collect(),
        nodes: nodes
            .map(|(id, node)| NodeInfo {
                id: id.clone(),
                ingress: node.ingress,
            })
            .collect(),
        serving: serving.collect(),
        tenants: fleet.tenants.values().cloned().collect(),
        checkpoint: moment.checkpoint.to_owned(),
    }
}

#[cfg(test)]
mod tests;
