use std::path::Path;

use super::*;
use proto::ids::ContentHash;
use proto::receipt::{Commitment, Standing};
use proto::signed::PublicKey;

const KEEP: u64 = 1_000_000;
/// Longer than anything here takes.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);

pub(crate) fn fleet() -> PrincipalName {
    "dev".parse().unwrap()
}

pub(crate) fn key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

fn metrics() -> Metrics {
    Metrics::new(&mut runtime::metrics::Metrics::new())
}

/// Receipts of `eu-fra/n1` in `folder`.
pub(crate) fn open(folder: &Path, metrics: &Metrics) -> Receipts {
    opened(folder, KEEP, metrics)
}

/// The same, given asked or not.
pub(crate) fn given(folder: &Path, unasked: bool, metrics: &Metrics) -> Receipts {
    configured(folder, KEEP, unasked, metrics)
}

fn opened(folder: &Path, kept: u64, metrics: &Metrics) -> Receipts {
    configured(folder, kept, false, metrics)
}

fn configured(folder: &Path, kept: u64, unasked: bool, metrics: &Metrics) -> Receipts {
    let (node, folder) = ("eu-fra/n1".parse().unwrap(), folder.to_owned());
    let config = ReceiptsConfig { kept, unasked, folder };
    Receipts::open(config, &fleet(), node, &key(), metrics).unwrap()
}

fn answered(n: u64) -> (CommitmentKey, Answered) {
    let key = CommitmentKey(*ContentHash::of(&n.to_le_bytes()).as_bytes());
    let answered = Answered {
        release: "m@1".parse().unwrap(),
        manifest: ContentHash::of(b"manifest"),
        variant: "cpu-int8".parse().unwrap(),
        numerics: "fake/int8".to_owned(),
        input: Commitment::of(&key, format!("in {n}").as_bytes()),
        output: Commitment::of(&key, format!("out {n}").as_bytes()),
    };
    (key, answered)
}

/// Promises of `range`, asked for at the same time.
async fn promised(receipts: &Receipts, range: std::ops::Range<u64>) -> Vec<Promise> {
    let all = range.map(|n| {
        let (key, answered) = answered(n);
        async move { receipts.promise(key, answered).await.unwrap() }
    });
    futures_util::future::join_all(all).await
}

/// The proof of `id`, once it is written.
async fn written(receipts: &Receipts, id: &ReceiptId) -> Proof {
    let asking = async {
        loop {
            let (receipts, id) = (receipts.clone(), id.clone());
            match tokio::task::spawn_blocking(move || receipts.proof(&id)).await.unwrap() {
                Ok(proof) => return proof,
                Err(Lacking::Unwritten) => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.expect("a receipt on disk")
}

/// Waits until nothing that was asked for is unwritten: a proof is there a moment before its receipt's place is free.
async fn settled(receipts: &Receipts) {
    let settling = async {
        while receipts.0.book.unwritten() > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, settling).await.expect("all on disk");
}

/// What the node's key makes of `proof`.
fn verified(proof: &Proof) -> (proto::receipt::Receipt, Standing) {
    proto::receipt::open(proof, &fleet(), &PublicKey::of(&key())).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_promise_is_kept_whoever_asks_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let metrics = metrics();
    let receipts = open(folder.path(), &metrics);
    let mut indices = Vec::new();
    for range in [0..1, 1..40, 40..600] {
        for (n, promise) in range.clone().zip(promised(&receipts, range).await) {
            let (receipt, standing) = verified(&promise.proof);
            assert_eq!(standing, Standing::Promised);
            assert_eq!(
                (receipt.input, receipt.output),
                (answered(n).1.input, answered(n).1.output)
            );
            let proof = written(&receipts, &promise.id).await;
            let (logged, standing) = verified(&proof);
            assert_eq!(logged, receipt);
            assert!(matches!(standing, Standing::Logged(_)));
            indices.push(logged.index);
        }
    }
    settled(&receipts).await;
    indices.sort_unstable();
    assert_eq!(indices, (0..600).collect::<Vec<_>>());
    assert_eq!(
        (metrics.receipts_promised.get(), metrics.receipts_written.get()),
        (600, 600)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_promised_is_on_disk_when_the_node_has_stopped_and_the_log_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let metrics = metrics();
    let mut kept = Vec::new();
    for round in 0..3 {
        let receipts = open(folder.path(), &metrics);
        for earlier in &kept {
            assert!(receipts.proof(earlier).is_ok(), "{earlier}");
        }
        let promises = promised(&receipts, round * 300..(round + 1) * 300).await;
        let closing = receipts.clone();
        tokio::task::spawn_blocking(move || closing.close()).await.unwrap();
        assert!(promises.iter().all(|promise| receipts.proof(&promise.id).is_ok()));
        assert!(receipts.promise(answered(0).0, answered(0).1).await.is_err());
        kept.extend(promises.into_iter().map(|promise| promise.id));
    }
}

#[tokio::test]
async fn who_has_no_receipt_finds_none() {
    let folder = tempfile::tempdir().unwrap();
    let receipts = open(folder.path(), &metrics());
    let promise = promised(&receipts, 0..1).await.remove(0);
    written(&receipts, &promise.id).await;
    settled(&receipts).await;
    let mut guessed = promise.id.clone();
    guessed.leaf[0] ^= 1;
    let mut elsewhere = promise.id.clone();
    elsewhere.node = "eu-fra/n2".parse().unwrap();
    let mut later = promise.id.clone();
    later.index = 1;
    for id in [guessed, elsewhere, later] {
        assert!(matches!(receipts.proof(&id), Err(Lacking::Unknown)), "{id}");
    }
}

#[tokio::test]
async fn a_log_that_cannot_be_written_promises_nothing_more() {
    let folder = tempfile::tempdir().unwrap();
    let receipts = open(folder.path(), &metrics());
    // A folder where the first bundle has to go.
    let log = folder.path().join(hex(&PublicKey::of(&key()).0[..4]));
    std::fs::create_dir_all(log.join("tile/entries/000.p/1/full")).unwrap();
    let promise = promised(&receipts, 0..1).await.remove(0);
    let refused = async {
        while receipts.is_open() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, refused).await.unwrap();
    assert!(
        matches!(receipts.proof(&promise.id), Err(Lacking::Unknown)),
        "nobody waits for what will not come"
    );
    assert!(receipts.promise(answered(1).0, answered(1).1).await.is_err());
    // The node said that it would be entry 0, and another becomes that after a restart: the promise is evidence.
    receipts.close();
    drop(receipts);
    std::fs::remove_dir_all(log.join("tile/entries/000.p/1")).unwrap();
    let receipts = open(folder.path(), &metrics());
    let other = promised(&receipts, 1..2).await.remove(0);
    written(&receipts, &other.id).await;
    assert_eq!(other.id.index, promise.id.index);
    assert!(matches!(receipts.proof(&promise.id), Err(Lacking::Unknown)));
    assert_eq!(verified(&promise.proof).0.index, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_receipt_whose_text_is_forgotten_the_proof_still_holds() {
    let folder = tempfile::tempdir().unwrap();
    let receipts = opened(folder.path(), 300, &metrics());
    let mut promises = Vec::new();
    for from in (0..900).step_by(100) {
        let asked = promised(&receipts, from..from + 100).await;
        written(&receipts, &asked[99].id).await;
        promises.extend(asked);
    }
    promises.sort_by_key(|promise| promise.id.index);
    let first = written(&receipts, &promises[0].id).await;
    assert!(first.entry.is_empty());
    let whole = Proof {
        entry: promises[0].proof.entry.clone(),
        ..first
    };
    assert!(matches!(verified(&whole).1, Standing::Logged(_)));
    assert!(!written(&receipts, &promises[899].id).await.entry.is_empty());
}

#[tokio::test]
async fn no_more_are_promised_than_may_be_lost_and_who_left_takes_no_place() {
    let folder = tempfile::tempdir().unwrap();
    let metrics = metrics();
    let receipts = open(folder.path(), &metrics);
    let book = &receipts.0.book;
    // As many are under way as may be.
    let taken = std::iter::from_fn(|| book.enter().then_some(())).count();
    assert_eq!(taken, proto::limits::RECEIPTS_UNWRITTEN_MAX);
    assert!(!receipts.is_open());
    assert!(matches!(
        receipts.promise(answered(0).0, answered(0).1).await,
        Err(Closed)
    ));
    book.leave(taken);
    // Who asks and leaves at once is signed for at most, and never keeps a place.
    for n in 0..200 {
        let (key, answered) = answered(n);
        let asked = receipts.promise(key, answered);
        let _ = futures_util::FutureExt::now_or_never(asked);
    }
    let promise = promised(&receipts, 200..201).await.remove(0);
    written(&receipts, &promise.id).await;
    settled(&receipts).await;
    assert_eq!(metrics.receipts_promised.get(), metrics.receipts_written.get());
    let taken = std::iter::from_fn(|| book.enter().then_some(())).count();
    assert_eq!(taken, proto::limits::RECEIPTS_UNWRITTEN_MAX);
}

#[tokio::test]
async fn a_node_that_starts_again_knows_that_old_texts_are_gone() {
    let folder = tempfile::tempdir().unwrap();
    let receipts = opened(folder.path(), 100, &metrics());
    let promises = promised(&receipts, 0..700).await;
    for promise in &promises {
        written(&receipts, &promise.id).await;
    }
    // One write more, so that the last of those is followed by a look at what is old.
    let last = promised(&receipts, 700..701).await.remove(0);
    written(&receipts, &last.id).await;
    let receipts = {
        receipts.close();
        drop(receipts);
        opened(folder.path(), 100, &metrics())
    };
    let first = promises.iter().min_by_key(|promise| promise.id.index).unwrap();
    assert!(receipts.proof(&first.id).unwrap().entry.is_empty());
    assert!(!receipts.proof(&last.id).unwrap().entry.is_empty());
}

#[test]
fn one_signature_stands_for_a_whole_batch() {
    let signer = Signer::new("dev/receipts/eu-fra/n1/00/promises", [7; 32]).unwrap();
    let answers = (0..64).map(answered).map(|(key, answered)| (answered, key)).collect();
    let (entries, promises) = sign(&"eu-fra/n1".parse().unwrap(), &signer, 12, 5, answers);
    assert_eq!((entries.len(), promises.len()), (64, 64));
    let notes: std::collections::BTreeSet<&str> = promises.iter().map(|p| p.proof.checkpoint.as_str()).collect();
    assert_eq!(notes.len(), 1);
    for (place, promise) in (0..).zip(&promises) {
        assert_eq!((promise.id.index, promise.proof.index), (12 + place, place));
        assert_eq!(promise.proof.hashes.len(), 6);
        promise.proof.verify(&signer.verifier()).unwrap();
    }
}
