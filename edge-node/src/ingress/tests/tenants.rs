use super::super::*;
use super::harness::*;
use crate::serving::ServingSet;
use crate::testing::{Doubler, slot_with};

#[tokio::test]
async fn no_key_a_wrong_key_and_a_revoked_key_get_401_and_run_nothing() {
    let node = Node::start().await;
    let infer = "/v2/models/m/infer";
    assert_eq!(node.send(Request::post("/"), infer, row(1.0, 1.0)).await.status, 401);
    let got = node.send(post("mk_wrong"), infer, row(1.0, 1.0)).await;
    assert_eq!(
        (got.status, got.code().as_str(), got.header("www-authenticate")),
        (401, "unauthorized", "Bearer")
    );
    let basic = Request::post("/").header("authorization", format!("Basic {KEY}"));
    assert_eq!(node.send(basic, infer, row(1.0, 1.0)).await.status, 401);
    assert_eq!(node.model.count(), 0);
    assert_eq!(node.infer(&row(1.0, 1.0)).await.status, 200);
    let mut next = set(&[Arc::clone(&node.slot)]);
    next.tenants.retain(|_, tenant| tenant.id.as_str() != "acme");
    node.serving.publish(next);
    assert_eq!(node.infer(&row(1.0, 1.0)).await.status, 401, "also not from the cache");
}

#[tokio::test]
async fn another_tenant_and_another_version_never_hit() {
    let node = Node::start().await;
    let ask = |key: &'static str| node.send(post(key), "/v2/models/m/infer", row(1.0, 1.0));
    assert_eq!(ask(KEY).await.header("cache-status"), "meridian; fwd=miss");
    assert_eq!(ask(OTHER).await.header("cache-status"), "meridian; fwd=miss");
    assert_eq!(node.model.count(), 2);
    let newer = Arc::new(Doubler::default());
    node.serving.publish(set(&[slot_with("m", 2, newer.clone())]));
    let got = ask(KEY).await;
    assert_eq!((got.header("cache-status"), newer.count()), ("meridian; fwd=miss", 1));
    assert!(got.header("meridian-model").starts_with("m@2 "));
}

#[tokio::test]
async fn data_of_another_boundary_is_refused_before_anything_is_read() {
    let node = Node::start().await;
    let got = node.send(post(AMERICAN), "/v2/models/m/infer", "not even JSON").await;
    assert_eq!((got.status, got.code().as_str()), (451, "residency"));
    assert!(got.json()["error"].as_str().unwrap().contains("`us`"));
    assert_eq!(node.model.count(), 0);
}

#[tokio::test]
async fn a_node_without_a_state_serves_nobody() {
    let node = Node::start().await;
    node.serving.publish(ServingSet::default());
    let got = node.infer(&row(1.0, 1.0)).await;
    assert_eq!(
        (got.status, got.code().as_str(), got.header("retry-after")),
        (503, "starting", "1")
    );
    assert_eq!(node.get("/v2/health/ready").await.status, 503);
    assert_eq!(node.get("/v2/health/live").await.status, 200);
}

#[tokio::test]
async fn a_node_waits_only_for_models_that_can_come_to_it() {
    let node = Node::start().await;
    let ready = async |awaited: &[&str], coming| {
        node.serving.publish(ServingSet {
            awaited: awaited.iter().map(|name| name.parse().unwrap()).collect(),
            coming,
            ..set(&[])
        });
        node.get("/v2/health/ready").await.status
    };
    assert_eq!(ready(&[], false).await, 200, "nothing is to be served");
    assert_eq!(ready(&["m"], true).await, 503, "its only model is on its way");
    assert_eq!(
        ready(&["m"], false).await,
        200,
        "no plan or no variant: waiting ends nothing"
    );
}
