//! What a refusal says of other nodes.

use std::time::Duration;

use proto::message::Neighbour;
use proto::region_state::Tenant;

use super::super::*;
use super::harness::*;
use crate::elsewhere::Elsewhere;

/// A key of a tenant whose data may be anywhere.
const WORLD: &str = "mk_world";

/// Tells `node` of a node in its own country, one outside the EEA, and one that lacks the model.
pub(super) fn told(node: &Node) {
    let neighbour = |last: u8, country: &str, model: &str| Neighbour {
        node: format!("r/n{last}").parse().unwrap(),
        ingress: format!("192.0.2.{last}:443").parse().unwrap(),
        country: country.to_owned(),
        models: vec![model.parse().unwrap(), "coming".parse().unwrap()],
    };
    let all = [("US", "m"), ("DE", "m"), ("DE", "other"), ("NL", "m")];
    let all = (1..)
        .zip(all)
        .map(|(last, (country, model))| neighbour(last, country, model));
    let now = runtime::clock::instant();
    node.serving.point_to(Elsewhere::told(all.collect(), now));
}

async fn refused_late(node: &Node, key: &str) -> Got {
    let asked = post(key).header("meridian-deadline-ms", 500);
    node.send(asked, "/v2/models/m/infer", row(2.0, 2.0)).await
}

#[tokio::test]
async fn who_cannot_be_answered_in_time_is_told_of_lawful_nodes_that_have_the_model() {
    let node = Node::start().await;
    (0..64).for_each(|_| node.slot.pace.learn(1, 0, Duration::from_secs(3)));
    let unaware = refused_late(&node, KEY).await;
    assert_eq!((unaware.status, unaware.headers.get("meridian-elsewhere")), (504, None));
    told(&node);
    let got = refused_late(&node, KEY).await;
    assert_eq!((got.status, got.code().as_str()), (504, "deadline_unmeetable"));
    let lawful = "https://192.0.2.2:443, https://192.0.2.4:443";
    assert_eq!(got.header("meridian-elsewhere"), lawful, "and not the node in the US");
    assert_eq!(got.header("retry-after"), "3");
}

#[tokio::test]
async fn a_tenant_who_may_be_anywhere_is_told_of_nodes_anywhere() {
    let node = Node::start().await;
    told(&node);
    (0..64).for_each(|_| node.slot.pace.learn(1, 0, Duration::from_secs(3)));
    let mut world = set(&[Arc::clone(&node.slot)]);
    let key_hash = ContentHash::of(WORLD.as_bytes());
    let (id, boundary) = ("world".parse().unwrap(), "global".parse().unwrap());
    world.tenants.insert(key_hash, Tenant { id, boundary, key_hash });
    node.serving.publish(world);
    let named = refused_late(&node, WORLD).await;
    assert!(
        named
            .header("meridian-elsewhere")
            .starts_with("https://192.0.2.1:443, ")
    );
}

#[tokio::test]
async fn a_model_on_its_way_is_named_elsewhere_and_what_is_the_clients_own_fault_is_not() {
    let node = Node::start().await;
    told(&node);
    let mut loading = set(&[Arc::clone(&node.slot)]);
    loading.awaited.insert("coming".parse().unwrap());
    node.serving.publish(loading);
    let got = node.send(post(KEY), "/v2/models/coming/infer", row(1.0, 1.0)).await;
    assert_eq!((got.status, got.code().as_str()), (503, "loading"));
    assert!(got.header("meridian-elsewhere").starts_with("https://192.0.2.2:443, "));
    for (path, key) in [
        ("/v2/models/nobody/infer", KEY),
        ("/v2/models/coming/infer", "mk_wrong"),
        ("/v2/models/m/infer", KEY),
    ] {
        let got = node.send(post(key), path, "{}").await;
        let named = got.headers.get("meridian-elsewhere");
        assert!(
            (400..405).contains(&got.status) && named.is_none(),
            "{path} {}",
            got.status
        );
    }
}
