//! What clients see of kept answers: whose they are, and that they go when they shall.

use std::collections::HashMap;

use super::super::*;
use super::harness::*;
use crate::batch::Rules;
use crate::batch::accounts::Payer;

const MISS: &str = "meridian; fwd=miss";
const HIT: &str = "meridian; hit";

fn about(key: &str, subject: &str) -> http::request::Builder {
    post(key).header("meridian-subject", subject)
}

impl Node {
    /// Asks the same question for `key` about `subject`, and tells where the answer came from.
    async fn asked(&self, key: &str, subject: Option<&str>) -> String {
        let request = subject.map_or_else(|| post(key), |subject| about(key, subject));
        let got = self.send(request, "/v2/models/m/infer", row(1.0, 2.0)).await;
        assert_eq!(
            (got.status, got.json()["outputs"][0]["data"][1].as_f64()),
            (200, Some(4.0))
        );
        got.header("cache-status").to_owned()
    }
    async fn purge(&self, key: &str, body: &str) -> Got {
        self.send(post(key), "/v1/purge", body.to_owned()).await
    }
}

#[tokio::test]
async fn a_thousand_identical_requests_at_once_are_one_execution() {
    let node = Node::start().await;
    node.model.hold();
    let all = futures_util::future::join_all((0..1_000).map(|_| node.infer(row(1.0, 2.0))));
    let release = async {
        // All are counted as followers of the one flight only when it has landed: it is held until every one has boarded.
        until("all to have boarded", || {
            node.ingress.0.parts.results.passengers() >= 1_000
        })
        .await;
        node.model.release();
    };
    let (answers, ()) = tokio::join!(all, release);
    assert_eq!(node.model.count(), 1);
    let from = |status: &str| {
        answers
            .iter()
            .filter(|got| got.header("cache-status") == status)
            .count()
    };
    assert_eq!((from(MISS), from("meridian; fwd=miss; collapsed")), (1, 999));
    let right = |got: &Got| got.status == 200 && got.json()["outputs"][0]["data"][1].as_f64() == Some(4.0);
    assert!(answers.iter().all(right));
}

#[tokio::test]
async fn answers_about_one_person_are_given_for_that_person_only() {
    let node = Node::start().await;
    assert_eq!(node.asked(KEY, Some("p-1")).await, MISS);
    assert_eq!(node.asked(KEY, Some("p-1")).await, HIT);
    assert_eq!(node.asked(KEY, Some("p-2")).await, MISS);
    assert_eq!(node.asked(KEY, None).await, MISS);
    assert_eq!(node.asked(OTHER, Some("p-1")).await, MISS);
}

#[tokio::test]
async fn a_tenant_purges_its_own_by_model_by_person_or_all_and_nobody_elses() {
    let node = Node::start().await;
    let told = r#"{"memory_entries":1,"disk_keys":1}"#;
    for (body, entries) in [
        (r#"{"subject":"p-1"}"#, 1),
        (r#"{"subject":"p-1","model":"m","tenant":"acme"}"#, 1),
        (r#"{"model":"m"}"#, 2),
        ("{}", 2),
    ] {
        node.asked(KEY, Some("p-1")).await;
        node.asked(KEY, None).await;
        node.asked(OTHER, Some("p-1")).await;
        let got = node.purge(KEY, body).await;
        assert_eq!(
            (got.status, got.json()["memory_entries"].as_u64()),
            (200, Some(entries)),
            "{body}"
        );
        assert_eq!(node.asked(OTHER, Some("p-1")).await, HIT, "{body}");
        assert_eq!(node.asked(KEY, Some("p-1")).await, MISS, "{body}");
        assert_eq!(
            node.asked(KEY, None).await,
            if entries == 1 { HIT } else { MISS },
            "{body}"
        );
    }
    let got = node.purge(KEY, r#"{"subject":"p-1"}"#).await;
    assert_eq!(String::from_utf8_lossy(&got.body), told);
    let got = node.purge(KEY, r#"{"subject":"nobody"}"#).await;
    assert_eq!(got.json()["memory_entries"], 0, "who has no answers is forgotten too");
    assert!(
        node.get("/metrics")
            .await
            .body
            .windows(22)
            .any(|w| w == b"edge_cache_purges_tota")
    );
}

#[tokio::test]
async fn a_purge_that_names_what_it_must_not_or_nothing_that_is_read_is_refused_and_forgets_nothing() {
    let node = Node::start().await;
    node.asked(KEY, None).await;
    for (body, status, code) in [
        (r#"{"tenant":"other"}"#, 403, "forbidden"),
        ("", 400, "invalid_request"),
        ("[]", 400, "invalid_request"),
        (r#"{"subject":""}"#, 400, "invalid_request"),
        (r#"{"subjects":"p"}"#, 400, "invalid_request"),
    ] {
        let got = node.purge(KEY, body).await;
        assert_eq!((got.status, got.code().as_str()), (status, code), "{body}");
    }
    let long = format!("{{}}{}", " ".repeat(5_000));
    assert_eq!(node.purge(KEY, &long).await.status, 413);
    assert_eq!(node.purge("mk_wrong", "{}").await.status, 401);
    assert_eq!(
        node.purge(AMERICAN, "{}").await.status,
        451,
        "a person's id stays inside, too"
    );
    let local = node.send(Request::post("/"), "/v1/purge", "{}").await;
    assert_eq!(local.status, 401, "the plain listener is no certificate");
    let header = node.send(about(KEY, "p-1"), "/v1/purge", "{}").await;
    assert_eq!(header.status, 400, "who means a person must not purge everybody");
    assert_eq!(node.asked(KEY, None).await, HIT);
}

#[tokio::test]
async fn a_subject_that_is_no_id_is_refused_without_being_repeated() {
    let node = Node::start().await;
    let long = "alice".repeat(26);
    for wrong in ["", "alice b", "\u{e9}alice", long.as_str()] {
        let value = http::HeaderValue::from_bytes(wrong.as_bytes()).unwrap();
        let request = post(KEY).header("meridian-subject", value);
        let got = node.send(request, "/v2/models/m/infer", row(1.0, 2.0)).await;
        assert_eq!((got.status, got.code().as_str()), (400, "invalid_request"), "{wrong}");
        assert!(!String::from_utf8_lossy(&got.body).contains("alice"));
    }
    let twice = about(KEY, "p-1").header("meridian-subject", "p-2");
    assert_eq!(node.send(twice, "/v2/models/m/infer", row(1.0, 2.0)).await.status, 400);
    assert_eq!(node.model.count(), 0);
}

#[tokio::test]
async fn purges_count_against_a_tenants_rate() {
    let rate = rate::Rate {
        per_s: 0.01,
        burst: 1.0,
    };
    let rates = rate::Rates::new(HashMap::from([(Payer::of(&"acme".parse().unwrap()), rate)]));
    let node = Node::ruled(bounds(), Rules::default(), rates).await;
    assert_eq!(node.purge(KEY, "{}").await.status, 200);
    assert_eq!(node.purge(KEY, "{}").await.code(), "rate_limited");
    assert_eq!(node.purge(OTHER, "{}").await.status, 200);
}

#[tokio::test]
async fn a_request_that_waits_during_a_purge_is_answered_and_its_answer_not_kept() {
    let node = Node::start().await;
    node.model.hold();
    let waiting = node.asked(KEY, Some("p-1"));
    let purge = async {
        node.until_runs(1).await;
        let got = node.purge(KEY, r#"{"subject":"p-1"}"#).await;
        assert_eq!((got.status, got.json()["memory_entries"].as_u64()), (200, Some(0)));
        node.model.release();
    };
    let (waited, ()) = tokio::join!(waiting, purge);
    assert_eq!(waited, MISS);
    assert_eq!(
        node.asked(KEY, Some("p-1")).await,
        MISS,
        "nothing of before the purge was kept"
    );
    assert_eq!(
        (node.asked(KEY, Some("p-1")).await.as_str(), node.model.count()),
        (HIT, 2)
    );
}
