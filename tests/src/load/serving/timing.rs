//! What a node tells of an answer's time in `Server-Timing`.

use std::time::Duration;

use super::answer::Answer;

/// Parts of the time that a node took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Timing {
    /// The engine's own.
    pub(super) exec: Duration,
    /// From the request's arrival to its answer.
    pub(super) total: Duration,
}

impl Timing {
    /// As `answer` says; `None` where no model ran for it.
    pub(super) fn of(answer: &Answer<'_>) -> Option<Self> {
        Self::read(answer.header("server-timing")?)
    }

    fn read(text: &str) -> Option<Self> {
        let part = |name: &str| {
            let told = text.split(',').find_map(|part| part.trim().strip_prefix(name));
            let ms: f64 = told?.strip_prefix(";dur=")?.parse().ok()?;
            Duration::try_from_secs_f64(ms / 1e3).ok()
        };
        Some(Self {
            exec: part("exec")?,
            total: part("total")?,
        })
    }

    /// The latest moment at which the engine can have begun, counted from the request's arrival: what came after it, the
    /// writing of the answer, is in there too.
    pub(super) fn began_by(&self) -> Duration {
        self.total.saturating_sub(self.exec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engines_time_is_found_among_the_others() {
        let timing = Timing::read("queue;dur=0.010, batch;dur=0.000, exec;dur=1.250, total;dur=2").unwrap();
        assert_eq!(timing.exec, Duration::from_micros(1_250));
        assert_eq!(timing.began_by(), Duration::from_micros(750));
        for not_run in ["total;dur=2", "", "exec;dur=x, total;dur=2", "exec;dur=-1, total;dur=2"] {
            assert_eq!(Timing::read(not_run), None);
        }
    }
}
