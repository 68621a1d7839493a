//! Whether a device is in use: it is once it has answered a question whose answer is known, and until it fails.
//!
//! ```text
//!             tried, and right                         failed three times running where the processor did not,
//!   Out -------------------------------> In            hung, or was asked the known question and was wrong
//!    ^                                    |
//!    '------------------------------------'            tries in vain wait twice as long each time
//! ```
//! A single failure does not take it out of use, but has it asked the known question at once: a request that no model can answer
//! is then told from a device that answers nothing. While in use it is asked now and then, so that one that has begun to compute
//! wrongly is found too. This module decides and does nothing else: no clock, no thread, no device.

use std::time::{Duration, Instant};

/// Times of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// A call is never called hung before this: the first of its shape may compile.
    pub patience_min: Duration,
    /// Nor before so many times what it is expected to take.
    pub patience_factor: u32,
    /// The first wait before it is tried again; it doubles with each try in vain.
    pub rest_base: Duration,
    /// The longest.
    pub rest_cap: Duration,
    /// How often it is asked the known question while in use.
    pub check_every: Duration,
    /// The deadline of calls that name none.
    pub unasked: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            patience_min: Duration::from_secs(2),
            patience_factor: 20,
            rest_base: Duration::from_secs(1),
            rest_cap: Duration::from_secs(300),
            check_every: Duration::from_secs(60),
            unasked: Duration::from_secs(30),
        }
    }
}

impl Bounds {
    /// When a call that is expected to take `expected` is called hung.
    pub(super) fn patience(&self, expected: Duration) -> Duration {
        expected.saturating_mul(self.patience_factor).max(self.patience_min)
    }
    fn rest(&self, tries: u32) -> Duration {
        let doublings = 1_u32.checked_shl(tries).unwrap_or(u32::MAX);
        self.rest_base.saturating_mul(doublings).min(self.rest_cap)
    }
}

/// Failures in a row, where the processor did not fail, that take a device out of use.
const FAILURES_MAX: u32 = 3;

/// Why a device is out of use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Trouble {
    /// It was not tried yet.
    Untried,
    /// The model could not be loaded on it.
    NotLoaded,
    /// Calls failed.
    Failed,
    /// A call did not return in its time.
    Hung,
    /// It gave another answer to a question whose answer is known.
    Wrong,
}

impl Trouble {
    /// As pages tell it.
    #[must_use]
    pub fn told(self) -> &'static str {
        match self {
            Self::Untried => "it was not tried yet",
            Self::NotLoaded => "the model could not be loaded on it",
            Self::Failed => "calls failed that the processor answered",
            Self::Hung => "a call did not return in its time",
            Self::Wrong => "it answered a known question wrongly",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    In {
        failures: u32,
    },
    Out {
        trouble: Trouble,
        since: Instant,
        tries: u32,
    },
}

/// One device's breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Breaker {
    bounds: Bounds,
    state: State,
    /// When it is asked the known question next.
    due: Instant,
}

impl Breaker {
    /// Of a device that nobody has tried.
    pub(super) fn new(bounds: Bounds, now: Instant) -> Self {
        let state = State::Out {
            trouble: Trouble::Untried,
            since: now,
            tries: 0,
        };
        Self {
            bounds,
            state,
            due: now,
        }
    }

    pub(super) fn is_in_use(&self) -> bool {
        matches!(self.state, State::In { .. })
    }

    /// Why, since when and after how many tries it is out of use.
    pub(super) fn out(&self) -> Option<(Trouble, Instant, u32)> {
        match self.state {
            State::In { .. } => None,
            State::Out { trouble, since, tries } => Some((trouble, since, tries)),
        }
    }

    /// When it is asked the known question next.
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// A call was answered.
    pub(super) fn answered(&mut self) {
        if let State::In { failures } = &mut self.state {
            *failures = 0;
        }
    }

    /// A call failed, whoever's fault it was: asked the known question at once.
    pub(super) fn doubted(&mut self, now: Instant) {
        if self.is_in_use() {
            self.due = now;
        }
    }

    /// A call failed that the processor answered.
    pub(super) fn failed(&mut self, now: Instant) {
        if let State::In { failures } = &mut self.state {
            *failures += 1;
            if *failures >= FAILURES_MAX {
                self.take_out(Trouble::Failed, now);
            }
        }
    }

    /// A call has not returned in its time.
    pub(super) fn hung(&mut self, now: Instant) {
        match &mut self.state {
            State::In { .. } => self.take_out(Trouble::Hung, now),
            // It was being tried: that is why it is still out.
            State::Out { trouble, .. } => *trouble = Trouble::Hung,
        }
    }

    /// A call that had hung has returned: it is tried at once.
    pub(super) fn returned(&mut self, now: Instant) {
        if !self.is_in_use() {
            self.due = now;
        }
    }

    /// It gave the known answer. Failures of before stay counted: a device may answer the small question and no large one.
    pub(super) fn passed(&mut self, now: Instant) {
        if let State::Out { .. } = self.state {
            self.state = State::In { failures: 0 };
        }
        self.due = now + self.bounds.check_every;
    }

    /// It did not.
    pub(super) fn wrong(&mut self, trouble: Trouble, now: Instant) {
        match &mut self.state {
            State::In { .. } => self.take_out(trouble, now),
            State::Out {
                trouble: before, tries, ..
            } => {
                (*before, *tries) = (trouble, tries.saturating_add(1));
                self.due = now + self.bounds.rest(*tries);
            }
        }
    }

    fn take_out(&mut self, trouble: Trouble, now: Instant) {
        self.state = State::Out {
            trouble,
            since: now,
            tries: 0,
        };
        self.due = now + self.bounds.rest(0);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn now() -> Instant {
        runtime::clock::instant()
    }
    fn in_use(at: Instant) -> Breaker {
        let mut breaker = Breaker::new(Bounds::default(), at);
        assert!(!breaker.is_in_use(), "nobody has tried it");
        breaker.passed(at);
        breaker
    }

    #[test]
    fn three_failures_running_take_it_out_and_an_answer_between_them_does_not() {
        let at = now();
        let mut breaker = in_use(at);
        for _ in 0..9 {
            breaker.failed(at);
            breaker.failed(at);
            breaker.answered();
        }
        assert!(breaker.is_in_use());
        (0..3).for_each(|_| breaker.failed(at));
        assert_eq!(breaker.out(), Some((Trouble::Failed, at, 0)));
    }

    #[test]
    fn a_device_that_passes_its_small_question_between_failures_is_taken_out_all_the_same() {
        let at = now();
        let mut breaker = in_use(at);
        for _ in 0..2 {
            breaker.doubted(at);
            breaker.failed(at);
            breaker.passed(at);
        }
        assert!(breaker.is_in_use());
        breaker.failed(at);
        assert!(!breaker.is_in_use());
    }

    #[test]
    fn a_doubted_device_is_asked_at_once_and_stays_in_use_until_it_was() {
        let at = now();
        let mut breaker = in_use(at);
        assert_eq!(breaker.due(), at + 60 * S);
        breaker.doubted(at + S);
        assert_eq!((breaker.due(), breaker.is_in_use()), (at + S, true));
        breaker.wrong(Trouble::Wrong, at + S);
        assert_eq!(breaker.out(), Some((Trouble::Wrong, at + S, 0)));
    }

    #[test]
    fn tries_in_vain_wait_twice_as_long_up_to_five_minutes_and_one_that_passes_ends_it() {
        let at = now();
        let mut breaker = in_use(at);
        breaker.hung(at);
        let mut waits = vec![breaker.due() - at];
        for _ in 0..40 {
            breaker.wrong(Trouble::Failed, at);
            waits.push(breaker.due() - at);
        }
        assert_eq!(waits[..5], [S, 2 * S, 4 * S, 8 * S, 16 * S]);
        assert_eq!(waits[40], 300 * S);
        breaker.passed(at);
        assert!(breaker.is_in_use());
        breaker.hung(at);
        assert_eq!(breaker.due(), at + S, "the waits begin anew");
    }

    #[test]
    fn a_call_is_hung_after_two_seconds_or_twenty_times_its_time() {
        let bounds = Bounds::default();
        assert_eq!(bounds.patience(Duration::from_millis(3)), 2 * S);
        assert_eq!(bounds.patience(S), 20 * S);
    }

    proptest! {
        /// Goal: whatever happens, it comes into use only by answering the known question.
        #[test]
        fn only_the_known_answer_brings_it_back(events in prop::collection::vec(0_u8..6, 0..64)) {
            let at = now();
            let mut breaker = Breaker::new(Bounds::default(), at);
            for event in events {
                let before = breaker.is_in_use();
                match event {
                    0 => breaker.answered(),
                    1 => breaker.doubted(at),
                    2 => breaker.failed(at),
                    3 => breaker.hung(at),
                    4 => breaker.returned(at),
                    _ => breaker.wrong(Trouble::Wrong, at),
                }
                prop_assert!(before || !breaker.is_in_use());
            }
            breaker.passed(at);
            prop_assert!(breaker.is_in_use());
        }
    }
}
