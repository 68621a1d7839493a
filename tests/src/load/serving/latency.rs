//! How long requests took, and what most of them stayed under.

use std::time::Duration;

/// Times of requests, microseconds. Exact: each is kept, four bytes a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Latencies {
    us: Vec<u32>,
    sorted: bool,
}

impl Latencies {
    /// Takes one; more than an hour counts as [`u32::MAX`] microseconds.
    pub fn record(&mut self, took: Duration) {
        self.us.push(u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
        self.sorted = false;
    }
    /// Takes those of `other` as well.
    pub fn extend(&mut self, other: &Self) {
        self.us.extend_from_slice(&other.us);
        self.sorted = false;
    }
    /// How many.
    #[must_use]
    pub fn count(&self) -> usize {
        self.us.len()
    }
    /// How many took at most `bound`.
    #[must_use]
    pub fn within(&self, bound: Duration) -> usize {
        self.us
            .iter()
            .filter(|us| u128::from(**us) <= bound.as_micros())
            .count()
    }
    /// The smallest time that `per_10_000` of 10,000 requests did not exceed (nearest rank), milliseconds; 0 of none.
    /// 5,000 is the middle, 9,990 the 99.9th percentile.
    pub fn percentile_ms(&mut self, per_10_000: usize) -> f64 {
        if !self.sorted {
            self.us.sort_unstable();
            self.sorted = true;
        }
        let rank = (self.us.len() * per_10_000.min(10_000)).div_ceil(10_000).max(1);
        self.us.get(rank - 1).map_or(0.0, |us| f64::from(*us) / 1e3)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(us: &[u32]) -> Latencies {
        let mut all = Latencies::default();
        for us in us {
            all.record(Duration::from_micros(u64::from(*us)));
        }
        all
    }

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let mut hundred = of(&(1..=100).rev().map(|ms| ms * 1_000).collect::<Vec<_>>());
        let told = [5_000, 9_900, 9_990, 10_000, 0].map(|per| hundred.percentile_ms(per));
        assert_eq!(told, [50.0, 99.0, 100.0, 100.0, 1.0]);
        assert_eq!(of(&[]).percentile_ms(5_000), 0.0);
        assert_eq!(of(&[7]).percentile_ms(1), 0.007);
    }

    proptest! {
        #[test]
        fn a_percentile_is_the_least_time_that_so_many_did_not_exceed(
            us in prop::collection::vec(0_u32..2_000_000, 1..200), per in 1_usize..=10_000,
        ) {
            let mut all = of(&us);
            let told = all.percentile_ms(per) * 1e3;
            let under = |bound: f64| us.iter().filter(|us| f64::from(**us) <= bound + 0.01).count() * 10_000;
            prop_assert!(under(told) >= us.len() * per);
            let less = us.iter().filter(|us| f64::from(**us) < told - 0.01).count() * 10_000;
            prop_assert!(less < us.len() * per);
        }

        #[test]
        fn what_comes_after_a_percentile_was_told_counts_in_the_next(
            a in prop::collection::vec(any::<u32>(), 0..50), b in prop::collection::vec(any::<u32>(), 0..50),
        ) {
            let (mut told, mut both) = (of(&a), of(&[a.clone(), b.clone()].concat()));
            told.percentile_ms(5_000);
            let (one, all) = b.split_at(b.len().min(1));
            for us in one {
                told.record(Duration::from_micros(u64::from(*us)));
            }
            told.extend(&of(all));
            prop_assert_eq!(told.count(), a.len() + b.len());
            prop_assert_eq!(told.percentile_ms(7_500).to_bits(), both.percentile_ms(7_500).to_bits());
            let bound = Duration::from_secs(1);
            prop_assert_eq!(told.within(bound), both.within(bound));
        }
    }
}
