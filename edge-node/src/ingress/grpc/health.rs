//! `grpc.health.v1.Health`, as load balancers and orchestrators ask it: to everybody, and without a key.
//!
//! ```text
//!   Check  the server ("") or the inference service -> SERVING | NOT_SERVING      any other name: NOT_FOUND
//!   Watch  the same at once and at every change     any other name: SERVICE_UNKNOWN, and nothing follows
//! ```
//! Serving is what REST's `/v2/health/ready` says. A watch ends when the node drains, after it has said NOT_SERVING: it
//! would hold up the end otherwise.
//!
//! Source: `grpc/health/v1/health.proto` of github.com/grpc/grpc-proto, and github.com/grpc/grpc `doc/health-checking.md`.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::unfold;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use prost::Message;
use proto::limits::GRPC_PAGE_BYTES_MAX;
use proto::oip::grpc::{HealthRequest, HealthResponse, SERVICE, Serves};
use runtime::https::{Body, Unread};
use tokio::sync::OwnedSemaphorePermit;

use super::super::reply::Problem;
use super::super::{Door, deadline, status as pages};
use super::messages::Messages;
use super::{status, unimplemented, wire};

/// How often a watch looks.
const LOOK: Duration = Duration::from_secs(1);

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Answers `call`.
pub(super) async fn answer(
    door: &Arc<Door>,
    call: &str,
    request: &Request<()>,
    body: &mut Unread,
) -> Result<Response<Body>, Problem> {
    if !matches!(call, "Check" | "Watch") {
        return Err(unimplemented("the health service has the calls Check and Watch"));
    }
    let messages = Messages::of(door, request.headers(), body, GRPC_PAGE_BYTES_MAX)?;
    let message = messages.only(deadline::of_call(request.headers())?.time).await?;
    let asked = message.unpack(GRPC_PAGE_BYTES_MAX)?.bytes;
    let HealthRequest { service } =
        HealthRequest::decode(asked.as_ref()).map_err(|e| Problem::bad_request(e.to_string()))?;
    let known = service.is_empty() || service == SERVICE.trim_matches('/');
    if call == "Watch" {
        return watch(door, known);
    }
    if !known {
        let message = "no such service here: ask for the inference service, or for the server by an empty name";
        return Err(Problem::not_found(message.to_owned()));
    }
    Ok(wire::whole(told(of(door))?, false))
}

fn of(door: &Door) -> Serves {
    match pages::ready(&door.parts) {
        Ok(_) => Serves::Serving,
        Err(_) => Serves::NotServing,
    }
}

fn told(serves: Serves) -> Result<Bytes, Problem> {
    let mut out = wire::message();
    let response = HealthResponse { status: serves.into() };
    response.encode(&mut out).expect("memory takes what is written");
    wire::framed(out, false)
}

/// One who is told of every change.
struct Watch {
    door: Arc<Door>,
    known: bool,
    told: Option<Serves>,
    _place: OwnedSemaphorePermit,
}

fn watch(door: &Arc<Door>, known: bool) -> Result<Response<Body>, Problem> {
    let place = Arc::clone(&door.watches).try_acquire_owned();
    let full = |_| Problem::full("too many watch this node's health", LOOK);
    let watch = Watch {
        door: Arc::clone(door),
        known,
        told: None,
        _place: place.map_err(full)?,
    };
    let frames = unfold(Some(watch), |watch| async move {
        let (frame, rest) = watch?.next().await;
        Some((Ok::<_, BoxError>(frame), rest))
    });
    Ok(wire::answer(StreamBody::new(frames).boxed_unsync(), false))
}

impl Watch {
    /// The next change, or the trailers and nothing after them.
    async fn next(mut self) -> (Frame<Bytes>, Option<Self>) {
        let draining = self.door.parts.draining.clone();
        loop {
            let serves = if self.known {
                of(&self.door)
            } else {
                Serves::ServiceUnknown
            };
            if self.told != Some(serves) {
                self.told = Some(serves);
                match told(serves) {
                    Ok(message) => return (Frame::data(message), Some(self)),
                    Err(problem) => return (Frame::trailers(status::trailers(Some(problem))), None),
                }
            }
            if draining.is_cancelled() {
                return (Frame::trailers(status::trailers(Some(Problem::draining()))), None);
            }
            // Woken by either, it looks again.
            let _ = tokio::time::timeout(LOOK, draining.cancelled()).await;
        }
    }
}
