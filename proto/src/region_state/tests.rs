use super::*;
use crate::ids::PrincipalName;
use crate::plan::{ReadyReport, Wave, Witness};
use crate::signed::{Operator, PublicKey};
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

fn evidence(plan: &Plan) -> Vec<Signed> {
    let node = "eu-fra/n1".parse().unwrap();
    let report = ReadyReport {
        node,
        release: plan.to.clone(),
        manifest: plan.manifest,
        ready_since: 100,
        at: 110,
    };
    vec![Signed::seal(&report, &key(11))]
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

fn try_state(state: &RegionState, floors: &Floors, now: UnixMs) -> Result<(RegionState, Vec<Plan>, Floors), Refused> {
    accept(
        &Signed::seal(state, &state_key()),
        &own(),
        &trust(),
        floors,
        now,
        |_| Consistency::Proven,
    )
}

fn accepted(state: &RegionState, floors: &Floors) -> Floors {
    try_state(state, floors, NOW).expect("a good state").2
}

#[test]
fn a_good_state_is_accepted_and_raises_every_floor() {
    let good = state(4, 9, vec![desired(&plan("m", 2, 3))]);
    let (read, plans, floors) = try_state(&good, &Floors::default(), NOW).unwrap();
    assert_eq!((read, plans), (good, vec![plan("m", 2, 3)]));
    let id = plan("m", 2, 3).id();
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
        Refused::Plan {
            source: NotPermitted::Plan(TrustError::Threshold { .. }),
            ..
        } => Rule::PlanSignature,
        Refused::Plan {
            source: NotPermitted::Plan(TrustError::Decode(_)),
            ..
        } => Rule::PlanTarget,
        Refused::PlanSerial { .. } => Rule::PlanSerial,
        Refused::Plan { .. } => Rule::PlanEvidence,
    }
}

/// A state that breaks exactly the rules of `broken`, judged by a node that has accepted plan 5 of `m`.
fn judge(broken: &[Rule]) -> (Result<(), Refused>, bool) {
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
    let verdict = accept(&signed, &own(), &trust(), &floors, NOW, |_| {
        asked_the_log = true;
        if breaks(Rule::Consistency) {
            Consistency::Broken
        } else {
            Consistency::Proven
        }
    });
    (verdict.map(|_| ()), asked_the_log)
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
            (None, Ok(())) => {}
            (Some(first), Err(refused)) => assert_eq!(refused_by(refused), *first, "{broken:?}"),
            _ => panic!("{broken:?} gave {verdict:?}"),
        }
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
    let judged = |c| accept(&signed, &own(), &trust(), &Floors::default(), NOW, |_| c).unwrap_err();
    assert_eq!(judged(Consistency::Fork), Refused::Fork);
    assert_eq!(judged(Consistency::Broken), Refused::Inconsistent);
}

#[test]
fn one_bit_anywhere_in_a_signed_state_is_refused() {
    let signed = Signed::seal(&state(1, 1, vec![desired(&plan("m", 1, 1))]), &state_key());
    for at in 0..signed.payload.len() {
        let mut bad = signed.clone();
        bad.payload[at] ^= 1;
        let verdict = accept(&bad, &own(), &trust(), &Floors::default(), NOW, |_| Consistency::Proven);
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
    let verdict = accept(&signed, &own(), &trust(), &Floors::default(), NOW, |_| {
        Consistency::Proven
    });
    assert!(matches!(verdict, Err(Refused::Trust(_))));
}

#[test]
fn a_state_is_good_until_the_last_millisecond_of_its_time() {
    assert!(try_state(&state(1, 1, Vec::new()), &Floors::default(), NOW + 500).is_ok());
    assert!(matches!(
        try_state(&state(1, 1, Vec::new()), &Floors::default(), NOW + 501),
        Err(Refused::Expired { .. })
    ));
}

#[test]
fn the_plan_a_node_has_accepted_stays_good_after_it_expired_and_without_its_evidence() {
    let mut wanted = desired(&plan("m", 1, 1));
    let floors = accepted(&state(1, 1, vec![wanted.clone()]), &Floors::default());
    wanted.evidence.clear();
    let renewed = RegionState {
        expires: NOW + 90_000,
        ..state(2, 1, vec![wanted])
    };
    assert!(try_state(&renewed, &floors, NOW + 60_000).is_ok());
}

#[test]
fn another_plan_of_the_same_serial_is_refused() {
    let floors = accepted(&state(1, 1, vec![desired(&plan("m", 1, 1))]), &Floors::default());
    let twin = Plan {
        reason: "another".to_owned(),
        ..plan("m", 1, 1)
    };
    let verdict = try_state(&state(2, 2, vec![desired(&twin)]), &floors, NOW);
    assert!(
        matches!(verdict, Err(Refused::PlanSerial { found: 1, floor: 1, .. })),
        "{verdict:?}"
    );
}

#[test]
fn a_rollback_is_a_newer_plan_to_an_older_version() {
    let floors = accepted(&state(1, 1, vec![desired(&plan("m", 2, 1))]), &Floors::default());
    let back = accepted(&state(2, 2, vec![desired(&plan("m", 1, 2))]), &floors);
    assert_eq!(back.plans, vec![("m".parse().unwrap(), 2, plan("m", 1, 2).id())]);
    let verdict = try_state(&state(3, 3, vec![desired(&plan("m", 2, 1))]), &back, NOW);
    assert!(
        matches!(verdict, Err(Refused::PlanSerial { .. })),
        "the plan before it is refused for ever"
    );
}

#[test]
fn a_model_that_was_taken_away_does_not_come_back_by_an_old_plan() {
    let floors = accepted(&state(1, 1, vec![desired(&plan("m", 2, 2))]), &Floors::default());
    let without = accepted(&state(2, 2, Vec::new()), &floors);
    assert_eq!(without.plans, floors.plans);
    let verdict = try_state(&state(3, 3, vec![desired(&plan("m", 1, 1))]), &without, NOW);
    assert!(matches!(verdict, Err(Refused::PlanSerial { .. })), "{verdict:?}");
}

#[test]
fn a_new_node_joins_what_a_region_has_long_run_but_only_with_the_evidence() {
    let late = NOW + 50_000;
    let joins = |desired| RegionState {
        expires: late,
        ..state(1, 1, vec![desired])
    };
    assert!(try_state(&joins(desired(&plan("m", 1, 1))), &Floors::default(), late).is_ok());
    let bare = Desired {
        evidence: Vec::new(),
        ..desired(&plan("m", 1, 1))
    };
    let verdict = try_state(&joins(bare), &Floors::default(), late);
    assert!(
        matches!(
            verdict,
            Err(Refused::Plan {
                source: NotPermitted::Evidence { .. },
                ..
            })
        ),
        "{verdict:?}"
    );
}

#[test]
fn an_expired_plan_begins_no_change_on_a_node_that_runs_the_model() {
    let floors = accepted(&state(1, 1, vec![desired(&plan("m", 1, 1))]), &Floors::default());
    let late = NOW + 50_000;
    let next = RegionState {
        expires: late,
        ..state(2, 2, vec![desired(&plan("m", 2, 2))])
    };
    let verdict = try_state(&next, &floors, late);
    assert!(
        matches!(
            verdict,
            Err(Refused::Plan {
                source: NotPermitted::Expired { .. },
                ..
            })
        ),
        "{verdict:?}"
    );
}

#[test]
fn one_model_that_may_not_change_refuses_the_whole_state() {
    let bare = Desired {
        evidence: Vec::new(),
        ..desired(&plan("b", 1, 1))
    };
    let both = state(1, 1, vec![desired(&plan("a", 1, 1)), bare]);
    assert!(matches!(
        try_state(&both, &Floors::default(), NOW),
        Err(Refused::Plan { .. })
    ));
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
        accept(&signed, &own(), &two, &Floors::default(), NOW, |_| Consistency::Proven)
    };
    wanted.plan.add::<Plan>(&operator());
    assert!(judge(&wanted).is_err(), "one operator signing twice is one operator");
    wanted.plan.add::<Plan>(&key(3));
    assert!(judge(&wanted).is_ok());
}

#[test]
fn a_state_that_breaks_its_own_bounds_is_not_readable() {
    let twice = state(1, 1, vec![desired(&plan("m", 1, 1)), desired(&plan("m", 2, 2))]);
    assert!(matches!(
        RegionState::decode(&twice.encode()),
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
        "7a37b17dafdcd64560e51d1db15cb015eaf7ec0f6b3c9df86156fd75a6172498"
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
            match accept(&signed, &own(), &trust(), &floors, NOW, |_| answer) {
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
