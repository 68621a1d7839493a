//! The inference protocol over gRPC: `inference.GRPCInferenceService`, on the port of REST.
//!
//! ```text
//!   POST /inference.GRPCInferenceService/CALL  -> messages (prefix, gzip, memory) -> infer | stream | pages
//!   POST /grpc.health.v1.Health/CALL           -> messages                        -> health
//!        -> 200, messages, trailers `grpc-status`; what is refused before it has begun: 200 with `grpc-status` in its head
//! ```
//! A refusal has the sentence that REST has, and REST's `code` as metadata.

mod health;
mod infer;
mod messages;
pub(super) mod model;
pub(super) mod pages;
mod statistics;
mod status;
mod stream;
mod wire;

use std::sync::Arc;

use http::header::CONTENT_TYPE;
use http::{Method, Request, Response, StatusCode, Version};
use proto::oip::grpc::{HEALTH, SERVICE, is_content_type};
use runtime::https::{Body, Unread};

use super::Door;
use super::reply::Problem;
use crate::metrics::Outcome;

pub(super) use status::refuse;

/// What gRPC says of its bodies.
const GRPC: &str = "application/grpc";

/// Whether `request` is a call over gRPC.
pub(super) fn speaks<B>(request: &Request<B>) -> bool {
    let content_type = request.headers().get(CONTENT_TYPE);
    request.version() == Version::HTTP_2 && content_type.is_some_and(|value| is_content_type(value.as_bytes()))
}

/// Answers one call, and takes its body only if it reads it.
pub(super) async fn answer(
    door: &Arc<Door>,
    request: Request<()>,
    body: &mut Unread,
) -> Result<Response<Body>, Problem> {
    let path = Some(request.uri().path()).filter(|_| request.method() == Method::POST);
    if let Some(call) = path.and_then(|path| path.strip_prefix(HEALTH)) {
        return health::answer(door, call, &request, body).await;
    }
    match path.and_then(|path| path.strip_prefix(SERVICE)) {
        Some("ModelInfer") => infer::answer(door, &request, body).await,
        Some("ModelStreamInfer") => stream::open(door, request, body),
        Some(call) => pages::answer(door, call, &request, body).await,
        None => Err(unimplemented(format!("only POST {SERVICE}CALL is answered over gRPC"))),
    }
}

/// What this node does not do, and what to do instead.
fn unimplemented(message: impl Into<String>) -> Problem {
    let status = StatusCode::NOT_IMPLEMENTED;
    Problem::new(status, "not_implemented", message, Outcome::BadRequest)
}
