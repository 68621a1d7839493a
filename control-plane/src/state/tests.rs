use ed25519_dalek::SigningKey;
use proto::entry::{Activation, NodeEntry};
use proto::ids::{ModelName, NodeId};
use proto::plan::{Plan, ReadyReport, Wave, Witness};
use proto::region_state::RegionInfo;
use proto::signed::{PublicKey, Signed};
use std::sync::Arc;

use super::maker::{Maker, Outbox, Terms};
use super::seq::SeqFile;
use super::*;
use crate::artifacts::documents::PlanDoc;

fn fleet() -> Fleet {
    let mut fleet = Fleet {
        epoch: 9,
        ..Fleet::default()
    };
    for name in ["eu-fra", "us-iad"] {
        let id: RegionId = name.parse().unwrap();
        fleet.regions.insert(
            id.clone(),
            RegionInfo {
                id,
                country: "DE".into(),
                lat_e6: 0,
                lon_e6: 0,
            },
        );
    }
    for (name, enrolled) in [("eu-fra/n1", true), ("eu-fra/n2", false)] {
        let key = PublicKey::of(&SigningKey::from_bytes(&[1; 32]));
        let ingress = "127.0.0.1:1".parse().unwrap();
        fleet.nodes.insert(
            name.parse().unwrap(),
            NodeEntry {
                class: "cpu".parse().unwrap(),
                ingress,
                key,
                enrolled,
            },
        );
    }
    fleet
}

fn witness() -> (NodeId, SigningKey) {
    ("eu-fra/n1".parse().unwrap(), SigningKey::from_bytes(&[1; 32]))
}

fn desire(fleet: &mut Fleet, plans: &mut Plans, region: &str) -> ContentHash {
    let (node, key) = witness();
    let own = Wave {
        regions: vec![node.region.clone()],
        witnesses: vec![Witness {
            node,
            key: PublicKey::of(&key),
        }],
        quorum_per_region: 1,
        bake_ms: 60_000,
    };
    let release: Release = "m@1".parse().unwrap();
    let manifest = ContentHash::of(b"m");
    let plan = Plan {
        serial: 1,
        from: None,
        to: release.clone(),
        manifest,
        variants: vec![],
        waves: vec![own],
        expires: 100,
        author: "alice".parse().unwrap(),
        reason: String::new(),
    };
    let signed = Signed::seal(&plan, &SigningKey::from_bytes(&[2; 32]));
    let id = signed.id();
    plans.insert(id, Arc::new(PlanDoc { signed, plan }));
    let model: ModelName = release.model.clone();
    fleet.targets.insert(
        (region.parse().unwrap(), model),
        Target {
            release,
            manifest,
            plan: id,
        },
    );
    id
}

#[test]
fn a_model_is_never_left_out_because_its_plan_cannot_be_read() {
    let (mut fleet, mut plans) = (fleet(), Plans::new());
    let id = desire(&mut fleet, &mut plans, "eu-fra");
    let evidence = Evidence::default();
    let region = "eu-fra".parse().unwrap();
    let moment = Moment {
        fleet: &fleet,
        plans: &plans,
        evidence: &evidence,
        checkpoint: "c",
        expires: 5,
    };
    assert_eq!(region_state_for(&moment, &region, 1).unwrap().desired.len(), 1);
    let empty = Plans::new();
    let blind = Moment {
        plans: &empty,
        ..moment
    };
    let refused = region_state_for(&blind, &region, 1).unwrap_err();
    assert!(matches!(refused, StateError::Plan { plan, .. } if plan == id));
}

#[test]
fn a_state_lets_a_node_that_was_away_join_what_its_region_began_before_the_plan_expired() {
    let (mut fleet, mut plans) = (fleet(), Plans::new());
    let id = desire(&mut fleet, &mut plans, "eu-fra");
    let (node, key) = witness();
    let plan = plans[&id].plan.clone();
    let region = node.region.clone();
    let permitted = |said_at: UnixMs| {
        let said = ReadyReport {
            node: node.clone(),
            plan: id,
            release: plan.to.clone(),
            manifest: plan.manifest,
            ready_since: said_at,
            at: said_at,
        };
        let mut evidence = Evidence::default();
        assert!(evidence.keep(id, &plan, &node, &Signed::seal(&said, &key)));
        let moment = Moment {
            fleet: &fleet,
            plans: &plans,
            evidence: &evidence,
            checkpoint: "c",
            expires: 5,
        };
        let state = region_state_for(&moment, &region, 1).unwrap();
        plan.permits(&id, &region, &state.desired[0].evidence, 5_000).is_ok()
    };
    assert!(permitted(100), "at the last moment");
    assert!(!permitted(101), "too late");
}

#[test]
fn routers_hear_of_enrolled_nodes_and_of_what_answers_not_of_what_is_wanted() {
    let (mut fleet, mut plans) = (fleet(), Plans::new());
    desire(&mut fleet, &mut plans, "eu-fra");
    let evidence = Evidence::default();
    let view = |fleet: &Fleet| {
        router_view_for(
            &Moment {
                fleet,
                plans: &plans,
                evidence: &evidence,
                checkpoint: "c",
                expires: 5,
            },
            3,
        )
    };
    let before = view(&fleet);
    assert_eq!(before.nodes.len(), 1);
    assert!(before.serving.is_empty());
    let key = ("eu-fra".parse().unwrap(), "m".parse().unwrap());
    let release: Release = "m@1".parse().unwrap();
    let active = Activation {
        since: 1,
        entry: 2,
        release: release.clone(),
        manifest: ContentHash::of(b"m"),
    };
    fleet.activations.insert(key, vec![active]);
    assert_eq!(view(&fleet).serving, [("eu-fra".parse().unwrap(), release)]);
}

#[test]
fn each_round_gives_greater_numbers_though_the_clock_goes_back() {
    let dir = tempfile::tempdir().unwrap();
    let (mut fleet, mut plans) = (fleet(), Plans::new());
    let outbox = Outbox::default();
    let seq = SeqFile::open(&dir.path().join("seq")).unwrap();
    let terms = Terms {
        ttl_ms: 100,
        renew_ms: 50,
    };
    let mut maker = Maker::new(SigningKey::from_bytes(&[3; 32]), seq, terms, outbox.clone());
    let evidence = Evidence::default();
    let region = "eu-fra".parse().unwrap();
    let mut round = |fleet: &Fleet, plans: &Plans, now| {
        assert!(maker.is_due(fleet.epoch, now));
        let expires = maker.expires(now);
        let moment = Moment {
            fleet,
            plans,
            evidence: &evidence,
            checkpoint: "c",
            expires,
        };
        assert_eq!(maker.round(&moment, now).unwrap(), []);
        assert!(!maker.is_due(fleet.epoch, now + 49));
        outbox.states_of(&region).borrow().clone().unwrap()
    };
    let first = round(&fleet, &plans, 1000);
    desire(&mut fleet, &mut plans, "eu-fra");
    fleet.epoch += 1;
    let second = round(&fleet, &plans, 900);
    let third = round(&fleet, &plans, 950);
    assert!(first.seq < second.seq && second.seq < third.seq);
}
