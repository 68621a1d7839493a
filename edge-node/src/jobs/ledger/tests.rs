use proptest::prelude::*;

use super::*;
use crate::jobs::record::{Ask, Hook};

const BOUNDS: Bounds = Bounds {
    count_max: 20,
    bytes_max: 2_000,
    queue_ttl: Duration::from_secs(100),
    result_ttl: Duration::from_secs(50),
};

fn key(n: u8) -> JobKey {
    JobKey([n; 16])
}

fn record(ledger: &Ledger, tenant: &str, now: UnixMs) -> Record {
    Record {
        tenant: tenant.parse().unwrap(),
        ask: Ask {
            model: "m".to_owned(),
            version: None,
            encoding: None,
            json_bytes: None,
            bypass: false,
        },
        twin: None,
        state: State::Queued,
        attempts: 0,
        created: now,
        due: now,
        expires: ledger.expiry(now),
        bytes: 100,
        trouble: None,
        hook: None,
    }
}

fn with(jobs: &[(u8, &str, UnixMs)]) -> Ledger {
    let mut ledger = Ledger::new(BOUNDS);
    for &(n, tenant, now) in jobs {
        let record = record(&ledger, tenant, now);
        ledger.add(key(n), record);
    }
    ledger
}

fn trouble() -> Trouble {
    Trouble {
        status: 500,
        code: "internal".to_owned(),
        message: "no".to_owned(),
    }
}

#[test]
fn tenants_take_turns_whoever_came_with_more() {
    let mut ledger = with(&[(1, "a", 0), (2, "a", 1), (3, "a", 2), (4, "b", 3), (5, "c", 4)]);
    let order: Vec<u8> = std::iter::from_fn(|| ledger.take(10))
        .map(|(key, _)| key.0[0])
        .collect();
    assert_eq!(order, [1, 4, 5, 2, 3]);
}

#[test]
fn a_job_that_fails_waits_longer_each_time_and_is_a_dead_letter_after_the_last() {
    let mut ledger = with(&[(1, "a", 0)]);
    let (mut now, mut waits) = (0, Vec::new());
    let dead = loop {
        assert!(ledger.take(now).is_some());
        let after = ledger.ended(key(1), Ending::Failed(trouble()), now).unwrap();
        if after.state == State::Failed {
            break after;
        }
        waits.push(after.due - now);
        assert!(ledger.take(after.due - 1).is_none(), "not before it is due");
        now = after.due;
    };
    assert_eq!((dead.attempts, dead.bytes), (JOB_ATTEMPTS_MAX, 0));
    assert_eq!(waits.len(), usize::try_from(JOB_ATTEMPTS_MAX - 1).unwrap());
    for (n, wait) in waits.iter().enumerate() {
        let full = 1000 << n;
        assert!((full / 2..=full).contains(wait), "{waits:?}");
    }
    assert!(ledger.take(UnixMs::MAX).is_none(), "a dead letter is never run");
}

#[test]
fn a_run_that_was_called_off_counts_for_nothing_and_a_refusal_is_final() {
    let mut ledger = with(&[(1, "a", 0)]);
    let mut now = 0;
    for _ in 0..50 {
        assert!(ledger.take(now).is_some());
        let after = ledger.ended(key(1), Ending::Later(trouble()), now).unwrap();
        assert_eq!((after.state, after.attempts), (State::Queued, 0));
        assert!((500..=10_000).contains(&(after.due - now)), "{}", after.due - now);
        now = after.due;
    }
    assert!(ledger.take(now).is_some());
    let after = ledger.ended(key(1), Ending::Refused(trouble()), now).unwrap();
    assert_eq!((after.state, after.attempts), (State::Failed, 1));
}

#[test]
fn a_job_waits_for_its_time_and_is_kept_for_its_time_then_it_is_gone() {
    let mut ledger = with(&[(1, "a", 0), (2, "a", 0)]);
    assert_eq!(ledger.take(0).unwrap().0, key(1));
    assert!(ledger.ended(key(1), Ending::Answered { bytes: 7 }, 10).is_some());
    assert_eq!(ledger.expire(50_009), (vec![], vec![]));
    assert_eq!(ledger.expire(50_010), (vec![], vec![key(1)]));
    assert_eq!(ledger.expire(99_999), (vec![], vec![]));
    let (failed, _) = ledger.expire(100_000);
    assert_eq!(failed[0].1.trouble.as_ref().unwrap().code, "expired");
    assert_eq!(ledger.expire(150_000), (vec![], vec![key(2)]));
    assert_eq!((ledger.counts(), ledger.bytes, ledger.tenants().len()), ([0; 4], 0, 0));
}

#[test]
fn nobody_takes_more_than_half_and_all_together_no_more_than_there_is() {
    let mut ledger = Ledger::new(BOUNDS);
    let mut fill = |tenant: &str, from: u8, bytes: u64| {
        let mut taken = 0;
        while ledger.room(&tenant.parse().unwrap(), bytes).is_ok() {
            let record = Record {
                bytes,
                ..record(&ledger, tenant, 0)
            };
            ledger.add(key(from + taken), record);
            taken += 1;
        }
        taken
    };
    assert_eq!((fill("a", 0, 1), fill("b", 50, 500), fill("c", 100, 500)), (10, 2, 1));
}

#[test]
fn the_same_key_means_the_same_job_only_for_the_same_question() {
    let mut ledger = Ledger::new(BOUNDS);
    let twin = |key: &[u8], asked: &[u8]| Twin {
        key: ContentHash::of(key),
        asked: ContentHash::of(asked),
    };
    let first = Record {
        twin: Some(twin(b"k", b"q")),
        ..record(&ledger, "a", 0)
    };
    ledger.add(key(1), first);
    assert_eq!(ledger.seen(&twin(b"k", b"q")), Seen::Same(key(1)));
    assert_eq!(ledger.seen(&twin(b"k", b"other")), Seen::Other);
    assert_eq!(ledger.seen(&twin(b"l", b"q")), Seen::New);
    ledger.forget(key(1));
    assert_eq!(ledger.seen(&twin(b"k", b"q")), Seen::New);
}

#[test]
fn a_webhook_is_sent_once_at_a_time_until_it_is_confirmed_or_given_up() {
    let mut ledger = Ledger::new(BOUNDS);
    let hook = Hook {
        url: "https://h/".to_owned(),
        attempts: 0,
        progress: Progress::Idle,
    };
    let first = Record {
        hook: Some(hook),
        ..record(&ledger, "a", 0)
    };
    ledger.add(key(1), first);
    assert!(ledger.take_hook(UnixMs::MAX).is_none(), "there is nothing to tell yet");
    ledger.take(0);
    ledger.ended(key(1), Ending::Answered { bytes: 1 }, 5);
    let mut now = 5;
    for attempt in 1..=WEBHOOK_ATTEMPTS_MAX {
        assert!(ledger.take_hook(now).is_some(), "{attempt}");
        assert!(ledger.take_hook(now).is_none(), "it is being sent");
        let after = ledger.hook_ended(key(1), false, now).unwrap();
        match after.hook_due() {
            Some(due) => now = due,
            None => assert_eq!(attempt, WEBHOOK_ATTEMPTS_MAX),
        }
    }
    assert_eq!(
        ledger.get(key(1)).unwrap().hook.as_ref().unwrap().progress,
        Progress::GivenUp
    );
    assert!((3_600_000..48 * 3_600_000).contains(&now), "given up after {now} ms");
}

#[derive(Clone, Debug)]
enum Step {
    Add(u8, bool),
    Take,
    End(u8, u8),
    Forget(u8),
    Expire,
    Hook(bool),
    Wait(u64),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..12_u8, any::<bool>()).prop_map(|(n, b)| Step::Add(n, b)),
        Just(Step::Take),
        (0..12_u8, 0..4_u8).prop_map(|(n, how)| Step::End(n, how)),
        (0..12_u8).prop_map(Step::Forget),
        Just(Step::Expire),
        any::<bool>().prop_map(Step::Hook),
        (0..60_000_u64).prop_map(Step::Wait),
        Just(Step::Restart),
    ]
}

proptest! {
    /// Goal: no order of events, restarts included, loses an accepted job before its time, or makes the indexes lie.
    #[test]
    fn a_job_is_found_until_it_is_forgotten_or_its_time_is_over(steps in prop::collection::vec(step(), 0..120)) {
        let (mut ledger, mut now) = (Ledger::new(BOUNDS), 1_u64);
        let mut owed: BTreeSet<JobKey> = BTreeSet::new();
        for step in steps {
            match step {
                Step::Add(n, b) => {
                    let tenant = if b { "a" } else { "b" };
                    let hook = Hook { url: String::new(), attempts: 0, progress: Progress::Idle };
                    let record = Record { hook: b.then_some(hook), ..record(&ledger, tenant, now) };
                    ledger.add(key(n), record);
                    owed.insert(key(n));
                }
                Step::Take => drop(ledger.take(now)),
                Step::End(n, 0) => drop(ledger.ended(key(n), Ending::Answered { bytes: 3 }, now)),
                Step::End(n, 1) => drop(ledger.ended(key(n), Ending::Refused(trouble()), now)),
                Step::End(n, 2) => drop(ledger.ended(key(n), Ending::Failed(trouble()), now)),
                Step::End(n, _) => drop(ledger.ended(key(n), Ending::Later(trouble()), now)),
                Step::Forget(n) => {
                    ledger.forget(key(n));
                    owed.remove(&key(n));
                }
                Step::Expire => {
                    for key in ledger.expire(now).1 {
                        owed.remove(&key);
                    }
                }
                Step::Hook(confirmed) => {
                    if let Some((key, _)) = ledger.take_hook(now) {
                        ledger.hook_ended(key, confirmed, now);
                    }
                }
                Step::Wait(ms) => now += ms,
                Step::Restart => {
                    let all: Vec<(JobKey, Vec<u8>)> = ledger.jobs.iter().map(|(k, r)| (*k, r.write())).collect();
                    ledger = Ledger::new(BOUNDS);
                    for (key, bytes) in all {
                        ledger.restore(key, Record::read(&bytes).unwrap());
                    }
                    prop_assert_eq!(ledger.counts()[1], 0, "nothing runs yet, so all that ran is owed");
                }
            }
            prop_assert_eq!(ledger.jobs.keys().copied().collect::<BTreeSet<_>>(), owed.clone());
            prop_assert_eq!(ledger.counts().iter().sum::<usize>(), owed.len());
            prop_assert_eq!(ledger.bytes, ledger.jobs.values().map(|r| r.bytes).sum::<u64>());
            prop_assert_eq!(ledger.queued.values().map(BTreeSet::len).sum::<usize>(), ledger.counts()[0]);
            prop_assert_eq!(ledger.ends.len(), owed.len());
        }
        // All that waits can still be run, whatever happened.
        while ledger.take(UnixMs::MAX).is_some() {}
        prop_assert_eq!(ledger.counts()[0], 0);
    }
}
