use std::cell::Cell;
use std::rc::Rc;

use proptest::prelude::*;

use super::*;

#[derive(Debug)]
pub(super) struct Fake {
    pub(super) name: usize,
    pub(super) deadline: Instant,
    pub(super) wanted: Rc<Cell<bool>>,
}
impl Job for Fake {
    fn wanted(&self) -> bool {
        self.wanted.get()
    }
    fn deadline(&self) -> Instant {
        self.deadline
    }
}

pub(super) const MS: Duration = Duration::from_millis(1);

pub(super) fn start() -> Instant {
    runtime::clock::instant()
}
pub(super) fn bounds() -> Bounds {
    Bounds {
        rows_max: 16,
        bytes_max: 1_000,
        linger: Duration::ZERO,
        threads: 1,
    }
}
pub(super) fn item(name: usize, lane: u8, rows: usize, pushed: Instant) -> Item<Fake> {
    let lane = LaneId {
        model: ContentHash::of(b"model"),
        join: ContentHash::of(&[lane]),
    };
    let job = Fake {
        name,
        deadline: pushed + 1_000 * MS,
        wanted: Rc::new(Cell::new(true)),
    };
    Item {
        lane,
        rows,
        rows_max: 8,
        bytes: 10,
        cost: MS,
        payer: payer("acme"),
        level: Level::asked(3).unwrap(),
        delay: Duration::ZERO,
        pushed,
        job,
    }
}
pub(super) fn payer(tenant: &str) -> Payer {
    Payer::of(&tenant.parse().unwrap())
}
/// With so much work coming that company is waited for.
fn loaded(now: Instant) -> Board<Fake> {
    let mut board = Board::new(bounds(), HashMap::new());
    board.demand.note(Duration::from_secs(100), now);
    board
}
pub(super) fn push(board: &mut Board<Fake>, item: Item<Fake>) -> Result<(), Refused> {
    board.push(item, &mut Vec::new()).map_err(|(refused, _)| refused)
}
pub(super) fn taken(board: &mut Board<Fake>, now: Instant) -> Vec<usize> {
    match board.take(0, now, &mut Vec::new()) {
        Next::Run(batch) => batch.iter().map(|i| i.job.name).collect(),
        Next::Wait(_) => Vec::new(),
    }
}

#[test]
fn a_lone_request_runs_at_once_and_those_behind_a_busy_thread_run_together() {
    let (now, mut board) = (start(), Board::new(bounds(), HashMap::new()));
    push(&mut board, item(0, 0, 1, now)).unwrap();
    assert_eq!(taken(&mut board, now), [0]);
    for name in 1..4 {
        push(&mut board, item(name, 0, 1, now)).unwrap();
    }
    assert_eq!(taken(&mut board, now + MS), [1, 2, 3]);
    assert!(matches!(board.take(0, now, &mut Vec::new()), Next::Wait(None)));
}

#[test]
fn a_thread_takes_its_part_of_the_work_that_waits_and_leaves_the_others_theirs() {
    let (now, two) = (start(), Bounds { threads: 2, ..bounds() });
    let batches = |cost: Duration| {
        let mut board = Board::new(two, HashMap::new());
        for name in 0..6 {
            push(
                &mut board,
                Item {
                    cost,
                    ..item(name, 0, 1, now)
                },
            )
            .unwrap();
        }
        [0, 1, 0, 1].map(|thread| match board.take(thread, now, &mut Vec::new()) {
            Next::Run(batch) => batch.len(),
            Next::Wait(_) => 0,
        })
    };
    assert_eq!(batches(10 * MS), [3, 1, 1, 1]);
    assert_eq!(batches(MS / 10), [6, 0, 0, 0], "so short that parting would cost more");
}

#[test]
fn a_batch_never_exceeds_its_rows_and_never_mixes_lanes() {
    let (now, mut board) = (start(), Board::new(bounds(), HashMap::new()));
    for (name, lane, rows) in [(0, 0, 5), (1, 1, 1), (2, 0, 3), (3, 0, 1)] {
        push(
            &mut board,
            item(name, lane, rows, now + MS * u32::try_from(name).unwrap()),
        )
        .unwrap();
    }
    let now = now + 10 * MS;
    assert_eq!(taken(&mut board, now), [0, 2]);
    assert_eq!(taken(&mut board, now), [1], "the oldest head goes first");
    assert_eq!(taken(&mut board, now), [3]);
}

#[test]
fn the_queue_refuses_at_its_bounds_and_says_how_long_it_is() {
    let (now, mut board) = (start(), Board::new(bounds(), HashMap::new()));
    for name in 0..16 {
        push(&mut board, item(name, 0, 1, now)).unwrap();
    }
    assert_eq!(
        push(&mut board, item(16, 0, 1, now)),
        Err(Refused::Full { wait: 16 * MS })
    );
    assert_eq!(push(&mut board, item(17, 0, 17, now)), Err(Refused::TooLarge));
    let heavy = Item {
        bytes: 1_001,
        ..item(18, 0, 1, now)
    };
    assert_eq!(push(&mut board, heavy), Err(Refused::TooLarge));
}

#[test]
fn a_client_that_left_makes_room_for_one_that_came() {
    let (now, mut board) = (start(), Board::new(bounds(), HashMap::new()));
    let gone = item(0, 0, 16, now);
    let wanted = Rc::clone(&gone.job.wanted);
    push(&mut board, gone).unwrap();
    wanted.set(false);
    let mut dead = Vec::new();
    board.push(item(1, 0, 16, now), &mut dead).unwrap();
    assert_eq!((dead.len(), taken(&mut board, now)), (1, vec![1]));
}

#[test]
fn a_deadline_the_queue_cannot_meet_is_refused_at_the_door() {
    let (now, mut board) = (start(), Board::new(bounds(), HashMap::new()));
    for name in 0..8 {
        push(&mut board, item(name, 0, 1, now)).unwrap();
    }
    let mut hasty = item(8, 0, 1, now);
    hasty.job.deadline = now + 8 * MS;
    assert_eq!(push(&mut board, hasty), Err(Refused::Unmeetable { wait: 9 * MS }));
}

#[test]
fn nothing_starts_after_its_deadline() {
    let (now, mut board) = (start(), Board::new(bounds(), HashMap::new()));
    let mut late = item(0, 0, 1, now);
    late.job.deadline = now + 5 * MS;
    push(&mut board, late).unwrap();
    let mut dead = Vec::new();
    assert!(matches!(board.take(0, now + 5 * MS, &mut dead), Next::Wait(None)));
    assert_eq!(dead.len(), 1);
}

#[test]
fn lingering_ends_when_the_batch_is_full_the_time_is_up_or_a_deadline_nears() {
    let now = start();
    let mut board = loaded(now);
    let item = |name, rows, now| Item {
        delay: 20 * MS,
        ..item(name, 0, rows, now)
    };
    push(&mut board, item(0, 1, now)).unwrap();
    assert!(matches!(board.take(0, now, &mut Vec::new()), Next::Wait(Some(at)) if at == now + 20 * MS));
    push(&mut board, item(1, 7, now)).unwrap();
    assert_eq!(taken(&mut board, now), [0, 1], "full");
    push(&mut board, item(2, 1, now)).unwrap();
    assert_eq!(taken(&mut board, now + 20 * MS), [2], "lingered");
    let now = now + 40 * MS;
    let mut hasty = item(3, 1, now);
    hasty.job.deadline = now + 10 * MS;
    push(&mut board, hasty).unwrap();
    assert!(matches!(board.take(0, now, &mut Vec::new()), Next::Wait(Some(at)) if at == now + 9 * MS));
    assert_eq!(taken(&mut board, now + 9 * MS), [3], "the deadline nears");
}

#[test]
fn draining_takes_nothing_new_and_runs_what_waits() {
    let now = start();
    let mut board = loaded(now);
    push(
        &mut board,
        Item {
            delay: 50 * MS,
            ..item(0, 0, 1, now)
        },
    )
    .unwrap();
    board.drain();
    assert_eq!(push(&mut board, item(1, 0, 1, now)), Err(Refused::Draining));
    assert_eq!(taken(&mut board, now), [0]);
}

#[test]
fn a_lone_request_waits_for_nobody_however_long_it_might() {
    let (now, mut board) = (start(), Board::new(bounds(), HashMap::new()));
    push(
        &mut board,
        Item {
            delay: 20 * MS,
            ..item(0, 0, 1, now)
        },
    )
    .unwrap();
    assert_eq!(taken(&mut board, now), [0]);
}

#[test]
fn who_comes_before_a_batch_leaves_still_joins_it() {
    let now = start();
    let mut board = loaded(now);
    push(
        &mut board,
        Item {
            delay: 5 * MS,
            ..item(0, 0, 1, now)
        },
    )
    .unwrap();
    push(
        &mut board,
        Item {
            delay: 9 * MS,
            ..item(1, 0, 1, now + 4 * MS)
        },
    )
    .unwrap();
    assert_eq!(taken(&mut board, now + 5 * MS), [0, 1]);
}

#[test]
fn nobody_is_taken_along_who_would_make_another_late() {
    let (now, mut board) = (start(), Board::new(bounds(), HashMap::new()));
    let mut hasty = item(0, 0, 2, now);
    (hasty.cost, hasty.job.deadline) = (2 * MS, now + 5 * MS);
    push(&mut board, hasty).unwrap();
    push(
        &mut board,
        Item {
            cost: 2 * MS,
            ..item(1, 0, 2, now)
        },
    )
    .unwrap();
    push(
        &mut board,
        Item {
            cost: 2 * MS,
            ..item(2, 0, 2, now)
        },
    )
    .unwrap();
    assert_eq!(taken(&mut board, now), [0, 1]);
}

#[test]
fn short_work_is_left_to_a_thread_that_is_free_sooner_than_another_is_awake() {
    let (now, us) = (start(), Duration::from_micros(1));
    let two = Bounds { threads: 2, ..bounds() };
    let of = |cost: Duration| {
        let mut board = Board::new(two, HashMap::new());
        push(
            &mut board,
            Item {
                cost,
                ..item(0, 1, 1, now)
            },
        )
        .unwrap();
        assert!(!board.is_soon_taken(0, now), "nobody is busy: somebody must wake");
        assert_eq!(taken(&mut board, now), [0]);
        push(
            &mut board,
            Item {
                cost,
                ..item(1, 2, 1, now)
            },
        )
        .unwrap();
        board
    };
    let quick = of(10 * us);
    assert!(quick.is_soon_taken(0, now));
    assert!(quick.is_soon_taken(0, now + 10 * us + LATE - us), "a little late");
    assert!(
        !quick.is_soon_taken(0, now + 10 * us + LATE),
        "the busy thread should have come by now"
    );
    let mut more = of(us);
    for n in 2..6 {
        assert!(more.is_soon_taken(0, now + 2 * us));
        let item = item(n, 2, 1, now);
        push(&mut more, Item { cost: us, ..item }).unwrap();
    }
    assert!(!more.is_soon_taken(0, now + 2 * us), "many wait for one who is late");
    assert!(!of(30 * us).is_soon_taken(0, now) && !of(MS).is_soon_taken(0, now));
    let mut many = of(10 * us);
    for n in 2..5 {
        push(
            &mut many,
            Item {
                cost: 10 * us,
                ..item(n, 2, 1, now)
            },
        )
        .unwrap();
    }
    assert!(!many.is_soon_taken(0, now), "together they are worth a second thread");
}

#[test]
fn little_work_is_left_to_a_thread_that_is_waking_up() {
    let (now, us) = (start(), Duration::from_micros(1));
    let mut board = Board::new(Bounds { threads: 2, ..bounds() }, HashMap::new());
    let cost = 10 * us;
    for n in 0..4 {
        push(
            &mut board,
            Item {
                cost,
                ..item(n, 1, 1, now)
            },
        )
        .unwrap();
        assert!(!board.is_soon_taken(0, now), "nobody is awake");
        assert!(board.is_soon_taken(1, now));
    }
    push(
        &mut board,
        Item {
            cost,
            ..item(4, 1, 1, now)
        },
    )
    .unwrap();
    assert!(!board.is_soon_taken(1, now), "together they are worth a second thread");
    assert!(board.is_soon_taken(2, now));
}

#[test]
fn an_idle_node_whose_estimates_forbid_everything_measures_anew() {
    let (now, mut board) = (start(), Board::new(bounds(), HashMap::new()));
    let heavy = |at| Item {
        cost: 2_000 * MS,
        ..item(0, 0, 1, at)
    };
    assert_eq!(
        push(&mut board, heavy(now)),
        Err(Refused::Unmeetable { wait: 2_000 * MS })
    );
    assert!(push(&mut board, heavy(now + 999 * MS)).is_err());
    assert_eq!(push(&mut board, heavy(now + 1_000 * MS)), Ok(()));
    assert!(push(&mut board, heavy(now + 1_000 * MS)).is_err(), "one is enough");
    assert_eq!(taken(&mut board, now + 1_000 * MS), [0]);
}

proptest! {
    /// Goal: whatever comes, leaves or expires, bounds hold and the counts return to zero. Method: random walks.
    #[test]
    fn the_books_balance_and_the_bounds_hold(steps in prop::collection::vec((0u8..4, 0u8..3, 1usize..9), 1..80)) {
        let (mut now, mut board) = (start(), Board::new(bounds(), HashMap::new()));
        let mut flags = Vec::new();
        for (name, (what, lane, rows)) in steps.into_iter().enumerate() {
            now += MS;
            match what {
                0 | 1 => {
                    let mut it = item(name, lane, rows, now);
                    it.job.deadline = now + 40 * MS;
                    it.delay = MS * u32::from(lane);
                    it.level = Level::asked(u64::from(lane)).unwrap_or(it.level);
                    it.payer = payer(["a", "b"][rows % 2]);
                    flags.push(Rc::clone(&it.job.wanted));
                    let _ = push(&mut board, it);
                }
                2 => {
                    let mut dead = Vec::new();
                    if let Next::Run(batch) = board.take(0, now, &mut dead) {
                        prop_assert!(batch.iter().all(|i| i.job.wanted() && i.job.deadline() > now));
                        prop_assert!(batch.len() == 1 || batch.iter().map(|i| i.rows).sum::<usize>() <= 8);
                        prop_assert!(batch.iter().all(|i| i.lane == batch[0].lane));
                    }
                }
                _ => flags.iter().skip(name % 3).step_by(3).for_each(|f| f.set(false)),
            }
            prop_assert!(board.rows.values().sum::<usize>() <= 16 && board.bytes <= 1_000);
            prop_assert_eq!(board.requests(), board.lanes.values().map(|lane| lane.ranks.iter().count()).sum::<usize>());
        }
        board.take(0, now + 1_000 * MS, &mut Vec::new());
        prop_assert!(board.accounts.backlog().is_zero() && board.ready.is_empty() && board.forming.is_empty());
        prop_assert_eq!((board.requests(), board.bytes, board.rows.len(), board.lanes.len()), (0, 0, 0, 0));
    }
}
