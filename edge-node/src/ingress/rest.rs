//! Inference over REST: JSON or binary tensors in, the same out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::HeaderName;
use http::{HeaderMap, HeaderValue, Request};
use proto::limits::{INFER_BODY_BYTES_MAX, INFER_BODY_MS_MAX};
use proto::oip::{Answered, InferAnswer, read_infer, read_raw, write_infer};
use runtime::https::Unread;
use tracing::Span;

use super::body::{self, Encoding, Received};
use super::infer::{self, Admitted, Asker, Obtained, Question};
use super::jobs::{self, Wish};
use super::reply::{self, Problem};
use super::route::Target;
use super::{Answer, Door, deadline};
use crate::serving::ModelSlot;

const HEADER_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");

/// Answers one request and counts how it ended.
pub(super) async fn answer(
    door: &Door,
    target: &Target,
    request: Request<()>,
    body: &mut Unread,
) -> Result<Answer, Problem> {
    infer::answered(door, &request, |span| walk(door, target, &request, body, span)).await
}

async fn walk(
    door: &Door,
    target: &Target,
    request: &Request<()>,
    body: &mut Unread,
    span: Span,
) -> Result<Answer, Problem> {
    let set = door.parts.serving.load();
    let Admitted { arrived, asker } = Admitted::of(&door.parts, &set, request)?;
    let slot = Arc::clone(target.find(&set)?);
    drop(set);
    infer::record_model(&span, &slot);
    let headers = request.headers();
    let of_model = |problem: Problem| problem.about(&slot.release.model);
    let wish = Wish::of(door, headers).map_err(of_model)?;
    let budget = deadline::of_head(headers)?;
    let sent = read(door, headers, body, budget.time).await.map_err(of_model)?;
    let later = wish.map(|wish| wish.submission(target, &sent, headers, asker.tenant.clone()));
    let asker = if later.is_some() {
        asker.without_receipt()
    } else {
        asker
    };
    let question = question(slot, asker, sent).await?;
    if let Some(submission) = later {
        return jobs::accept(door, question, submission).await;
    }
    infer::charge(door, &question)?;
    let deadline = arrived + question.budget(door, budget);
    told(door, &question, deadline, arrived, &span).await
}

/// The answer to a question that is paid for, as one that `arrived` then is told.
pub(super) async fn told(
    door: &Door,
    question: &Question,
    deadline: Instant,
    arrived: Instant,
    span: &Span,
) -> Result<Answer, Problem> {
    let obtained = infer::obtain_paid(door, question, deadline, span).await?;
    let mut answer = encode(question, &obtained)?;
    let receipt = infer::receipt(door, question, &obtained, answer.body(), deadline).await?;
    for (name, value) in obtained.facts(door, &question.slot, arrived).chain(receipt) {
        answer.headers_mut().insert(name, value);
    }
    Ok(answer)
}

/// A body as it was sent, and what the head says of it.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) received: Received,
    pub(super) encoding: Encoding,
    /// Where its JSON ends, if tensors follow it.
    pub(super) json_bytes: Option<usize>,
}

/// Reads the body.
async fn read(door: &Door, headers: &HeaderMap, body: &mut Unread, budget: Duration) -> Result<Sent, Problem> {
    let incoming = body.take();
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
    let received = received.ok_or_else(|| body::late(time, budget))?;
    Ok(Sent {
        received,
        encoding,
        json_bytes,
    })
}

/// Unpacks, decodes and checks what was sent.
pub(super) async fn question(slot: Arc<ModelSlot>, asker: Asker, sent: Sent) -> Result<Question, Problem> {
    let Sent {
        received,
        encoding,
        json_bytes,
    } = sent;
    let short = encoding == Encoding::Plain && received.bytes.len() <= infer::DECODE_INLINE_BYTES_MAX;
    infer::aside(short, move || decode(slot, &asker, received, encoding, json_bytes)).await
}

fn decode(
    slot: Arc<ModelSlot>,
    asker: &Asker,
    received: Received,
    encoding: Encoding,
    json_bytes: Option<usize>,
) -> Result<Question, Problem> {
    let Received { bytes, lent } = body::unpack(received, encoding, INFER_BODY_BYTES_MAX)?;
    let request = if json_bytes == Some(0) {
        let single = slot.manifest.signatures.iter().find_map(|s| match s.inputs.as_slice() {
            [only] => Some(only),
            _ => None,
        });
        let none = || Problem::bad_request("a raw body needs a model with one input: send a JSON header with it");
        read_raw(&bytes, single.ok_or_else(none)?)?
    } else {
        read_infer(&bytes, json_bytes)?
    };
    Question::of(slot, asker, request, &bytes, lent)
}

/// The body in the form that the request asks for.
fn encode(question: &Question, obtained: &Obtained) -> Result<Answer, Problem> {
    let told = obtained.told(&question.request)?;
    let outputs = told.iter().map(|told| Answered {
        tensor: &told.tensor,
        binary: told.binary,
    });
    let (body, json_bytes) = write_infer(&InferAnswer {
        release: &question.slot.release,
        id: question.request.id.as_deref(),
        outputs: outputs.collect(),
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
