//! What is forgotten stays forgotten: whatever was on its way, whatever crashes, and whoever reads the raw files.

use proto::purge::Subject;

use super::super::*;
use super::{config, landed, metrics};
use crate::testing::{fp32, slot};

/// Stands in answers, and in ids of persons; nothing else has it by chance.
const MARKER: &[u8; 16] = b"MERIDIAN-MARKER!";

fn marked() -> Vec<Tensor> {
    let mut tensor = fp32("y", &[4], &[0.0; 4]);
    tensor.data = MARKER.to_vec();
    vec![tensor]
}

struct People {
    tenant: proto::ids::TenantId,
    marked: Subject,
    other: Subject,
}

impl People {
    fn new() -> Self {
        Self {
            tenant: "acme".parse().unwrap(),
            marked: std::str::from_utf8(MARKER).unwrap().parse().unwrap(),
            other: "other".parse().unwrap(),
        }
    }
    fn key(&self, results: &Results, subject: Option<&Subject>, input: f32) -> Key {
        let asker = Asker {
            tenant: &self.tenant,
            subject,
        };
        let mut input = fp32("x", &[1, 1], &[input]);
        input.data.extend_from_slice(MARKER);
        results.key(asker, &slot("m", 1), &[], "", &[input])
    }
}

fn keep(results: &Results, key: &Key) {
    let Boarding::Lead(flight, _waiter) = results.board(key, clock::instant()) else {
        panic!("nobody else flies");
    };
    flight.land(landed(&marked()));
}

fn given(results: &Results, key: &Key) -> bool {
    results.in_memory(key).is_some() || results.on_disk(key).is_some()
}

fn files(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let items = std::fs::read_dir(folder).unwrap().map(|item| item.unwrap().path());
    items
        .flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] })
        .collect()
}

/// Copies a folder as it lies there, like a crash or a thief would.
pub(super) fn copied(from: &std::path::Path, to: &std::path::Path) {
    for file in files(from) {
        let at = to.join(file.strip_prefix(from).unwrap());
        std::fs::create_dir_all(at.parent().unwrap()).unwrap();
        std::fs::copy(file, at).unwrap();
    }
}

fn marker_lies_in(folder: &std::path::Path) -> bool {
    let has = |path: &std::path::PathBuf| std::fs::read(path).unwrap().windows(16).any(|w| w == MARKER);
    files(folder).iter().any(has)
}

#[test]
fn neither_inputs_nor_outputs_nor_persons_are_found_in_the_raw_files() {
    let (dir, people) = (tempfile::tempdir().unwrap(), People::new());
    let results = Results::open(&config(dir.path()), &metrics());
    for n in 0..100_u8 {
        keep(&results, &people.key(&results, Some(&people.marked), f32::from(n)));
    }
    results.close();
    assert!(given(&results, &people.key(&results, Some(&people.marked), 0.0)));
    assert!(files(&dir.path().join("answers")).len() > 1, "sled has written");
    assert!(!marker_lies_in(dir.path()));
    // The same scan finds an answer that is not sealed: it can fail.
    std::fs::write(dir.path().join("answers/plain"), stored::write(&marked())).unwrap();
    assert!(marker_lies_in(dir.path()));
}

#[test]
fn after_an_erase_and_a_crash_old_files_beside_the_new_keys_give_nothing_back() {
    let (dir, before, people) = (
        tempfile::tempdir().unwrap(),
        tempfile::tempdir().unwrap(),
        People::new(),
    );
    let results = Results::open(&config(dir.path()), &metrics());
    let erased = people.key(&results, Some(&people.marked), 1.0);
    let kept = people.key(&results, Some(&people.other), 1.0);
    keep(&results, &erased);
    keep(&results, &kept);
    results.close();
    copied(dir.path(), before.path());
    let purged = results.purge(Scope::Subject(&people.tenant, &people.marked)).unwrap();
    assert_eq!((purged.memory_entries, purged.disk_keys), (1, 1));
    // A crash now: nothing more is written. The thief has sled's files of before and of after, and the keys of after.
    for answers in [before.path(), dir.path()] {
        let thief = tempfile::tempdir().unwrap();
        copied(&answers.join("answers"), &thief.path().join("answers"));
        std::fs::copy(dir.path().join("keys"), thief.path().join("keys")).unwrap();
        let found = Results::open(&config(thief.path()), &metrics());
        let of = |subject| people.key(&found, Some(subject), 1.0);
        assert!(found.may_be_on_disk(&of(&people.other)) && given(&found, &of(&people.other)));
        assert!(!given(&found, &of(&people.marked)));
        // Not even who knows the name under which it lies can open it, by any key that is left.
        let mut forged = of(&people.marked);
        forged.name = erased.name;
        assert!(found.may_be_on_disk(&forged), "it lies there still");
        assert!(found.0.tiers.disk.as_ref().unwrap().read(&forged, 0).is_none());
    }
    // With the old keys all of it could be read: the test does look at what was there.
    let found = Results::open(&config(before.path()), &metrics());
    assert!(given(&found, &people.key(&found, Some(&people.marked), 1.0)));
}

#[test]
fn a_run_that_was_under_way_is_neither_joined_nor_kept_after_a_purge() {
    let (dir, people) = (tempfile::tempdir().unwrap(), People::new());
    let results = Results::open(&config(dir.path()), &metrics());
    let key = || people.key(&results, Some(&people.marked), 1.0);
    let before = key();
    let Boarding::Lead(flight, _waiter) = results.board(&before, clock::instant()) else {
        panic!("nobody else flies");
    };
    assert!(matches!(results.board(&key(), clock::instant()), Boarding::Follow(_)));
    results.purge(Scope::Tenant(&people.tenant)).unwrap();
    let Boarding::Lead(newer, _waiting) = results.board(&key(), clock::instant()) else {
        panic!("a question asked after the purge joined a run from before it");
    };
    flight.land(landed(&marked()));
    assert!(!given(&results, &key()) && !given(&results, &before));
    assert_eq!(results.0.tiers.memory.len(), 0, "and memory does not hold it either");
    newer.land(landed(&marked()));
    assert!(given(&results, &key()));
    results.close();
    assert!(results.on_disk(&before).is_none() && results.on_disk(&key()).is_some());
}

#[test]
fn what_waits_to_be_written_when_it_is_purged_is_not_found_after_a_restart() {
    let (dir, people) = (tempfile::tempdir().unwrap(), People::new());
    let results = Results::open(&config(dir.path()), &metrics());
    let keys: Vec<Key> = (0..200_u8)
        .map(|n| people.key(&results, Some(&people.marked), f32::from(n)))
        .collect();
    keys.iter().for_each(|key| keep(&results, key));
    results.purge(Scope::Model(&"m".parse().unwrap())).unwrap();
    results.close();
    assert!(keys.iter().all(|key| !given(&results, key)));
    drop(results);
    let results = Results::open(&config(dir.path()), &metrics());
    for n in 0..200_u8 {
        assert!(!given(
            &results,
            &people.key(&results, Some(&people.marked), f32::from(n))
        ));
    }
}

#[test]
fn two_persons_of_one_tenant_never_share_an_answer() {
    let (dir, people) = (tempfile::tempdir().unwrap(), People::new());
    let results = Results::open(&config(dir.path()), &metrics());
    keep(&results, &people.key(&results, Some(&people.marked), 1.0));
    assert!(!given(&results, &people.key(&results, Some(&people.other), 1.0)));
    assert!(!given(&results, &people.key(&results, None, 1.0)));
    assert!(given(&results, &people.key(&results, Some(&people.marked), 1.0)));
}

#[test]
fn a_tier_without_its_keys_or_from_before_answers_were_sealed_is_removed() {
    let people = People::new();
    let dir = tempfile::tempdir().unwrap();
    for old in ["db", "conf", "answers/db"] {
        let folder = dir.path().join("results");
        let path = folder.join(old);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, MARKER).unwrap();
        let results = Results::open(&config(&folder), &metrics());
        keep(&results, &people.key(&results, None, 1.0));
        results.close();
        drop(results);
        assert!(!marker_lies_in(&folder), "{old}");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}

#[test]
fn a_node_that_is_to_keep_nothing_on_disk_removes_what_lay_there() {
    let (dir, people) = (tempfile::tempdir().unwrap(), People::new());
    let folder = dir.path().join("results");
    let results = Results::open(&config(&folder), &metrics());
    keep(&results, &people.key(&results, None, 1.0));
    results.close();
    drop(results);
    let none = CacheConfig {
        disk_bytes: 0,
        ..config(&folder)
    };
    let results = Results::open(&none, &metrics());
    assert!(!folder.exists());
    let purged = results.purge(Scope::Tenant(&people.tenant)).unwrap();
    assert_eq!(purged.disk_keys, 0);
    drop(results);
    let results = Results::open(&config(&folder), &metrics());
    assert!(
        !given(&results, &people.key(&results, None, 1.0)),
        "a purge in between holds"
    );
}

#[test]
fn the_key_of_an_expired_stretch_goes_with_it() {
    let (dir, people) = (tempfile::tempdir().unwrap(), People::new());
    let now = Arc::new(std::sync::atomic::AtomicU64::new(1_000_000));
    let reading = Arc::clone(&now);
    let clock: Clock = Arc::new(move || reading.load(std::sync::atomic::Ordering::SeqCst));
    let results = Results::by(&config(dir.path()), &metrics(), Arc::clone(&clock));
    let key = people.key(&results, None, 1.0);
    keep(&results, &key);
    results.close();
    let stretch = results.0.tiers.keys.stretch(1_000);
    drop(results);
    now.fetch_add(62_000, std::sync::atomic::Ordering::SeqCst);
    let results = Results::by(&config(dir.path()), &metrics(), clock);
    assert!(!results.may_be_on_disk(&key), "the expired stretch was dropped");
    assert_ne!(results.0.tiers.keys.stretch(1_000), stretch);
    let file = std::fs::read(dir.path().join("keys")).unwrap();
    assert!(!file.as_chunks::<32>().0.contains(&stretch), "also in the file");
}
