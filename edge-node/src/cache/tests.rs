use std::path::Path;

use proto::ids::TenantId;

use super::*;
use crate::engine::Answerer;
use crate::testing::fp32;

mod erase;
mod oracle;

/// A key of tenant `acme` at model `m`, by any name.
pub(super) fn key(keys: &Keys, name: &[u8]) -> Key {
    let (tenant, model): (TenantId, ModelName) = ("acme".parse().unwrap(), "m".parse().unwrap());
    let asker = Asker {
        tenant: &tenant,
        subject: None,
    };
    Key {
        name: ContentHash::of(name),
        owner: keys.owner(asker, &model),
        by: Answerer::Signed,
        ttl_ms: None,
    }
}
fn asked(results: &Results, name: &[u8]) -> Key {
    key(&results.0.tiers.keys, name)
}

fn metrics() -> Metrics {
    Metrics::new(&mut runtime::metrics::Metrics::new())
}
fn config(folder: &Path) -> CacheConfig {
    let ttl = Ttl {
        results: Duration::from_secs(60),
        embeddings: Duration::from_secs(60),
        ..Ttl::default()
    };
    CacheConfig {
        memory_bytes: 1 << 20,
        rows_bytes: 0,
        disk_bytes: 3 << 20,
        ttl,
        folder: folder.to_owned(),
    }
}
fn keep(results: &Results, name: &[u8], outputs: &[Tensor]) {
    keep_by(results, &asked(results, name), outputs);
}
fn keep_by(results: &Results, key: &Key, outputs: &[Tensor]) {
    let Boarding::Lead(flight, _waiter) = results.board(key, clock::instant()) else {
        panic!("nobody else flies");
    };
    flight.land(landed(outputs));
}
fn landed(outputs: &[Tensor]) -> flight::Landed {
    flight::Landed {
        outputs: Arc::new(outputs.to_vec()),
        by: Answerer::Signed,
        run: None,
    }
}

#[test]
fn an_answer_is_found_again_bit_for_bit_in_memory_and_after_a_restart_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let answer = [fp32("y", &[1, 3], &[0.1, f32::NAN, -0.0])];
    let results = Results::open(&config(dir.path()), &metrics());
    let key = asked(&results, b"question");
    keep(&results, b"question", &answer);
    assert_eq!(results.in_memory(&key).unwrap().as_slice(), answer);
    results.close();
    drop(results);
    let results = Results::open(&config(dir.path()), &metrics());
    let key = asked(&results, b"question");
    assert!(results.in_memory(&key).is_none());
    assert!(results.may_be_on_disk(&key) && !results.may_be_on_disk(&asked(&results, b"other")));
    assert_eq!(results.on_disk(&key).unwrap().as_slice(), answer);
    assert_eq!(
        results.in_memory(&key).unwrap().as_slice(),
        answer,
        "what was read is kept in memory"
    );
}

#[test]
fn an_answer_older_than_the_time_to_live_of_its_kind_is_not_given() {
    let dir = tempfile::tempdir().unwrap();
    let results = Results::open(
        &CacheConfig {
            ttl: Ttl {
                results: Duration::ZERO,
                embeddings: Duration::from_secs(60),
                ..Ttl::default()
            },
            ..config(dir.path())
        },
        &metrics(),
    );
    let (label, embedding) = (fp32("label", &[1], &[1.0]), fp32("sentence_embedding", &[1], &[1.0]));
    keep(&results, b"label", std::slice::from_ref(&label));
    keep(&results, b"both", &[label, embedding.clone()]);
    keep(&results, b"embedding", &[embedding]);
    results.close();
    for (question, given) in [("label", false), ("both", false), ("embedding", true)] {
        let key = asked(&results, question.as_bytes());
        assert_eq!(results.in_memory(&key).is_some(), given, "{question} in memory");
        assert_eq!(results.on_disk(&key).is_some(), given, "{question} on disk");
    }
}

#[test]
fn memory_never_holds_more_than_its_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let results = Results::open(
        &CacheConfig {
            memory_bytes: 100_000,
            disk_bytes: 0,
            ..config(dir.path())
        },
        &metrics(),
    );
    for n in 0..1_000_u32 {
        keep(&results, &n.to_le_bytes(), &[fp32("y", &[256], &[0.5; 256])]);
    }
    assert!(
        results.0.tiers.memory.weight() <= 100_000,
        "{}",
        results.0.tiers.memory.weight()
    );
    assert!(results.0.tiers.memory.len() > 10);
}

#[test]
fn disk_never_holds_more_than_its_bytes_and_forgets_the_oldest() {
    let dir = tempfile::tempdir().unwrap();
    let metrics = metrics();
    let results = Results::open(
        &CacheConfig {
            disk_bytes: 300_000,
            ..config(dir.path())
        },
        &metrics,
    );
    for n in 0..300_u32 {
        keep(&results, &n.to_le_bytes(), &[fp32("y", &[256], &[0.5; 256])]);
    }
    results.close();
    assert!(
        (0..=100_000).contains(&metrics.cache_disk_bytes.get()),
        "{}",
        metrics.cache_disk_bytes.get()
    );
}

#[test]
fn a_disk_tier_full_of_rubbish_is_started_anew() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("results");
    Results::open(&config(&folder), &metrics()).close();
    std::fs::write(folder.join("answers/conf"), b"rubbish").unwrap();
    let results = Results::open(&config(&folder), &metrics());
    keep(&results, b"question", &[fp32("y", &[1], &[1.0])]);
    results.close();
    assert!(results.on_disk(&asked(&results, b"question")).is_some());
}
