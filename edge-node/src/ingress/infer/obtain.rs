//! The answer, from wherever it comes first: memory, a flight of the same question, disk, the engine.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::CACHE_CONTROL;
use http::{HeaderMap, StatusCode};
use proto::oip::Tensor;
use runtime::clock;
use tracing::Span;

use super::super::Door;
use super::super::reply::Problem;
use super::super::statistics::Way;
use super::{Obtained, Question};
use crate::cache::flight::{self, Boarding, Landed, Refusal, Waiter};
use crate::cache::key::Key;
use crate::metrics::{CacheUse, Outcome};

/// How often a request starts anew because whoever led its flight left.
const BOARDINGS_MAX: usize = 4;

/// Until when an answer is of use, and whether a kept one is.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Terms {
    /// Nothing starts after it.
    pub(in super::super) deadline: Instant,
    /// The client wants the model itself to run.
    pub(in super::super) bypass: bool,
}

/// Whether the client wants the model itself to run.
pub(in super::super) fn bypasses(headers: &HeaderMap) -> bool {
    let mut directives = headers
        .get_all(CACHE_CONTROL)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','));
    directives.any(|d| d.trim().eq_ignore_ascii_case("no-cache") || d.trim().eq_ignore_ascii_case("no-store"))
}

/// Answers `question` by `terms`, and counts where the answer came from.
pub(in super::super) async fn obtain(
    door: &Door,
    question: &Question,
    terms: Terms,
    span: &Span,
) -> Result<Obtained, Problem> {
    let began = clock::instant();
    door.parts.rates.take(question.payer, began)?;
    let mut end = End {
        question,
        began,
        way: None,
    };
    let (landed, origin) = first(door, question, terms, span).await?;
    end.way = Some(way(question, &landed, origin));
    drop(end);
    door.parts.metrics.answered_from(origin);
    span.record("cache", tracing::field::debug(origin));
    Ok(Obtained { landed, origin })
}

/// Counts in the model's statistics how a request ended, also when its client leaves and all of this is dropped.
struct End<'a> {
    question: &'a Question,
    began: Instant,
    way: Option<Way>,
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        let total = clock::instant().saturating_duration_since(self.began);
        let statistics = &self.question.slot.statistics;
        match self.way {
            Some(way) => statistics.answered(way, total, clock::now_ms()),
            None => statistics.failed(total),
        }
    }
}

fn way(question: &Question, landed: &Landed, origin: CacheUse) -> Way {
    match origin {
        CacheUse::HitMemory | CacheUse::HitDisk | CacheUse::Collapsed => Way::Kept,
        CacheUse::Miss | CacheUse::Bypass => Way::Run {
            rows: question.rows(),
            queue: landed.queue,
            join: landed.batch,
            exec: landed.exec,
            looked: matches!(origin, CacheUse::Miss),
        },
    }
}

async fn first(door: &Door, question: &Question, terms: Terms, span: &Span) -> Result<(Landed, CacheUse), Problem> {
    let Terms { deadline, bypass } = terms;
    if bypass {
        let (flight, waiter) = flight::alone(deadline);
        door.parts.queue.push(question.order(flight, span));
        return Ok((within(deadline, waiter).await?, CacheUse::Bypass));
    }
    let results = &door.parts.results;
    for _ in 0..BOARDINGS_MAX {
        if let Some(outputs) = results.in_memory(&question.key) {
            return Ok((kept(outputs), CacheUse::HitMemory));
        }
        let (waiter, origin) = match results.board(&question.key, deadline) {
            Boarding::Follow(waiter) => (waiter, CacheUse::Collapsed),
            Boarding::Lead(flight, waiter) => {
                // It may have landed since the first look.
                if let Some(outputs) = results.in_memory(&question.key) {
                    flight.land_kept(kept(Arc::clone(&outputs)));
                    return Ok((kept(outputs), CacheUse::HitMemory));
                }
                if let Some(outputs) = on_disk(door, question.key).await {
                    flight.land_kept(kept(Arc::clone(&outputs)));
                    return Ok((kept(outputs), CacheUse::HitDisk));
                }
                door.parts.queue.push(question.order(flight, span));
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
    tokio::time::timeout_at(deadline.into(), waiter.outcome())
        .await
        .unwrap_or(Err(Refusal::Expired))
}

fn kept(outputs: Arc<Vec<Tensor>>) -> Landed {
    let zero = Duration::ZERO;
    Landed {
        outputs,
        queue: zero,
        batch: zero,
        exec: zero,
        rows: 0,
    }
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
