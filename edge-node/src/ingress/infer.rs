//! What every inference request goes through, whatever protocol carries it. A protocol's shell walks the steps:
//!
//! ```text
//!   observed( Admitted::of -> deadline -> the shell reads and decodes, aside -> Question::of -> obtain -> the shell encodes -> receipt )
//! ```

mod admit;
mod claim;
mod obtain;
mod obtained;
mod question;
mod stages;

use std::sync::atomic::{AtomicU64, Ordering};

use http::{HeaderMap, Request};
use runtime::clock;
use runtime::telemetry::PER_REQUEST;
use tracing::{Instrument, Span};

use super::Door;
use super::auth::Caller;
use super::reply::Problem;
use crate::metrics::{Metrics, Outcome};
use crate::serving::ModelSlot;

pub(super) use admit::{Admitted, Asker, SUBJECT, bypasses, outside};
pub(super) use claim::{Claim, promise, receipt};
pub(super) use obtain::{aside, charge, obtain, obtain_paid};
pub(super) use obtained::Obtained;
pub(super) use question::Question;

/// A larger body is decoded on a thread of its own.
pub(super) const DECODE_INLINE_BYTES_MAX: usize = 128 << 10;

/// Numbers the requests of this process in traces and logs.
static REQUESTS: AtomicU64 = AtomicU64::new(1);

/// Names other nodes, inside the boundary of who is refused.
const ELSEWHERE: &str = "meridian-elsewhere";

/// As [`observed`], of a client that waits for its answer: a refusal that is this node's own says where else to go.
pub(super) async fn answered<T, F>(
    door: &Door,
    request: &Request<()>,
    walk: impl FnOnce(Span) -> F,
) -> Result<T, Problem>
where
    F: Future<Output = Result<T, Problem>>,
{
    let walked = observed(door, request.headers(), walk).await;
    walked.map_err(|problem| elsewhere(door, request, problem))
}

fn elsewhere(door: &Door, request: &Request<()>, problem: Problem) -> Problem {
    let Some(model) = problem.model.clone().filter(|_| problem.is_of_this_node()) else {
        return problem;
    };
    let (parts, set) = (&door.parts, door.parts.serving.load());
    let Ok(tenant) = Caller::of(request, &set).tenant() else {
        return problem;
    };
    let others = parts.serving.elsewhere();
    match others.of(parts.boundaries, &tenant.boundary, &model, clock::instant()) {
        Some(addresses) => problem.with(ELSEWHERE, addresses),
        None => problem,
    }
}

/// Walks one request in a span of its own and counts how it ended. `headers` may name the trace it belongs to.
pub(super) async fn observed<T, F>(door: &Door, headers: &HeaderMap, walk: impl FnOnce(Span) -> F) -> Result<T, Problem>
where
    F: Future<Output = Result<T, Problem>>,
{
    let span = tracing::info_span!(
        target: PER_REQUEST,
        "infer",
        otel.kind = "server",
        request_id = REQUESTS.fetch_add(1, Ordering::Relaxed),
        region = %door.parts.node.region,
        model = tracing::field::Empty,
        version = tracing::field::Empty,
        cache = tracing::field::Empty,
        outcome = tracing::field::Empty,
    );
    runtime::telemetry::extract_parent(headers, &span);
    let mut end = End {
        metrics: &door.parts.metrics,
        span: &span,
        outcome: Outcome::ClientGone,
    };
    let result = walk(span.clone()).instrument(span.clone()).await;
    end.outcome = result
        .as_ref()
        .map_or_else(|problem| problem.outcome, |_| Outcome::Answered);
    drop(end);
    result
}

/// Tells the trace which model is asked.
pub(super) fn record_model(span: &Span, slot: &ModelSlot) {
    record(span, "model", slot.release.model.as_str());
    record(span, "version", slot.release.version.0.get());
}

/// Tells the trace something, where there is one: a span that nobody wants looks its fields up all the same.
fn record(span: &Span, field: &'static str, value: impl tracing::Value) {
    if !span.is_disabled() {
        span.record(field, value);
    }
}

/// Counts how a request ended, also when its client leaves and all of this is dropped.
struct End<'a> {
    metrics: &'a Metrics,
    span: &'a Span,
    outcome: Outcome,
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        record(self.span, "outcome", tracing::field::debug(self.outcome));
        self.metrics.ended(self.outcome);
    }
}
