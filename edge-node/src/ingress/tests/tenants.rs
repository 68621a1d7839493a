use std::collections::HashMap;
use std::time::Duration;

use super::super::*;
use super::harness::*;
use crate::batch::Rules;
use crate::batch::accounts::Payer;
use crate::batch::class::Class;
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
async fn clients_of_this_machine_that_cannot_send_a_key_ask_with_the_one_that_the_operator_names() {
    let node = Node::assuming(AMERICAN).await;
    let infer = "/v2/models/m/infer";
    let keyless = || Request::post("/");
    let fenced = node.send(keyless(), infer, row(1.0, 1.0)).await;
    assert_eq!(
        (fenced.status, fenced.code().as_str()),
        (451, "residency"),
        "that tenant's boundary holds"
    );
    let wrong = node.send(post("mk_wrong"), infer, row(1.0, 1.0)).await;
    assert_eq!(wrong.status, 401, "a key that is sent is the one that counts");
    let node = Node::assuming(KEY).await;
    assert_eq!(node.send(keyless(), infer, row(1.0, 1.0)).await.status, 200);
    let mut next = set(&[Arc::clone(&node.slot)]);
    next.tenants.retain(|_, tenant| tenant.id.as_str() != "acme");
    node.serving.publish(next);
    assert_eq!(
        node.send(keyless(), infer, row(1.0, 1.0)).await.status,
        401,
        "and it can be revoked"
    );
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

#[tokio::test]
async fn a_tenant_above_its_rate_gets_429_and_others_do_not() {
    let rate = rate::Rate { per_s: 0.5, burst: 2.0 };
    let rates = rate::Rates::new(HashMap::from([(Payer::of(&"acme".parse().unwrap()), rate)]));
    let node = Node::ruled(bounds(), Rules::default(), rates).await;
    assert_eq!(node.infer(row(1.0, 1.0)).await.status, 200);
    assert_eq!(
        node.infer(row(1.0, 1.0)).await.status,
        200,
        "kept answers count as well"
    );
    let refused = node.infer(row(2.0, 1.0)).await;
    assert_eq!(
        (refused.status, refused.code().as_str(), refused.header("retry-after")),
        (429, "rate_limited", "2")
    );
    let other = node.send(post(OTHER), "/v2/models/m/infer", row(2.0, 1.0)).await;
    assert_eq!((other.status, node.model.count()), (200, 2));
    node.until_counted(r#"outcome="RateLimited"} 1"#).await;
}

#[tokio::test]
async fn a_models_class_says_how_long_requests_may_take_that_do_not_say_so() {
    let classes = HashMap::from([("m".parse().unwrap(), Class::Realtime50)]);
    let rules = Rules {
        classes,
        weights: HashMap::new(),
    };
    let node = Node::ruled(bounds(), rules, rate::Rates::default()).await;
    (0..64).for_each(|_| node.slot.pace.learn(1, 0, Duration::from_millis(80)));
    let silent = node.infer(row(1.0, 1.0)).await;
    assert_eq!((silent.status, silent.code().as_str()), (504, "deadline_unmeetable"));
    let patient = post(KEY).header("meridian-deadline-ms", 900);
    let patient = node.send(patient, "/v2/models/m/infer", row(1.0, 1.0)).await;
    assert_eq!(patient.status, 200);
    let timeout = row(3.0, 1.0).replacen('{', r#"{"parameters":{"timeout":900000},"#, 1);
    assert_eq!(node.infer(timeout).await.status, 200);
}

#[tokio::test]
async fn a_priority_decides_when_and_never_what_is_answered() {
    let node = Node::start().await;
    let asked =
        |priority: &str| row(1.0, 1.0).replacen('{', &format!(r#"{{"parameters":{{"priority":{priority}}},"#), 1);
    assert_eq!(node.infer(asked("1")).await.status, 200);
    for same in ["0", "4", "18446744073709551615"] {
        assert_eq!(
            node.infer(asked(same)).await.header("cache-status"),
            "meridian; hit",
            "{same}"
        );
    }
    for wrong in ["-1", "1.5", "true"] {
        let got = node.infer(asked(wrong)).await;
        assert_eq!((got.status, got.code().as_str()), (400, "invalid_request"), "{wrong}");
    }
}
