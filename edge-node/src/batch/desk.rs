//! What the queue's lock guards: the board, and which engine threads sleep, were called, or look around.
//!
//! Waking a thread costs a system call where it is called and a core where it wakes, so a thread that is about to look counts for
//! the work that comes meanwhile: decision 0030.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::Thread;
use std::time::{Duration, Instant};

use super::board::{Board, Job, WAKE};
use super::share::Share;

/// A thread that is about to look and has not within this time is not counted on: others are called for what comes.
const LOOKS_WITHIN: Duration = WAKE.saturating_mul(2);

/// What the lock guards.
#[derive(Debug)]
pub(super) struct Desk<J> {
    pub(super) board: Board<J>,
    /// Shares that were shown; some may be taken back by now.
    pub(super) shares: VecDeque<Arc<Share>>,
    /// Engine threads that sleep, the one that fell asleep last at the end: its cache is warmest, so it is called first.
    asleep: Vec<(usize, Thread)>,
    /// Threads that are about to look: they were called, or look around before they sleep.
    called: u32,
    /// When the last of them was called, or began to look around.
    called_at: Option<Instant>,
    /// How long each thread waited for its last batch.
    waited: Vec<Duration>,
}

impl<J: Job> Desk<J> {
    pub(super) fn new(board: Board<J>, threads: usize) -> Self {
        Self {
            board,
            shares: VecDeque::new(),
            asleep: Vec::new(),
            called: 0,
            called_at: None,
            waited: vec![Duration::ZERO; threads],
        }
    }
    /// The thread to wake for what waits, unless another comes to it as soon.
    #[must_use]
    pub(super) fn call(&mut self, now: Instant) -> Option<Thread> {
        // The system may have given the core of one that was about to look to somebody else.
        let fresh = self.called_at.is_some_and(|at| now < at + LOOKS_WITHIN);
        let called = if fresh { self.called } else { 0 };
        if self.asleep.is_empty() || self.board.is_soon_taken(called, now) {
            return None;
        }
        let (_, thread) = self.asleep.pop()?;
        self.expect(now);
        Some(thread)
    }
    /// Wakes all threads that sleep.
    pub(super) fn call_all(&mut self) {
        for (_, thread) in self.asleep.drain(..) {
            self.called += 1;
            thread.unpark();
        }
    }
    /// One more thread is about to look.
    pub(super) fn expect(&mut self, now: Instant) {
        self.called += 1;
        self.called_at = Some(now);
    }
    /// One of those has looked.
    pub(super) fn looked(&mut self) {
        self.called -= 1;
    }
    /// `thread`, which calls this, is about to sleep.
    pub(super) fn lie_down(&mut self, thread: usize) {
        self.asleep.push((thread, std::thread::current()));
    }
    /// `thread` is awake: it was called, or its time is over.
    pub(super) fn rise(&mut self, thread: usize) {
        match self.asleep.iter().position(|(sleeper, _)| *sleeper == thread) {
            Some(place) => _ = self.asleep.remove(place),
            None => self.looked(),
        }
    }
    /// `thread` waited so long for the batch that it takes now.
    pub(super) fn note_wait(&mut self, thread: usize, waited: Duration) {
        self.waited[thread] = waited;
    }
    /// Whether `thread`, which has had nothing to do since `since`, looks around before it sleeps: where its last wait was shorter than
    /// waking it takes, and nobody else looks already.
    pub(super) fn looks(&self, thread: usize, since: Instant, now: Instant) -> bool {
        self.called == 0 && self.waited[thread] < WAKE && now.saturating_duration_since(since) < WAKE
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proto::ids::ContentHash;

    use super::*;
    use crate::batch::accounts::Payer;
    use crate::batch::board::{Bounds, Item, LaneId};
    use crate::batch::class::Level;

    struct Wish(Instant);
    impl Job for Wish {
        fn wanted(&self) -> bool {
            true
        }
        fn deadline(&self) -> Instant {
            self.0
        }
    }

    /// A desk at which threads 0 and 1 sleep, and something waits that takes 10 us.
    fn desk(now: Instant) -> Desk<Wish> {
        let bounds = Bounds {
            rows_max: 16,
            bytes_max: 100,
            linger: Duration::ZERO,
            threads: 2,
        };
        let mut desk = Desk::new(Board::new(bounds, HashMap::new()), 2);
        (0..2).for_each(|thread| desk.lie_down(thread));
        let lane = LaneId {
            model: ContentHash::of(b"m"),
            join: ContentHash::of(b"j"),
        };
        let item = Item {
            lane,
            rows: 1,
            rows_max: 8,
            bytes: 1,
            cost: Duration::from_micros(10),
            payer: Payer::of(&"a".parse().unwrap()),
            level: Level::asked(3).unwrap(),
            delay: Duration::ZERO,
            pushed: now,
            job: Wish(now + Duration::from_secs(1)),
        };
        assert!(desk.board.push(item, &mut Vec::new()).is_ok());
        desk
    }

    #[test]
    fn one_thread_is_called_for_little_work_and_another_when_that_one_does_not_come() {
        let now = runtime::clock::instant();
        let mut desk = desk(now);
        assert!(desk.call(now).is_some());
        assert!(desk.call(now + WAKE).is_none(), "it is waking up");
        assert!(desk.call(now + LOOKS_WITHIN).is_some(), "it has not come");
        assert!(desk.call(now + 2 * LOOKS_WITHIN).is_none(), "nobody is left");
        desk.rise(1);
        desk.rise(0);
        assert_eq!(desk.called, 0);
    }

    #[test]
    fn a_thread_whose_time_is_over_is_on_the_list_no_more() {
        let now = runtime::clock::instant();
        let mut desk = desk(now);
        desk.rise(1);
        assert!(desk.call(now).is_some());
        assert!(desk.call(now + LOOKS_WITHIN).is_none());
        desk.rise(0);
        assert_eq!((desk.called, desk.asleep.len()), (0, 0));
    }

    #[test]
    fn a_thread_looks_around_only_where_its_waits_are_short_and_nobody_else_does() {
        let now = runtime::clock::instant();
        let mut desk = desk(now);
        assert!(desk.looks(0, now, now));
        assert!(!desk.looks(0, now, now + WAKE), "it has looked for long enough");
        desk.note_wait(0, WAKE);
        assert!(!desk.looks(0, now, now), "nothing comes so soon");
        assert!(desk.looks(1, now, now));
        desk.expect(now);
        assert!(!desk.looks(1, now, now));
        desk.looked();
        assert!(desk.looks(1, now, now));
    }
}
