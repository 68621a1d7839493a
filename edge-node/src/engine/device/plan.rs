//! How the time until a deadline is divided between a device and the processor that stands in for it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Of the stand-in's expected time, so much more is left for it: a mean is exceeded half of the time.
const MARGIN_PERCENT: u32 = 150;
/// And this: a thread that waits is woken late on a busy machine.
const SLACK: Duration = Duration::from_millis(5);

/// Expected times of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Costs {
    pub(super) device: Duration,
    pub(super) stand_in: Duration,
}

/// Who is asked first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum First {
    /// The device, and nobody waits longer for it than this.
    Device { wait: Duration },
    /// There is no time to wait for the device at all.
    StandIn,
}

/// Divides `left`. The device is waited for until the stand-in has just time enough. Where `left` is too short for both, whoever
/// is expected to make it is asked, and the device where both or neither would: it is what was signed for.
pub(super) fn first(costs: Costs, left: Duration) -> First {
    let kept = costs.stand_in * MARGIN_PERCENT / 100 + SLACK;
    let wait = left.saturating_sub(kept);
    if wait >= costs.device && !wait.is_zero() {
        return First::Device { wait };
    }
    if costs.device > left && costs.stand_in <= left {
        return First::StandIn;
    }
    First::Device { wait: left }
}

/// Whether the stand-in may begin: it is expected to end in the time that is left.
pub(super) fn still_fits(stand_in: Duration, left: Duration) -> bool {
    !left.is_zero() && stand_in <= left
}

/// Moves the time of one row by an eighth of the difference; what was never measured is taken as it comes.
pub(super) fn learn(row_us: &AtomicU64, rows: usize, took: Duration) {
    let rows = u64::try_from(rows).unwrap_or(u64::MAX).max(1);
    let seen = u64::try_from(took.as_micros()).unwrap_or(u64::MAX) / rows;
    let old = row_us.load(Ordering::Relaxed);
    let new = if old == 0 {
        seen
    } else {
        (old.saturating_mul(7).saturating_add(seen)).div_ceil(8)
    };
    row_us.store(new, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn costs(device: u32, stand_in: u32) -> Costs {
        Costs {
            device: MS * device,
            stand_in: MS * stand_in,
        }
    }

    #[test]
    fn the_device_is_waited_for_until_the_processor_has_just_time_enough() {
        assert_eq!(first(costs(2, 40), MS * 200), First::Device { wait: MS * 135 });
        assert_eq!(first(costs(0, 0), MS * 200), First::Device { wait: MS * 195 });
        // Too short for both: the device is what was signed for.
        assert_eq!(first(costs(2, 40), MS * 50), First::Device { wait: MS * 50 });
        // A device that has become slow leaves what it cannot make to the processor.
        assert_eq!(first(costs(300, 40), MS * 200), First::StandIn);
        assert_eq!(first(costs(300, 400), MS * 200), First::Device { wait: MS * 200 });
    }

    proptest! {
        /// Where there is time for both, a device that never answers leaves the processor the time that it needs.
        #[test]
        fn a_device_that_never_answers_leaves_time_for_the_processor(device in 0_u32..10_000, stand_in in 0_u32..10_000, left in 0_u32..60_000) {
            let (costs, left) = (costs(device, stand_in), MS * left);
            if costs.device + costs.stand_in * 3 / 2 + SLACK < left {
                let waited = match first(costs, left) { First::Device { wait } => wait, First::StandIn => Duration::ZERO };
                prop_assert!(waited >= costs.device && still_fits(costs.stand_in, left - waited - SLACK / 2));
            }
        }
    }

    #[test]
    fn times_move_towards_what_is_measured_and_begin_with_the_first() {
        let row_us = AtomicU64::new(0);
        learn(&row_us, 4, MS * 8);
        assert_eq!(row_us.load(Ordering::Relaxed), 2_000);
        (0..64).for_each(|_| learn(&row_us, 1, MS));
        assert!((1_000..=1_008).contains(&row_us.load(Ordering::Relaxed)));
    }
}
