//! The answers that the router gives itself. Errors have the shape of the inference protocol, with a `code` beside.

use http::{HeaderValue, Response, StatusCode, header};
use regions::steer::Refusal;
use runtime::https::{Body, full};

use crate::metrics::Outcome;

/// An answer and how it is counted.
pub(super) type Reply = (Response<Body>, Outcome);

/// `value` as JSON.
pub(super) fn json(value: &serde_json::Value) -> Response<Body> {
    with(StatusCode::OK, "application/json", value.to_string())
}

/// `text` as `content_type`.
pub(super) fn text(content_type: &'static str, text: String) -> Response<Body> {
    with(StatusCode::OK, content_type, text)
}

fn with(status: StatusCode, content_type: &'static str, body: String) -> Response<Body> {
    let mut response = Response::new(full(body));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// A refusal: what, why and what to do next.
pub(super) fn error(status: StatusCode, outcome: Outcome, message: &str) -> Reply {
    let body = serde_json::json!({ "error": message, "code": outcome.name() });
    let mut response = with(status, "application/json", body.to_string());
    let headers = response.headers_mut();
    match status {
        StatusCode::SERVICE_UNAVAILABLE => headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1")),
        StatusCode::UNAUTHORIZED => headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")),
        _ => None,
    };
    (response, outcome)
}

/// What a refused decision answers.
pub(super) fn refused(refusal: Refusal, model: Option<&str>) -> Reply {
    match refusal {
        Refusal::Residency => error(
            StatusCode::UNAVAILABLE_FOR_LEGAL_REASONS,
            Outcome::Residency,
            "no node inside your residency boundary can answer, and none outside may: try again later",
        ),
        Refusal::NoneHealthy => error(
            StatusCode::SERVICE_UNAVAILABLE,
            Outcome::NoneHealthy,
            "no node is up: try again later",
        ),
        Refusal::UnknownModel => {
            let name = model.unwrap_or_default();
            let message = format!("Request for unknown model: '{name}' is not found");
            error(StatusCode::NOT_FOUND, Outcome::UnknownModel, &message)
        }
    }
}
