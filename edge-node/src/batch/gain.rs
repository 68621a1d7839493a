//! What joining rows gives, learnt from runs: time per row by the size of its run.
//!
//! Starts from the publisher's two figures (one row, eight rows) and moves to what this node measures. Where eight rows and more take
//! nearly as long per row as one, joining only makes everybody wait: it is switched off, and tried again now and then.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Sizes that are told apart: 1, 2, up to 4, 8, 16, 32, and all above.
const SIZES: usize = 7;

/// Joining is worth its wait where a row alone takes this many hundredths of a row in company.
const GAIN_PERCENT_MIN: u64 = 120;

/// Larger runs are preferred while a row takes at most this many hundredths of the best.
const WORSE_PERCENT_MAX: u64 = 110;

/// Sizes below tell too little of larger ones.
const TELLING_SIZE: usize = 3;

/// One order in so many may join whatever was learnt, so that it is learnt anew.
const RETRY_EVERY: u64 = 256;

/// Rows of such a run: enough to tell, and few enough that those who wait for it do not wait long.
const RETRY_ROWS: usize = 8;

/// How far an order should be joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Rows worth joining; 1 keeps it alone.
    pub rows_max: usize,
    /// How long such a run takes: waiting longer for company costs more than it gives. Zero where it gives nothing.
    pub company: Duration,
}

impl Plan {
    /// By itself.
    pub const ALONE: Self = Self {
        rows_max: 1,
        company: Duration::ZERO,
    };
}

/// Nanoseconds of one row by the size of its run, 0 where unknown: moving averages.
#[derive(Debug, Default)]
pub struct Gain {
    row_ns: [AtomicU64; SIZES],
    asked: AtomicU64,
}

impl Gain {
    /// Starts from published medians of one row and of eight, microseconds; 0 where there is none.
    #[must_use]
    pub fn starting_at(row_us: u32, rows8_us: u32) -> Self {
        let gain = Self::default();
        gain.row_ns[0].store(u64::from(row_us) * 1_000, Ordering::Relaxed);
        gain.row_ns[TELLING_SIZE].store(u64::from(rows8_us) * 1_000 / 8, Ordering::Relaxed);
        gain
    }

    /// Learns from a run of `rows` rows that took `busy`: an eighth of the difference.
    pub fn learn(&self, rows: usize, busy: Duration) {
        let seen = u64::try_from(busy.as_nanos()).unwrap_or(u64::MAX) / u64::try_from(rows).unwrap_or(u64::MAX).max(1);
        let entry = &self.row_ns[size(rows)];
        let old = entry.load(Ordering::Relaxed);
        let new = if old == 0 {
            seen
        } else {
            (old / 8 * 7).saturating_add(seen / 8)
        };
        entry.store(new.max(1), Ordering::Relaxed);
    }

    /// How far the next order should be joined, of a model that takes `rows_max` rows.
    #[must_use]
    pub fn plan(&self, rows_max: usize) -> Plan {
        if rows_max < 2 {
            return Plan::ALONE;
        }
        let known: [u64; SIZES] = std::array::from_fn(|at| self.row_ns[at].load(Ordering::Relaxed));
        let last = size(rows_max);
        let joined = || (1..=last).filter(|&at| known[at] > 0);
        let (Some(best), Some(largest)) = (joined().map(|at| known[at]).min(), joined().next_back()) else {
            return Plan {
                rows_max,
                company: Duration::ZERO,
            };
        };
        let retries = self.asked.fetch_add(1, Ordering::Relaxed) % RETRY_EVERY == RETRY_EVERY - 1;
        let told = largest >= TELLING_SIZE.min(last);
        let useless = told && known[0] > 0 && known[0] * 100 < best * GAIN_PERCENT_MIN;
        if useless && !retries {
            return Plan::ALONE;
        }
        let good = |at: &usize| known[*at] * 100 <= best * WORSE_PERCENT_MAX;
        let preferred = joined().rfind(good).unwrap_or(largest);
        let rows = if useless {
            rows_max.min(RETRY_ROWS)
        } else if preferred == largest || retries {
            rows_max
        } else {
            rows_max.min(1 << preferred)
        };
        let company = Duration::from_nanos(best).saturating_mul(u32::try_from(rows).unwrap_or(u32::MAX));
        Plan {
            rows_max: rows,
            company,
        }
    }
}

/// Which size a run of `rows` rows counts as.
fn size(rows: usize) -> usize {
    let power = rows.max(1).next_power_of_two().trailing_zeros();
    usize::try_from(power).unwrap_or(SIZES).min(SIZES - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: Duration = Duration::from_micros(1);

    fn learnt(times: &[(usize, u32)]) -> Gain {
        let gain = Gain::default();
        for _ in 0..64 {
            times.iter().for_each(|&(rows, us)| gain.learn(rows, us * US));
        }
        gain
    }

    #[test]
    fn joining_that_gives_less_than_a_fifth_is_off_and_tried_again_now_and_then() {
        let gain = learnt(&[(1, 100), (8, 700)]);
        let plans: Vec<Plan> = (0..512).map(|_| gain.plan(32)).collect();
        assert_eq!(plans.iter().filter(|plan| plan.rows_max == RETRY_ROWS).count(), 2);
        assert_eq!(plans.iter().filter(|plan| **plan == Plan::ALONE).count(), 510);
        assert_eq!(learnt(&[(1, 100), (8, 600)]).plan(32).rows_max, 32);
    }

    #[test]
    fn the_preferred_size_is_the_largest_that_costs_no_more_a_row() {
        let gain = learnt(&[(1, 100), (8, 400), (16, 810), (32, 2_400)]);
        assert_eq!(gain.plan(32).rows_max, 16);
        assert_eq!(gain.plan(8).rows_max, 8);
        let company = gain.plan(32).company;
        assert!((700 * US..=810 * US).contains(&company), "{company:?}");
    }

    #[test]
    fn what_nobody_measured_is_tried_and_the_publishers_figures_come_first() {
        assert_eq!(Gain::default().plan(32).rows_max, 32);
        assert_eq!(
            learnt(&[(1, 100), (2, 200)]).plan(32).rows_max,
            32,
            "two rows tell little of 32"
        );
        assert_eq!(Gain::starting_at(100, 790).plan(32), Plan::ALONE);
        assert_eq!(Gain::starting_at(100, 200).plan(32).rows_max, 32);
        assert_eq!(Gain::starting_at(100, 200).plan(1), Plan::ALONE);
    }

    #[test]
    fn learning_moves_to_what_is_measured_here() {
        let gain = Gain::starting_at(100, 790);
        (0..64).for_each(|_| gain.learn(8, 200 * US));
        assert_eq!(gain.plan(8).rows_max, 8);
    }
}
