//! The signed reports on which rollouts rest: which witness said, of which plan, that it is ready.
//!
//! Evidence only grows. Each report names its plan and counts for no other. Of each witness two words are kept:
//!
//! | word | shows | for whom |
//! |---|---|---|
//! | the earliest | that its region began, and when | the region: active; its nodes, after the plan has expired |
//! | the earliest after the bake time | that its wave is good | the waves that follow |

use std::collections::{BTreeMap, BTreeSet};

use proto::entry::Fleet;
use proto::ids::{ContentHash, NodeId, RegionId, UnixMs};
use proto::plan::{Plan, ReadyReport, Wave};
use proto::signed::Signed;

use crate::artifacts::documents::Plans;

/// Reports by plan and witness.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    reports: BTreeMap<ContentHash, BTreeMap<NodeId, Words>>,
}

/// What one witness said of one plan. Verified when it was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Words {
    first: Word,
    baked: Option<Word>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Word {
    /// Ready since, and written at: the earlier of both orders words.
    when: (UnixMs, UnixMs),
    report: Signed,
}

impl Evidence {
    /// Takes `report`, sent by `from`. Gives the plan for which it adds something.
    #[must_use = "what was added is to be kept on disk"]
    pub fn offer(&mut self, fleet: &Fleet, plans: &Plans, from: &NodeId, report: &Signed) -> Option<ContentHash> {
        let key = fleet.nodes.get(from).filter(|node| node.enrolled)?.key;
        let id = report.open::<ReadyReport>(&[key], 1).ok()?.plan;
        let doc = plans.get(&id)?;
        self.keep(id, &doc.plan, from, report).then_some(id)
    }

    /// Takes `report` for `plan` if it is a witness's word about it and says more than what is kept.
    pub fn keep(&mut self, id: ContentHash, plan: &Plan, from: &NodeId, report: &Signed) -> bool {
        let Some(said) = plan.vouched(&id, from, report) else {
            return false;
        };
        let wave = plan.wave_of(&from.region).and_then(|at| plan.waves.get(at));
        let word = Word {
            when: (said.ready_since, said.at),
            report: report.clone(),
        };
        let baked = wave.filter(|wave| wave.is_baked(&said)).map(|_| word.clone());
        let nodes = self.reports.entry(id).or_default();
        let Some(words) = nodes.get_mut(from) else {
            nodes.insert(from.clone(), Words { first: word, baked });
            return true;
        };
        let before = |word: &Word, kept: Option<&Word>| kept.is_none_or(|kept| word.when < kept.when);
        let mut adds = false;
        if before(&word, Some(&words.first)) {
            (words.first, adds) = (word, true);
        }
        if let Some(baked) = baked.filter(|baked| before(baked, words.baked.as_ref())) {
            (words.baked, adds) = (Some(baked), true);
        }
        adds
    }

    /// All reports for `plan`, by node.
    #[must_use]
    pub fn of(&self, plan: &ContentHash) -> Vec<Signed> {
        let words = self.reports.get(plan).into_iter().flat_map(BTreeMap::values);
        words.flat_map(Words::reports).cloned().collect()
    }

    /// Witnesses that have reported ready under `plan`.
    pub fn ready<'a>(&'a self, plan: &ContentHash) -> impl Iterator<Item = &'a NodeId> + use<'a> {
        self.reports.get(plan).into_iter().flat_map(BTreeMap::keys)
    }

    /// The reports that let a node of `region` change by `plan`, no more than each quorum needs: that the waves before
    /// its own are good, and, once it is so, that the region itself began before the plan expired.
    #[must_use]
    pub fn proof_for(&self, id: &ContentHash, plan: &Plan, region: &RegionId) -> Vec<Signed> {
        let Some(at) = plan.wave_of(region) else {
            return Vec::new();
        };
        let mut proof = Vec::new();
        for wave in plan.waves.iter().take(at) {
            for of in &wave.regions {
                proof.extend(self.quorum(id, wave, of, |words| words.baked.as_ref()));
            }
        }
        if let Some(own) = plan.waves.get(at) {
            let in_time = |word: &&Word| word.when.0 <= plan.expires;
            proof.extend(self.quorum(id, own, region, |words| Some(&words.first).filter(in_time)));
        }
        proof
    }

    /// One word each of as many witnesses of `region` as its quorum needs; nothing while they are too few.
    fn quorum<'a>(
        &'a self,
        id: &ContentHash,
        wave: &Wave,
        region: &RegionId,
        word: impl Fn(&'a Words) -> Option<&'a Word>,
    ) -> Vec<Signed> {
        let nodes = self.reports.get(id).into_iter().flatten();
        let said = nodes.filter(|(node, _)| &node.region == region);
        let quorum = usize::try_from(wave.quorum_per_region).unwrap_or(usize::MAX);
        let words: Vec<&Word> = said.filter_map(|(_, words)| word(words)).take(quorum).collect();
        if words.len() < quorum {
            return Vec::new();
        }
        words.into_iter().map(|word| word.report.clone()).collect()
    }

    /// Whether this plan's evidence has been begun, were it with nothing.
    #[must_use]
    pub fn knows(&self, plan: &ContentHash) -> bool {
        self.reports.contains_key(plan)
    }

    /// Begins a plan with nothing.
    pub fn begin(&mut self, plan: ContentHash) {
        self.reports.entry(plan).or_default();
    }

    /// Forgets the plans that no decision needs any more.
    pub fn retain(&mut self, needed: &BTreeSet<ContentHash>) {
        self.reports.retain(|id, _| needed.contains(id));
    }
}

impl Words {
    /// Both, or the one that is both.
    fn reports(&self) -> impl Iterator<Item = &Signed> {
        let baked = self.baked.as_ref().filter(|baked| **baked != self.first);
        std::iter::once(&self.first).chain(baked).map(|word| &word.report)
    }
}
