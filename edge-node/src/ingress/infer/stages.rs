//! Where the time of one request went: stages that follow one another, so that they sum to the whole.
//!
//! ```text
//!   head here --route--> in the queue --queue--> taken --batch--> in the engine --exec--> out of it --encode--> answer written
//! ```
//! A request that joins a run which is under way counts of each stage only what it waited for itself.

use std::time::{Duration, Instant};

use http::HeaderValue;

use crate::cache::flight::Run;
use crate::metrics::Stage;

/// The longest number of milliseconds, and more than all stages take with such numbers.
const MS_BYTES_MAX: usize = 24;
const TOLD_BYTES_MAX: usize = 256;

/// The time of each stage, in order, nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Stages([u64; Stage::ALL.len()]);

impl Stages {
    /// Of a request whose head was here at `arrived`, whose outputs were in hand at `obtained`, and whose answer is written
    /// `now`. Without a `run` of the engine finding the kept answer is all of its way.
    pub(super) fn of(arrived: Instant, run: Option<&Run>, obtained: Instant, now: Instant) -> Self {
        let since = |at: Instant| u64::try_from(at.saturating_duration_since(arrived).as_nanos()).unwrap_or(u64::MAX);
        let ends = match run {
            Some(run) => [run.pushed, run.taken, run.began, run.ended, now].map(since),
            None => [obtained, obtained, obtained, obtained, now].map(since),
        };
        let (mut from, last) = (0, ends[ends.len() - 1]);
        Self(ends.map(|end| {
            let end = end.clamp(from, last);
            let spent = end - from;
            from = end;
            spent
        }))
    }

    /// Stages with their times.
    pub(in super::super) fn each(&self) -> impl Iterator<Item = (Stage, Duration)> {
        Stage::ALL.into_iter().zip(self.0.map(Duration::from_nanos))
    }
    /// From the head to the written answer.
    pub(in super::super) fn total(&self) -> Duration {
        Duration::from_nanos(self.0.iter().sum())
    }

    /// As `Server-Timing` tells it, milliseconds. A stage of less than half a microsecond is left out, so that kept answers
    /// have short headers; what is told sums to the total that is told.
    pub(super) fn told(&self) -> HeaderValue {
        let mut text = Text::default();
        let mut total_us = 0_u64;
        for (stage, ns) in Stage::ALL.into_iter().zip(self.0) {
            let us = ns.saturating_add(500) / 1_000;
            if us > 0 {
                total_us = total_us.saturating_add(us);
                text.tell(lead(stage), us);
            }
        }
        text.tell(b", total;dur=", total_us);
        HeaderValue::from_bytes(text.list()).expect("names and numbers are printable ASCII")
    }
}

/// What stands in front of a stage's time.
fn lead(stage: Stage) -> &'static [u8] {
    match stage {
        Stage::Route => b", route;dur=",
        Stage::Queue => b", queue;dur=",
        Stage::Batch => b", batch;dur=",
        Stage::Exec => b", exec;dur=",
        Stage::Encode => b", encode;dur=",
    }
}

/// What is told. Written by hand: each request is told six numbers, and formatting them took more instructions than reading the request.
struct Text {
    bytes: [u8; TOLD_BYTES_MAX],
    end: usize,
}

impl Default for Text {
    fn default() -> Self {
        Self {
            bytes: [0; TOLD_BYTES_MAX],
            end: 0,
        }
    }
}

impl Text {
    /// Without what separates the first from nothing before it.
    fn list(&self) -> &[u8] {
        &self.bytes[2..self.end]
    }
    fn push(&mut self, part: &[u8]) {
        self.bytes[self.end..self.end + part.len()].copy_from_slice(part);
        self.end += part.len();
    }
    /// `us` microseconds as milliseconds with three decimals.
    fn tell(&mut self, lead: &[u8], us: u64) {
        self.push(lead);
        let (mut digits, mut from, mut rest) = ([b'0'; MS_BYTES_MAX], MS_BYTES_MAX, us);
        while rest > 0 || from > MS_BYTES_MAX - 5 {
            from -= 1;
            if from == MS_BYTES_MAX - 4 {
                digits[from] = b'.';
                continue;
            }
            digits[from] = b'0' + u8::try_from(rest % 10).unwrap_or(0);
            rest /= 10;
        }
        self.push(&digits[from..]);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn told(stages: &Stages) -> String {
        stages.told().to_str().unwrap().to_owned()
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
            let mut text = Text::default();
            text.tell(b", ", us);
            String::from_utf8(text.list().to_vec()).unwrap()
        };
        let times = [0, 1, 999, 1_000, 12_345, 987_654_321];
        assert_eq!(
            times.map(told),
            ["0.000", "0.001", "0.999", "1.000", "12.345", "987654.321"]
        );
        assert_eq!(told(u64::MAX), "18446744073709551.615");
        for stage in Stage::ALL {
            assert_eq!(lead(stage), format!(", {};dur=", stage.name()).as_bytes());
        }
        let longest = Stages([u64::MAX; Stage::ALL.len()]);
        assert!(longest.told().len() <= TOLD_BYTES_MAX);
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
