use super::*;
use crate::sync::fixture::{self, FakeLog};
use proto::note::Signer;

const SIZES: u64 = 9;

fn known(log: &FakeLog, size: u64) -> History {
    History::new(&fixture::trust().log_vkey, [log.note(size)])
}
fn state(log: &FakeLog, size: u64) -> RegionState {
    fixture::state(1, log.note(size), size, Vec::new())
}

/// Every pair of sizes of one log: what extends the known checkpoint is proven, and nothing of it is ever a fork.
#[test]
fn one_log_is_one_history_at_every_pair_of_sizes() {
    let log = FakeLog::new("true", SIZES);
    for from in 1..=SIZES {
        for to in 1..=SIZES {
            let judged = known(&log, from).judge(&state(&log, to), &log.proof(from, to));
            let want = if to >= from {
                Consistency::Proven
            } else {
                Consistency::Broken
            };
            assert_eq!(judged, want, "{from} to {to}");
            let heard = known(&log, from).hear(&log.note(to));
            match heard {
                Heard::Known => assert_eq!(from, to),
                Heard::Ask(pair) => {
                    let (older, newer) = *pair;
                    assert_eq!(
                        (older.checkpoint.size, newer.checkpoint.size),
                        (from.min(to), from.max(to))
                    );
                    assert!(proven(&older, &newer, &log.proof(from.min(to), from.max(to))));
                }
                other => panic!("{from} to {to}: {other:?}"),
            }
        }
    }
}

/// Every pair of sizes of two logs: no proof of either makes them one.
#[test]
fn two_logs_are_never_one_history_whatever_is_offered_as_proof() {
    let (ours, theirs) = (FakeLog::new("true", SIZES), FakeLog::new("false", SIZES));
    for from in 1..=SIZES {
        for to in 1..=SIZES {
            let (low, high) = (from.min(to), from.max(to));
            for proof in [ours.proof(low, high), theirs.proof(low, high), Vec::new()] {
                assert_ne!(
                    known(&ours, from).judge(&state(&theirs, to), &proof),
                    Consistency::Proven
                );
                if let Heard::Ask(pair) = known(&ours, from).hear(&theirs.note(to)) {
                    assert!(!proven(&pair.0, &pair.1, &proof), "{from} to {to}");
                }
            }
            let forked = matches!(known(&ours, from).hear(&theirs.note(to)), Heard::Fork(_));
            assert_eq!(forked, from == to, "two roots of one size need no proof to be a fork");
        }
    }
}

#[test]
fn the_first_checkpoint_is_believed_if_the_log_signed_it() {
    let log = FakeLog::new("true", 4);
    let fresh = History::new(&fixture::trust().log_vkey, []);
    assert_eq!(fresh.judge(&state(&log, 4), &[]), Consistency::Proven);
    let other_key = History::new(&Signer::new("log.test", [4; 32]).unwrap().vkey(), []);
    assert_eq!(other_key.judge(&state(&log, 4), &[]), Consistency::Broken);
    assert_eq!(other_key.hear(&log.note(4)), Heard::Foreign);
}

#[test]
fn a_checkpoint_of_another_size_than_the_epoch_is_refused() {
    let log = FakeLog::new("true", 4);
    let mut state = state(&log, 4);
    state.epoch = 3;
    assert_eq!(known(&log, 2).judge(&state, &log.proof(2, 4)), Consistency::Broken);
}

#[test]
fn of_the_kept_checkpoints_the_larger_counts() {
    let log = FakeLog::new("true", 5);
    let vkey = fixture::trust().log_vkey;
    for notes in [[log.note(3), log.note(5)], [log.note(5), log.note(3)]] {
        assert_eq!(History::new(&vkey, notes).size(), 5);
    }
    assert_eq!(History::new(&vkey, ["garbage".to_owned()]).size(), 0);
}
