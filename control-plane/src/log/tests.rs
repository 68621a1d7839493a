use super::*;
use std::collections::BTreeMap;

fn signer() -> Signer {
    Signer::new("test.meridian/log", [3; 32]).unwrap()
}

fn leaf(i: u64) -> Vec<u8> {
    format!("{{\"entry\":{i}}}").into_bytes()
}

fn leaves(range: std::ops::Range<u64>) -> Vec<Vec<u8>> {
    range.map(leaf).collect()
}

/// Every file of a folder with its bytes.
fn snapshot(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for item in std::fs::read_dir(folder).unwrap() {
            let path = item.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files.insert(
                    path.strip_prefix(dir).unwrap().to_owned(),
                    std::fs::read(&path).unwrap(),
                );
            }
        }
    }
    files
}

fn restore(dir: &Path, files: &BTreeMap<PathBuf, Vec<u8>>) {
    for (path, bytes) in files {
        let path = dir.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

#[test]
fn what_was_appended_is_there_after_reopening_in_any_batching() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Log::open(dir.path(), signer()).unwrap();
    for (from, to) in [(0, 1), (1, 2), (2, 255), (255, 256), (256, 700), (700, 701)] {
        log.append(&leaves(from..to)).unwrap();
        let again = Log::open(dir.path(), signer()).unwrap();
        assert_eq!((again.size(), again.checkpoint()), (to, log.checkpoint()));
    }
    assert_eq!(log.entry(0).unwrap(), leaf(0));
    assert_eq!(log.entry(700).unwrap(), leaf(700));
    assert!(matches!(log.entry(701), Err(LogError::Beyond { .. })));
    let hashes: Vec<Hash> = leaves(0..701).iter().map(|l| merkle::leaf_hash(l)).collect();
    assert_eq!(log.root(701).unwrap(), merkle::root_of(&hashes));
    for old in [0, 1, 255, 256, 257, 512, 700] {
        let proof = log.consistency(old, 701).unwrap();
        let old_root = log.root(old).unwrap();
        assert!(
            merkle::verify_consistency(old, &old_root, 701, &log.root(701).unwrap(), &proof),
            "{old}"
        );
    }
}

/// Goal: an append that is cut at any file leaves a log that opens as before or as after. Method: from the files before
/// and after, build every state in which only some of the new files are there, the checkpoint last.
#[test]
fn an_append_cut_at_any_file_leaves_the_log_as_before_and_the_next_append_works() {
    for (size, more) in [(3, 2), (255, 1), (250, 20), (0, 300)] {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Log::open(dir.path(), signer()).unwrap();
        log.append(&leaves(0..size)).unwrap();
        let before = snapshot(dir.path());
        log.append(&leaves(size..size + more)).unwrap();
        let after = snapshot(dir.path());
        let fresh: Vec<&PathBuf> = after.keys().filter(|p| before.get(*p) != after.get(*p)).collect();
        for cut in 0..fresh.len() {
            let copy = tempfile::tempdir().unwrap();
            restore(copy.path(), &before);
            let some = fresh.iter().filter(|p| p.as_os_str() != "checkpoint").take(cut);
            restore(copy.path(), &some.map(|p| ((*p).clone(), after[*p].clone())).collect());
            // The next file was cut in the middle of its writing.
            std::fs::write(copy.path().join("checkpoint.new"), b"half a checkp").unwrap();
            let mut log = Log::open(copy.path(), signer()).unwrap();
            assert_eq!(log.size(), size);
            log.append(&[b"another".to_vec()]).unwrap();
            let again = Log::open(copy.path(), signer()).unwrap();
            assert_eq!(again.entry(size).unwrap(), b"another");
        }
    }
}

#[test]
fn a_flipped_byte_in_any_file_keeps_the_log_from_starting() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Log::open(dir.path(), signer()).unwrap();
    log.append(&leaves(0..300)).unwrap();
    let size = log.size();
    let good = snapshot(dir.path());
    let used = tile::entry_paths(size)
        .into_iter()
        .chain(tile::hash_paths(size))
        .chain(["checkpoint".to_owned()]);
    for path in used {
        let mut bad = good[Path::new(&path)].clone();
        let middle = bad.len() / 2;
        bad[middle] ^= 1;
        std::fs::write(dir.path().join(&path), &bad).unwrap();
        assert!(Log::open(dir.path(), signer()).is_err(), "{path}");
        std::fs::write(dir.path().join(&path), &good[Path::new(&path)]).unwrap();
    }
    assert!(Log::open(dir.path(), signer()).is_ok());
}

#[test]
fn another_key_does_not_open_the_log() {
    let dir = tempfile::tempdir().unwrap();
    Log::open(dir.path(), signer()).unwrap().append(&leaves(0..2)).unwrap();
    let other = Signer::new("test.meridian/log", [4; 32]).unwrap();
    assert!(matches!(Log::open(dir.path(), other), Err(LogError::Checkpoint { .. })));
}

#[test]
fn an_entry_over_the_bound_is_refused_and_nothing_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Log::open(dir.path(), signer()).unwrap();
    let before = snapshot(dir.path());
    assert!(matches!(log.append(&[vec![b'x'; 1025]]), Err(LogError::Entry(_))));
    assert_eq!(snapshot(dir.path()), before);
}
