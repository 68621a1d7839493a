use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use proptest::prelude::*;
use proto::merkle::{leaf_hash, root_of, verify_consistency, verify_inclusion};

use super::*;

fn signer() -> Signer {
    Signer::new("dev.meridian/log", [3; 32]).unwrap()
}
fn open(dir: &Path) -> Result<Log, LogError> {
    Log::open(dir, signer())
}
fn leaves(name: &str, range: std::ops::Range<u64>) -> Vec<Vec<u8>> {
    range.map(|i| format!("{name} {i}").into_bytes()).collect()
}
fn root(leaves: &[Vec<u8>]) -> merkle::Hash {
    root_of(&leaves.iter().map(|leaf| leaf_hash(leaf)).collect::<Vec<_>>())
}
/// Every file of the log but its lock, by path below `dir`.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut found, mut folders) = (BTreeMap::new(), vec![dir.to_owned()]);
    while let Some(folder) = folders.pop() {
        for item in fs::read_dir(folder).unwrap() {
            let path = item.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if !path.ends_with("lock") {
                found.insert(path.strip_prefix(dir).unwrap().to_owned(), fs::read(&path).unwrap());
            }
        }
    }
    found
}
fn lay(dir: &Path, files: &BTreeMap<PathBuf, Vec<u8>>) {
    for (path, bytes) in files {
        fs::create_dir_all(dir.join(path).parent().unwrap()).unwrap();
        fs::write(dir.join(path), bytes).unwrap();
    }
}
/// The log holds exactly `expected`, by every way of reading it.
fn holds(log: &Log, expected: &[Vec<u8>]) {
    let size = u64::try_from(expected.len()).unwrap();
    let checkpoint = signer().verifier().open_checkpoint(log.view().checkpoint()).unwrap();
    assert_eq!(
        (log.view().size(), checkpoint.size, checkpoint.root),
        (size, size, root(expected))
    );
    assert_eq!(log.view().entries(0).map(Result::unwrap).collect::<Vec<_>>(), expected);
}

#[test]
fn what_was_appended_is_there_after_every_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let mut all = Vec::new();
    for batch in [0, 1, 3, 250, 2, 300, 1, 255, 512] {
        let mut log = open(dir.path()).unwrap();
        holds(&log, &all);
        let from = log.view().size();
        let new = leaves("a", from..from + batch);
        log.append(&new).unwrap();
        all.extend(new);
        holds(&log, &all);
    }
    let log = Log::resume(dir.path(), signer()).unwrap();
    holds(&log, &all);
    for index in [0, 255, 256, 700, log.view().size() - 1] {
        let place = usize::try_from(index).unwrap();
        let (leaf, proof) = (log.view().leaf(index).unwrap(), log.view().inclusion(index).unwrap());
        assert_eq!(
            (log.view().entry(index).unwrap(), leaf),
            (all[place].clone(), leaf_hash(&all[place]))
        );
        assert!(
            verify_inclusion(&leaf, index, log.view().size(), &proof, &root(&all)),
            "{index}"
        );
    }
    assert!(matches!(
        log.view().entry(log.view().size()),
        Err(LogError::Beyond { .. })
    ));
}

#[test]
fn every_earlier_size_has_its_root_and_a_proof_that_it_is_a_prefix() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path()).unwrap();
    let all = leaves("a", 0..600);
    log.append(&all).unwrap();
    for from in [0, 1, 2, 255, 256, 257, 300, 511, 512, 599, 600] {
        for to in [from, 513.max(from), 600] {
            let roots = [from, to].map(|size| log.view().root(size).unwrap());
            assert_eq!(roots[0], root(&all[..usize::try_from(from).unwrap()]));
            let proof = log.view().consistency(from, to).unwrap();
            assert!(
                verify_consistency(from, &roots[0], to, &roots[1], &proof),
                "{from} to {to}"
            );
        }
    }
    assert!(matches!(log.view().consistency(1, 601), Err(LogError::Beyond { .. })));
}

/// Goal: a crash at any moment of an append leaves the old log or the new one, and appending goes on from there.
/// Method: an append writes its files one by one, so each crash leaves the first k of them, and possibly a torn
/// temporary file. Every k is laid out and opened; then other leaves are appended than those that were lost.
#[test]
fn a_crash_at_any_write_leaves_the_old_log_or_the_new_one() {
    for (before, batch) in [(0, 1), (5, 3), (254, 2), (255, 1), (250, 300), (256, 1), (511, 2)] {
        let dir = tempfile::tempdir().unwrap();
        let mut log = open(dir.path()).unwrap();
        let (old, lost, other) = (
            leaves("a", 0..before),
            leaves("lost", 0..batch),
            leaves("b", 0..batch + 4),
        );
        log.append(&old).unwrap();
        let at_first = files(dir.path());
        log.append(&lost).unwrap();
        let at_last = files(dir.path());
        let is_new = |path: &PathBuf| at_first.get(path) != at_last.get(path);
        let mut written: Vec<PathBuf> = at_last.keys().filter(|p| is_new(p)).cloned().collect();
        // Bundles first, then tiles, the checkpoint last.
        written.sort_by_key(|p| (p.ends_with(CHECKPOINT), !p.starts_with("tile/entries"), p.clone()));
        for done in 0..=written.len() {
            let crashed = tempfile::tempdir().unwrap();
            let mut left = at_first.clone();
            left.extend(written[..done].iter().map(|p| (p.clone(), at_last[p].clone())));
            if let Some(torn) = written.get(done) {
                let half = at_last[torn][..at_last[torn].len() / 2].to_vec();
                left.insert(torn.with_file_name("torn.1-2.tmp"), half);
            }
            lay(crashed.path(), &left);
            let mut log = open(crashed.path()).unwrap();
            let mut expected = old.clone();
            if done == written.len() {
                expected.extend(lost.clone());
            }
            holds(&log, &expected);
            log.append(&other).unwrap();
            expected.extend(other.clone());
            holds(&log, &expected);
            drop(log);
            holds(&Log::resume(crashed.path(), signer()).unwrap(), &expected);
            holds(&open(crashed.path()).unwrap(), &expected);
        }
    }
}

/// Goal: nothing damaged is served as the log. Method: every file of a log is cut, flipped and removed in turn.
#[test]
fn a_log_that_does_not_fit_its_checkpoint_is_not_opened() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).unwrap().append(&leaves("a", 0..300)).unwrap();
    let sound = files(dir.path());
    for path in sound.keys() {
        let bytes = &sound[path];
        let mut flipped = bytes.clone();
        flipped[bytes.len() / 2] ^= 4;
        for damaged in [Some(flipped), Some(bytes[..bytes.len() - 1].to_vec()), None] {
            match damaged {
                Some(damaged) => fs::write(dir.path().join(path), damaged).unwrap(),
                None => fs::remove_file(dir.path().join(path)).unwrap(),
            }
            assert!(open(dir.path()).is_err(), "{}", path.display());
            fs::write(dir.path().join(path), bytes).unwrap();
        }
    }
    holds(&open(dir.path()).unwrap(), &leaves("a", 0..300));
}

#[test]
fn a_log_without_its_checkpoint_is_not_begun_anew() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).unwrap().append(&leaves("a", 0..1)).unwrap();
    fs::remove_file(dir.path().join(CHECKPOINT)).unwrap();
    assert!(matches!(open(dir.path()), Err(LogError::NoCheckpoint { .. })));
}

#[test]
fn a_log_of_another_key_is_not_opened() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()).unwrap());
    let other = Signer::new("dev.meridian/log", [4; 32]).unwrap();
    assert!(matches!(Log::open(dir.path(), other), Err(LogError::Checkpoint { .. })));
}

#[test]
fn two_processes_cannot_append_to_one_log() {
    let dir = tempfile::tempdir().unwrap();
    let _first = open(dir.path()).unwrap();
    assert!(matches!(open(dir.path()), Err(LogError::InUse { .. })));
}

#[test]
fn a_batch_with_one_entry_too_long_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path()).unwrap();
    let batch = [b"good".to_vec(), vec![b'x'; LOG_ENTRY_BYTES_MAX + 1]];
    assert!(matches!(log.append(&batch), Err(LogError::TooLong { .. })));
    holds(&log, &[]);
    log.append(&batch[..1]).unwrap();
    holds(&log, &batch[..1]);
}

#[test]
fn a_log_that_failed_to_write_takes_no_more_until_it_is_checked_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path()).unwrap();
    log.append(&leaves("a", 0..1)).unwrap();
    // A folder where the next checkpoint's bundle has to go.
    fs::create_dir_all(dir.path().join("tile/entries/000.p/2/full")).unwrap();
    assert!(matches!(log.append(&leaves("a", 1..2)), Err(LogError::Io { .. })));
    assert!(matches!(log.append(&leaves("a", 1..2)), Err(LogError::Stopped)));
    drop(log);
    fs::remove_dir_all(dir.path().join("tile/entries/000.p/2")).unwrap();
    let mut log = open(dir.path()).unwrap();
    log.append(&leaves("a", 1..2)).unwrap();
    holds(&log, &leaves("a", 0..2));
}

#[test]
fn what_is_forgotten_is_the_text_of_old_entries_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let all = leaves("a", 0..1_300);
    let mut log = Log::resume(dir.path(), signer()).unwrap();
    log.append(&all).unwrap();
    let lies = |bundle: u64| dir.path().join(tile::entry_path(bundle, WIDTH)).exists();
    for (before, gone) in [(255, 0), (513, 2), (400, 2), (5_000, 5)] {
        log.forget_before(before).unwrap();
        assert_eq!(
            [0, 1, 2, 3, 4].map(lies),
            [0, 1, 2, 3, 4].map(|bundle| bundle >= gone),
            "{before}"
        );
        if gone > 0 {
            assert!(matches!(
                log.view().entry(gone * WIDTH - 1),
                Err(LogError::Forgotten { .. })
            ));
        }
        assert_eq!(log.view().entry(1_299).unwrap(), all[1_299]);
        let (leaf, proof) = (log.view().leaf(3).unwrap(), log.view().inclusion(3).unwrap());
        assert_eq!(leaf, leaf_hash(&all[3]));
        assert!(verify_inclusion(&leaf, 3, 1_300, &proof, &root(&all)));
    }
    drop(log);
    assert!(open(dir.path()).is_err(), "a log that must be whole is not opened");
    let mut log = Log::resume(dir.path(), signer()).unwrap();
    log.append(&leaves("b", 0..300)).unwrap();
    log.forget_before(1_536).unwrap();
    assert!(!lies(5) && log.view().entry(1_599).is_ok());
    // A view of before knows that its entries may be gone.
    log.append(&leaves("c", 0..300)).unwrap();
    let before = Arc::clone(log.view());
    log.forget_before(1_800).unwrap();
    assert!(matches!(before.entry(1_537), Err(LogError::Forgotten { .. })));
    assert_eq!((before.size(), before.file("tile/entries/006").unwrap()), (1_900, None));
}

/// Goal: what an append left behind that was cut short is never shown as the log. Method: such files lie beside a log that went on
/// otherwise, and every file of every width is asked for.
#[test]
fn a_file_of_the_log_is_what_its_checkpoint_signs_whatever_lies_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path()).unwrap();
    log.append(&leaves("a", 0..300)).unwrap();
    for (path, bytes) in [
        (tile::entry_path(1, 50), bundle(&leaves("lost", 0..50))),
        (tile::hash_path(0, 1, 50), vec![7; 50 * 32]),
        (tile::entry_path(2, 3), bundle(&leaves("lost", 0..3))),
    ] {
        lay(dir.path(), &BTreeMap::from([(PathBuf::from(path), bytes)]));
    }
    log.append(&leaves("b", 0..100)).unwrap();
    let all: Vec<Vec<u8>> = log.view().entries(0).map(Result::unwrap).collect();
    let view = log.view();
    for index in 0..3_u64 {
        for width in 1..=WIDTH {
            let from = usize::try_from(index * WIDTH).unwrap();
            let until = from + usize::try_from(width).unwrap();
            let entries = all.get(from..until);
            let expected = entries.map(|entries| {
                entries
                    .iter()
                    .map(|entry| leaf_hash(entry))
                    .collect::<Vec<_>>()
                    .concat()
            });
            assert_eq!(
                view.file(&tile::hash_path(0, index, width)).unwrap(),
                expected,
                "{index} {width}"
            );
            assert_eq!(view.file(&tile::entry_path(index, width)).unwrap(), entries.map(bundle));
        }
    }
    assert_eq!(view.file("tile/1/000.p/1").unwrap().map(|tile| tile.len()), Some(32));
    for path in [
        "tile/1/000.p/2",
        "tile/1/000",
        "tile/2/000.p/1",
        "lock",
        "tile/0/../0/000",
    ] {
        assert_eq!(view.file(path).unwrap(), None, "{path}");
    }
    assert_eq!(view.file(CHECKPOINT).unwrap().unwrap(), view.checkpoint().as_bytes());
}

#[test]
fn partial_tiles_of_every_level_go_away() {
    let dir = tempfile::tempdir().unwrap();
    let lies = |path: &str| dir.path().join(path).exists();
    for level in [0, 1] {
        for path in [
            tile::hash_path(level, 0, 7),
            tile::hash_path(level, 1, 9),
            tile::entry_path(0, 7),
        ] {
            lay(dir.path(), &BTreeMap::from([(PathBuf::from(path), vec![0])]));
        }
        tidy(dir.path(), level, 1);
        assert!(!lies(&format!("tile/{level}/000.p")) && lies(&format!("tile/{level}/001.p/9")));
        assert_eq!(
            lies("tile/entries/000.p"),
            level > 0,
            "bundles go with the hashes of their entries"
        );
    }
}

#[test]
fn partial_tiles_go_away_once_readers_have_had_time_to_see_the_full_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path()).unwrap();
    for i in 0..60 {
        log.append(&leaves("a", i * 10..i * 10 + 10)).unwrap();
    }
    let partial = |index: u64| {
        dir.path()
            .join(format!("{}.p", tile::entry_path(index, WIDTH)))
            .exists()
    };
    assert_eq!([0, 1, 2].map(partial), [false, true, true]);
    holds(&log, &leaves("a", 0..600));
}

/// The child of the test below: appends for ever and says how many entries it was told are safe.
#[test]
#[ignore = "only as the child of `a_killed_writer_loses_nothing_that_it_had_acknowledged`"]
fn child_that_appends() {
    let dir = PathBuf::from(std::env::var_os("LOG_TEST_DIR").unwrap());
    let mut log = open(&dir).unwrap();
    loop {
        let from = log.view().size();
        log.append(&leaves("k", from..from + 1 + from % 7)).unwrap();
        eprintln!("size {}", log.view().size());
    }
}

#[test]
fn a_killed_writer_loses_nothing_that_it_had_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = 0;
    for round in 0..12_usize {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "log::tests::child_that_appends", "--ignored", "--nocapture"])
            .env("LOG_TEST_DIR", dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
        let mut sizes = lines.filter_map(|line| line.strip_prefix("size ").and_then(|n| n.parse::<u64>().ok()));
        acknowledged = sizes.nth(round * 2).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        acknowledged = sizes.last().unwrap_or(acknowledged);
        let log = open(dir.path()).unwrap();
        assert!(log.view().size() >= acknowledged);
        holds(&log, &leaves("k", 0..log.view().size()));
    }
    assert!(acknowledged > 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn batches_of_any_size_give_the_same_log(batches in prop::collection::vec(0..120_u64, 1..8)) {
        let dir = tempfile::tempdir().unwrap();
        let mut log = open(dir.path()).unwrap();
        for batch in batches {
            let from = log.view().size();
            log.append(&leaves("a", from..from + batch)).unwrap();
        }
        holds(&log, &leaves("a", 0..log.view().size()));
    }
}
