use proto::proof::Proof;
use proto::receipt::{Commitment, Promise, Receipt, Standing, open};
use proto::signed::PublicKey;

use super::harness::*;
use crate::ingress::*;
use crate::receipt::tests::{fleet, key};

fn verified(proof: &Proof) -> (Receipt, Standing) {
    open(proof, &fleet(), &PublicKey::of(&key())).unwrap()
}

/// The receipt that `got`, an answer to `asked`, promises: its commitments open with the bodies.
fn promised(asked: &[u8], got: &Got) -> (Promise, Receipt) {
    let promise = Promise::read(got.header("meridian-receipt")).unwrap();
    let (receipt, standing) = verified(&promise.proof);
    assert_eq!(standing, Standing::Promised);
    assert_eq!(receipt.input, Commitment::of(&promise.key, asked));
    assert_eq!(receipt.output, Commitment::of(&promise.key, &got.body));
    (promise, receipt)
}

fn asking(key: &str) -> http::request::Builder {
    post(key).header("meridian-receipt", "?1")
}

/// The page of a receipt, once it is there.
async fn page(node: &Node, id: &str) -> Got {
    let asking = async {
        loop {
            let request = Request::get("/").header("authorization", format!("Bearer {KEY}"));
            let got = node.send(request, &format!("/v1/receipts/{id}"), Bytes::new()).await;
            if got.status != 404 || got.code() != "receipt_unwritten" {
                return got;
            }
            assert_eq!(got.header("retry-after"), "1");
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.expect("a receipt on disk")
}

#[tokio::test]
async fn who_asks_gets_a_receipt_that_names_what_answered_and_finds_it_in_the_log() {
    let node = Node::start().await;
    let body = row(1.0, 2.0);
    let plain = node.infer(body.clone()).await;
    assert_eq!((plain.status, plain.header("meridian-receipt")), (200, ""));
    for (index, origin) in [(0, "meridian; hit"), (1, "meridian; hit")] {
        let got = node.send(asking(KEY), "/v2/models/m/infer", body.clone()).await;
        assert_eq!((got.status, got.header("cache-status")), (200, origin));
        let (promise, receipt) = promised(body.as_bytes(), &got);
        assert_eq!((receipt.index, receipt.node.to_string().as_str()), (index, "eu-fra/n1"));
        assert_eq!(receipt.manifest, node.slot.manifest_id);
        assert_eq!(
            (receipt.model.as_str(), receipt.version.to_string().as_str()),
            ("m", "1")
        );
        // The numerics class: the same input gives the same bits on every node of it.
        assert_eq!(
            (receipt.variant.as_str(), receipt.numerics.as_str()),
            ("cpu-f32", "fake/f32")
        );
        let got = page(&node, &promise.id.to_string()).await;
        assert_eq!(
            (got.status, got.header("content-type")),
            (200, "text/plain; charset=utf-8")
        );
        let proof = Proof::read(std::str::from_utf8(&got.body).unwrap()).unwrap();
        let (logged, standing) = verified(&proof);
        assert!(matches!(standing, Standing::Logged(checkpoint) if checkpoint.size > index));
        assert_eq!(logged, receipt);
    }
}

#[tokio::test]
async fn two_who_share_a_run_have_receipts_of_their_own() {
    let node = Node::start().await;
    node.model.hold();
    let ask = || node.send(asking(KEY), "/v2/models/m/infer", row(1.0, 2.0));
    let release = async {
        until("both to have boarded", || {
            node.ingress.0.parts.results.passengers() >= 2
        })
        .await;
        node.model.release();
    };
    let (one, two, ()) = tokio::join!(ask(), ask(), release);
    assert_eq!((&one.body, node.model.count()), (&two.body, 1));
    let [(first, of_first), (second, of_second)] = [&one, &two].map(|got| promised(row(1.0, 2.0).as_bytes(), got));
    assert_ne!(first.key, second.key);
    assert_ne!(
        of_first.input, of_second.input,
        "the log does not tell that they asked the same"
    );
}

#[tokio::test]
async fn bodies_are_committed_to_as_their_senders_hold_them_not_as_they_travel() {
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use std::io::Write;
    let node = Node::start().await;
    let values: Vec<String> = (0..4_000).map(|n| format!("{n}.5")).collect();
    let body = format!(
        r#"{{"inputs":[{{"name":"x","datatype":"FP32","shape":[2000,2],"data":[{}]}}]}}"#,
        values.join(",")
    );
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(body.as_bytes()).unwrap();
    let packed = packed.finish().unwrap();
    let request = asking(KEY)
        .header("content-encoding", "gzip")
        .header("accept-encoding", "gzip");
    let mut got = node.send(request, "/v2/models/m/infer", packed).await;
    assert_eq!((got.status, got.header("content-encoding")), (200, "gzip"));
    let mut unpacked = Vec::new();
    std::io::copy(&mut flate2::read::GzDecoder::new(&got.body[..]), &mut unpacked).unwrap();
    got.body = unpacked.into();
    promised(body.as_bytes(), &got);
}

#[tokio::test]
async fn a_wish_that_is_none_is_refused_and_so_is_one_that_cannot_be_granted() {
    let node = Node::start().await;
    let send = |wish: &'static str| {
        let request = post(KEY).header("meridian-receipt", wish);
        node.send(request, "/v2/models/m/infer", row(1.0, 2.0))
    };
    assert_eq!(send("?0").await.header("meridian-receipt"), "");
    for wish in ["1", "yes", "?1, ?1", "?1;x", ""] {
        let got = send(wish).await;
        assert_eq!((got.status, got.code().as_str()), (400, "invalid_request"), "{wish}");
    }
    let twice = post(KEY)
        .header("meridian-receipt", "?0")
        .header("meridian-receipt", "?1");
    assert_eq!(node.send(twice, "/v2/models/m/infer", row(1.0, 2.0)).await.status, 400);
    let runs = node.model.count();
    let receipts = node.ingress.0.parts.receipts.clone().unwrap();
    tokio::task::spawn_blocking(move || receipts.close()).await.unwrap();
    let request = asking(KEY).header("cache-control", "no-cache");
    let got = node.send(request, "/v2/models/m/infer", row(3.0, 3.0)).await;
    assert_eq!((got.status, got.code().as_str()), (503, "receipts_unavailable"));
    assert!(
        node.model.count() == runs,
        "nothing is run for an answer that cannot have its receipt"
    );
}

#[tokio::test]
async fn who_asks_for_a_receipt_is_answered_at_once_and_not_by_a_job() {
    let node = Node::start().await;
    let request = asking(KEY).header("prefer", "respond-async");
    let got = node.send(request, "/v2/models/m/infer", row(1.0, 2.0)).await;
    assert_eq!(got.status, 200);
    promised(row(1.0, 2.0).as_bytes(), &got);
}

#[tokio::test]
async fn where_they_are_given_unasked_an_answer_without_one_is_still_an_answer() {
    let node = Node::receipted().await;
    let got = node.infer(row(1.0, 2.0)).await;
    promised(row(1.0, 2.0).as_bytes(), &got);
    let declined = post(KEY).header("meridian-receipt", "?0");
    let got = node.send(declined, "/v2/models/m/infer", row(1.0, 2.0)).await;
    assert_eq!((got.status, got.header("meridian-receipt")), (200, ""));
    let later = post(KEY).header("prefer", "respond-async");
    assert_eq!(node.send(later, "/v2/models/m/infer", row(1.0, 2.0)).await.status, 202);
    let receipts = node.ingress.0.parts.receipts.clone().unwrap();
    tokio::task::spawn_blocking(move || receipts.close()).await.unwrap();
    let got = node.infer(row(1.0, 2.0)).await;
    assert_eq!((got.status, got.header("meridian-receipt")), (200, ""));
    assert_eq!(
        node.send(asking(KEY), "/v2/models/m/infer", row(1.0, 2.0)).await.status,
        503
    );
}

#[tokio::test]
async fn nobody_finds_receipts_without_a_key_or_by_guessing() {
    let node = Node::start().await;
    let got = node.send(asking(KEY), "/v2/models/m/infer", row(1.0, 2.0)).await;
    let (promise, _) = promised(row(1.0, 2.0).as_bytes(), &got);
    page(&node, &promise.id.to_string()).await;
    let mut guessed = promise.id.clone();
    guessed.leaf[31] ^= 1;
    for id in [guessed.to_string(), "eu-fra:n1:0-00".to_owned(), "%20".to_owned()] {
        assert_eq!(page(&node, &id).await.status, 404, "{id}");
    }
}
