//! What the log should say next, given what nodes have proven.
//!
//! ```text
//!           step 0          active: every region of wave 0        step 1            active: all regions
//!   Open ------------> begun 1 ------------------------> (bake) ----------> ... --------------------> Complete
//! ```
//! [`next`] decides and does nothing else: no clock, no socket, no disk. It is asked again after each entry, so it
//! needs to name only what can be said at once. Invariant: no wave begins before every wave before it is good on the
//! signed word of its witnesses, and no region counts as active before a quorum of its own has reported.

pub mod conductor;
pub mod evidence;
pub mod keeper;

use proto::entry::{Body, Fleet, PlanEntry, PlanStatus, Target};
use proto::ids::{ModelName, NodeId, RegionId, UnixMs};
use proto::plan::Plan;

use crate::artifacts::documents::Plans;
use evidence::Evidence;

/// Bytes of names that one activation or step lists, so that its entry stays under the log's bound.
const LISTED_BYTES_MAX: usize = 512;

/// The entries that the control plane can truthfully append now; none when it has to wait.
#[must_use]
pub fn next(fleet: &Fleet, plans: &Plans, evidence: &Evidence, now: UnixMs) -> Vec<Body> {
    let activations: Vec<Body> = fleet
        .targets
        .iter()
        .filter(|((region, model), target)| !is_active(fleet, region, model, target))
        .filter_map(|((region, _), target)| {
            let nodes = quorum_of(plans, evidence, region, target)?;
            Some(activation(region, target, nodes))
        })
        .collect();
    if !activations.is_empty() {
        return activations;
    }
    let open = fleet.plans.iter().filter_map(|entry| match entry.status {
        PlanStatus::Open { waves_begun } => Some((entry, waves_begun)),
        PlanStatus::Complete | PlanStatus::Aborted => None,
    });
    open.filter_map(|(entry, begun)| advance(fleet, plans, evidence, entry, begun, now))
        .collect()
}

/// The next step of one open plan, or its completion.
fn advance(
    fleet: &Fleet,
    plans: &Plans,
    evidence: &Evidence,
    entry: &PlanEntry,
    begun: usize,
    now: UnixMs,
) -> Option<Body> {
    let plan = &plans.get(&entry.id)?.plan;
    let model = &entry.to.model;
    let settled = |region: &RegionId| {
        fleet
            .targets
            .get(&(region.clone(), model.clone()))
            .is_some_and(|target| {
                target.plan == entry.id
                    && is_active(fleet, region, model, target)
                    && quorum_of(plans, evidence, region, target).is_some()
            })
    };
    if !plan
        .waves
        .iter()
        .take(begun)
        .flat_map(|wave| &wave.regions)
        .all(settled)
    {
        return None;
    }
    let Some(wave) = plan.waves.get(begun) else {
        return Some(Body::Complete { plan: entry.id });
    };
    let reports = evidence.of(&entry.id);
    let baked = (0..begun).all(|before| plan.wave_is_good(&entry.id, before, &reports).is_ok());
    (baked && now <= plan.expires).then(|| Body::Step {
        plan: entry.id,
        wave: begun,
        model: model.clone(),
        version: entry.to.version,
        manifest: entry.manifest,
        regions: wave.regions.clone(),
    })
}

/// What an open plan waits for, in words; none when its next entry can be written.
#[must_use]
pub fn waits_for(fleet: &Fleet, entry: &PlanEntry, plan: &Plan, evidence: &Evidence, now: UnixMs) -> Option<String> {
    let PlanStatus::Open { waves_begun } = entry.status else {
        return None;
    };
    let reports = evidence.of(&entry.id);
    let late = plan
        .waves
        .iter()
        .take(waves_begun)
        .flat_map(|wave| &wave.regions)
        .find(|region| {
            let target = fleet.targets.get(&((*region).clone(), entry.to.model.clone()));
            target.is_none_or(|target| target.plan != entry.id || !is_active(fleet, region, &entry.to.model, target))
        });
    if let Some(region) = late {
        return Some(format!(
            "`{region}` is not active yet: its quorum has not reported {} ready",
            entry.to
        ));
    }
    if waves_begun == plan.waves.len() {
        return None;
    }
    if now > plan.expires {
        return Some(format!(
            "it expired at {} before wave {waves_begun}: sign a new plan",
            plan.expires
        ));
    }
    (0..waves_begun)
        .find_map(|wave| plan.wave_is_good(&entry.id, wave, &reports).err())
        .map(|missing| missing.to_string())
}

/// Whether the last thing the log says of this region is that it answers with its target.
#[must_use]
pub fn is_active(fleet: &Fleet, region: &RegionId, model: &ModelName, target: &Target) -> bool {
    let last = fleet
        .activations
        .get(&(region.clone(), model.clone()))
        .and_then(|all| all.last());
    last.is_some_and(|a| a.release == target.release && a.manifest == target.manifest)
}

/// The witnesses of `region` that have reported its target ready, once they are a quorum.
fn quorum_of<'a>(plans: &Plans, evidence: &'a Evidence, region: &RegionId, target: &Target) -> Option<Vec<&'a NodeId>> {
    let plan = &plans.get(&target.plan)?.plan;
    let wave = plan.waves.get(plan.wave_of(region)?)?;
    let ready: Vec<&NodeId> = evidence
        .ready(&target.plan)
        .filter(|node| &node.region == region)
        .collect();
    wave.is_quorum(ready.len()).then_some(ready)
}

fn activation(region: &RegionId, target: &Target, nodes: Vec<&NodeId>) -> Body {
    let mut listed_bytes = 0;
    let fits = |node: &&NodeId| {
        listed_bytes += node.to_string().len() + 3;
        listed_bytes <= LISTED_BYTES_MAX
    };
    Body::Active {
        region: region.clone(),
        model: target.release.model.clone(),
        version: target.release.version,
        manifest: target.manifest,
        nodes: nodes.into_iter().take_while(fits).cloned().collect(),
    }
}

/// The first wave whose step would not fit into one log entry.
#[must_use]
pub fn wave_too_long(plan: &Plan) -> Option<usize> {
    let bytes = |regions: &[RegionId]| regions.iter().map(|r| r.as_str().len() + 3).sum::<usize>();
    plan.waves
        .iter()
        .position(|wave| bytes(&wave.regions) > LISTED_BYTES_MAX)
}

#[cfg(test)]
mod tests;
