//! Rows of a large run that idle engine threads take over.
//!
//! ```text
//!   owner: cuts its rows -> shows the shares -> runs its own -> takes back what nobody took -> waits for the rest -> joins
//!   idle:                                  takes a share -> runs it -> hands in
//! ```
//! Nobody waits for a share that no thread runs: the owner takes back those that still lie there. Rows answer the same bits however
//! they are cut, which the engine promises.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use proto::oip::Tensor;
use tracing::Span;

use crate::cache::RowsOfRun;
use crate::engine::{Fault, Model};

/// A share that takes less is not worth waking a thread for: that costs some 50 us.
const SHARE_US_MIN: u64 = 1000;

/// Rows of a run.
#[derive(Debug)]
pub struct Share {
    /// Runs them.
    pub model: Arc<dyn Model>,
    /// How long that will probably take.
    pub cost: Duration,
    /// Parent of what happens there.
    pub span: Span,
    /// What is kept of its rows.
    pub rows: Option<RowsOfRun>,
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Debug)]
enum State {
    Open(Vec<Tensor>),
    Taken,
    Ended(Ran),
}

/// What running some rows gave.
#[derive(Debug)]
pub struct Ran {
    /// Outputs of the rows, or why there are none.
    pub outputs: Result<Vec<Tensor>, Fault>,
    /// Time of all threads that ran them.
    pub busy: Duration,
}

impl Share {
    /// Rows that nobody has taken yet.
    #[must_use]
    pub fn new(model: &Arc<dyn Model>, inputs: Vec<Tensor>, cost: Duration) -> Self {
        Self {
            model: Arc::clone(model),
            cost,
            span: Span::current(),
            rows: None,
            state: Mutex::new(State::Open(inputs)),
            ended: Condvar::new(),
        }
    }

    /// With what is kept of its rows.
    #[must_use]
    pub fn keeping(self, rows: Option<RowsOfRun>) -> Self {
        Self { rows, ..self }
    }

    /// Its rows, to the first who asks. Who has them must [`Share::hand_in`] what they gave.
    #[must_use]
    pub fn take(&self) -> Option<Vec<Tensor>> {
        let mut state = self.lock();
        match std::mem::replace(&mut *state, State::Taken) {
            State::Open(inputs) => Some(inputs),
            other => {
                *state = other;
                None
            }
        }
    }

    /// Tells the owner.
    pub fn hand_in(&self, ran: Ran) {
        *self.lock() = State::Ended(ran);
        self.ended.notify_all();
    }

    /// Blocks until it was handed in.
    #[must_use]
    pub fn outcome(&self) -> Ran {
        let running = |state: &mut State| !matches!(state, State::Ended(_));
        let state = self.ended.wait_while(self.lock(), running);
        match std::mem::replace(&mut *state.unwrap_or_else(PoisonError::into_inner), State::Taken) {
            State::Ended(ran) => ran,
            State::Open(_) | State::Taken => unreachable!("waited until it had ended"),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many rows each of up to `idle` + 1 threads runs, the owner's first; one entry where sharing does not pay.
#[must_use]
pub fn cut(rows: usize, row_us: u64, idle: usize) -> Vec<usize> {
    let worth = u64::try_from(rows).unwrap_or(u64::MAX).saturating_mul(row_us) / SHARE_US_MIN;
    let parts = usize::try_from(worth)
        .unwrap_or(usize::MAX)
        .min(idle + 1)
        .min(rows)
        .max(1);
    (0..parts).map(|part| (rows + part) / parts).rev().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_cut_evenly_and_only_as_far_as_it_pays() {
        assert_eq!(cut(9, 2000, 1), [5, 4]);
        assert_eq!(cut(32, 500, 3), [8, 8, 8, 8]);
        assert_eq!(cut(32, 500, 0), [32]);
        assert_eq!(
            cut(3, 600, 3),
            [3],
            "two shares would take less than it costs to wake a thread"
        );
        assert_eq!(cut(2, 1_000_000, 7), [1, 1]);
        assert_eq!(cut(0, 1000, 3), [0]);
    }

    #[test]
    fn a_share_is_taken_once() {
        let model: Arc<dyn Model> = Arc::new(crate::testing::Doubler::default());
        let share = Share::new(&model, Vec::new(), Duration::ZERO);
        assert_eq!(share.take(), Some(Vec::new()));
        assert_eq!(share.take(), None);
        let (outputs, busy) = (Ok(Vec::new()), Duration::from_millis(2));
        share.hand_in(Ran { outputs, busy });
        assert_eq!(share.outcome().busy, busy);
    }
}
