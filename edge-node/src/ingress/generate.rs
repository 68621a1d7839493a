//! Models that give text, asked in plain JSON: the generate extension. The models of a node give their answer whole, so an
//! event stream has one event.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Request};
use proto::limits::{GENERATE_BODY_BYTES_MAX, INFER_BODY_MS_MAX};
use proto::oip::{Answered, InferAnswer, generates, read_generate, write_generate};
use runtime::https::Unread;
use tracing::Span;

use super::infer::{self, Admitted, Question};
use super::reply::{self, Problem};
use super::route::Target;
use super::{Answer, Door, body, deadline};

const EVENTS: HeaderValue = HeaderValue::from_static("text/event-stream; charset=utf-8");

/// How the answer is told.
#[derive(Clone, Copy, Debug)]
pub(super) enum Form {
    /// One JSON document.
    Whole,
    /// Server-sent events.
    Events,
}

/// Answers one request and counts how it ended.
pub(super) async fn answer(
    door: &Door,
    target: &Target,
    request: Request<()>,
    body: &mut Unread,
    form: Form,
) -> Result<Answer, Problem> {
    infer::answered(door, &request, |span| walk(door, target, &request, body, form, span)).await
}

async fn walk(
    door: &Door,
    target: &Target,
    request: &Request<()>,
    body: &mut Unread,
    form: Form,
    span: Span,
) -> Result<Answer, Problem> {
    let set = door.parts.serving.load();
    let Admitted { arrived, asker } = Admitted::of(&door.parts, &set, request)?;
    let slot = Arc::clone(target.find(&set)?);
    drop(set);
    infer::record_model(&span, &slot);
    if !slot.manifest.signatures.iter().any(generates) {
        let message = format!(
            "`{}` gives no text: ask it at /v2/models/NAME/infer",
            slot.release.model
        );
        return Err(Problem::bad_request(message));
    }
    let headers = request.headers();
    let (budget, encoding) = (deadline::of_head(headers)?, body::encoding(headers)?);
    let time = budget.time.min(Duration::from_millis(INFER_BODY_MS_MAX));
    let received = body::read(&door.room, body.take(), GENERATE_BODY_BYTES_MAX, time).await?;
    let received = received.ok_or_else(|| body::late(time, budget.time))?;
    let short = received.bytes.len() <= infer::DECODE_INLINE_BYTES_MAX && encoding == body::Encoding::Plain;
    let question = infer::aside(short, move || {
        let body::Received { bytes, lent } = body::unpack(received, encoding, GENERATE_BODY_BYTES_MAX)?;
        let request = read_generate(&bytes, &slot.manifest.signatures)?;
        Question::of(slot, &asker, request, &bytes, lent)
    })
    .await?;
    let deadline = arrived + question.budget(door, budget);
    let obtained = infer::obtain(door, &question, deadline, &span).await?;
    let told = obtained.told(&question.request)?;
    let outputs = told.iter().map(|told| Answered {
        tensor: &told.tensor,
        binary: false,
    });
    let document = write_generate(&InferAnswer {
        release: &question.slot.release,
        id: question.request.id.as_deref(),
        outputs: outputs.collect(),
    })?;
    let mut answer = match form {
        Form::Whole => reply::bytes(reply::JSON, document),
        Form::Events => reply::bytes(EVENTS, reply::event(&document)),
    };
    let receipt = infer::receipt(door, &question, &obtained, answer.body(), deadline).await?;
    let facts = obtained.facts(door, &question.slot, arrived).chain(receipt);
    answer
        .headers_mut()
        .extend(facts.map(|(name, value)| (Some(name), value)));
    Ok(answer)
}
