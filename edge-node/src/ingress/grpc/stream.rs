//! `ModelStreamInfer`: requests and answers over one call, each answered when it is done.
//!
//! ```text
//!   client --message--> works (at most GRPC_STREAM_REQUESTS_MAX) --done--> message     a refusal is a message too
//!   ends: the client sends no more | the call's own deadline | the node drains | bytes that are no message
//! ```
//! The body of the answer does all of it: when the client leaves, it is dropped, and what was asked with it.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt, unfold};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use proto::limits::{GRPC_STREAM_REQUESTS_MAX, INFER_BODY_BYTES_MAX};
use proto::oip::grpc::{write_stream_answer, write_stream_error};
use runtime::clock;
use runtime::https::{Body, Unread};

use super::super::Door;
use super::super::deadline::{self, Budget};
use super::super::infer::{Admitted, observed};
use super::super::receipts;
use super::super::reply::Problem;
use super::infer::{Limit, find};
use super::messages::{Message, Messages};
use super::{status, wire};

type Work = Pin<Box<dyn Future<Output = Result<Bytes, Problem>> + Send>>;
type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A call while it lasts.
struct Conversation {
    door: Arc<Door>,
    request: Arc<Request<()>>,
    messages: Messages,
    works: FuturesUnordered<Work>,
    /// How long each request may take unless it says less.
    budget: Budget,
    /// When the call ends, whatever is being done.
    end: Option<Instant>,
    /// Messages are still read.
    reading: bool,
    /// Why the call ends, if not because the client wants no more.
    problem: Option<Problem>,
}

/// Begins a call.
pub(super) fn open(door: &Arc<Door>, request: Request<()>, body: &mut Unread) -> Result<Response<Body>, Problem> {
    let headers = request.headers();
    let begin = || {
        let arrived = Admitted::of(&door.parts, &door.parts.serving.load(), &request)?.arrived;
        receipts::none_in_streams(headers)?;
        let (mut budget, whole) = (deadline::of_head(headers)?, deadline::of_grpc(headers)?);
        budget.is_named |= whole.is_some();
        // A time beyond all clocks is no deadline.
        Ok((budget, whole.and_then(|time| arrived.checked_add(time))))
    };
    let begun = begin().inspect_err(|problem: &Problem| door.parts.metrics.ended(problem.outcome));
    let (budget, end) = begun?;
    let messages = Messages::of(door, headers, body, INFER_BODY_BYTES_MAX)?;
    let packed = messages.packs();
    let conversation = Conversation {
        door: Arc::clone(door),
        request: Arc::new(request),
        messages,
        works: FuturesUnordered::new(),
        budget,
        end,
        reading: true,
        problem: None,
    };
    let frames = unfold(Some(conversation), |conversation| async move {
        let (frame, rest) = conversation?.next().await;
        Some((Ok::<_, BoxError>(frame), rest))
    });
    Ok(wire::answer(StreamBody::new(frames).boxed_unsync(), packed))
}

impl Conversation {
    /// The next answer, or the trailers and nothing after them.
    async fn next(mut self) -> (Frame<Bytes>, Option<Self>) {
        while self.reading || !self.works.is_empty() {
            let room = self.works.len() < GRPC_STREAM_REQUESTS_MAX;
            let end = self.end;
            let over = async move {
                match end {
                    Some(end) => tokio::time::sleep_until(end.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = over => {
                    self.works.clear();
                    self.stop(Some(Problem::deadline_exceeded()));
                }
                () = self.door.parts.draining.cancelled(), if self.reading => self.stop(Some(Problem::draining())),
                Some(done) = self.works.next() => match done {
                    Ok(message) => return (Frame::data(message), Some(self)),
                    Err(problem) => self.stop(Some(problem)),
                },
                message = self.messages.next(), if self.reading && room => match message {
                    Ok(Some(message)) => self.begin(message),
                    Ok(None) => self.stop(None),
                    Err(problem) => self.stop(Some(problem)),
                },
            }
        }
        (Frame::trailers(status::trailers(self.problem)), None)
    }

    /// Reads no more. What is being answered is answered.
    fn stop(&mut self, problem: Option<Problem>) {
        self.reading = false;
        self.problem = self.problem.take().or(problem);
    }

    fn begin(&mut self, message: Message) {
        let (door, request) = (Arc::clone(&self.door), Arc::clone(&self.request));
        let arrived = clock::instant();
        let limit = Limit {
            arrived,
            budget: self.budget,
            headed: false,
        };
        self.works.push(Box::pin(answer(door, request, message, limit)));
    }
}

/// The message that answers or refuses one request.
async fn answer(door: Arc<Door>, request: Arc<Request<()>>, message: Message, limit: Limit) -> Result<Bytes, Problem> {
    let packed = wire::packs(message.encoding);
    let mut id = None;
    let walk = |span| {
        let (door, request, id) = (&door, &request, &mut id);
        async move {
            let found = find(door, request, message, limit, id, &span).await?;
            let (message, _) = found.written(packed, write_stream_answer).await?;
            Ok(message)
        }
    };
    let answered = observed(&door, request.headers(), walk).await;
    answered.or_else(|problem| {
        let mut message = wire::message();
        write_stream_error(&mut message, id.as_deref(), &problem.message);
        wire::framed(message, false)
    })
}
