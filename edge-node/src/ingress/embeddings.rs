//! Embeddings for OpenAI's clients: `POST /v1/embeddings`, answered by the model that the body names.

use std::sync::Arc;
use std::time::Duration;

use http::Request;
use proto::limits::{INFER_BODY_MS_MAX, INFER_JSON_BYTES_MAX};
use proto::oip::read_embeddings;
use runtime::https::Unread;
use tracing::Span;

use super::infer::{self, Admitted, Question};
use super::reply::{self, Problem};
use super::route::Target;
use super::{Answer, Door, body, deadline};

/// Answers one request and counts how it ended.
pub(super) async fn answer(door: &Door, request: Request<()>, body: &mut Unread) -> Result<Answer, Problem> {
    infer::answered(door, &request, |span| walk(door, &request, body, span)).await
}

async fn walk(door: &Door, request: &Request<()>, body: &mut Unread, span: Span) -> Result<Answer, Problem> {
    let set = door.parts.serving.load();
    let Admitted { arrived, asker } = Admitted::of(&door.parts, &set, request)?;
    let headers = request.headers();
    let (budget, encoding) = (deadline::of_head(headers)?, body::encoding(headers)?);
    let time = budget.time.min(Duration::from_millis(INFER_BODY_MS_MAX));
    let received = body::read(&door.room, body.take(), INFER_JSON_BYTES_MAX, time).await?;
    let received = received.ok_or_else(|| body::late(time, budget.time))?;
    let short = received.bytes.len() <= infer::DECODE_INLINE_BYTES_MAX && encoding == body::Encoding::Plain;
    let (asked, question) = infer::aside(short, move || {
        let body::Received { bytes, lent } = body::unpack(received, encoding, INFER_JSON_BYTES_MAX)?;
        let asked = read_embeddings(&bytes)?;
        let (name, version) = asked.model.split_once('@').unwrap_or((&asked.model, ""));
        let slot = Arc::clone(Target::of(name.to_owned(), version.to_owned()).find(&set)?);
        let infer = asked.infer(&slot.manifest.signatures)?;
        Ok((asked, Question::of(slot, &asker, infer, &bytes, lent)?))
    })
    .await?;
    infer::record_model(&span, &question.slot);
    let deadline = arrived + question.budget(door, budget);
    // The tokens are the model's own: it is needed also where the answer is kept.
    let model = question.slot.seat.within(deadline).await;
    let model = model.map_err(|refusal| Problem::from(refusal).about(&question.slot.release.model))?;
    let inputs = question.inputs();
    let tokens = infer::aside(short, move || Ok(model.tokens(&inputs))).await?;
    let obtained = infer::obtain(door, &question, deadline, &span).await?;
    let told = obtained.told(&question.request)?;
    let vectors = told
        .first()
        .ok_or_else(|| Problem::bad_request("the model gave no vectors"))?;
    let mut answer = reply::bytes(reply::JSON, asked.answer(&vectors.tensor, tokens)?);
    let receipt = infer::receipt(door, &question, &obtained, answer.body(), deadline).await?;
    let facts = obtained.facts(door, &question.slot, arrived).chain(receipt);
    answer
        .headers_mut()
        .extend(facts.map(|(name, value)| (Some(name), value)));
    Ok(answer)
}
