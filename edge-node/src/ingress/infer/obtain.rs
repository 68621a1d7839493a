//! The answer, from wherever it comes first: memory, a flight of the same question, disk, the engine.

use std::sync::Arc;
use std::time::Instant;

use http::StatusCode;
use proto::oip::Tensor;
use runtime::clock;
use tracing::Span;

use super::super::Door;
use super::super::reply::Problem;
use super::super::statistics::Way;
use super::{Obtained, Question};
use crate::cache::flight::{self, Boarding, Flight, Landed, Refusal, Waiter};
use crate::cache::key::Key;
use crate::metrics::{CacheUse, Outcome};

/// How often a request starts anew because whoever led its flight left.
const BOARDINGS_MAX: usize = 4;

/// Answers `question` by `deadline`, after which nothing starts, and counts where the answer came from.
pub(in super::super) async fn obtain(
    door: &Door,
    question: &Question,
    deadline: Instant,
    span: &Span,
) -> Result<Obtained, Problem> {
    charge(door, question)?;
    obtain_paid(door, question, deadline, span).await
}

/// Counts `question` against its tenant's rate.
pub(in super::super) fn charge(door: &Door, question: &Question) -> Result<(), Problem> {
    door.parts.rates.take(question.payer, clock::instant())
}

/// As [`obtain`], for a question that was charged for when it was accepted.
pub(in super::super) async fn obtain_paid(
    door: &Door,
    question: &Question,
    deadline: Instant,
    span: &Span,
) -> Result<Obtained, Problem> {
    let began = clock::instant();
    let mut end = End {
        question,
        began,
        answered: None,
    };
    let found = first(door, question, deadline, span).await;
    let (landed, origin) = found.map_err(|problem| problem.about(&question.slot.release.model))?;
    let own = landed
        .run
        .filter(|_| matches!(origin, CacheUse::Miss | CacheUse::Bypass));
    let at = clock::instant();
    let way = own.map_or(Way::Kept, |run| Way::Run {
        rows: question.rows,
        run,
        looked: matches!(origin, CacheUse::Miss),
    });
    end.answered = Some((way, at));
    drop(end);
    let metrics = &door.parts.metrics;
    metrics.answered_from(origin);
    let (model, busy) = (&question.slot.release.model, own.map(|run| run.busy));
    metrics.usage.add(model, question.payer, question.rows, busy);
    super::record(span, "cache", tracing::field::debug(origin));
    Ok(Obtained { landed, origin, at })
}

/// Counts in the model's statistics how a request ended, also when its client leaves and all of this is dropped.
struct End<'a> {
    question: &'a Question,
    began: Instant,
    /// In which way, and when.
    answered: Option<(Way, Instant)>,
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        let total = |at: Instant| at.saturating_duration_since(self.began);
        let statistics = &self.question.slot.statistics;
        match self.answered {
            Some((way, at)) => statistics.answered(way, total(at), clock::now_ms()),
            None => statistics.failed(total(clock::instant())),
        }
    }
}

async fn first(
    door: &Door,
    question: &Question,
    deadline: Instant,
    span: &Span,
) -> Result<(Landed, CacheUse), Problem> {
    let Some(key) = &question.key else {
        let (flight, waiter) = flight::alone(deadline);
        push(door, question, flight, deadline, span).await;
        return Ok((within(deadline, waiter).await?, CacheUse::Bypass));
    };
    let results = &door.parts.results;
    for _ in 0..BOARDINGS_MAX {
        if let Some(outputs) = results.in_memory(key) {
            return Ok((kept(key, outputs), CacheUse::HitMemory));
        }
        let (waiter, origin) = match results.board(key, deadline) {
            Boarding::Follow(waiter) => (waiter, CacheUse::Collapsed),
            Boarding::Lead(flight, waiter) => {
                // It may have landed since the first look.
                if let Some(outputs) = results.in_memory(key) {
                    flight.land_kept(kept(key, Arc::clone(&outputs)));
                    return Ok((kept(key, outputs), CacheUse::HitMemory));
                }
                if let Some(outputs) = on_disk(door, *key).await {
                    flight.land_kept(kept(key, Arc::clone(&outputs)));
                    return Ok((kept(key, outputs), CacheUse::HitDisk));
                }
                push(door, question, flight, deadline, span).await;
                (waiter, CacheUse::Miss)
            }
        };
        match within(deadline, waiter).await {
            Err(Refusal::Abandoned) => {}
            end => return Ok((end?, origin)),
        }
    }
    Err(Refusal::Abandoned.into())
}

/// Into the queue, with the model: one that is not in memory is loaded first, or refused where that takes too long.
async fn push(door: &Door, question: &Question, flight: Flight, deadline: Instant, span: &Span) {
    match question.slot.seat.within(deadline).await {
        Ok(model) => door.parts.queue.push(question.order(model, flight, span)),
        Err(why) => flight.refuse(why),
    }
}

async fn on_disk(door: &Door, key: Key) -> Option<Arc<Vec<Tensor>>> {
    if !door.parts.results.may_be_on_disk(&key) {
        return None;
    }
    let results = door.parts.results.clone();
    tokio::task::spawn_blocking(move || results.on_disk(&key))
        .await
        .ok()
        .flatten()
}

async fn within(deadline: Instant, waiter: Waiter) -> Result<Landed, Refusal> {
    tokio::time::timeout_at(deadline.into(), waiter)
        .await
        .unwrap_or(Err(Refusal::Expired))
}

/// An answer is kept under the name of whose arithmetic made it.
fn kept(key: &Key, outputs: Arc<Vec<Tensor>>) -> Landed {
    let (by, run) = (key.by(), None);
    Landed { outputs, by, run }
}

/// Runs `work` where it may block: on this thread when it is `short`, else on one of its own, so that it holds up nobody
/// else's connection.
pub(in super::super) async fn aside<T: Send + 'static>(
    short: bool,
    work: impl FnOnce() -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    if short {
        return work();
    }
    let span = Span::current();
    let lost = |_| {
        Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "decoding failed",
            Outcome::Failed,
        )
    };
    tokio::task::spawn_blocking(move || span.in_scope(work))
        .await
        .map_err(lost)?
}
