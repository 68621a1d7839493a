//! When the requests of an open loop are due: evenly, whatever becomes of them.

use std::time::Duration;

/// Moments since the beginning.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    per_second: f64,
    count: u64,
}

impl Schedule {
    /// `per_second` requests a second for `lasts`. None where the rate is not above 0.
    #[must_use]
    pub fn new(per_second: f64, lasts: Duration) -> Self {
        let wanted = Duration::try_from_secs_f64(per_second * lasts.as_secs_f64());
        // A duration's whole seconds are the whole part of a number, without a cast.
        let count = wanted.map_or(0, |number| number.as_secs());
        Self { per_second, count }
    }
    /// How many requests there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }
    /// When the n-th request is due; `None` after the last.
    #[must_use]
    pub fn due(&self, n: u64) -> Option<Duration> {
        if n >= self.count {
            return None;
        }
        // The number of a request is far below what a double holds exactly.
        let n = Duration::from_secs(n).as_secs_f64();
        Duration::try_from_secs_f64(n / self.per_second).ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn requests_are_due_evenly_from_the_beginning_on() {
        let schedule = Schedule::new(400.0, Duration::from_secs(2));
        assert_eq!(schedule.count(), 800);
        let ms = |n| schedule.due(n).map(|due| due.as_micros());
        assert_eq!(
            [ms(0), ms(1), ms(799), ms(800)],
            [Some(0), Some(2_500), Some(1_997_500), None]
        );
        assert_eq!(Schedule::new(0.0, Duration::from_secs(1)).count(), 0);
        assert_eq!(Schedule::new(-1.0, Duration::from_secs(1)).due(0), None);
    }

    proptest! {
        #[test]
        fn no_request_is_due_before_the_one_before_it_or_after_the_end(rate in 0.1_f64..100_000.0, ms in 1_u64..60_000, at in 0.0_f64..1.0) {
            let lasts = Duration::from_millis(ms);
            let schedule = Schedule::new(rate, lasts);
            let n = Duration::from_secs(schedule.count()).mul_f64(at).as_secs();
            if let Some(due) = schedule.due(n) {
                prop_assert!(due <= lasts);
                if let Some(next) = schedule.due(n + 1) {
                    prop_assert!((next - due).as_secs_f64() - 1.0 / rate < 1e-6);
                    prop_assert!(next > due);
                }
            }
        }
    }
}
