//! The way of one inference request through the node.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::header::{CACHE_CONTROL, HeaderName};
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use hyper::body::Incoming;
use proto::ids::{ContentHash, TenantId};
use proto::limits::{INFER_BODY_BYTES_MAX, INFER_BODY_MS_MAX};
use proto::oip::{Answered, InferAnswer, InferRequest, Tensor, read_infer, read_raw, write_infer};
use runtime::clock;
use runtime::https::Unread;
use tracing::{Instrument, Span};

use super::auth::Caller;
use super::body::{self, Encoding, Lent, Received};
use super::reply::{self, Problem};
use super::route::Target;
use super::{Answer, Door, classify, deadline, fit};
use crate::batch::Order;
use crate::cache::flight::{self, Boarding, Landed, Refusal, Waiter};
use crate::cache::key;
use crate::metrics::{CacheUse, Metrics, Outcome};
use crate::residency;
use crate::serving::ModelSlot;

const HEADER_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");
const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
const MODEL: HeaderName = HeaderName::from_static("meridian-model");
/// A larger body is decoded on a thread of its own, so that it holds up nobody else's connection.
const DECODE_INLINE_BYTES_MAX: usize = 128 << 10;
/// How often a request starts anew because whoever led its flight left.
const BOARDINGS_MAX: usize = 4;

/// Numbers the requests of this process in traces and logs.
static REQUESTS: AtomicU64 = AtomicU64::new(1);

/// A request that fits its model.
struct Prepared {
    /// Without its inputs.
    request: InferRequest,
    inputs: Arc<Vec<Tensor>>,
    key: ContentHash,
    /// Its memory is given back when it is answered.
    _lent: Lent,
}

/// Answers one request and counts how it ended.
pub(super) async fn answer(
    door: &Door,
    target: &Target,
    request: Request<()>,
    body: &mut Unread,
) -> Result<Answer, Problem> {
    let span = tracing::info_span!(
        "infer",
        otel.kind = "server",
        request_id = REQUESTS.fetch_add(1, Ordering::Relaxed),
        region = %door.parts.node.region,
        model = tracing::field::Empty,
        version = tracing::field::Empty,
        cache = tracing::field::Empty,
        outcome = tracing::field::Empty,
    );
    runtime::telemetry::extract_parent(request.headers(), &span);
    let mut end = End {
        metrics: &door.parts.metrics,
        span: &span,
        outcome: Outcome::ClientGone,
    };
    let result = walk(door, target, request, body, &span).instrument(span.clone()).await;
    end.outcome = result
        .as_ref()
        .map_or_else(|problem| problem.outcome, |_| Outcome::Answered);
    drop(end);
    result
}

/// Counts how a request ended, also when its client leaves and all of this is dropped.
struct End<'a> {
    metrics: &'a Metrics,
    span: &'a Span,
    outcome: Outcome,
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.span.record("outcome", tracing::field::debug(self.outcome));
        self.metrics.ended(self.outcome);
    }
}

async fn walk(
    door: &Door,
    target: &Target,
    request: Request<()>,
    body: &mut Unread,
    span: &Span,
) -> Result<Answer, Problem> {
    let arrived = clock::instant();
    let parts = &door.parts;
    let set = parts.serving.load();
    let region = set.region.as_ref().ok_or_else(Problem::starting)?;
    let tenant = Caller::of(&request, &set).tenant()?.clone();
    if !residency::may_answer(parts.boundaries, region, &tenant) {
        return Err(outside(&tenant.boundary, &region.country));
    }
    let slot = Arc::clone(target.find(&set)?);
    drop(set);
    span.record("model", slot.release.model.as_str());
    span.record("version", slot.release.version.0.get());
    let budget = deadline::of_head(request.headers())?;
    let (head, ()) = request.into_parts();
    let prepared = prepare(door, &slot, &tenant.id, &head.headers, body.take(), budget).await?;
    let deadline = arrived + deadline::with_body(budget, prepared.request.timeout_us);
    let bypass = bypasses(&head.headers);
    let (landed, origin) = obtain(door, &slot, &prepared, deadline, bypass, span).await?;
    parts.metrics.answered_from(origin);
    span.record("cache", tracing::field::debug(origin));
    let mut answer = encode(&slot, &prepared.request, &landed.outputs)?;
    let timing = timing(&landed, origin, clock::instant().saturating_duration_since(arrived));
    let model = format!("{} {}", slot.release, slot.manifest_id);
    for (name, value) in [
        (CACHE_STATUS, cache_status(origin).to_owned()),
        (SERVER_TIMING, timing),
        (MODEL, model),
    ] {
        answer.headers_mut().insert(
            name,
            HeaderValue::from_str(&value).expect("names and numbers are printable ASCII"),
        );
    }
    Ok(answer)
}

fn outside(boundary: &proto::ids::BoundaryId, country: &str) -> Problem {
    let message = format!(
        "data of this key stays inside `{boundary}`, this node stands in {country}: ask a node inside, or the router"
    );
    Problem::new(
        StatusCode::UNAVAILABLE_FOR_LEGAL_REASONS,
        "residency",
        message,
        Outcome::Residency,
    )
}

/// Reads, unpacks, decodes and checks the body.
async fn prepare(
    door: &Door,
    slot: &Arc<ModelSlot>,
    tenant: &TenantId,
    headers: &HeaderMap,
    incoming: Incoming,
    budget: Duration,
) -> Result<Prepared, Problem> {
    let encoding = body::encoding(headers)?;
    let json_bytes = match headers.get(HEADER_LENGTH) {
        None => None,
        Some(value) => {
            let length = value.to_str().ok().and_then(|text| text.trim().parse::<usize>().ok());
            let wrong = || Problem::bad_request("Inference-Header-Content-Length is not a whole number");
            Some(length.ok_or_else(wrong)?)
        }
    };
    let time = budget.min(Duration::from_millis(INFER_BODY_MS_MAX));
    let received = body::read(&door.room, incoming, INFER_BODY_BYTES_MAX, time).await?;
    let received = received.ok_or_else(|| {
        if time < budget {
            body_timeout()
        } else {
            Problem::deadline_exceeded()
        }
    })?;
    let inline = encoding == Encoding::Plain && received.bytes.len() <= DECODE_INLINE_BYTES_MAX;
    let (slot, tenant) = (Arc::clone(slot), tenant.clone());
    let work = move || decode(&slot, &tenant, received, encoding, json_bytes);
    if inline {
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

fn body_timeout() -> Problem {
    let message = format!("the body did not arrive within {INFER_BODY_MS_MAX} ms");
    Problem::new(
        StatusCode::REQUEST_TIMEOUT,
        "body_timeout",
        message,
        Outcome::BadRequest,
    )
}

fn decode(
    slot: &ModelSlot,
    tenant: &TenantId,
    received: Received,
    encoding: Encoding,
    json_bytes: Option<usize>,
) -> Result<Prepared, Problem> {
    let Received { bytes, lent } = body::unpack(received, encoding, INFER_BODY_BYTES_MAX)?;
    let mut request = if json_bytes == Some(0) {
        let single = slot.manifest.signatures.iter().find_map(|s| match s.inputs.as_slice() {
            [only] => Some(only),
            _ => None,
        });
        let none = || Problem::bad_request("a raw body needs a model with one input: send a JSON header with it");
        read_raw(&bytes, single.ok_or_else(none)?)?
    } else {
        read_infer(&bytes, json_bytes)?
    };
    fit::signature(&slot.manifest, &request)?;
    let outputs: Vec<String> = request.outputs.iter().map(|output| output.name.clone()).collect();
    let parameters = format!("{:?}", request.parameters);
    let key = key::of(slot, tenant, &outputs, &parameters, &request.inputs);
    let inputs = Arc::new(std::mem::take(&mut request.inputs));
    Ok(Prepared {
        request,
        inputs,
        key,
        _lent: lent,
    })
}

/// Whether the client wants the model itself to run.
fn bypasses(headers: &HeaderMap) -> bool {
    let mut directives = headers
        .get_all(CACHE_CONTROL)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','));
    directives.any(|d| d.trim().eq_ignore_ascii_case("no-cache") || d.trim().eq_ignore_ascii_case("no-store"))
}

/// The answer, from wherever it comes first: memory, a flight of the same question, disk, the engine.
async fn obtain(
    door: &Door,
    slot: &Arc<ModelSlot>,
    prepared: &Prepared,
    deadline: Instant,
    bypass: bool,
    span: &Span,
) -> Result<(Landed, CacheUse), Problem> {
    if bypass {
        let (flight, waiter) = flight::alone(deadline);
        door.parts.queue.push(order(slot, prepared, flight, span));
        return Ok((within(deadline, waiter).await?, CacheUse::Bypass));
    }
    let results = &door.parts.results;
    for _ in 0..BOARDINGS_MAX {
        if let Some(outputs) = results.in_memory(&prepared.key) {
            return Ok((kept(outputs), CacheUse::HitMemory));
        }
        let (waiter, origin) = match results.board(prepared.key, deadline) {
            Boarding::Follow(waiter) => (waiter, CacheUse::Collapsed),
            Boarding::Lead(flight, waiter) => {
                // It may have landed since the first look.
                if let Some(outputs) = results.in_memory(&prepared.key) {
                    flight.land_kept(kept(Arc::clone(&outputs)));
                    return Ok((kept(outputs), CacheUse::HitMemory));
                }
                if let Some(outputs) = on_disk(door, prepared.key).await {
                    flight.land_kept(kept(Arc::clone(&outputs)));
                    return Ok((kept(outputs), CacheUse::HitDisk));
                }
                door.parts.queue.push(order(slot, prepared, flight, span));
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

async fn on_disk(door: &Door, key: ContentHash) -> Option<Arc<Vec<Tensor>>> {
    if !door.parts.results.may_be_on_disk(&key) {
        return None;
    }
    let results = door.parts.results.clone();
    tokio::task::spawn_blocking(move || results.on_disk(&key))
        .await
        .ok()
        .flatten()
}

fn order(slot: &Arc<ModelSlot>, prepared: &Prepared, flight: flight::Flight, span: &Span) -> Order {
    Order {
        slot: Arc::clone(slot),
        inputs: Arc::clone(&prepared.inputs),
        outputs: prepared
            .request
            .outputs
            .iter()
            .map(|output| output.name.clone())
            .collect(),
        flight,
        span: span.clone(),
        waiting: tracing::info_span!(parent: span, "queue"),
    }
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

/// The body in the form that the request asks for.
fn encode(slot: &ModelSlot, request: &InferRequest, outputs: &[Tensor]) -> Result<Answer, Problem> {
    let mut told: Vec<(Cow<'_, Tensor>, bool)> = Vec::with_capacity(outputs.len());
    for tensor in outputs {
        let asked = request.outputs.iter().find(|o| o.name == tensor.name);
        let binary = asked.and_then(|o| o.binary).unwrap_or(request.binary_output);
        let tensor = match asked.and_then(|o| o.classification) {
            None => Cow::Borrowed(tensor),
            Some(count) => Cow::Owned(
                classify::highest(tensor, count)
                    .map_err(|why| Problem::bad_request(format!("output `{}`: {why}", tensor.name)))?,
            ),
        };
        told.push((tensor, binary));
    }
    let outputs = told
        .iter()
        .map(|(tensor, binary)| Answered {
            tensor,
            binary: *binary,
        })
        .collect();
    let (body, json_bytes) = write_infer(&InferAnswer {
        release: &slot.release,
        id: request.id.as_deref(),
        outputs,
    })?;
    let Some(json_bytes) = json_bytes else {
        return Ok(reply::bytes(HeaderValue::from_static("application/json"), body));
    };
    let mut answer = reply::bytes(HeaderValue::from_static("application/octet-stream"), body);
    answer
        .headers_mut()
        .insert(HEADER_LENGTH, HeaderValue::from(json_bytes));
    Ok(answer)
}

/// RFC 9211.
fn cache_status(origin: CacheUse) -> &'static str {
    match origin {
        CacheUse::HitMemory | CacheUse::HitDisk => "meridian; hit",
        CacheUse::Miss => "meridian; fwd=miss",
        CacheUse::Collapsed => "meridian; fwd=miss; collapsed",
        CacheUse::Bypass => "meridian; fwd=request",
    }
}

fn timing(landed: &Landed, origin: CacheUse, total: Duration) -> String {
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let total = ms(total);
    match origin {
        CacheUse::HitMemory | CacheUse::HitDisk => format!("total;dur={total:.3}"),
        CacheUse::Miss | CacheUse::Collapsed | CacheUse::Bypass => format!(
            "queue;dur={:.3}, batch;dur={:.3}, exec;dur={:.3}, total;dur={total:.3}",
            ms(landed.queue),
            ms(landed.batch),
            ms(landed.exec)
        ),
    }
}
