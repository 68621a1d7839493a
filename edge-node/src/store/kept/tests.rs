use super::*;
use proptest::prelude::*;
use proto::ids::ContentHash;

fn floors(seq: u64, serial: u64) -> Floors {
    Floors {
        seq,
        epoch: seq + 10,
        plans: vec![("m".parse().unwrap(), serial, ContentHash::of(b"plan"))],
    }
}

fn signed(seq: u8) -> Signed {
    Signed {
        payload: vec![seq; 40],
        signatures: Vec::new(),
    }
}

fn state(seq: u8, serial: u64) -> KeptState {
    KeptState {
        state: signed(seq),
        held: vec![signed(99)],
        floors: floors(seq.into(), serial),
    }
}

fn kept() -> (tempfile::TempDir, Kept) {
    let dir = tempfile::tempdir().unwrap();
    let kept = Kept::open(dir.path()).unwrap();
    (dir, kept)
}

#[test]
fn a_new_node_has_no_floors_and_what_was_kept_comes_back() {
    let (_dir, kept) = kept();
    assert_eq!(kept.restore().unwrap().floors, Floors::default());
    kept.save_accepted(&state(3, 1), "note 3").unwrap();
    kept.save_accepted(&state(4, 2), "note 4").unwrap();
    let restored = kept.restore().unwrap();
    assert_eq!((restored.accepted, restored.floors), (Some(state(4, 2)), floors(4, 2)));
    assert_eq!(restored.checkpoint.as_deref(), Some("note 4"));
}

/// Goal: no torn file lowers a floor. Method: cut or spoil each copy at every length.
#[test]
fn a_torn_or_spoilt_copy_never_lowers_a_floor() {
    let (dir, kept) = kept();
    kept.save_accepted(&state(4, 2), "note 4").unwrap();
    for name in [ACCEPTED, FLOORS] {
        let whole = std::fs::read(dir.path().join(name)).unwrap();
        for cut in 0..whole.len() {
            std::fs::write(dir.path().join(name), &whole[..cut]).unwrap();
            assert_eq!(kept.restore().unwrap().floors, floors(4, 2), "{name} cut at {cut}");
        }
        std::fs::write(dir.path().join(name), whole).unwrap();
    }
}

#[test]
fn without_any_readable_floor_the_node_refuses_to_start() {
    let (dir, kept) = kept();
    kept.save_accepted(&state(4, 2), "note 4").unwrap();
    std::fs::write(dir.path().join(ACCEPTED), b"").unwrap();
    std::fs::write(dir.path().join(FLOORS), b"{").unwrap();
    assert!(matches!(kept.restore(), Err(StoreError::FloorsLost { .. })));
    std::fs::remove_file(dir.path().join(FLOORS)).unwrap();
    assert!(matches!(kept.restore(), Err(StoreError::FloorsLost { .. })));
}

#[test]
fn a_crash_between_both_copies_leaves_the_newer_state_and_the_higher_floors() {
    let (dir, kept) = kept();
    kept.save_accepted(&state(3, 1), "note 3").unwrap();
    let older = std::fs::read(dir.path().join(FLOORS)).unwrap();
    kept.save_accepted(&state(4, 2), "note 4").unwrap();
    std::fs::write(dir.path().join(FLOORS), older).unwrap();
    let restored = kept.restore().unwrap();
    assert_eq!((restored.accepted, restored.floors), (Some(state(4, 2)), floors(4, 2)));
}

#[test]
fn a_half_written_new_file_is_not_read() {
    let (dir, kept) = kept();
    kept.save_accepted(&state(3, 1), "note 3").unwrap();
    std::fs::write(dir.path().join("accepted.bin.1-0.tmp"), b"half").unwrap();
    assert_eq!(kept.restore().unwrap().accepted, Some(state(3, 1)));
}

#[test]
fn a_fork_marker_stays_and_a_damaged_one_is_not_overlooked() {
    let (dir, kept) = kept();
    assert_eq!(kept.fork().unwrap(), None);
    let fork = Fork {
        ours: "a".into(),
        theirs: "b".into(),
        found: 7,
    };
    kept.save_fork(&fork).unwrap();
    assert_eq!(kept.fork().unwrap(), Some(fork));
    std::fs::write(dir.path().join(FORK), b"").unwrap();
    assert!(matches!(kept.fork(), Err(StoreError::ForkUnreadable { .. })));
}

#[test]
fn a_damaged_list_of_active_models_is_an_empty_one() {
    let (dir, kept) = kept();
    std::fs::write(dir.path().join(ACTIVE), b"{\"m\":").unwrap();
    assert!(kept.active().is_empty());
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = accepted_from(&bytes);
        let _ = accepted_from(&[&[ACCEPTED_FORMAT][..], &bytes].concat());
    }
}
