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
const SHARE_MIN: Duration = Duration::from_millis(1);

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

/// Among how many threads `rows` rows that take `cost` in all are parted, of which `idle` beside the owner's are free; 1 where
/// parting does not pay.
#[must_use]
pub fn parts(rows: usize, cost: Duration, idle: usize) -> usize {
    let worth = usize::try_from(cost.as_nanos() / SHARE_MIN.as_nanos()).unwrap_or(usize::MAX);
    worth.min(idle + 1).min(rows).max(1)
}

/// How many rows each of `parts` threads runs, the owner's first, so that all take about as long: row `n` takes `costs[n]`.
/// Each has a row at least where there are as many.
#[must_use]
pub fn cut(costs: &[Duration], parts: usize) -> Vec<usize> {
    let (all, parts) = (costs.iter().sum::<Duration>(), parts.max(1));
    let times = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let (mut cuts, mut done, mut at) = (Vec::with_capacity(parts), Duration::ZERO, 0);
    for part in 1..parts {
        let (begin, last) = (at, costs.len().saturating_sub(parts - part));
        let due = all.saturating_mul(times(part)) / times(parts);
        while at < last && (at == begin || done + costs[at] / 2 <= due) {
            done += costs[at];
            at += 1;
        }
        cuts.push(at - begin);
    }
    cuts.push(costs.len() - at);
    cuts
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn rows_are_parted_only_as_far_as_it_pays() {
        assert_eq!(
            [parts(9, 18 * MS, 1), parts(32, 16 * MS, 3), parts(32, 16 * MS, 0)],
            [2, 4, 1]
        );
        assert_eq!(
            parts(3, 9 * MS / 5, 3),
            1,
            "two shares would take less than it costs to wake a thread"
        );
        assert_eq!([parts(2, 2_000 * MS, 7), parts(0, Duration::ZERO, 3)], [2, 1]);
    }

    #[test]
    fn threads_take_about_as_long_as_each_other_however_long_rows_are() {
        assert_eq!(cut(&[2 * MS; 9], 2), [5, 4]);
        assert_eq!(cut(&[MS; 32], 4), [8, 8, 8, 8]);
        assert_eq!(cut(&[MS, 9 * MS, MS, MS, 8 * MS], 2), [2, 3]);
        assert_eq!(cut(&[90 * MS, MS, MS, MS], 3), [1, 1, 2], "nobody goes without");
        assert_eq!(cut(&[MS, MS, MS, 90 * MS], 3), [2, 1, 1]);
        assert_eq!(cut(&[Duration::ZERO; 3], 2), [2, 1]);
        assert_eq!(cut(&[MS; 3], 1), [3]);
        assert_eq!(cut(&[], 1), [0]);
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
