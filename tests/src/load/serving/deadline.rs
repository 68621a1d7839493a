//! Requests with hardly any time: whatever the node answers 200 must have begun in time, by its own word in `Server-Timing`.
//!
//! A run is late where the request had waited for longer than its deadline when it began. An answer is late where its total is
//! longer: the run began in time and took longer, or the answer waited for a core before it was written.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;

use super::super::Figure;
use super::answer::Answer;
use super::asked::{Length, Requests};
use super::closed::Closed;
use super::embedder::{CONNECTIONS, requests};
use super::open::Open;
use super::overload::{by_turns, capacity};
use super::target::{OK, Report, Target};
use super::timing::Timing;
use super::{Bench, EMBEDDER, NO_CACHE, SUITE, TINY};

/// Milliseconds that requests of the tiny model have, in turn; more connections than it can answer in so little.
const TINY_MS: [u64; 4] = [1, 2, 3, 5];
const TINY_CONNECTIONS: usize = 128;
/// Milliseconds that requests of the embedder have, in turn.
const EMBEDDER_MS: [u64; 4] = [5, 15, 40, 80];
/// As many times its capacity come.
const TIMES: f64 = 2.0;
const CONNECTIONS_MAX: usize = 1_024;

/// What was seen of answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    asked: u32,
    answered: u32,
    late_executions: u32,
    late_answers: u32,
    untold: u32,
}

impl Seen {
    fn take(&mut self, answer: &Answer<'_>, deadline: Duration) {
        self.asked += 1;
        if answer.status != OK {
            return;
        }
        self.answered += 1;
        match Timing::of(answer) {
            Some(timing) => {
                self.late_executions += u32::from(timing.waited > deadline);
                self.late_answers += u32::from(timing.total > deadline);
            }
            None => self.untold += 1,
        }
    }
}

/// Counts rows that were run.
const ROWS_RUN: &str = "edge_batch_rows_sum";

pub(super) async fn measure(bench: &Bench) -> Result<Vec<Figure>> {
    eprintln!("·· deadlines");
    let seen = Arc::new(Mutex::new(Seen::default()));
    let plain = Target::new(bench.ours.address, requests(bench, EMBEDDER, NO_CACHE, Length::Mixed)?);
    let capacity = capacity(&plain, Duration::from_secs(1), CONNECTIONS).await?;
    let before = bench.ours.metric(ROWS_RUN).await?;
    let target = |requests: Vec<Requests>, deadlines: [u64; 4]| {
        let seen = Arc::clone(&seen);
        let look = move |n: u64, answer: &Answer<'_>| {
            let turn = usize::try_from(n).unwrap_or(0) % deadlines.len();
            let deadline = Duration::from_millis(deadlines[turn]);
            seen.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(answer, deadline);
        };
        Target::new(bench.ours.address, by_turns(requests)).seen_by(look)
    };
    let header = |ms: &u64| format!("{NO_CACHE}meridian-deadline-ms: {ms}\r\n");
    let tables = TINY_MS
        .iter()
        .map(|ms| Ok(bench.ours.door(TINY, &header(ms))?.tables("features")));
    let closed = Closed {
        connections: TINY_CONNECTIONS,
        warm: Duration::ZERO,
        lasts: Duration::from_secs(bench.scale.pick(2, 12)),
    };
    told(
        "tiny",
        &closed.drive(target(tables.collect::<Result<_>>()?, TINY_MS)).await?,
    );

    let texts = EMBEDDER_MS
        .iter()
        .map(|ms| requests(bench, EMBEDDER, &header(ms), Length::Mixed));
    let open = Open {
        per_second: capacity * TIMES,
        connections_max: CONNECTIONS_MAX,
        lasts: Duration::from_secs(bench.scale.pick(3, 30)),
        stop: Arc::default(),
    };
    told(
        "embedder",
        &open.drive(target(texts.collect::<Result<_>>()?, EMBEDDER_MS)).await?,
    );
    let seen = *seen.lock().unwrap_or_else(PoisonError::into_inner);
    let run = bench.ours.metric(ROWS_RUN).await? - before;
    eprintln!("   {seen:?}; {run:.0} rows were run");
    let figure = |name: &str, value: u32| Figure::alone(SUITE, format!("deadline/{name}"), f64::from(value), "");
    Ok(vec![
        figure("late_executions", seen.late_executions + seen.untold),
        figure("late_answers", seen.late_answers),
        figure("answered", seen.answered),
        figure("asked", seen.asked),
        // Begun in time and not answered 200: too long, or nobody waited any more.
        Figure::alone(SUITE, "deadline/runs_in_vain", run - f64::from(seen.answered), ""),
    ])
}

fn told(what: &str, report: &Report) {
    let Report {
        statuses, unanswered, ..
    } = report;
    eprintln!("   {what}: {statuses:?}, {unanswered} unanswered");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_began_after_its_deadline_is_counted_and_what_was_refused_is_not() {
        let answer = |status: &str, timing: &str| {
            format!("HTTP/1.1 {status}\r\nserver-timing: {timing}\r\ncontent-length: 0\r\n\r\n").into_bytes()
        };
        let mut seen = Seen::default();
        let answers = [
            answer("200 OK", "queue;dur=9, batch;dur=0, exec;dur=0.1, total;dur=9.5"),
            answer("200 OK", "queue;dur=9, batch;dur=0, exec;dur=3, total;dur=12.5"),
            answer("200 OK", "queue;dur=9, batch;dur=1.1, exec;dur=1, total;dur=12.5"),
            answer("200 OK", "total;dur=1"),
            answer(
                "504 Gateway Timeout",
                "queue;dur=90, batch;dur=0, exec;dur=1, total;dur=99",
            ),
        ];
        for bytes in &answers {
            seen.take(&Answer::read(bytes).unwrap().unwrap(), Duration::from_millis(10));
        }
        let right = Seen {
            asked: 5,
            answered: 4,
            late_executions: 1,
            late_answers: 2,
            untold: 1,
        };
        assert_eq!(seen, right);
    }
}
