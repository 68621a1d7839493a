//! `ModelInfer`, and what a request in a stream has in common with it.

use std::time::Instant;

use bytes::Bytes;
use http::{Request, Response};
use proto::limits::INFER_BODY_BYTES_MAX;
use proto::oip::grpc::{Addressed, PREFIX_BYTES, read_infer, write_infer};
use proto::oip::{Answered, InferAnswer};
use proto::receipt::Commitment;
use runtime::https::{Body, Unread};
use tracing::Span;

use super::super::Door;
use super::super::body::{Encoding, Received};
use super::super::deadline::{self, Budget};
use super::super::infer::{self, Admitted, Asker, DECODE_INLINE_BYTES_MAX, Obtained, Question};
use super::super::reply::Problem;
use super::super::route::Target;
use super::messages::{Message, Messages};
use super::wire;
use crate::serving::ServingSet;

/// Answers one call and counts how it ended.
pub(super) async fn answer(door: &Door, request: &Request<()>, body: &mut Unread) -> Result<Response<Body>, Problem> {
    infer::answered(door, request, |span| walk(door, request, body, span)).await
}

async fn walk(door: &Door, request: &Request<()>, body: &mut Unread, span: Span) -> Result<Response<Body>, Problem> {
    // The key and the boundary first: of nobody else is anything read. The set is not kept while the client sends.
    let Admitted { arrived, .. } = Admitted::of(&door.parts, &door.parts.serving.load(), request)?;
    let headers = request.headers();
    let budget = deadline::of_call(headers)?;
    let messages = Messages::of(door, headers, body, INFER_BODY_BYTES_MAX)?;
    let message = messages.only(budget.time).await?;
    let packed = wire::packs(message.encoding);
    let limit = Limit {
        arrived,
        budget,
        headed: true,
    };
    let found = find(door, request, message, limit, &mut None, &span).await?;
    let (message, output) = found.written(packed, write_infer).await?;
    let Found {
        question,
        obtained,
        deadline,
    } = found;
    let receipt = match output {
        Some(output) => infer::promise(door, &question, &obtained, output, deadline).await?,
        None => None,
    };
    let facts = obtained.facts(door, &question.slot, arrived).chain(receipt);
    let mut answer = wire::whole(message, packed);
    answer
        .headers_mut()
        .extend(facts.map(|(name, value)| (Some(name), value)));
    Ok(answer)
}

/// From when, and for how long, a request may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limit {
    pub(super) arrived: Instant,
    pub(super) budget: Budget,
    /// Whether the answer has a head, which could promise a receipt.
    pub(super) headed: bool,
}

/// A question and its answer.
pub(super) struct Found {
    question: Question,
    obtained: Obtained,
    deadline: Instant,
}

/// Decodes and answers one message. `id` becomes the request's own as soon as it is known, whatever comes of it.
pub(super) async fn find(
    door: &Door,
    request: &Request<()>,
    message: Message,
    limit: Limit,
    id: &mut Option<String>,
    span: &Span,
) -> Result<Found, Problem> {
    let set = door.parts.serving.load();
    let mut asker = Admitted::of(&door.parts, &set, request)?.asker;
    if !limit.headed {
        asker = asker.without_receipt();
    }
    let short = message.encoding == Encoding::Plain && message.bytes() <= DECODE_INLINE_BYTES_MAX;
    let work = move || decode(&set, &asker, message);
    let (named, question) = infer::aside(short, work).await?;
    *id = named;
    let question = question?;
    infer::record_model(span, &question.slot);
    let deadline = limit.arrived + question.budget(door, limit.budget);
    let obtained = infer::obtain(door, &question, deadline, span).await?;
    Ok(Found {
        question,
        obtained,
        deadline,
    })
}

/// A request's id, and what it asks.
type Decoded = (Option<String>, Result<Question, Problem>);

fn decode(set: &ServingSet, asker: &Asker, message: Message) -> Result<Decoded, Problem> {
    let Received { bytes, lent } = message.unpack(INFER_BODY_BYTES_MAX)?;
    let Addressed {
        model,
        version,
        request,
    } = read_infer(&bytes)?;
    let id = request.id.clone();
    let slot = Target::of(model, version).find(set).cloned();
    Ok((
        id,
        slot.and_then(|slot| Question::of(slot, asker, request, &bytes, lent)),
    ))
}

impl Found {
    /// The message that `write` makes of the answer, and the commitment to it where there is to be a receipt.
    pub(super) async fn written(
        &self,
        packed: bool,
        write: fn(&mut Vec<u8>, &InferAnswer<'_>),
    ) -> Result<(Bytes, Option<Commitment>), Problem> {
        let Self { question, obtained, .. } = self;
        let told = obtained.told(&question.request)?;
        let outputs = told.iter().map(|told| Answered {
            tensor: &told.tensor,
            binary: true,
        });
        let mut message = wire::message();
        write(
            &mut message,
            &InferAnswer {
                release: &question.slot.release,
                id: question.request.id.as_deref(),
                outputs: outputs.collect(),
            },
        );
        let claim = question.claim();
        let short = (!packed && claim.is_none()) || message.len() <= DECODE_INLINE_BYTES_MAX;
        let work = move || {
            let output = claim.map(|claim| claim.output(&message[PREFIX_BYTES..]));
            Ok((wire::framed(message, packed)?, output))
        };
        infer::aside(short, work).await
    }
}
