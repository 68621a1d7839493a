//! How long to wait before the next try: doubling, bounded, and spread by a seed so that a fleet does not return in step.
//!
//! Pure: the seed is an argument, so one seed gives one sequence.

use std::time::Duration;

/// Waits that grow from `base` to `cap` until something succeeds.
#[derive(Clone, Debug)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
    tries: u32,
    seed: u64,
}

impl Backoff {
    /// The first wait is between half of `base` and `base`, none is over `cap`.
    #[must_use]
    pub fn new(base: Duration, cap: Duration, seed: u64) -> Self {
        Self {
            base,
            cap,
            tries: 0,
            seed,
        }
    }
    /// The next wait: between half and all of `base * 2^tries`, at most `cap`.
    pub fn wait(&mut self) -> Duration {
        let full = self
            .base
            .saturating_mul(1_u32.checked_shl(self.tries).unwrap_or(u32::MAX))
            .min(self.cap);
        self.tries = (self.tries + 1).min(31);
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let half = full / 2;
        let per_mille = u32::try_from(mixed(self.seed) % 1001).unwrap_or(0);
        half + half * per_mille / 1000
    }
    /// It worked: the next failure waits shortly again.
    pub fn reset(&mut self) {
        self.tries = 0;
    }
}

/// The output function of SplitMix64 (Steele, Lea and Flood 2014, OOPSLA, figure 12).
fn mixed(seed: u64) -> u64 {
    let z = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn two_seeds_do_not_return_in_step() {
        let waits = |seed| {
            let mut b = Backoff::new(Duration::from_millis(100), Duration::from_secs(5), seed);
            (0..8).map(|_| b.wait()).collect::<Vec<_>>()
        };
        assert_eq!(waits(1), waits(1));
        assert_ne!(waits(1), waits(2));
    }

    proptest! {
        #[test]
        fn every_wait_lies_between_half_and_all_of_a_doubling_that_stops_at_the_cap(seed: u64, n in 0_u32..64) {
            let (base, cap) = (Duration::from_millis(100), Duration::from_secs(5));
            let mut backoff = Backoff::new(base, cap, seed);
            for _ in 0..n {
                backoff.wait();
            }
            let full = base.saturating_mul(2_u32.saturating_pow(n)).min(cap);
            let wait = backoff.wait();
            prop_assert!(full / 2 <= wait && wait <= full, "{:?} of {:?}", wait, full);
            backoff.reset();
            prop_assert!(backoff.wait() <= base);
        }
    }
}
