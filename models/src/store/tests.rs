use super::*;
use crate::chunk::{ChunkIndex, describe, placed};
use proptest::prelude::*;
use std::io::Write;

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("store")).unwrap();
    (dir, store)
}

/// The bytes of each chunk of `bytes`, keyed by name.
fn pieces(entry: &FileEntry, bytes: &[u8]) -> Vec<(ContentHash, Vec<u8>)> {
    placed(entry)
        .map(|(at, c)| {
            let at = usize::try_from(at).unwrap();
            (c.blake3, bytes[at..at + usize::try_from(c.bytes).unwrap()].to_vec())
        })
        .collect()
}

#[test]
fn a_flipped_byte_on_disk_is_found_and_the_file_is_gone() {
    let (_dir, store) = store();
    let hash = store.put_bytes(b"weights").unwrap();
    assert!(store.verify(&hash).unwrap());
    fs::write(store.path(&hash), b"weighty").unwrap();
    assert!(matches!(store.read(&hash), Err(StoreError::Corrupt { .. })));
    assert!(!store.verify(&hash).unwrap());
    assert!(!store.has(&hash));
    assert!(matches!(store.read(&hash), Err(StoreError::Absent { .. })));
}

#[test]
fn a_wrong_chunk_is_refused_and_not_written() {
    let (_dir, store) = store();
    let bytes = noise(1, 100_000);
    let entry = describe("f", &bytes);
    let mut assembly = store.assemble(&entry).unwrap();
    let (name, mut piece) = pieces(&entry, &bytes).remove(0);
    piece[0] ^= 1;
    assert!(matches!(assembly.put(&name, &piece), Err(StoreError::Corrupt { .. })));
    assert!(matches!(
        assembly.put(&ContentHash::of(b"x"), b"x"),
        Err(StoreError::Foreign { .. })
    ));
    assert_eq!(assembly.missing().len(), entry.chunks.len());
    assert!(matches!(assembly.finish(), Err(StoreError::Incomplete { .. })));
}

#[test]
fn a_file_is_put_together_by_one_at_a_time() {
    let (_dir, store) = store();
    let bytes = noise(2, 100_000);
    let entry = describe("f", &bytes);
    let mut assembly = store.assemble(&entry).unwrap();
    let other = store.clone().assemble(&entry);
    assert!(matches!(other, Err(StoreError::Busy { .. })));
    for (name, piece) in pieces(&entry, &bytes) {
        assembly.put(&name, &piece).unwrap();
    }
    drop(assembly);
    let assembly = store.assemble(&entry).unwrap();
    assert!(assembly.missing().is_empty(), "what came before is there");
    assembly.finish().unwrap();
    assert_eq!(store.read(&entry.blake3).unwrap(), bytes);
}

#[test]
fn an_empty_file_needs_no_chunk() {
    let (_dir, store) = store();
    let entry = describe("empty", b"");
    store.assemble(&entry).unwrap().finish().unwrap();
    assert!(store.verify(&entry.blake3).unwrap());
}

#[test]
fn right_chunks_under_a_wrong_whole_digest_never_enter_the_store() {
    let (_dir, store) = store();
    let bytes = noise(2, 50_000);
    let mut entry = describe("f", &bytes);
    entry.blake3 = ContentHash::of(b"something else");
    let mut assembly = store.assemble(&entry).unwrap();
    for (name, piece) in pieces(&entry, &bytes) {
        assembly.put(&name, &piece).unwrap();
    }
    assert!(matches!(assembly.finish(), Err(StoreError::Corrupt { .. })));
    assert!(store.list().unwrap().is_empty());
}

#[test]
fn a_new_version_takes_what_it_shares_from_the_old_file_and_from_single_chunks() {
    let (_dir, store) = store();
    let old = noise(3, 1 << 20);
    let mut new = old.clone();
    new[600_000] ^= 0x55;
    let (old_entry, new_entry) = (describe("old", &old), describe("new", &new));
    store.put_bytes(&old).unwrap();
    let mut known = ChunkIndex::default();
    known.add(&old_entry);
    let mut assembly = store.assemble(&new_entry).unwrap();
    let saved = assembly.fill_from(&known).unwrap();
    assert!(saved > 900_000, "{saved}");
    let left = assembly.missing();
    for (name, piece) in pieces(&new_entry, &new)
        .into_iter()
        .filter(|(n, _)| left.iter().any(|c| c.blake3 == *n))
    {
        assert_eq!(store.put_bytes(&piece).unwrap(), name);
    }
    assembly.fill_from(&ChunkIndex::default()).unwrap();
    assembly.finish().unwrap();
    assert_eq!(store.read(&new_entry.blake3).unwrap(), new);
}

#[test]
fn what_a_crash_left_half_written_is_removed_on_open_and_never_listed() {
    let (dir, store) = store();
    let hash = store.put_bytes(b"kept").unwrap();
    let half = dir.path().join("store/files/abc.1-2.tmp");
    File::create(&half).unwrap().write_all(b"half").unwrap();
    let store = Store::open(dir.path().join("store")).unwrap();
    assert!(!half.exists());
    assert_eq!(store.list().unwrap(), [hash]);
}

#[test]
fn a_document_comes_back_as_it_was_signed_or_not_at_all() {
    let (_dir, store) = store();
    let signed = Signed {
        payload: b"payload".to_vec(),
        signatures: Vec::new(),
    };
    let id = store.put_document(&signed).unwrap();
    assert_eq!(store.document(&id).unwrap(), Some(signed));
    assert_eq!(store.documents().unwrap(), [id]);
    let path = store.document_path(&id);
    let mut bytes = fs::read(&path).unwrap();
    bytes[6] ^= 1;
    fs::write(&path, bytes).unwrap();
    assert_eq!(store.document(&id).unwrap(), None);
    assert_eq!(store.document(&ContentHash::of(b"none")).unwrap(), None);
}

#[test]
fn a_range_outside_of_the_file_is_an_error() {
    let (_dir, store) = store();
    let hash = store.put_bytes(b"0123456789").unwrap();
    assert_eq!(store.read_range(&hash, 2, 3).unwrap(), b"234");
    assert!(matches!(store.read_range(&hash, 8, 3), Err(StoreError::Range { .. })));
    assert!(matches!(
        store.read_range(&hash, u64::MAX, 3),
        Err(StoreError::Range { .. })
    ));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Goal: however an assembly was interrupted and whatever the part then holds, it ends with the right file.
    #[test]
    fn an_interrupted_assembly_resumes_with_what_is_right(
        seed in any::<u64>(),
        len in 1_usize..300_000,
        came in proptest::collection::vec(any::<bool>(), 80),
        damage in proptest::option::of((any::<proptest::sample::Index>(), 1_u8..)),
    ) {
        let (_dir, store) = store();
        let bytes = noise(seed, len);
        let entry = describe("f", &bytes);
        let pieces = pieces(&entry, &bytes);
        let mut first = store.assemble(&entry).unwrap();
        for ((name, piece), _) in pieces.iter().zip(&came).filter(|(_, came)| **came) {
            first.put(name, piece).unwrap();
        }
        let before = first.missing().len();
        drop(first);
        if let Some((at, with)) = &damage {
            let mut part = fs::read(store.part_path(&entry.blake3)).unwrap();
            let at = at.index(part.len());
            part[at] ^= with;
            fs::write(store.part_path(&entry.blake3), part).unwrap();
        }
        let mut second = store.assemble(&entry).unwrap();
        let after = second.missing().len();
        prop_assert!(after == before || (damage.is_some() && after == before + 1), "{before} then {after}");
        for (name, piece) in &pieces {
            second.put(name, piece).unwrap();
        }
        second.finish().unwrap();
        prop_assert_eq!(store.read(&entry.blake3).unwrap(), bytes);
    }
}
