use super::*;
use crate::ids::PrincipalName;
use crate::plan::{NotPermitted, Plan, ReadyReport, Wave, Witness};
use crate::signed::{Operator, PublicKey, TrustBundle, TrustError};
use ed25519_dalek::SigningKey;
use proptest::prelude::*;

const NOW: UnixMs = 5_000;

fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}
fn state_key() -> SigningKey {
    key(1)
}
fn operator() -> SigningKey {
    key(2)
}
fn own() -> RegionId {
    "us-iad".parse().unwrap()
}

fn trust() -> TrustBundle {
    let name: PrincipalName = "alice".parse().unwrap();
    TrustBundle {
        fleet: "dev".parse().unwrap(),
        log_vkey: String::new(),
        state_key: PublicKey::of(&state_key()),
        operators: vec![Operator {
            name,
            key: PublicKey::of(&operator()),
        }],
        threshold: 1,
    }
}

/// `eu-fra` changes first, this node's `us-iad` second.
fn plan(model: &str, version: u32, serial: u64) -> Plan {
    let wave = |region: &str, seed| Wave {
        regions: vec![region.parse().unwrap()],
        witnesses: vec![Witness {
            node: format!("{region}/n1").parse().unwrap(),
            key: PublicKey::of(&key(seed)),
        }],
        quorum_per_region: 1,
        bake_ms: 10,
    };
    let to: Release = format!("{model}@{version}").parse().unwrap();
    Plan {
        serial,
        from: None,
        manifest: ContentHash::of(to.to_string().as_bytes()),
        to,
        variants: Vec::new(),
        waves: vec![wave("eu-fra", 11), wave("us-iad", 12)],
        expires: NOW + 1_000,
        author: "alice".parse().unwrap(),
        reason: String::new(),
    }
}

/// The word of the one witness of `region` that it was ready at `at`, after its bake.
fn ready(plan: &Plan, region: &str, seed: u8, at: UnixMs) -> Signed {
    let report = ReadyReport {
        node: format!("{region}/n1").parse().unwrap(),
        plan: plan.id(),
        release: plan.to.clone(),
        manifest: plan.manifest,
        ready_since: at - 10,
        at,
    };
    Signed::seal(&report, &key(seed))
}

fn evidence(plan: &Plan) -> Vec<Signed> {
    vec![ready(plan, "eu-fra", 11, 110)]
}

fn desired(plan: &Plan) -> Desired {
    Desired {
        release: plan.to.clone(),
        manifest: plan.manifest,
        plan: Signed::seal(plan, &operator()),
        evidence: evidence(plan),
    }
}

fn state(seq: u64, epoch: u64, desired: Vec<Desired>) -> RegionState {
    let region = RegionInfo {
        id: own(),
        country: "US".to_owned(),
        lat_e6: 38_950_000,
        lon_e6: -77_450_000,
    };
    RegionState {
        region,
        seq,
        epoch,
        expires: NOW + 500,
        desired,
        tenants: Vec::new(),
        checkpoint: "note".to_owned(),
    }
}

/// A node between two states.
#[derive(Clone, Debug, Default)]
struct Node {
    floors: Floors,
    permitted: Vec<Permitted>,
}

impl Node {
    fn judge(&self, state: &RegionState, now: UnixMs) -> Result<(Accepted, Floors), Refused> {
        let signed = Signed::seal(state, &state_key());
        let (floors, before) = (&self.floors, &self.permitted[..]);
        accept(&signed, &own(), &trust(), floors, before, now, |_| Consistency::Proven)
    }
    /// The node after `state`, and what it was forbidden. A restart right after it would change nothing.
    fn after(&self, state: &RegionState, now: UnixMs) -> (Self, Vec<Forbidden>) {
        let (accepted, floors) = self.judge(state, now).expect("a good state");
        let signed = Signed::seal(state, &state_key());
        let again = reopen(&signed, &accepted.held(), &own(), &trust(), &floors).unwrap();
        assert_eq!((&again.state, &again.permitted), (&accepted.state, &accepted.permitted));
        let names = |all: &[Forbidden]| all.iter().map(|f| (f.release.clone(), f.manifest)).collect::<Vec<_>>();
        assert_eq!(names(&again.forbidden), names(&accepted.forbidden));
        let permitted = accepted.permitted;
        (Self { floors, permitted }, accepted.forbidden)
    }
    /// The node after a state of which nothing was forbidden.
    fn runs(&self, state: &RegionState) -> Self {
        let (node, forbidden) = self.after(state, NOW);
        assert_eq!(forbidden, []);
        node
    }
    fn serves(&self) -> Vec<String> {
        self.permitted.iter().map(|p| p.plan.to.to_string()).collect()
    }
}

fn why(forbidden: &[Forbidden]) -> &NotPermitted {
    let [Forbidden { why, .. }] = forbidden else {
        panic!("one model is forbidden: {forbidden:?}")
    };
    why
}

#[test]
fn a_good_state_is_accepted_and_raises_every_floor() {
    let good = state(4, 9, vec![desired(&plan("m", 2, 3))]);
    let (accepted, floors) = Node::default().judge(&good, NOW).unwrap();
    let id = plan("m", 2, 3).id();
    let [permitted] = &accepted.permitted[..] else { panic!() };
    assert_eq!((&permitted.plan, permitted.id), (&plan("m", 2, 3), id));
    assert_eq!((accepted.state, accepted.forbidden), (good, Vec::new()));
    assert_eq!(
        floors,
        Floors {
            seq: 4,
            epoch: 9,
            plans: vec![("m".parse().unwrap(), 3, id)]
        }
    );
}

/// The rules in their order: each spoils a good state in its own way, without touching the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rule {
    Signature,
    Region,
    Seq,
    Epoch,
    Expiry,
    Consistency,
    PlanSignature,
    PlanTarget,
    PlanSerial,
    PlanEvidence,
}
const RULES: [Rule; 10] = [
    Rule::Signature,
    Rule::Region,
    Rule::Seq,
    Rule::Epoch,
    Rule::Expiry,
    Rule::Consistency,
    Rule::PlanSignature,
    Rule::PlanTarget,
    Rule::PlanSerial,
    Rule::PlanEvidence,
];

fn refused_by(refused: &Refused) -> Rule {
    match refused {
        Refused::Trust(_) => Rule::Signature,
        Refused::OtherRegion { .. } => Rule::Region,
        Refused::Seq { .. } => Rule::Seq,
        Refused::Epoch { .. } => Rule::Epoch,
        Refused::Expired { .. } => Rule::Expiry,
        Refused::Inconsistent | Refused::Fork => Rule::Consistency,
    }
}

fn forbidden_by(why: &NotPermitted) -> Rule {
    match why {
        NotPermitted::Plan(TrustError::Threshold { .. }) => Rule::PlanSignature,
        NotPermitted::Plan(TrustError::Decode(_)) => Rule::PlanTarget,
        NotPermitted::Serial { .. } => Rule::PlanSerial,
        _ => Rule::PlanEvidence,
    }
}

/// A state that breaks exactly the rules of `broken`, judged by a node that has accepted plan 5 of `m`.
fn judge(broken: &[Rule]) -> (Result<Vec<Forbidden>, Refused>, bool) {
    let breaks = |rule| broken.contains(&rule);
    let floors = Floors {
        seq: 10,
        epoch: 20,
        plans: vec![("m".parse().unwrap(), 5, ContentHash::of(b"five"))],
    };
    let plan = plan("m", 2, if breaks(Rule::PlanSerial) { 4 } else { 6 });
    let mut wanted = desired(&plan);
    if breaks(Rule::PlanSignature) {
        wanted.plan = Signed::seal(&plan, &state_key());
    }
    if breaks(Rule::PlanTarget) {
        wanted.manifest = ContentHash::of(b"another");
    }
    if breaks(Rule::PlanEvidence) {
        wanted.evidence.clear();
    }
    let mut sent = state(
        if breaks(Rule::Seq) { 10 } else { 11 },
        if breaks(Rule::Epoch) { 19 } else { 20 },
        vec![wanted],
    );
    if breaks(Rule::Region) {
        sent.region.id = "eu-fra".parse().unwrap();
    }
    if breaks(Rule::Expiry) {
        sent.expires = NOW - 1;
    }
    let signed = Signed::seal(
        &sent,
        &if breaks(Rule::Signature) {
            operator()
        } else {
            state_key()
        },
    );
    let mut asked_the_log = false;
    let verdict = accept(&signed, &own(), &trust(), &floors, &[], NOW, |_| {
        asked_the_log = true;
        if breaks(Rule::Consistency) {
            Consistency::Broken
        } else {
            Consistency::Proven
        }
    });
    (verdict.map(|(accepted, _)| accepted.forbidden), asked_the_log)
}

/// Goal: whatever else is wrong, the first broken rule of the stated order decides. Method: all 1,024 sets of broken rules.
#[test]
fn every_rule_refuses_and_the_first_broken_one_in_the_stated_order_speaks() {
    for set in 0_u32..1 << RULES.len() {
        let broken: Vec<Rule> = (0..RULES.len())
            .filter(|i| set >> i & 1 == 1)
            .map(|i| RULES[i])
            .collect();
        let (verdict, asked_the_log) = judge(&broken);
        match (broken.first(), &verdict) {
            (None, Ok(forbidden)) => assert_eq!(*forbidden, []),
            (Some(first), Err(refused)) => assert_eq!(refused_by(refused), *first, "{broken:?}"),
            (Some(first), Ok(forbidden)) => assert_eq!(forbidden_by(why(forbidden)), *first, "{broken:?}"),
            _ => panic!("{broken:?} gave {verdict:?}"),
        }
        let of_one_model = broken.first().is_none_or(|first| *first > Rule::Consistency);
        assert_eq!(
            verdict.is_ok(),
            of_one_model,
            "{broken:?}: a plan refuses its model and no more"
        );
        let reached = broken.first().is_none_or(|first| *first >= Rule::Consistency);
        assert_eq!(
            asked_the_log, reached,
            "the log is asked only about a state that is signed, new and in time"
        );
    }
}

#[test]
fn a_fork_is_told_apart_from_a_bad_proof() {
    let signed = Signed::seal(&state(1, 1, Vec::new()), &state_key());
    let judged = |c| accept(&signed, &own(), &trust(), &Floors::default(), &[], NOW, |_| c).unwrap_err();
    assert_eq!(judged(Consistency::Fork), Refused::Fork);
    assert_eq!(judged(Consistency::Broken), Refused::Inconsistent);
}

#[test]
fn one_bit_anywhere_in_a_signed_state_is_refused() {
    let signed = Signed::seal(&state(1, 1, vec![desired(&plan("m", 1, 1))]), &state_key());
    for at in 0..signed.payload.len() {
        let mut bad = signed.clone();
        bad.payload[at] ^= 1;
        let verdict = accept(&bad, &own(), &trust(), &Floors::default(), &[], NOW, |_| {
            Consistency::Proven
        });
        assert!(
            matches!(verdict, Err(Refused::Trust(TrustError::Threshold { .. }))),
            "byte {at}"
        );
    }
}

#[test]
fn a_router_view_is_no_region_state_though_the_same_key_signs_both() {
    let mut signed = Signed {
        payload: state(1, 1, Vec::new()).encode(),
        signatures: Vec::new(),
    };
    signed.add::<RouterView>(&state_key());
    let verdict = accept(&signed, &own(), &trust(), &Floors::default(), &[], NOW, |_| {
        Consistency::Proven
    });
    assert!(matches!(verdict, Err(Refused::Trust(_))));
}

#[test]
fn a_state_is_good_until_the_last_millisecond_of_its_time() {
    let new = Node::default();
    assert!(new.judge(&state(1, 1, Vec::new()), NOW + 500).is_ok());
    let late = new.judge(&state(1, 1, Vec::new()), NOW + 501);
    assert!(matches!(late, Err(Refused::Expired { .. })));
}

#[test]
fn the_plan_a_node_has_accepted_stays_good_after_it_expired_and_without_its_evidence() {
    let mut wanted = desired(&plan("m", 1, 1));
    let node = Node::default().runs(&state(1, 1, vec![wanted.clone()]));
    wanted.evidence.clear();
    let renewed = RegionState {
        expires: NOW + 90_000,
        ..state(2, 1, vec![wanted])
    };
    assert_eq!(node.after(&renewed, NOW + 60_000).1, []);
}

#[test]
fn another_plan_of_the_same_serial_is_forbidden() {
    let node = Node::default().runs(&state(1, 1, vec![desired(&plan("m", 1, 1))]));
    let twin = Plan {
        reason: "another".to_owned(),
        ..plan("m", 1, 1)
    };
    let (after, forbidden) = node.after(&state(2, 2, vec![desired(&twin)]), NOW);
    assert_eq!(*why(&forbidden), NotPermitted::Serial { found: 1, floor: 1 });
    assert_eq!(after.permitted, node.permitted);
}

#[test]
fn a_rollback_is_a_newer_plan_to_an_older_version() {
    let node = Node::default().runs(&state(1, 1, vec![desired(&plan("m", 2, 1))]));
    let back = node.runs(&state(2, 2, vec![desired(&plan("m", 1, 2))]));
    assert_eq!(back.floors.plans, vec![("m".parse().unwrap(), 2, plan("m", 1, 2).id())]);
    let (after, forbidden) = back.after(&state(3, 3, vec![desired(&plan("m", 2, 1))]), NOW);
    assert_eq!(
        *why(&forbidden),
        NotPermitted::Serial { found: 1, floor: 2 },
        "the plan before it is refused for ever"
    );
    assert_eq!(after.serves(), ["m@1"]);
}

#[test]
fn what_witnesses_said_in_the_first_rollout_of_a_release_proves_nothing_for_a_rollback_to_it() {
    let back = plan("m", 1, 3);
    let old = Desired {
        evidence: evidence(&plan("m", 1, 1)),
        ..desired(&back)
    };
    let (_, forbidden) = Node::default().after(&state(1, 1, vec![old]), NOW);
    assert!(matches!(why(&forbidden), NotPermitted::Evidence { ready: 0, .. }));
}

#[test]
fn a_model_that_was_taken_away_does_not_come_back_by_an_old_plan() {
    let node = Node::default().runs(&state(1, 1, vec![desired(&plan("m", 2, 2))]));
    let without = node.runs(&state(2, 2, Vec::new()));
    assert_eq!(without.floors.plans, node.floors.plans);
    let (after, forbidden) = without.after(&state(3, 3, vec![desired(&plan("m", 1, 1))]), NOW);
    assert!(matches!(why(&forbidden), NotPermitted::Serial { .. }));
    assert!(after.serves().is_empty(), "nothing was in force any more");
}

/// New here, or away while its region changed from version 1: the same rule for both.
#[test]
fn after_a_plan_has_expired_a_node_joins_only_what_its_region_began_in_time() {
    let first = Node::default().runs(&state(1, 1, vec![desired(&plan("m", 1, 1))]));
    let next = plan("m", 2, 2);
    let late = next.expires + 50_000;
    for node in [Node::default(), first] {
        let offered = |own_word: Option<UnixMs>| {
            let own_word = own_word.map(|at| ready(&next, "us-iad", 12, at)); // ready since 10 ms earlier
            let evidence = evidence(&next).into_iter().chain(own_word).collect();
            let wanted = Desired {
                evidence,
                ..desired(&next)
            };
            let sent = RegionState {
                expires: late,
                ..state(2, 2, vec![wanted])
            };
            node.after(&sent, late)
        };
        let (joined, forbidden) = offered(Some(next.expires + 10));
        assert_eq!((joined.serves(), forbidden), (vec!["m@2".to_owned()], Vec::new()));
        for own_word in [None, Some(next.expires + 11)] {
            let (stays, forbidden) = offered(own_word);
            assert_eq!(stays.permitted, node.permitted);
            assert_eq!(stays.floors.plans, node.floors.plans);
            let NotPermitted::Expired {
                begun: 0, quorum: 1, ..
            } = why(&forbidden)
            else {
                panic!("{forbidden:?}")
            };
        }
    }
}

#[test]
fn a_forbidden_model_stays_as_it_is_and_keeps_neither_tenants_nor_other_models_back() {
    let [a1, b1] = [desired(&plan("a", 1, 1)), desired(&plan("b", 1, 1))];
    let node = Node::default().runs(&state(1, 1, vec![a1, b1]));
    let bare = Desired {
        evidence: Vec::new(),
        ..desired(&plan("b", 2, 2))
    };
    let new = Desired {
        evidence: Vec::new(),
        ..desired(&plan("c", 1, 1))
    };
    let sent = state(2, 2, vec![desired(&plan("a", 2, 2)), bare, new]);
    let (after, forbidden) = node.after(&sent, NOW);
    assert_eq!(
        after.serves(),
        ["a@2", "b@1"],
        "what was never permitted is not served at all"
    );
    assert_eq!(forbidden.len(), 2);
    let b: ModelName = "b".parse().unwrap();
    assert_eq!(after.floors.plan_of(&b), node.floors.plan_of(&b));
    assert_eq!((after.floors.seq, after.floors.epoch), (2, 2));
    // Once its proof is there it goes on as if nothing had been.
    let good = state(3, 3, vec![desired(&plan("a", 2, 2)), desired(&plan("b", 2, 2))]);
    assert_eq!(after.runs(&good).serves(), ["a@2", "b@2"]);
}

#[test]
fn a_forged_manifest_beside_the_plan_in_force_takes_nothing_out_of_service() {
    let node = Node::default().runs(&state(1, 1, vec![desired(&plan("m", 1, 1))]));
    let forged = Desired {
        manifest: ContentHash::of(b"another"),
        ..desired(&plan("m", 1, 1))
    };
    let stripped = Desired {
        plan: Signed::seal(&plan("m", 1, 1), &state_key()),
        ..desired(&plan("m", 1, 1))
    };
    for bad in [forged, stripped] {
        let (after, forbidden) = node.after(&state(2, 2, vec![bad.clone()]), NOW);
        assert_eq!((after.serves(), forbidden.len()), (vec!["m@1".to_owned()], 1));
        let away = node.runs(&state(2, 2, Vec::new()));
        let (after, forbidden) = away.after(&state(3, 3, vec![bad]), NOW);
        assert_eq!((after.serves(), forbidden.len()), (Vec::new(), 1));
    }
}

proptest! {
    /// Goal: whatever states come, in whatever order, a node serves only what some operator's plan permitted in its
    /// turn, its floors only rise, and a restart after any of them ends where it was. Method: states of two models with
    /// plans of random serials, versions and evidence; [`Node::after`] restarts after each one.
    #[test]
    fn no_history_of_states_serves_what_was_never_permitted(
        history in proptest::collection::vec(
            proptest::collection::vec((0_usize..2, 1_u32..4, 1_u64..6, any::<bool>(), any::<bool>()), 0..3),
            1..12,
        ),
    ) {
        let mut node = Node::default();
        for (seq, entries) in (1_u64..).zip(history) {
            let mut wanted: Vec<Desired> = Vec::new();
            for (model, version, serial, proven, honest) in entries {
                let plan = plan(["a", "b"][model], version, serial);
                if wanted.iter().any(|d| d.release.model == plan.to.model) {
                    continue;
                }
                let mut entry = desired(&plan);
                if !proven {
                    entry.evidence.clear();
                }
                if !honest {
                    entry.manifest = ContentHash::of(b"another");
                }
                wanted.push(entry);
            }
            let sent = state(seq, seq, wanted.clone());
            let (after, forbidden) = node.after(&sent, NOW);
            prop_assert_eq!(
                after.permitted.len() + forbidden.len() - wanted.len(),
                forbidden.iter().filter(|f| after.permitted.iter().any(|p| p.plan.to.model == f.release.model)).count()
            );
            for p in &after.permitted {
                let model = &p.plan.to.model;
                prop_assert_eq!(after.floors.plan_of(model), Some((p.plan.serial, p.id)));
                prop_assert!(wanted.iter().any(|d| &d.release.model == model), "what is not named is not served");
                let asked = wanted.iter().find(|d| d.plan.id() == p.id);
                let proven = asked.is_some_and(|d| !d.evidence.is_empty() && d.manifest == p.plan.manifest);
                prop_assert!(proven || node.floors.plan_of(model) == Some((p.plan.serial, p.id)));
            }
            for (model, serial, _) in &node.floors.plans {
                prop_assert!(after.floors.plan_of(model).unwrap().0 >= *serial);
            }
            node = after;
        }
    }
}

#[test]
fn two_operators_must_sign_where_the_trust_bundle_says_two() {
    let second = Operator {
        name: "bob".parse().unwrap(),
        key: PublicKey::of(&key(3)),
    };
    let two = TrustBundle {
        operators: [trust().operators, vec![second]].concat(),
        threshold: 2,
        ..trust()
    };
    let mut wanted = desired(&plan("m", 1, 1));
    let judge = |wanted: &Desired| {
        let signed = Signed::seal(&state(1, 1, vec![wanted.clone()]), &state_key());
        let judged = accept(&signed, &own(), &two, &Floors::default(), &[], NOW, |_| {
            Consistency::Proven
        });
        judged.unwrap().0.permitted.len()
    };
    wanted.plan.add::<Plan>(&operator());
    assert_eq!(judge(&wanted), 0, "one operator signing twice is one operator");
    wanted.plan.add::<Plan>(&key(3));
    assert_eq!(judge(&wanted), 1);
}

#[test]
fn a_state_that_breaks_its_own_bounds_is_not_readable() {
    let twice = state(1, 1, vec![desired(&plan("m", 1, 1)), desired(&plan("m", 2, 2))]);
    assert!(matches!(
        RegionState::decode(&twice.encode()),
        Err(DecodeError::Invalid { .. })
    ));
    let wordy = |reports| Desired {
        evidence: vec![
            Signed {
                payload: Vec::new(),
                signatures: Vec::new()
            };
            reports
        ],
        ..desired(&plan("m", 1, 1))
    };
    let most = state(1, 1, vec![wordy(EVIDENCE_MAX)]);
    assert_eq!(RegionState::decode(&most.encode()), Ok(most));
    assert!(matches!(
        RegionState::decode(&state(1, 1, vec![wordy(EVIDENCE_MAX + 1)]).encode()),
        Err(DecodeError::Invalid { .. })
    ));
    let tenant = Tenant {
        id: "t".parse().unwrap(),
        boundary: "eea".parse().unwrap(),
        key_hash: ContentHash::of(b"k"),
    };
    let crowded = RegionState {
        tenants: vec![tenant; TENANTS_MAX + 1],
        ..state(1, 1, Vec::new())
    };
    assert!(matches!(
        RegionState::decode(&crowded.encode()),
        Err(DecodeError::Invalid { .. })
    ));
}

#[test]
fn the_bytes_of_a_state_and_of_a_view_are_fixed() {
    let tenant = Tenant {
        id: "t".parse().unwrap(),
        boundary: "eea".parse().unwrap(),
        key_hash: ContentHash::of(b"k"),
    };
    let fixed = RegionState {
        tenants: vec![tenant.clone()],
        ..state(3, 8, vec![desired(&plan("m", 1, 1))])
    };
    assert_eq!(
        fixed.id().hex(),
        "7d58ad5b8e714b0e51fbd96720eb6f3fca1575c7c887f1cdee3c226add5549ae"
    );
    let view = RouterView {
        seq: 3,
        epoch: 8,
        expires: NOW,
        regions: vec![fixed.region.clone()],
        nodes: vec![NodeInfo {
            id: "us-iad/n1".parse().unwrap(),
            ingress: "127.0.0.1:8443".parse().unwrap(),
        }],
        serving: vec![(own(), "m@1".parse().unwrap())],
        tenants: vec![tenant],
        checkpoint: "note".to_owned(),
    };
    assert_eq!(
        view.id().hex(),
        "6e2187a726603c2629c90243f93cca588be9270cdd88ff1ebf4e288a4ee3bcbc"
    );
}

proptest! {
    #[test]
    fn no_bytes_make_a_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let framed = [&[1][..], &bytes].concat();
        let _ = RegionState::decode(&framed);
        let _ = RouterView::decode(&framed);
    }

    /// Whatever is sent in whatever order: what is accepted strictly grows in `seq`, never falls in `epoch` or in any plan
    /// serial, and a refusal leaves the floors as they were.
    #[test]
    fn floors_only_rise(sent in proptest::collection::vec((0_u64..6, 0_u64..4, 0_u64..4, 0_u64..4, any::<bool>()), 1..30)) {
        let mut floors = Floors::default();
        for (seq, epoch, serial_a, serial_b, proven) in sent {
            let one = |model: &str, serial| (serial > 0).then(|| desired(&plan(model, 1, serial)));
            let wanted = one("a", serial_a).into_iter().chain(one("b", serial_b)).collect();
            let signed = Signed::seal(&state(seq, epoch, wanted), &state_key());
            let before = floors.clone();
            let answer = if proven { Consistency::Proven } else { Consistency::Broken };
            match accept(&signed, &own(), &trust(), &floors, &[], NOW, |_| answer) {
                Err(_) => prop_assert_eq!(&floors, &before),
                Ok((.., next)) => {
                    prop_assert!(proven && next.seq > before.seq && next.epoch >= before.epoch);
                    for (model, serial, id) in &before.plans {
                        let now = next.plans.iter().find(|p| &p.0 == model);
                        let kept = now.is_some_and(|(_, s, i)| s > serial || (s == serial && i == id));
                        prop_assert!(kept, "the floor of {} fell", model);
                    }
                    floors = next;
                }
            }
        }
    }
}
