//! What a model has been asked and what that took, since it was loaded: the numbers of the statistics extension.
//!
//! Requests are counted where they end, here; runs where the engine learns from them, in [`crate::serving::Pace`].
//!
//! Source: Triton's `extension_statistics.md`. Where it leaves room: an answer without a run of its own (from the cache, or
//! from a run of the same question that was under way) is a `cache_hit`; refusals before the queue is asked, such as
//! a wrong shape, are no inferences and are not counted.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::cache::flight::Run;

/// Sizes of runs that are told apart. Runs of further sizes are counted in the sum only.
const RUN_SIZES_MAX: usize = 128;

/// How often, and how long in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Spent {
    /// Times.
    pub count: u64,
    /// Nanoseconds in all.
    pub ns: u64,
}

impl Spent {
    fn add(&mut self, time: Duration) {
        self.count += 1;
        self.ns = self
            .ns
            .saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }
}

/// Requests of one model by their parts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    /// Rows that were run for somebody.
    pub rows: u64,
    /// When the last request was answered, Unix milliseconds; 0 before the first.
    pub last_ms: u64,
    /// Answered.
    pub success: Spent,
    /// Refused by the queue or the model, late, or left by their client.
    pub fail: Spent,
    /// Waiting for an engine thread; kept answers wait for none and are counted, as `perf_analyzer` looks for.
    pub queue: Spent,
    /// Joining with others.
    pub compute_input: Spent,
    /// In the engine; requests that share a run each count its whole time.
    pub compute_infer: Spent,
    /// From the engine's end to the answer in hand.
    pub compute_output: Spent,
    /// Answered without a run of their own.
    pub cache_hit: Spent,
    /// Looked for in the cache, and run.
    pub cache_miss: Spent,
}

/// How a request was answered.
#[derive(Clone, Copy, Debug)]
pub enum Way {
    /// By a run made for it.
    Run {
        /// Of the request.
        rows: usize,
        /// When it did what.
        run: Run,
        /// Whether the cache was looked into before.
        looked: bool,
    },
    /// From the cache, or from a run of the same question.
    Kept,
}

/// Counters of one model's requests.
#[derive(Debug, Default)]
pub struct Statistics(Mutex<Requests>);

impl Statistics {
    /// Counts an answer that took `total`.
    pub fn answered(&self, way: Way, total: Duration, now_ms: u64) {
        let mut requests = self.lock();
        requests.last_ms = requests.last_ms.max(now_ms);
        requests.success.add(total);
        match way {
            Way::Kept => {
                requests.cache_hit.add(total);
                requests.queue.add(Duration::ZERO);
            }
            Way::Run { rows, run, looked } => {
                let between = |from: Instant, to: Instant| to.saturating_duration_since(from);
                let queue = between(run.pushed, run.taken);
                let join = between(run.taken, run.began);
                let exec = between(run.began, run.ended);
                requests.rows += u64::try_from(rows).unwrap_or(u64::MAX);
                requests.queue.add(queue);
                requests.compute_input.add(join);
                requests.compute_infer.add(exec);
                requests.compute_output.add(total.saturating_sub(queue + join + exec));
                if looked {
                    requests.cache_miss.add(total);
                }
            }
        }
    }
    /// Counts a request that got no answer within `total`.
    pub fn failed(&self, total: Duration) {
        self.lock().fail.add(total);
    }
    /// The counts now.
    #[must_use]
    pub fn now(&self) -> Requests {
        *self.lock()
    }
    fn lock(&self) -> std::sync::MutexGuard<'_, Requests> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs of one model by their size.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Runs {
    /// All.
    pub all: Spent,
    /// By rows, the first `RUN_SIZES_MAX` sizes seen.
    pub by_rows: BTreeMap<usize, Spent>,
}

impl Runs {
    /// Counts a run of `rows` rows.
    pub fn add(&mut self, rows: usize, exec: Duration) {
        self.all.add(exec);
        let room = self.by_rows.len() < RUN_SIZES_MAX;
        match self.by_rows.get_mut(&rows) {
            Some(spent) => spent.add(exec),
            None if room => self.by_rows.entry(rows).or_default().add(exec),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_parts_of_a_run_sum_to_its_request_and_kept_answers_are_no_inferences() {
        let statistics = Statistics::default();
        let pushed = runtime::clock::instant();
        let run = Run {
            pushed,
            taken: pushed + MS,
            began: pushed + 3 * MS,
            ended: pushed + 7 * MS,
            busy: 4 * MS,
            rows: 3,
        };
        let way = Way::Run {
            rows: 3,
            run,
            looked: true,
        };
        statistics.answered(way, 10 * MS, 50);
        statistics.answered(Way::Kept, MS, 40);
        statistics.failed(5 * MS);
        let now = statistics.now();
        let parts = [now.queue, now.compute_input, now.compute_infer, now.compute_output];
        assert_eq!(parts.iter().map(|part| part.ns).sum::<u64>(), now.cache_miss.ns);
        assert_eq!(
            (now.rows, now.last_ms, now.success.count, now.fail.count),
            (3, 50, 2, 1)
        );
        assert_eq!((now.cache_hit.count, now.cache_miss.count), (1, 1));
    }

    #[test]
    fn sizes_of_runs_beyond_the_bound_are_counted_in_the_sum_only() {
        let mut runs = Runs::default();
        for rows in 1..=2 * RUN_SIZES_MAX {
            runs.add(rows, MS);
            runs.add(1, MS);
        }
        assert_eq!(runs.by_rows.len(), RUN_SIZES_MAX);
        assert_eq!(runs.all.count, 4 * u64::try_from(RUN_SIZES_MAX).unwrap());
        assert_eq!(runs.by_rows[&1].count, runs.all.count / 2 + 1);
    }
}
