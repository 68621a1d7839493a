use super::*;
use crate::ids::ModelName;
use ed25519_dalek::SigningKey;
use proptest::prelude::*;

const BAKE_MS: u64 = 1000;

fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn witness(node: &str, seed: u8) -> Witness {
    Witness {
        node: node.parse().unwrap(),
        key: PublicKey::of(&key(seed)),
    }
}

fn regions(names: &[&str]) -> Vec<RegionId> {
    names.iter().map(|n| n.parse().unwrap()).collect()
}

/// Two regions, then one, then one. Quorum 2 of `eu-fra`'s three and of `eu-dub`'s two.
fn plan() -> Plan {
    let first = vec![
        witness("eu-fra/n1", 1),
        witness("eu-fra/n2", 2),
        witness("eu-fra/n3", 3),
        witness("eu-dub/n1", 4),
        witness("eu-dub/n2", 5),
    ];
    let wave = |names: &[&str], witnesses, quorum_per_region| Wave {
        regions: regions(names),
        witnesses,
        quorum_per_region,
        bake_ms: BAKE_MS,
    };
    Plan {
        serial: 7,
        from: Some("m@1".parse().unwrap()),
        to: "m@2".parse().unwrap(),
        manifest: ContentHash::of(b"manifest"),
        variants: vec![("cpu".parse().unwrap(), "cpu-f32".parse().unwrap())],
        waves: vec![
            wave(&["eu-fra", "eu-dub"], first, 2),
            wave(&["us-iad"], vec![witness("us-iad/n1", 6)], 1),
            wave(&["ap-sin"], vec![witness("ap-sin/n1", 7)], 1),
        ],
        expires: 10_000,
        author: "alice".parse().unwrap(),
        reason: "better".to_owned(),
    }
}

fn plan_id() -> ContentHash {
    plan().id()
}

/// Whether the plan lets `region` change at `now`.
fn permits(region: &str, evidence: &[Signed], now: UnixMs) -> Result<(), NotPermitted> {
    plan().permits(&plan_id(), &id(region), evidence, now)
}

fn report(node: &str) -> ReadyReport {
    ReadyReport {
        node: node.parse().unwrap(),
        plan: plan_id(),
        release: "m@2".parse().unwrap(),
        manifest: ContentHash::of(b"manifest"),
        ready_since: 2000,
        at: 2000 + BAKE_MS,
    }
}

fn good(node: &str, seed: u8) -> Signed {
    Signed::seal(&report(node), &key(seed))
}

fn first_wave() -> Vec<Signed> {
    vec![
        good("eu-fra/n1", 1),
        good("eu-fra/n2", 2),
        good("eu-dub/n1", 4),
        good("eu-dub/n2", 5),
    ]
}

fn id(region: &str) -> RegionId {
    region.parse().unwrap()
}

#[test]
fn a_region_of_the_first_wave_may_change_without_evidence_and_an_unnamed_one_never() {
    assert_eq!(permits("eu-dub", &[], 1), Ok(()));
    let stranger = permits("eu-lon", &first_wave(), 1);
    assert_eq!(stranger, Err(NotPermitted::Region { region: id("eu-lon") }));
}

/// All 32 subsets of the first wave's witnesses: the second wave may begin if and only if each region has its quorum.
#[test]
fn a_wave_begins_exactly_when_every_region_before_it_has_its_quorum() {
    let all = [
        ("eu-fra/n1", 1),
        ("eu-fra/n2", 2),
        ("eu-fra/n3", 3),
        ("eu-dub/n1", 4),
        ("eu-dub/n2", 5),
    ];
    for set in 0_u32..1 << all.len() {
        let chosen: Vec<_> = (0..all.len()).filter(|i| set >> i & 1 == 1).map(|i| all[i]).collect();
        let evidence: Vec<Signed> = chosen.iter().map(|(node, seed)| good(node, *seed)).collect();
        let count = |region: &str| chosen.iter().filter(|(node, _)| node.starts_with(region)).count();
        let permitted = permits("us-iad", &evidence, 1).is_ok();
        assert_eq!(permitted, count("eu-fra") >= 2 && count("eu-dub") >= 2, "{chosen:?}");
    }
}

#[test]
fn a_wave_needs_all_waves_before_it_not_only_the_last() {
    let only_second = [good("us-iad/n1", 6)];
    let refused = permits("ap-sin", &only_second, 1);
    assert!(
        matches!(
            refused,
            Err(NotPermitted::Evidence {
                wave: 0,
                ready: 0,
                quorum: 2,
                ..
            })
        ),
        "{refused:?}"
    );
    let only_first = permits("ap-sin", &first_wave(), 1);
    assert!(
        matches!(only_first, Err(NotPermitted::Evidence { wave: 1, .. })),
        "{only_first:?}"
    );
    let both = [first_wave(), only_second.to_vec()].concat();
    assert_eq!(permits("ap-sin", &both, 1), Ok(()));
}

#[test]
fn a_report_counts_only_if_it_is_that_witness_about_that_release_for_the_whole_bake() {
    let base = report("eu-fra/n2");
    let spoilt: Vec<(&str, Signed)> = vec![
        ("another node's name", Signed::seal(&report("eu-fra/n1"), &key(2))),
        ("a key that is no witness", Signed::seal(&base, &key(99))),
        ("another witness's key", Signed::seal(&base, &key(3))),
        (
            "another release",
            Signed::seal(
                &ReadyReport {
                    release: "m@1".parse().unwrap(),
                    ..base.clone()
                },
                &key(2),
            ),
        ),
        (
            "another manifest",
            Signed::seal(
                &ReadyReport {
                    manifest: ContentHash::of(b"other"),
                    ..base.clone()
                },
                &key(2),
            ),
        ),
        (
            "another plan to the same release",
            Signed::seal(
                &ReadyReport {
                    plan: ContentHash::of(b"other"),
                    ..base.clone()
                },
                &key(2),
            ),
        ),
        (
            "a bake one millisecond short",
            Signed::seal(
                &ReadyReport {
                    at: base.at - 1,
                    ..base.clone()
                },
                &key(2),
            ),
        ),
        (
            "a report from before it was ready",
            Signed::seal(&ReadyReport { at: 0, ..base.clone() }, &key(2)),
        ),
        (
            "no signature",
            Signed {
                signatures: Vec::new(),
                ..good("eu-fra/n2", 2)
            },
        ),
        ("changed bytes", {
            let mut report = good("eu-fra/n2", 2);
            report.payload[3] ^= 1;
            report
        }),
    ];
    let others = [good("eu-fra/n1", 1), good("eu-dub/n1", 4), good("eu-dub/n2", 5)];
    for (how, report) in spoilt {
        let evidence = [others.to_vec(), vec![report]].concat();
        let refused = permits("us-iad", &evidence, 1);
        assert!(
            matches!(refused, Err(NotPermitted::Evidence { wave: 0, ready: 1, .. })),
            "{how}: {refused:?}"
        );
    }
}

#[test]
fn one_witness_said_often_is_still_one_witness() {
    let later = Signed::seal(
        &ReadyReport {
            at: 9000,
            ..report("eu-fra/n1")
        },
        &key(1),
    );
    let evidence = [
        good("eu-fra/n1", 1),
        later,
        good("eu-fra/n1", 1),
        good("eu-dub/n1", 4),
        good("eu-dub/n2", 5),
    ];
    let refused = permits("us-iad", &evidence, 1);
    assert!(
        matches!(refused, Err(NotPermitted::Evidence { ready: 1, .. })),
        "{refused:?}"
    );
}

/// A witness's word that it was ready at `at`, with no bake behind it.
fn begun(node: &str, seed: u8, at: UnixMs) -> Signed {
    let said = ReadyReport {
        ready_since: at,
        at,
        ..report(node)
    };
    Signed::seal(&said, &key(seed))
}

#[test]
fn a_step_may_begin_at_the_last_moment_of_a_plan_and_not_after() {
    assert_eq!(permits("eu-fra", &[], 10_000), Ok(()));
    assert_eq!(
        permits("eu-fra", &[], 10_001),
        Err(NotPermitted::Expired {
            expires: 10_000,
            now: 10_001,
            region: id("eu-fra"),
            begun: 0,
            quorum: 2,
        })
    );
}

#[test]
fn after_its_end_a_plan_permits_what_the_regions_own_quorum_began_in_time_and_nothing_else() {
    let late = 10_001;
    let own = [begun("eu-fra/n1", 1, 10_000), begun("eu-fra/n3", 3, 7)];
    assert_eq!(permits("eu-fra", &own, late), Ok(()));
    let short: Vec<(&str, Vec<Signed>, usize)> = vec![
        ("one of two", own[..1].to_vec(), 1),
        ("one of two, twice", vec![own[0].clone(), begun("eu-fra/n1", 1, 9)], 1),
        ("one began late", vec![own[0].clone(), begun("eu-fra/n2", 2, 10_001)], 1),
        (
            "another region of the same wave",
            vec![own[0].clone(), begun("eu-dub/n1", 4, 9), begun("eu-dub/n2", 5, 9)],
            1,
        ),
        ("another's key", vec![own[0].clone(), begun("eu-fra/n2", 3, 9)], 1),
    ];
    for (how, evidence, count) in short {
        let refused = permits("eu-fra", &evidence, late);
        assert!(
            matches!(refused, Err(NotPermitted::Expired { begun, .. }) if begun == count),
            "{how}: {refused:?}"
        );
    }
    // A later wave needs both: its own beginning, and the waves before it.
    let iad = [begun("us-iad/n1", 6, 9_000)];
    assert!(matches!(
        permits("us-iad", &first_wave(), late),
        Err(NotPermitted::Expired { begun: 0, .. })
    ));
    assert!(matches!(
        permits("us-iad", &iad, late),
        Err(NotPermitted::Evidence { wave: 0, .. })
    ));
    assert_eq!(permits("us-iad", &[first_wave(), iad.to_vec()].concat(), late), Ok(()));
}

#[test]
fn the_variant_of_a_class_is_the_plans_word_and_an_unnamed_class_has_none() {
    assert_eq!(
        plan().variant_for(&"cpu".parse().unwrap()).map(VariantId::as_str),
        Some("cpu-f32")
    );
    assert_eq!(plan().variant_for(&"cuda".parse().unwrap()), None);
}

/// How each rule of a plan can be broken.
/// A rule of plans, and what breaks it.
type Breach = (&'static str, fn(&mut Plan));

fn broken_plans() -> Vec<Breach> {
    vec![
        ("no wave", |p| p.waves.clear()),
        ("too many waves", |p| p.waves = vec![p.waves[2].clone(); WAVES_MAX + 1]),
        ("two models", |p| p.from = Some("other@1".parse().unwrap())),
        ("a wave without a region", |p| p.waves[1].regions.clear()),
        ("a quorum of nobody", |p| p.waves[1].quorum_per_region = 0),
        ("a quorum above the witnesses", |p| p.waves[1].quorum_per_region = 2),
        ("a region in two waves", |p| p.waves[2].regions = regions(&["eu-fra"])),
        ("a region twice in a wave", |p| {
            p.waves[1].regions = regions(&["us-iad", "us-iad"])
        }),
        ("a witness counted twice", |p| {
            p.waves[0].witnesses[1] = witness("eu-fra/n1", 8)
        }),
        ("two witnesses with one key", |p| {
            p.waves[0].witnesses[1] = witness("eu-fra/n2", 1)
        }),
        ("too many witnesses", |p| {
            p.waves[1].witnesses = vec![witness("us-iad/n1", 6); WITNESSES_MAX + 1]
        }),
    ]
}

#[test]
fn a_plan_that_breaks_any_rule_is_not_readable_though_it_is_signed() {
    assert_eq!(Plan::decode(&plan().encode()).unwrap(), plan());
    for (how, spoil) in broken_plans() {
        let mut bad = plan();
        spoil(&mut bad);
        let opened = Signed::seal(&bad, &key(50)).open::<Plan>(&[PublicKey::of(&key(50))], 1);
        assert!(
            matches!(opened, Err(TrustError::Decode(DecodeError::Invalid { .. }))),
            "{how}: {opened:?}"
        );
    }
}

#[test]
fn a_plan_needs_as_many_different_operators_as_the_threshold_says() {
    let trusted = [PublicKey::of(&key(50)), PublicKey::of(&key(51))];
    let mut signed = Signed::seal(&plan(), &key(50));
    signed.add::<Plan>(&key(50));
    signed.add::<Plan>(&key(99));
    assert_eq!(
        signed.open::<Plan>(&trusted, 2),
        Err(TrustError::Threshold { valid: 1, threshold: 2 })
    );
    signed.add::<Plan>(&key(51));
    assert_eq!(signed.open::<Plan>(&trusted, 2), Ok(plan()));
    assert!(
        signed.open::<Plan>(&[], 0).is_err(),
        "a threshold of nobody is one of somebody"
    );
}

#[test]
fn a_signature_for_one_kind_of_document_is_none_for_another() {
    let mut as_plan = Signed {
        payload: plan().encode(),
        signatures: Vec::new(),
    };
    as_plan.add::<ReadyReport>(&key(50));
    assert!(as_plan.open::<Plan>(&[PublicKey::of(&key(50))], 1).is_err());
}

#[test]
fn the_bytes_of_a_plan_and_of_a_report_are_fixed() {
    assert_eq!(
        plan().id().hex(),
        "8f4390bc146721c727f5bf917162f384751325da82fd1ad09300db98bede3967"
    );
    assert_eq!(
        report("eu-fra/n1").id().hex(),
        "7890b78df374897a3cc9e60641913e78cee6606e91ece786cd3699d37691b34b"
    );
}

proptest! {
    #[test]
    fn no_bytes_make_a_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = Plan::decode(&bytes);
        let _ = ReadyReport::decode(&bytes);
        let _ = Plan::decode(&[&[Plan::FORMAT][..], &bytes].concat());
        let _ = ReadyReport::decode(&[&[ReadyReport::FORMAT][..], &bytes].concat());
    }

    /// More evidence never takes a permission away, and reports of strangers never give one.
    #[test]
    fn evidence_only_adds_and_strangers_add_nothing(
        order in proptest::collection::vec(0_usize..5, 0..8),
        strangers in proptest::collection::vec((20_u8..60, 0_usize..5), 0..8),
    ) {
        let names = ["eu-fra/n1", "eu-fra/n2", "eu-fra/n3", "eu-dub/n1", "eu-dub/n2"];
        let real: Vec<Signed> =
            order.iter().map(|i| good(names[*i], u8::try_from(*i).unwrap() + 1)).collect();
        let noise: Vec<Signed> = strangers.iter().map(|(seed, i)| good(names[*i], *seed)).collect();
        let alone = permits("us-iad", &real, 1);
        let mixed = permits("us-iad", &[noise.clone(), real.clone()].concat(), 1);
        prop_assert_eq!(&alone, &mixed);
        let fuller = permits("us-iad", &[real, first_wave()].concat(), 1);
        prop_assert_eq!(fuller, Ok(()));
        prop_assert!(permits("us-iad", &noise, 1).is_err());
    }

    /// A permission that holds now held at every earlier moment: time only closes doors. And which region may change
    /// after the end is settled by then: no report written later opens it.
    #[test]
    fn a_permission_never_appears_by_waiting(
        now in 0_u64..20_000,
        earlier in 0_u64..20_000,
        own in proptest::option::of(0_u64..20_000),
    ) {
        let (first, then) = (now.min(earlier), now.max(earlier));
        let own: Vec<Signed> = own.map(|at| begun("us-iad/n1", 6, at)).into_iter().collect();
        let evidence = [first_wave(), own.clone()].concat();
        if permits("us-iad", &evidence, then).is_ok() {
            prop_assert!(permits("us-iad", &evidence, first).is_ok());
        }
        let in_time = own.iter().any(|s| ReadyReport::decode(&s.payload).unwrap().at <= plan().expires);
        prop_assert_eq!(permits("us-iad", &evidence, 10_001 + then).is_ok(), in_time);
    }
}

#[test]
fn a_model_name_of_a_plan_is_checked_on_the_wire() {
    let bytes = postcard::to_stdvec("Not A Name").unwrap();
    assert!(postcard::from_bytes::<ModelName>(&bytes).is_err());
}
