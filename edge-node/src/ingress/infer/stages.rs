//! Where the time of one request went: stages that follow one another, so that they sum to the whole.
//!
//! ```text
//!   head here --route--> in the queue --queue--> taken --batch--> in the engine --exec--> out of it --encode--> answer written
//! ```
//! A request that joins a run which is under way counts of each stage only what it waited for itself.

use std::time::{Duration, Instant};

use crate::cache::flight::Run;
use crate::metrics::Stage;

/// More than a request of a few milliseconds is told.
const TOLD_BYTES_USUAL: usize = 128;

/// The time of each stage, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Stages([Duration; Stage::ALL.len()]);

impl Stages {
    /// Of a request whose head was here at `arrived`, whose outputs were in hand at `obtained`, and whose answer is written
    /// `now`. Without a `run` of the engine finding the kept answer is all of its way.
    pub(super) fn of(arrived: Instant, run: Option<&Run>, obtained: Instant, now: Instant) -> Self {
        let ends = match run {
            Some(run) => [run.pushed, run.taken, run.began, run.ended, now],
            None => [obtained, obtained, obtained, obtained, now],
        };
        let mut from = arrived;
        Self(ends.map(|end| {
            let end = end.clamp(from, now.max(from));
            let spent = end - from;
            from = end;
            spent
        }))
    }

    /// Stages with their times.
    pub(in super::super) fn each(&self) -> impl Iterator<Item = (Stage, Duration)> {
        Stage::ALL.into_iter().zip(self.0)
    }
    /// From the head to the written answer.
    pub(in super::super) fn total(&self) -> Duration {
        self.0.iter().sum()
    }

    /// As `Server-Timing` tells it, milliseconds. A stage of less than half a microsecond is left out, so that kept answers
    /// have short headers; what is told sums to the total that is told.
    pub(super) fn told(&self) -> Vec<u8> {
        let mut text = Vec::with_capacity(TOLD_BYTES_USUAL);
        let mut total_us = 0_u64;
        for (stage, time) in self.each() {
            let us = (u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).saturating_add(500)) / 1_000;
            if us > 0 {
                total_us = total_us.saturating_add(us);
                tell(&mut text, stage.name(), us);
            }
        }
        tell(&mut text, "total", total_us);
        text
    }
}

fn tell(text: &mut Vec<u8>, name: &str, us: u64) {
    if !text.is_empty() {
        text.extend_from_slice(b", ");
    }
    text.extend_from_slice(name.as_bytes());
    text.extend_from_slice(b";dur=");
    push_ms(text, us);
}

/// `us` microseconds as milliseconds with three decimals. By hand: each request is told six of them, and formatting them took more
/// instructions than reading the request.
fn push_ms(text: &mut Vec<u8>, us: u64) {
    const LONGEST: usize = 24;
    let (mut digits, mut from, mut rest) = ([b'0'; LONGEST], LONGEST, us);
    while rest > 0 || from > LONGEST - 5 {
        from -= 1;
        if from == LONGEST - 4 {
            digits[from] = b'.';
            continue;
        }
        digits[from] = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        rest /= 10;
    }
    text.extend_from_slice(&digits[from..]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn told(stages: &Stages) -> String {
        String::from_utf8(stages.told()).unwrap()
    }
    fn at(base: Instant, us: u64) -> Instant {
        base + Duration::from_micros(us)
    }
    fn run(base: Instant, [pushed, taken, began, ended]: [u64; 4]) -> Run {
        Run {
            pushed: at(base, pushed),
            taken: at(base, taken),
            began: at(base, began),
            ended: at(base, ended),
            busy: Duration::ZERO,
            rows: 1,
        }
    }

    #[test]
    fn stages_are_told_in_order_and_empty_ones_are_not() {
        let base = runtime::clock::instant();
        let ran = run(base, [100, 1_100, 1_100, 9_100]);
        let stages = Stages::of(base, Some(&ran), at(base, 9_150), at(base, 9_200));
        let all = "route;dur=0.100, queue;dur=1.000, exec;dur=8.000, encode;dur=0.100, total;dur=9.200";
        assert_eq!(told(&stages), all);
        let kept = Stages::of(base, None, at(base, 5), at(base, 9));
        assert_eq!(told(&kept), "route;dur=0.005, encode;dur=0.004, total;dur=0.009");
    }

    #[test]
    fn who_joins_a_run_under_way_counts_only_what_it_waited_itself() {
        let base = runtime::clock::instant();
        let ran = run(base, [0, 100, 100, 1_000]);
        let stages = Stages::of(at(base, 600), Some(&ran), at(base, 1_000), at(base, 1_010));
        assert_eq!(told(&stages), "exec;dur=0.400, encode;dur=0.010, total;dur=0.410");
    }

    #[test]
    fn times_are_told_to_the_microsecond() {
        let told = |us: u64| {
            let mut text = Vec::new();
            push_ms(&mut text, us);
            String::from_utf8(text).unwrap()
        };
        let times = [0, 1, 999, 1_000, 12_345, 987_654_321];
        assert_eq!(
            times.map(told),
            ["0.000", "0.001", "0.999", "1.000", "12.345", "987654.321"]
        );
        assert_eq!(told(u64::MAX), "18446744073709551.615");
    }

    proptest! {
        #[test]
        fn whatever_the_clocks_say_the_stages_sum_to_the_time_between_head_and_answer(
            times in prop::array::uniform7(0_u64..100_000)
        ) {
            let base = runtime::clock::instant();
            let [arrived, obtained, end, rest @ ..] = times;
            let (arrived, now) = (at(base, arrived.min(end)), at(base, end));
            let stages = Stages::of(arrived, Some(&run(base, rest)), at(base, obtained), now);
            prop_assert_eq!(stages.total(), now - arrived);
        }
    }
}
