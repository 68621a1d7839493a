//! Answers and refusals as HTTP. A refusal says what, why and what to do next, in the protocol's shape
//! `{"error": "..", "code": ".."}`.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderName};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use proto::ids::ModelName;
use proto::oip::OipError;
use serde::Serialize;

use super::Answer;
use crate::cache::flight::Refusal;
use crate::metrics::Outcome;

/// Which node answered.
pub(super) const SERVED_BY: HeaderName = HeaderName::from_static("meridian-served-by");
pub(super) const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Headers of an answer, those included that its connection adds.
const HEADERS_USUAL: usize = 12;

/// A refusal on its way out.
#[derive(Debug)]
pub(super) struct Problem {
    pub(super) status: StatusCode,
    /// One word for programs.
    pub(super) code: &'static str,
    /// A sentence for people.
    pub(super) message: String,
    /// How it is counted.
    pub(super) outcome: Outcome,
    pub(super) headers: Vec<(&'static str, String)>,
    /// The model that it is about, where that is known: another node may answer for it.
    pub(super) model: Option<ModelName>,
}

impl Problem {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>, outcome: Outcome) -> Self {
        Self {
            status,
            code,
            message: message.into(),
            outcome,
            headers: Vec::new(),
            model: None,
        }
    }
    /// Says which model was asked.
    pub(super) fn about(mut self, model: &ModelName) -> Self {
        self.model.get_or_insert_with(|| model.clone());
        self
    }
    /// Whether another node may take what this one does not. Not so for rates: they are counted on each node apart, and
    /// to name others would be to say how a limit is passed by.
    pub(super) fn is_of_this_node(&self) -> bool {
        matches!(
            self.outcome,
            Outcome::QueueFull | Outcome::Starting | Outcome::Draining | Outcome::DeadlineUnmeetable
        )
    }
    pub(super) fn with(mut self, header: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((header, value.into()));
        self
    }
    pub(super) fn retry_after(self, wait: std::time::Duration) -> Self {
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        self.with("retry-after", seconds.max(1).to_string())
    }
    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request", message, Outcome::BadRequest)
    }
    pub(super) fn not_found(message: String) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", message, Outcome::NotFound)
    }
    pub(super) fn too_large(message: String) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message, Outcome::TooLarge)
    }
    pub(super) fn full(message: &str, wait: std::time::Duration) -> Self {
        let message = format!(
            "{message}: try again after the time in Retry-After, or ask a node of Meridian-Elsewhere or the router"
        );
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "queue_full",
            message,
            Outcome::QueueFull,
        )
        .retry_after(wait)
    }
    pub(super) fn starting() -> Self {
        let message = "this node has no state of its region yet: try again shortly, or another node";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "starting", message, Outcome::Starting)
            .retry_after(std::time::Duration::from_secs(1))
    }
    /// The state names the model: another node may have it already, and this one will.
    pub(super) fn loading(model: &ModelName) -> Self {
        let message = format!("this node has not loaded `{model}` yet: try again shortly, or another node");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "loading", message, Outcome::Starting)
            .retry_after(std::time::Duration::from_secs(1))
            .about(model)
    }
    pub(super) fn draining() -> Self {
        let message = "this node is shutting down: ask another one";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "draining", message, Outcome::Draining)
            .retry_after(std::time::Duration::from_secs(1))
    }
    pub(super) fn deadline_exceeded() -> Self {
        let message = "the deadline has passed: allow more time or send fewer rows";
        Self::new(
            StatusCode::GATEWAY_TIMEOUT,
            "deadline_exceeded",
            message,
            Outcome::DeadlineExceeded,
        )
    }

    pub(super) fn into_answer(self) -> Answer {
        #[derive(Serialize)]
        struct Body<'a> {
            error: &'a str,
            code: &'static str,
        }
        let mut answer = json(&Body {
            error: &self.message,
            code: self.code,
        });
        *answer.status_mut() = self.status;
        for (name, value) in self.headers {
            if let Ok(value) = HeaderValue::from_str(&value) {
                answer.headers_mut().insert(name, value);
            }
        }
        answer
    }
}

impl From<OipError> for Problem {
    fn from(error: OipError) -> Self {
        Self::bad_request(error.to_string())
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let text = refusal.to_string();
        match refusal {
            Refusal::Full { wait } => Self::full("the queue is full", wait),
            Refusal::Unmeetable { wait } => {
                let status = StatusCode::GATEWAY_TIMEOUT;
                Self::new(status, "deadline_unmeetable", text, Outcome::DeadlineUnmeetable).retry_after(wait)
            }
            Refusal::Expired => Self::deadline_exceeded(),
            Refusal::TooLarge => Self::too_large(text),
            Refusal::Draining => Self::draining(),
            Refusal::Input(why) => Self::bad_request(why),
            Refusal::Failed | Refusal::Abandoned => {
                let message = "the model failed on this input; the node's log says more";
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message, Outcome::Failed)
            }
        }
    }
}

pub(super) fn empty(status: StatusCode) -> Answer {
    let mut answer = Response::new(Bytes::new());
    *answer.status_mut() = status;
    answer
}

pub(super) fn json<T: Serialize>(value: &T) -> Answer {
    bytes(
        JSON,
        serde_json::to_vec(value).expect("documents hold only types that JSON writes"),
    )
}

pub(super) fn text(content_type: &'static str, text: String) -> Answer {
    bytes(HeaderValue::from_static(content_type), text.into_bytes())
}

pub(super) fn bytes(content_type: HeaderValue, bytes: Vec<u8>) -> Answer {
    let mut answer = Response::new(Bytes::from(bytes));
    *answer.headers_mut() = HeaderMap::with_capacity(HEADERS_USUAL);
    answer.headers_mut().insert(CONTENT_TYPE, content_type);
    answer
}

/// A document as the one event of a stream.
pub(super) fn event(document: &[u8]) -> Vec<u8> {
    [&b"data: "[..], document, b"\n\n"].concat()
}

/// What every answer carries. A draining node ends HTTP/1 connections with the answer, so that clients move on.
pub(super) fn sign<B>(answer: &mut Response<B>, node: &HeaderValue, draining: bool) {
    let headers = answer.headers_mut();
    headers.insert(SERVED_BY, node.clone());
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if draining {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
}
