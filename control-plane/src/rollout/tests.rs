use std::sync::Arc;

use ed25519_dalek::SigningKey;
use proptest::prelude::*;
use proto::entry::{Activation, NodeEntry, Published};
use proto::ids::{ContentHash, Release};
use proto::plan::{ReadyReport, Wave, Witness};
use proto::region_state::RegionInfo;
use proto::signed::{PublicKey, Signed};

use super::*;
use crate::artifacts::documents::PlanDoc;
use crate::ledger::judge;

const BAKE_MS: u64 = 1000;

fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn node(region: usize, n: usize) -> NodeId {
    format!("r{region}/n{n}").parse().unwrap()
}

fn node_key(id: &NodeId) -> SigningKey {
    SigningKey::from_bytes(ContentHash::of(id.to_string().as_bytes()).as_bytes())
}

fn release(version: &str) -> Release {
    format!("m@{version}").parse().unwrap()
}

fn manifest(version: &str) -> ContentHash {
    ContentHash::of(version.as_bytes())
}

/// A fleet of `regions` regions with two nodes each, and one plan over it with one region a wave.
struct World {
    fleet: Fleet,
    plans: Plans,
    evidence: Evidence,
}

impl World {
    fn new(regions: usize) -> Self {
        let mut fleet = Fleet {
            epoch: 1,
            ..Fleet::default()
        };
        for r in 0..regions {
            let id: RegionId = format!("r{r}").parse().unwrap();
            fleet.regions.insert(
                id.clone(),
                RegionInfo {
                    id,
                    country: "DE".into(),
                    lat_e6: 0,
                    lon_e6: 0,
                },
            );
            for n in 0..2 {
                let (id, ingress) = (node(r, n), "127.0.0.1:1".parse().unwrap());
                let key = PublicKey::of(&node_key(&id));
                fleet.nodes.insert(
                    id,
                    NodeEntry {
                        class: "cpu".parse().unwrap(),
                        ingress,
                        key,
                        enrolled: true,
                    },
                );
            }
        }
        for version in ["1", "2"] {
            let Release { model, version: v } = release(version);
            fleet.releases.entry(model).or_default().insert(
                v,
                Published {
                    manifest: manifest(version),
                    time: 0,
                },
            );
        }
        Self {
            fleet,
            plans: Plans::new(),
            evidence: Evidence::default(),
        }
    }

    /// Signs a plan to `version` and logs it.
    fn plan(&mut self, version: &str, quorum: u32) -> ContentHash {
        let regions: Vec<RegionId> = self.fleet.regions.keys().cloned().collect();
        let waves = regions.into_iter().map(|region| {
            let witnesses = self.fleet.nodes_of(&region).map(|(id, n)| Witness {
                node: id.clone(),
                key: n.key,
            });
            let witnesses = witnesses.collect();
            Wave {
                regions: vec![region],
                witnesses,
                quorum_per_region: quorum,
                bake_ms: BAKE_MS,
            }
        });
        let plan = Plan {
            serial: self.fleet.next_plan_serial(&release(version).model),
            from: None,
            to: release(version),
            manifest: manifest(version),
            variants: vec![],
            waves: waves.collect(),
            expires: 1_000_000,
            author: "alice".parse().unwrap(),
            reason: String::new(),
        };
        let signed = Signed::seal(&plan, &key(7));
        let id = signed.id();
        let (waves, serial) = (plan.waves.len(), plan.serial);
        for older in &mut self.fleet.plans {
            older.status = PlanStatus::Aborted;
        }
        let status = PlanStatus::Open { waves_begun: 0 };
        self.fleet.plans.push(PlanEntry {
            id,
            serial,
            to: release(version),
            manifest: manifest(version),
            waves,
            status,
        });
        self.plans.insert(id, Arc::new(PlanDoc { signed, plan }));
        id
    }

    /// Appends all that may be said at `now`, as the real fold takes it.
    fn settle(&mut self, now: UnixMs) -> Vec<Body> {
        let mut said = Vec::new();
        loop {
            let bodies = next(&self.fleet, &self.plans, &self.evidence, now);
            if bodies.is_empty() {
                return said;
            }
            for body in bodies {
                self.fleet.apply(&judge::own(&body, now).encode().unwrap()).unwrap();
                said.push(body);
            }
        }
    }

    /// A node says that by `plan` it has been ready with `version` from `since` to `at`.
    fn report(&mut self, from: &NodeId, version: &str, since: UnixMs, at: UnixMs, plan: ContentHash) -> bool {
        let signed = ready(from, version, since, at, plan);
        self.evidence.offer(&self.fleet, &self.plans, from, &signed).is_some()
    }

    /// Whether a node of `region` with nothing to go below may take `plan` at `now` on what a state carries.
    fn permits(&self, plan: &ContentHash, region: usize, now: UnixMs) -> bool {
        let region: RegionId = format!("r{region}").parse().unwrap();
        let doc = &self.plans[plan].plan;
        let proof = self.evidence.proof_for(plan, doc, &region);
        doc.permits(plan, &region, &proof, now).is_ok()
    }
}

fn ready(from: &NodeId, version: &str, since: UnixMs, at: UnixMs, plan: ContentHash) -> Signed {
    let said = ReadyReport {
        node: from.clone(),
        plan,
        release: release(version),
        manifest: manifest(version),
        ready_since: since,
        at,
    };
    Signed::seal(&said, &node_key(from))
}

fn kinds(bodies: &[Body]) -> Vec<&'static str> {
    bodies.iter().map(Body::kind).collect()
}

#[test]
fn a_plan_goes_from_wave_to_wave_as_witnesses_report_and_bake() {
    let mut world = World::new(2);
    let plan = world.plan("1", 2);
    // State of the plan, what happens, what the log then says.
    assert_eq!(kinds(&world.settle(10)), ["step"], "the first wave needs no evidence");
    assert_eq!(kinds(&world.settle(11)), [""; 0], "nothing is said twice");
    assert!(world.report(&node(0, 0), "1", 20, 20, plan));
    assert_eq!(kinds(&world.settle(21)), [""; 0], "one of two is no quorum");
    assert!(world.report(&node(0, 1), "1", 25, 25, plan));
    assert_eq!(kinds(&world.settle(26)), ["active"], "active, but not baked");
    assert!(world.report(&node(0, 0), "1", 20, 20 + BAKE_MS, plan));
    assert_eq!(kinds(&world.settle(1030)), [""; 0], "one of two has baked");
    assert!(world.report(&node(0, 1), "1", 25, 25 + BAKE_MS, plan));
    assert_eq!(kinds(&world.settle(1031)), ["step"], "wave 0 is good");
    assert!(world.report(&node(1, 0), "1", 1040, 1040, plan));
    assert!(world.report(&node(1, 1), "1", 1040, 1040, plan));
    assert_eq!(
        kinds(&world.settle(1041)),
        ["active", "complete"],
        "nobody waits for the last bake"
    );
    assert_eq!(kinds(&world.settle(9999)), [""; 0]);
}

#[test]
fn an_expired_plan_begins_no_further_wave_but_finishes_the_one_it_began() {
    let mut world = World::new(2);
    let plan = world.plan("1", 1);
    world.settle(10);
    world.report(&node(0, 0), "1", 20, 20 + BAKE_MS, plan);
    assert_eq!(kinds(&world.settle(1_000_001)), ["active"]);
}

#[test]
fn a_rollback_is_not_active_on_the_word_of_the_first_rollout() {
    let mut world = World::new(1);
    let first = world.plan("1", 2);
    world.settle(10);
    for n in 0..2 {
        world.report(&node(0, n), "1", 20, 20, first);
    }
    assert_eq!(kinds(&world.settle(30)), ["active", "complete"]);
    let second = world.plan("2", 2);
    world.settle(40);
    for n in 0..2 {
        world.report(&node(0, n), "2", 50, 50, second);
    }
    assert_eq!(kinds(&world.settle(60)), ["active", "complete"]);
    let back = world.plan("1", 2);
    assert_eq!(kinds(&world.settle(70)), ["step"]);
    for n in 0..2 {
        world.report(&node(0, n), "1", 20, 75, first);
    }
    assert_eq!(kinds(&world.settle(76)), [""; 0], "they speak of another plan");
    for n in 0..2 {
        world.report(&node(0, n), "1", 80, 80, back);
    }
    assert_eq!(kinds(&world.settle(81)), ["active", "complete"]);
}

#[test]
fn what_an_aborted_plan_began_still_becomes_active_when_it_does() {
    let mut world = World::new(2);
    let plan = world.plan("1", 1);
    world.settle(10);
    world.fleet.plans[0].status = PlanStatus::Aborted;
    world.report(&node(0, 0), "1", 20, 20 + BAKE_MS, plan);
    assert_eq!(kinds(&world.settle(2000)), ["active"]);
}

#[test]
fn a_report_counts_only_from_an_enrolled_witness_with_its_own_key() {
    let mut world = World::new(1);
    let plan = world.plan("1", 1);
    world.settle(10);
    let said = |of: &NodeId, by: &NodeId| Signed {
        signatures: ready(by, "1", 1, 2, plan).signatures,
        ..ready(of, "1", 1, 2, plan)
    };
    let (n0, n1) = (node(0, 0), node(0, 1));
    let offer = |world: &mut World, from: &NodeId, signed: &Signed| {
        world.evidence.offer(&world.fleet, &world.plans, from, signed).is_some()
    };
    assert!(!offer(&mut world, &n0, &said(&n0, &n1)), "another's signature");
    assert!(!offer(&mut world, &n0, &said(&n1, &n1)), "about another node");
    world.fleet.nodes.get_mut(&n0).unwrap().enrolled = false;
    assert!(!offer(&mut world, &n0, &said(&n0, &n0)), "revoked");
    assert!(!offer(&mut world, &n1, &ready(&n1, "1", 1, 2, manifest("no plan"))));
    assert!(!offer(&mut world, &n1, &ready(&n1, "2", 1, 2, plan)), "not its release");
    assert!(offer(&mut world, &n1, &said(&n1, &n1)));
}

#[test]
fn evidence_outlives_a_restart_and_a_damaged_file_only_costs_its_reports() {
    let mut world = World::new(2);
    let plan = world.plan("1", 1);
    world.settle(10);
    world.report(&node(0, 0), "1", 20, 20, plan);
    world.report(&node(0, 0), "1", 20, 20 + BAKE_MS, plan);
    let dir = tempfile::tempdir().unwrap();
    let keeper = keeper::Keeper::open(dir.path()).unwrap();
    keeper.save(&plan, &world.evidence).unwrap();
    let recalled = |plans: &Plans| {
        let mut evidence = Evidence::default();
        keeper.recall(plans, &mut evidence);
        evidence
    };
    assert_eq!(recalled(&world.plans), world.evidence);
    keeper.sweep(&[plan].into()).unwrap();
    let absent = recalled(&Plans::new());
    assert!(
        !absent.knows(&plan),
        "a plan without its document is asked for again later"
    );
    assert_eq!(
        recalled(&world.plans),
        world.evidence,
        "and its evidence still lies there"
    );
    std::fs::write(dir.path().join(plan.hex()), b"torn").unwrap();
    assert!(recalled(&world.plans).of(&plan).is_empty());
    keeper.sweep(&[].into()).unwrap();
    assert_eq!(
        std::fs::read_dir(dir.path()).unwrap().count(),
        0,
        "files of plans that nobody needs are removed"
    );
}

/// Goal: in whatever order reports come, the first word of a witness shows when it began and the first one after the
/// bake that it is good, and neither takes the place of the other. Method: all orders of four reports of one witness.
#[test]
fn a_baked_report_does_not_hide_that_the_region_began_in_time() {
    const END: UnixMs = 1_000_000;
    let times = [END - 10, END - 5, END - 10 + BAKE_MS, END + 2 * BAKE_MS];
    for order in 0..256_usize {
        let order: Vec<usize> = (0..4).map(|place| order >> (2 * place) & 3).collect();
        if (0..4).any(|i| !order.contains(&i)) {
            continue;
        }
        let mut world = World::new(2);
        let plan = world.plan("1", 1);
        for i in &order {
            world.report(&node(0, 0), "1", END - 10, times[*i], plan);
        }
        assert_eq!(
            world.evidence.of(&plan),
            [0, 2].map(|i| ready(&node(0, 0), "1", END - 10, times[i], plan)),
            "{order:?}"
        );
        assert!(world.permits(&plan, 0, END + 1), "{order:?}");
        assert!(world.permits(&plan, 1, END), "{order:?}");
        assert!(!world.permits(&plan, 1, END + 1), "the second region never began");
    }
}

#[test]
fn a_state_carries_no_more_reports_than_its_nodes_need() {
    let mut world = World::new(2);
    let plan = world.plan("1", 1);
    let region = |r: usize| format!("r{r}").parse().unwrap();
    let doc = world.plans[&plan].clone();
    let count = |world: &World, r| world.evidence.proof_for(&plan, &doc.plan, &region(r)).len();
    assert_eq!((count(&world, 0), count(&world, 1)), (0, 0));
    for (r, n) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        world.report(&node(r, n), "1", 20, 20, plan);
        world.report(&node(r, n), "1", 20, 20 + BAKE_MS, plan);
    }
    assert_eq!(count(&world, 0), 1, "its own beginning");
    assert_eq!(count(&world, 1), 2, "and the wave before");
    let strict = world.plan("2", 2);
    world.report(&node(0, 0), "2", 20, 20 + BAKE_MS, strict);
    let doc = world.plans[&strict].clone();
    for r in 0..2 {
        let proof = world.evidence.proof_for(&strict, &doc.plan, &region(r));
        assert_eq!(proof, [], "half a quorum proves nothing");
    }
}

#[test]
fn an_activation_lists_as_many_nodes_as_fit_into_one_entry() {
    let region: RegionId = "r".repeat(64).parse().unwrap();
    let nodes: Vec<NodeId> = (0..200)
        .map(|n| format!("{region}/{}{n:03}", "n".repeat(61)).parse().unwrap())
        .collect();
    let target = Target {
        release: format!("{}@4000000000", "m".repeat(64)).parse().unwrap(),
        manifest: manifest("1"),
        plan: manifest("2"),
    };
    let body = activation(&region, &target, nodes.iter().collect());
    let Body::Active { nodes, .. } = &body else { panic!() };
    assert_eq!(nodes.len(), 3);
    judge::own(&body, u64::MAX).encode().unwrap();
}

#[derive(Clone, Debug)]
enum Event {
    /// Node `n` of region `r` reports version `v`, ready since `bake` before now.
    Report {
        r: usize,
        n: usize,
        v: usize,
        bake: u64,
    },
    NewPlan {
        v: usize,
    },
    Time {
        ms: u64,
    },
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => (0..3_usize, 0..2_usize, 0..2_usize, 0..2 * BAKE_MS).prop_map(|(r, n, v, bake)| Event::Report { r, n, v, bake }),
        1 => (0..2_usize).prop_map(|v| Event::NewPlan { v }),
        3 => (1..BAKE_MS).prop_map(|ms| Event::Time { ms }),
    ]
}

proptest! {
    /// Goal: no order of reports, plans and time begins a wave before every one before it is good, or calls a region
    /// active without its quorum; and once all nodes report, every open plan completes. Method: random histories
    /// through the real fold, each entry judged by the plan's own rules at the moment it is said.
    #[test]
    fn no_history_skips_a_wave_and_every_history_converges(events in proptest::collection::vec(event(), 0..60)) {
        let mut world = World::new(3);
        let mut plan = world.plan("1", 2);
        let mut now = 10;
        for event in events {
            match event {
                Event::Time { ms } => now += ms,
                Event::NewPlan { v } => plan = world.plan(["1", "2"][v], 2),
                Event::Report { r, n, v, bake } => {
                    now += bake;
                    world.report(&node(r, n), ["1", "2"][v], now - bake, now, plan);
                }
            }
            let before = world.evidence.clone();
            for body in world.settle(now) {
                match body {
                    Body::Step { plan, wave, .. } => {
                        let doc = &world.plans[&plan].plan;
                        for earlier in 0..wave {
                            prop_assert!(doc.wave_is_good(&plan, earlier, &before.of(&plan)).is_ok());
                        }
                    }
                    Body::Active { nodes, region, .. } => {
                        prop_assert_eq!(nodes.iter().filter(|n| n.region == region).count(), 2);
                    }
                    _ => {}
                }
            }
        }
        let version = world.plans[&plan].plan.to.version.to_string();
        for _ in 0..5 {
            now += BAKE_MS;
            for (r, n) in (0..3).flat_map(|r| [(r, 0), (r, 1)]) {
                world.report(&node(r, n), &version, now - BAKE_MS, now, plan);
            }
            world.settle(now);
        }
        prop_assert_eq!(world.fleet.plan(&plan).unwrap().status, PlanStatus::Complete);
        for region in 0..3 {
            prop_assert!(world.permits(&plan, region, UnixMs::MAX), "a node that comes late finds its region's word");
        }
        for all in world.fleet.activations.values() {
            let Activation { manifest, .. } = all.last().unwrap();
            prop_assert_eq!(*manifest, world.plans[&plan].plan.manifest);
        }
    }
}
