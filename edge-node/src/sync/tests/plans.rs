//! What a node makes of plans: that it was away for, that come again, and that do not permit what a state asks.

use proto::ids::{Release, UnixMs};
use proto::plan::Plan;
use proto::region_state::{Desired, Tenant};
use proto::signed::Document;

use super::*;

fn plan(release: &str, manifest: ContentHash, serial: u64) -> Plan {
    fixture::plan(&release.parse::<Release>().unwrap(), manifest, serial)
}

fn send(fleet: &Fleet, wanted: Vec<Desired>) {
    fleet.plane.lock().unwrap().send(wanted, UnixMs::MAX);
}

fn all_served(set: &ServingSet) -> Vec<String> {
    let mut all: Vec<String> = set.models.values().map(|slot| slot.release.to_string()).collect();
    all.sort();
    all
}

/// Why the node does not serve `manifest`, once it says so.
async fn refusal(fleet: &Fleet, manifest: ContentHash) -> String {
    let refused = |report: &NodeReport| {
        let mut of = report.models.iter().filter(|m| m.manifest == manifest);
        of.find_map(|m| match &m.stage {
            Stage::Refused(why) => Some(why.clone()),
            _ => None,
        })
    };
    refused(&fleet.report(|report| refused(report).is_some()).await).unwrap()
}

/// The node's signed word that it serves by `plan`, once it gives it.
async fn vouches(fleet: &Fleet, plan: ContentHash) -> ReadyReport {
    let key = PublicKey::of(fleet.identity.signing_key());
    let said = |report: &NodeReport| {
        let ready = report.models.iter().filter_map(|m| m.ready.as_ref());
        let mut said = ready.map(|ready| ready.open::<ReadyReport>(&[key], 1).unwrap());
        said.find(|said| said.plan == plan)
    };
    said(&fleet.report(|report| said(report).is_some()).await).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_plan_is_refused_and_said_so() {
    let fleet = Fleet::new();
    let (one, two) = (
        fleet.publish("m@1", &weights(1, 9_000)),
        fleet.publish("m@2", &weights(2, 9_000)),
    );
    fleet.order("m@2", two, 5);
    let node = fleet.node();
    node.serves("m@2").await;
    fleet.order("m@1", one, 4);
    assert_eq!(refusal(&fleet, one).await, "plan serial 4, accepted was 5");
    assert_eq!(served(&node.serving.load()).as_deref(), Some("m@2"));
    assert_eq!(node.instruments.refusals.get(), 1);
    node.end().await;
}

/// A node that was away while its region changed, and one that is new here: both hear of a plan after its end.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_comes_after_a_plan_expired_takes_what_its_region_began_in_time_and_nothing_else() {
    let fleet = Fleet::new();
    let (one, two) = (
        fleet.publish("m@1", &weights(1, 9_000)),
        fleet.publish("m@2", &weights(2, 9_000)),
    );
    fleet.order("m@1", one, 1);
    let node = fleet.node();
    node.serves("m@1").await;
    node.end().await;
    let expires = clock::now_ms() - 1_000;
    let past = Plan {
        expires,
        ..plan("m@2", two, 2)
    };
    for unproven in [fixture::desired(&past), fixture::begun(&past, expires + 1)] {
        send(&fleet, vec![unproven]);
        for (data, serves) in [("data", vec!["m@1".to_owned()]), ("new", Vec::new())] {
            fleet.plane.lock().unwrap().report.send_replace(None);
            let node = Life::begin(&fleet.address, &fleet.dir.path().join(data), &fleet.identity);
            // A node that was refused before says so first, and then judges the newer state.
            let judged = |report: &NodeReport| {
                let stages = report.models.iter().filter(|m| m.manifest == two).map(|m| &m.stage);
                let late = "0 nodes of `eu-fra` are known to have begun";
                stages
                    .into_iter()
                    .any(|stage| matches!(stage, Stage::Refused(why) if why.contains(late)))
            };
            fleet.report(judged).await;
            assert_eq!(all_served(&node.serving.load()), serves, "{data}");
            node.end().await;
        }
    }
    send(&fleet, vec![fixture::begun(&past, expires)]);
    for data in ["data", "new"] {
        let node = Life::begin(&fleet.address, &fleet.dir.path().join(data), &fleet.identity);
        node.serves("m@2").await;
        node.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bake_begins_anew_with_each_plan_also_for_bytes_that_serve_already() {
    let fleet = Fleet::new();
    let (one, two) = (
        fleet.publish("m@1", &weights(1, 9_000)),
        fleet.publish("m@2", &weights(2, 9_000)),
    );
    fleet.order("m@1", one, 1);
    let node = fleet.node();
    let first = vouches(&fleet, plan("m@1", one, 1).id()).await;
    // The same release by another plan: nothing moves, and it is ready only since now.
    fleet.order("m@1", one, 2);
    let again = vouches(&fleet, plan("m@1", one, 2).id()).await;
    assert!(again.ready_since >= first.at, "{again:?} after {first:?}");
    assert_eq!(node.instruments.switches.get(), 1);
    // A rollback to it.
    fleet.order("m@2", two, 3);
    let other = vouches(&fleet, plan("m@2", two, 3).id()).await;
    fleet.order("m@1", one, 4);
    let back = vouches(&fleet, plan("m@1", one, 4).id()).await;
    assert!(back.ready_since >= other.at);
    node.end().await;
    // A restart is no new plan.
    fleet.plane.lock().unwrap().report.send_replace(None);
    let node = fleet.node();
    let later = vouches(&fleet, plan("m@1", one, 4).id()).await;
    assert_eq!(later.ready_since, back.ready_since);
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forbidden_model_delays_no_revocation_and_is_not_taken_after_a_restart_either() {
    let fleet = Fleet::new();
    let publish = |release: &str, seed| fleet.publish(release, &weights(seed, 9_000));
    let (a1, a2) = (publish("a@1", 1), publish("a@2", 2));
    let (b1, b2) = (publish("b@1", 3), publish("b@2", 4));
    let acme = Tenant {
        id: "acme".parse().unwrap(),
        boundary: "eea".parse().unwrap(),
        key_hash: ContentHash::of(b"key"),
    };
    fleet.plane.lock().unwrap().tenants = vec![acme];
    let first = [plan("a@1", a1, 1), plan("b@1", b1, 1)];
    let node = fleet.node();
    // One after the other: both packages hold the same golden file.
    send(&fleet, vec![fixture::desired(&first[0])]);
    node.serves("a@1").await;
    send(&fleet, first.iter().map(fixture::desired).collect());
    node.until("both", |set| set.models.len() == 2 && set.tenants.len() == 1)
        .await;
    // The tenant is revoked in a state that also names a release whose plan permits nothing any more.
    fleet.plane.lock().unwrap().tenants.clear();
    let expired = Plan {
        expires: 1,
        ..plan("a@2", a2, 2)
    };
    let next = [expired, plan("b@2", b2, 2)];
    send(&fleet, next.iter().map(fixture::desired).collect());
    node.until("revoked", |set| set.tenants.is_empty()).await;
    node.until("the other model goes on", |set| all_served(set) == ["a@1", "b@2"])
        .await;
    assert!(refusal(&fleet, a2).await.contains("the plan expired"));
    assert_eq!(node.instruments.refusals.get(), 1);
    node.end().await;

    fleet.plane.lock().unwrap().report.send_replace(None);
    let again = fleet.node();
    again
        .until("as before", |set| {
            all_served(set) == ["a@1", "b@2"] && set.tenants.is_empty()
        })
        .await;
    assert!(refusal(&fleet, a2).await.contains("not permitted"));
    assert_eq!(all_served(&again.serving.load()), ["a@1", "b@2"]);
    // And without anybody to ask.
    again.end().await;
    fleet.kill().await;
    let alone = fleet.node();
    alone
        .until("alone", |set| {
            all_served(set) == ["a@1", "b@2"] && set.tenants.is_empty()
        })
        .await;
    alone.end().await;
}

/// What a crash, or a format of another version, makes of the kept state: nobody knows then which files are needed.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_lost_its_kept_state_keeps_its_files_for_the_next_one() {
    let fleet = Fleet::new();
    let one = fleet.publish("m@1", &weights(1, 90_000));
    fleet.order("m@1", one, 1);
    let node = fleet.node();
    node.serves("m@1").await;
    node.end().await;
    std::fs::write(fleet.dir.path().join("data/state/accepted.bin"), b"torn").unwrap();
    fleet.plane.lock().unwrap().report.send_replace(None);
    let node = fleet.node();
    fleet.report(|report| report.models.is_empty()).await;
    fleet.order("m@1", one, 1);
    node.serves("m@1").await;
    assert_eq!(node.instruments.fetched_bytes.get(), 0);
    node.end().await;
}
