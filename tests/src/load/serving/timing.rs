//! What a node tells of an answer's time in `Server-Timing`.

use std::time::Duration;

use super::answer::Answer;

/// Parts of the time that a node took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Timing {
    /// In the queue and until its batch ran.
    pub(super) waited: Duration,
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
            waited: part("queue").unwrap_or_default() + part("batch").unwrap_or_default(), // left out where nothing waited
            exec: part("exec")?,
            total: part("total")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engines_time_is_found_among_the_others() {
        let timing = Timing::read("queue;dur=0.010, batch;dur=0.002, exec;dur=1.250, total;dur=2").unwrap();
        assert_eq!(timing.exec, Duration::from_micros(1_250));
        assert_eq!(timing.waited, Duration::from_micros(12));
        let at_once = Timing::read("route;dur=0.031, exec;dur=0.020, total;dur=0.051").unwrap();
        assert_eq!(at_once.waited, Duration::ZERO);
        for exec in ["", "exec;dur=x, ", "exec;dur=-1, "] {
            let not_run = format!("queue;dur=0.010, batch;dur=0.002, {exec}total;dur=2");
            assert_eq!(Timing::read(&not_run), None);
        }
    }
}
