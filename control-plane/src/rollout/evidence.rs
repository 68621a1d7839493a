//! The signed reports on which rollouts rest: which witness said, of which plan, that it is ready.
//!
//! Evidence only grows. A report counts for a plan only if its node follows a state that asks for this very plan:
//! that it was ready with the same bytes in an earlier rollout says nothing about this one.

use std::collections::{BTreeMap, BTreeSet};

use proto::entry::Fleet;
use proto::ids::{ContentHash, NodeId};
use proto::plan::{Plan, ReadyReport};
use proto::signed::Signed;

use crate::artifacts::documents::Plans;

/// Reports by plan and witness.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    reports: BTreeMap<ContentHash, BTreeMap<NodeId, Signed>>,
}

impl Evidence {
    /// Takes `report`, sent by `from` while it follows a state that rests on the plans `followed`. Gives the plan for
    /// which it adds something: a witness's first word, or its first one after the bake time.
    #[must_use = "what was added is to be kept on disk"]
    pub fn offer(
        &mut self,
        fleet: &Fleet,
        plans: &Plans,
        from: &NodeId,
        followed: &BTreeSet<ContentHash>,
        report: &Signed,
    ) -> Option<ContentHash> {
        let key = fleet.nodes.get(from).filter(|node| node.enrolled)?.key;
        let said = report.open::<ReadyReport>(&[key], 1).ok()?;
        let target = fleet.targets.get(&(from.region.clone(), said.release.model.clone()))?;
        let plan = &plans.get(&target.plan)?.plan;
        if !followed.contains(&target.plan) {
            return None;
        }
        self.keep(target.plan, plan, from, report).then_some(target.plan)
    }

    /// Takes `report` for `plan` if it is a witness's word about this plan's release and says more than what is kept.
    pub fn keep(&mut self, id: ContentHash, plan: &Plan, from: &NodeId, report: &Signed) -> bool {
        let Some(said) = vouched(plan, from, report) else {
            return false;
        };
        let kept = self.reports.get(&id).and_then(|nodes| nodes.get(from));
        let bake_ms = plan
            .wave_of(&from.region)
            .and_then(|w| plan.waves.get(w))
            .map_or(0, |w| w.bake_ms);
        let baked = |said: &ReadyReport| said.at - said.ready_since >= bake_ms;
        let adds = match kept.and_then(|kept| vouched(plan, from, kept)) {
            None => true,
            Some(before) => !baked(&before) && baked(&said),
        };
        if adds {
            self.reports.entry(id).or_default().insert(from.clone(), report.clone());
        }
        adds
    }

    /// All reports for `plan`, by node.
    #[must_use]
    pub fn of(&self, plan: &ContentHash) -> Vec<Signed> {
        self.reports
            .get(plan)
            .map(|nodes| nodes.values().cloned().collect())
            .unwrap_or_default()
    }

    /// Witnesses that have reported ready under `plan`.
    pub fn ready<'a>(&'a self, plan: &ContentHash) -> impl Iterator<Item = &'a NodeId> + use<'a> {
        self.reports.get(plan).into_iter().flat_map(BTreeMap::keys)
    }

    /// The reports that prove the waves before `wave` good, no more than each quorum needs. Empty for the first wave.
    #[must_use]
    pub fn before(&self, id: &ContentHash, plan: &Plan, wave: usize) -> Vec<Signed> {
        let Some(nodes) = self.reports.get(id) else {
            return Vec::new();
        };
        let mut proof = Vec::new();
        for wave in plan.waves.iter().take(wave) {
            for region in &wave.regions {
                let good = nodes.iter().filter(|(node, report)| {
                    let said = (&node.region == region).then(|| vouched(plan, node, report)).flatten();
                    said.is_some_and(|said| said.at - said.ready_since >= wave.bake_ms)
                });
                let quorum = usize::try_from(wave.quorum_per_region).unwrap_or(usize::MAX);
                proof.extend(good.take(quorum).map(|(_, report)| report.clone()));
            }
        }
        proof
    }

    /// Forgets the plans that no decision needs any more.
    pub fn retain(&mut self, plans: &Plans) {
        self.reports.retain(|id, _| plans.contains_key(id));
    }
}

/// What `report` says, if `from` is a witness of `plan` and signed it about the plan's release.
fn vouched(plan: &Plan, from: &NodeId, report: &Signed) -> Option<ReadyReport> {
    let wave = plan.waves.get(plan.wave_of(&from.region)?)?;
    let witness = wave.witnesses.iter().find(|w| &w.node == from)?;
    let said = report.open::<ReadyReport>(&[witness.key], 1).ok()?;
    (said.node == *from && said.release == plan.to && said.manifest == plan.manifest).then_some(said)
}
