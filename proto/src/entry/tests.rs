use super::*;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signer, SigningKey};
use proptest::prelude::*;

fn alice() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

fn leaf(time: UnixMs, by: &str, sig: Option<String>, body: &str) -> Vec<u8> {
    let body = RawValue::from_string(body.to_owned()).unwrap();
    Leaf {
        time,
        by: by.parse().unwrap(),
        sig,
        body,
    }
    .encode()
    .unwrap()
}

fn own(time: UnixMs, body: &Body) -> Vec<u8> {
    leaf(time, CONTROL_PLANE, None, &body.to_json())
}

fn said(fleet: &Fleet, time: UnixMs, body: &Body) -> Vec<u8> {
    let text = body.to_json();
    let message = command_message(&"dev".parse().unwrap(), fleet.epoch, &text);
    leaf(
        time,
        "alice",
        Some(STANDARD.encode(alice().sign(&message).to_bytes())),
        &text,
    )
}

fn initialised() -> Fleet {
    let mut fleet = Fleet::default();
    let operators = vec![Operator {
        name: "alice".parse().unwrap(),
        key: PublicKey::of(&alice()),
    }];
    fleet
        .apply(&own(
            1,
            &Body::FleetInit {
                fleet: "dev".parse().unwrap(),
                operators,
                threshold: 1,
            },
        ))
        .unwrap();
    fleet
}

fn region(name: &str) -> Body {
    Body::RegionAdd {
        region: name.parse().unwrap(),
        country: "DE".into(),
        lat_e6: 50_110_000,
        lon_e6: 8_680_000,
    }
}

#[test]
fn the_first_entry_of_a_log_is_fleet_init() {
    let mut fleet = Fleet::default();
    assert!(matches!(
        fleet.apply(&own(1, &region("eu-fra"))),
        Err(EntryError::NotAllowed { .. })
    ));
    assert_eq!(fleet, Fleet::default());
}

#[test]
fn an_entry_of_people_needs_their_signature_over_these_bytes_at_this_position() {
    let mut fleet = initialised();
    assert!(fleet.apply(&own(2, &region("eu-fra"))).is_err());
    let signed = said(&fleet, 2, &region("eu-fra"));
    fleet.apply(&signed).unwrap();
    let replayed = fleet.apply(&signed);
    assert!(
        matches!(replayed, Err(EntryError::NotAllowed { .. })),
        "a command is good at one position only"
    );
    let other = String::from_utf8(said(&fleet, 2, &region("eu-dub")))
        .unwrap()
        .replace("eu-dub", "eu-lon");
    assert!(fleet.apply(other.as_bytes()).is_err());
}

#[test]
fn a_refused_entry_changes_nothing() {
    let mut fleet = initialised();
    let before = fleet.clone();
    let manifest = ContentHash::of(b"m");
    let bad = Body::Publish {
        model: "m".parse().unwrap(),
        version: "2".parse().unwrap(),
        manifest,
    };
    let bytes = said(&fleet, 2, &bad);
    assert!(matches!(fleet.apply(&bytes), Err(EntryError::Conflict { .. })));
    assert_eq!(fleet, before);
}

#[test]
fn a_region_turns_to_a_release_by_plan_step_and_activation_and_the_log_remembers_when() {
    let mut fleet = initialised();
    let (model, version): (ModelName, ModelVersion) = ("m".parse().unwrap(), ModelVersion::FIRST);
    let (manifest, plan) = (ContentHash::of(b"manifest"), ContentHash::of(b"plan"));
    let region_id: RegionId = "eu-fra".parse().unwrap();
    let node: NodeId = "eu-fra/n1".parse().unwrap();
    for body in [
        region("eu-fra"),
        Body::Publish {
            model: model.clone(),
            version,
            manifest,
        },
        Body::Plan {
            plan,
            serial: 1,
            model: model.clone(),
            version,
            manifest,
            waves: 1,
            reason: String::new(),
        },
    ] {
        let bytes = said(&fleet, 5, &body);
        fleet.apply(&bytes).unwrap();
    }
    let active = Body::Active {
        region: region_id.clone(),
        model: model.clone(),
        version,
        manifest,
        nodes: vec![node],
    };
    assert!(fleet.apply(&own(6, &active)).is_err(), "no activation before its step");
    let regions = vec![region_id.clone()];
    fleet
        .apply(&own(
            6,
            &Body::Step {
                plan,
                wave: 0,
                model: model.clone(),
                version,
                manifest,
                regions,
            },
        ))
        .unwrap();
    fleet.apply(&own(9, &active)).unwrap();
    fleet.apply(&own(9, &Body::Complete { plan })).unwrap();
    assert_eq!(fleet.active_at(&region_id, &model, 8), None);
    assert_eq!(fleet.active_at(&region_id, &model, 9).unwrap().manifest, manifest);
    assert_eq!(fleet.plans[0].status, PlanStatus::Complete);
}

#[test]
fn golden_leaf_bytes_do_not_change() {
    let bytes = own(1_700_000_000_000, &region("eu-fra"));
    let golden = r#"{"time":1700000000000,"by":"control-plane","body":{"kind":"region-add","region":"eu-fra","country":"DE","lat-e6":50110000,"lon-e6":8680000}}"#;
    assert_eq!(String::from_utf8(bytes).unwrap(), golden);
}

proptest! {
    #[test]
    fn no_bytes_make_the_fold_panic(text in ".{0,300}") {
        let mut fleet = initialised();
        let _ = fleet.apply(text.as_bytes());
    }
}
