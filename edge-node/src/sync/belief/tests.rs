use super::*;
use crate::sync::fixture::{self, FakeLog};
use proto::ids::ContentHash;
use proto::plan::{NotPermitted, Plan};
use proto::region_state::{Desired, RegionState};
use std::path::Path;

fn belief(dir: &Path) -> Belief {
    let kept = Arc::new(Kept::open(dir).unwrap());
    Belief::restore(kept, fixture::own_region(), fixture::trust()).unwrap()
}

fn signed(seq: u64, log: &FakeLog, size: u64, desired: Vec<Desired>) -> Signed {
    Signed::seal(
        &fixture::state(seq, log.note(size), size, desired),
        &fixture::state_key(),
    )
}

fn planned(serial: u64) -> Desired {
    fixture::desired(&fixture::plan(&"m@1".parse().unwrap(), ContentHash::of(b"m"), serial))
}

/// Every file of the folder, with its bytes.
fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|e| (e.file_name().into_string().unwrap(), std::fs::read(e.path()).unwrap()))
        .collect();
    files.sort();
    files
}

#[test]
fn an_accepted_state_is_on_disk_before_anybody_acts_on_it_and_comes_back() {
    let (dir, log) = (tempfile::tempdir().unwrap(), FakeLog::new("true", 4));
    let belief_ = belief(dir.path());
    belief_.offer(&signed(3, &log, 4, vec![planned(1)]), &[], 10).unwrap();
    assert_eq!(belief_.orders().borrow().accepted.as_ref().unwrap().state.seq, 3);
    let again = belief(dir.path());
    assert_eq!(again.position(), (3, 4, log.note(4)));
    assert_eq!(again.orders().borrow().accepted.as_ref().unwrap().permitted.len(), 1);
}

/// Goal: a refusal leaves no trace. Method: one state per rule, each compared with every byte on disk.
#[test]
fn a_refused_state_changes_neither_disk_nor_orders() {
    let (dir, log, other) = (
        tempfile::tempdir().unwrap(),
        FakeLog::new("true", 6),
        FakeLog::new("false", 6),
    );
    let belief = belief(dir.path());
    belief.offer(&signed(3, &log, 4, vec![planned(2)]), &[], 10).unwrap();
    let before = files(dir.path());
    let good = |seq, size| fixture::state(seq, log.note(size), size, vec![planned(2)]);
    let seal = |state: &RegionState| Signed::seal(state, &fixture::state_key());
    let refused: Vec<(&str, Signed, Vec<[u8; 32]>)> = vec![
        (
            "signed by an operator",
            Signed::seal(&good(4, 5), &fixture::operator()),
            log.proof(4, 5),
        ),
        ("the same seq", seal(&good(3, 5)), log.proof(4, 5)),
        ("a shorter log", seal(&good(4, 3)), Vec::new()),
        (
            "expired",
            seal(&RegionState {
                expires: 9,
                ..good(4, 5)
            }),
            log.proof(4, 5),
        ),
        ("no proof", seal(&good(4, 5)), Vec::new()),
        ("another log", signed(4, &other, 5, vec![planned(2)]), other.proof(4, 5)),
    ];
    for (how, state, proof) in refused {
        assert!(belief.offer(&state, &proof, 10).is_err(), "{how}");
        assert_eq!(files(dir.path()), before, "{how}");
        let orders = belief.orders().borrow().clone();
        assert_eq!(orders.accepted.unwrap().state.seq, 3, "{how}");
        assert!(orders.refused.is_some() && !orders.forked, "{how}");
    }
    belief.offer(&seal(&good(4, 5)), &log.proof(4, 5), 10).unwrap();
    assert_eq!(belief.orders().borrow().refused, None);
}

/// What this node would serve, and what it was forbidden, in words.
fn judged(belief: &Belief) -> (Vec<String>, Vec<String>) {
    let accepted = belief.orders().borrow().accepted.clone().unwrap();
    let permitted = accepted.permitted.iter().map(|p| p.plan.to.to_string());
    let forbidden = accepted.forbidden.iter().map(|f| f.release.to_string());
    (permitted.collect(), forbidden.collect())
}

/// Goal: a forbidden model ends at the same plan whenever the process dies. Method: restart from each set of files that
/// a crash can leave: all new, the mirror of the floors old, and the mirror gone.
#[test]
fn a_forbidden_model_stays_at_its_last_plan_also_after_a_crash_at_any_moment() {
    let (dir, log) = (tempfile::tempdir().unwrap(), FakeLog::new("true", 6));
    let first = belief(dir.path());
    let plan = |release: &str, serial| fixture::plan(&release.parse().unwrap(), ContentHash::of(b"m"), serial);
    let good = |release, serial| fixture::desired(&plan(release, serial));
    let late = fixture::desired(&Plan {
        expires: 9,
        ..plan("m@2", 2)
    });
    let start = vec![good("m@1", 1), good("n@1", 1)];
    assert_eq!(first.offer(&signed(3, &log, 4, start), &[], 10).unwrap(), []);
    let mirror = std::fs::read(dir.path().join("floors.json")).unwrap();
    let next = signed(4, &log, 5, vec![late.clone(), good("n@2", 2)]);
    let news = first.offer(&next, &log.proof(4, 5), 10).unwrap();
    assert!(matches!(&news[..], [one] if matches!(one.why, NotPermitted::Expired { .. })));
    let want = (vec!["m@1".to_owned(), "n@2".to_owned()], vec!["m@2".to_owned()]);
    assert_eq!(judged(&first), want);
    assert_eq!(judged(&belief(dir.path())), want);
    std::fs::write(dir.path().join("floors.json"), mirror).unwrap();
    assert_eq!(judged(&belief(dir.path())), want);
    std::fs::remove_file(dir.path().join("floors.json")).unwrap();
    let again = belief(dir.path());
    assert_eq!(judged(&again), want);
    // The same change again is no news, and not permitted by having been refused.
    let renewed = signed(5, &log, 6, vec![late, good("n@2", 2)]);
    assert_eq!(again.offer(&renewed, &log.proof(5, 6), 10).unwrap(), []);
    assert_eq!(judged(&again), want);
    assert_eq!(judged(&belief(dir.path())), want);
}

#[test]
fn an_older_plan_is_forbidden_and_moves_no_floor() {
    let (dir, log) = (tempfile::tempdir().unwrap(), FakeLog::new("true", 6));
    let belief = belief(dir.path());
    belief.offer(&signed(3, &log, 4, vec![planned(2)]), &[], 10).unwrap();
    let news = belief.offer(&signed(4, &log, 5, vec![planned(1)]), &log.proof(4, 5), 10);
    assert_eq!(news.unwrap()[0].why, NotPermitted::Serial { found: 1, floor: 2 });
    let kept = Kept::open(dir.path()).unwrap().restore().unwrap();
    assert_eq!((kept.floors.seq, kept.floors.plans[0].1), (4, 2));
}

#[test]
fn a_state_with_another_root_for_the_same_size_is_a_fork_and_stops_everything_for_good() {
    let (dir, log, other) = (
        tempfile::tempdir().unwrap(),
        FakeLog::new("true", 6),
        FakeLog::new("false", 6),
    );
    let first = belief(dir.path());
    first.offer(&signed(3, &log, 4, Vec::new()), &[], 10).unwrap();
    assert!(first.offer(&signed(4, &other, 4, Vec::new()), &[], 10).is_err());
    for belief in [first, belief(dir.path())] {
        assert!(belief.orders().borrow().stopped(10).unwrap().contains("forked"));
        let honest = belief.offer(&signed(5, &log, 5, Vec::new()), &log.proof(4, 5), 10);
        assert!(
            matches!(honest, Err(OfferError::Refused(Refused::Fork))),
            "until people have looked at it"
        );
    }
}

#[test]
fn a_checkpoint_that_the_log_cannot_prove_is_a_fork_and_one_it_can_is_not() {
    let (dir, log, other) = (
        tempfile::tempdir().unwrap(),
        FakeLog::new("true", 6),
        FakeLog::new("false", 6),
    );
    let belief = belief(dir.path());
    belief.offer(&signed(3, &log, 4, Vec::new()), &[], 10).unwrap();
    let Heard::Ask(pair) = belief.hear(&log.note(6), 10) else {
        panic!("a longer log needs a proof")
    };
    assert!(belief.settle(&pair.0, &pair.1, Some(&log.proof(4, 6)), 10));
    assert!(!belief.orders().borrow().forked);
    let Heard::Ask(pair) = belief.hear(&other.note(6), 10) else {
        panic!("a longer log needs a proof")
    };
    assert!(!belief.settle(&pair.0, &pair.1, Some(&other.proof(4, 6)), 10));
    assert!(belief.orders().borrow().forked);
}

#[test]
fn a_kept_state_that_expired_is_kept_and_flagged_and_one_of_another_key_is_not_used() {
    let (dir, log) = (tempfile::tempdir().unwrap(), FakeLog::new("true", 4));
    let short = RegionState {
        expires: 50,
        ..fixture::state(3, log.note(4), 4, Vec::new())
    };
    belief(dir.path())
        .offer(&Signed::seal(&short, &fixture::state_key()), &[], 10)
        .unwrap();
    let again = belief(dir.path());
    assert!(again.orders().borrow().accepted.is_some());
    assert_eq!(again.orders().borrow().stopped(50), None);
    assert!(again.orders().borrow().stopped(51).unwrap().contains("expired"));
    let kept = Arc::new(Kept::open(dir.path()).unwrap());
    let trust = TrustBundle {
        state_key: proto::signed::PublicKey::of(&fixture::operator()),
        ..fixture::trust()
    };
    let distrusting = Belief::restore(kept, fixture::own_region(), trust).unwrap();
    assert!(distrusting.orders().borrow().accepted.is_none());
    assert_eq!(distrusting.position().0, 3, "the floors stay");
}
