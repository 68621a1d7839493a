use super::*;
use crate::testing::fp32;

fn metrics() -> Metrics {
    Metrics::new(&mut runtime::metrics::Metrics::new())
}
fn config(folder: &std::path::Path) -> CacheConfig {
    let ttl = Ttl {
        results: Duration::from_secs(60),
        embeddings: Duration::from_secs(60),
    };
    CacheConfig {
        memory_bytes: 1 << 20,
        disk_bytes: 3 << 20,
        ttl,
        folder: folder.to_owned(),
    }
}
fn keep(results: &Results, key: &[u8], outputs: &[Tensor]) {
    let Boarding::Lead(flight, _waiter) = results.board(ContentHash::of(key), clock::instant()) else {
        panic!("nobody else flies");
    };
    flight.land(flight::Landed {
        outputs: Arc::new(outputs.to_vec()),
        run: None,
    });
}

#[test]
fn an_answer_is_found_again_bit_for_bit_in_memory_and_after_a_restart_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let answer = [fp32("y", &[1, 3], &[0.1, f32::NAN, -0.0])];
    let key = ContentHash::of(b"question");
    let results = Results::open(&config(dir.path()), &metrics());
    keep(&results, b"question", &answer);
    assert_eq!(results.in_memory(&key).unwrap().as_slice(), answer);
    results.close();
    drop(results);
    let results = Results::open(&config(dir.path()), &metrics());
    assert!(results.in_memory(&key).is_none());
    assert!(results.may_be_on_disk(&key) && !results.may_be_on_disk(&ContentHash::of(b"other")));
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
        let key = ContentHash::of(question.as_bytes());
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
    assert!(results.memory.weight() <= 100_000, "{}", results.memory.weight());
    assert!(results.memory.len() > 10);
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
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("conf"), b"rubbish").unwrap();
    let results = Results::open(&config(&folder), &metrics());
    keep(&results, b"question", &[fp32("y", &[1], &[1.0])]);
    results.close();
    assert!(results.on_disk(&ContentHash::of(b"question")).is_some());
}
