//! Refusals and ends in the words of gRPC.

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use runtime::https::{Body, empty};

use super::super::reply::Problem;
use super::GRPC;

const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const CODE: HeaderName = HeaderName::from_static("meridian-code");

/// A refusal before anything was answered: its trailers are the head.
pub(in super::super) fn refuse(problem: Problem) -> Response<Body> {
    let mut answer = Response::new(empty());
    *answer.headers_mut() = trailers(Some(problem));
    answer
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(GRPC));
    answer
}

/// How a call ends: well, or with a problem.
pub(super) fn trailers(problem: Option<Problem>) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    let Some(problem) = problem else {
        trailers.insert(STATUS, HeaderValue::from_static("0"));
        return trailers;
    };
    trailers.insert(STATUS, HeaderValue::from_static(number(&problem)));
    trailers.insert(CODE, HeaderValue::from_static(problem.code));
    for (name, value) in &problem.headers {
        if let Ok(value) = HeaderValue::from_str(value) {
            trailers.insert(*name, value);
        }
    }
    if let Ok(message) = HeaderValue::from_str(&escaped(&problem.message)) {
        trailers.insert(MESSAGE, message);
    }
    trailers
}

/// The status code of gRPC that says what REST's says.
///
/// # Source
/// `statuscodes.md` of github.com/grpc/grpc.
fn number(problem: &Problem) -> &'static str {
    match (problem.status, problem.code) {
        (StatusCode::BAD_REQUEST, _) => "3", // INVALID_ARGUMENT
        (StatusCode::GATEWAY_TIMEOUT | StatusCode::REQUEST_TIMEOUT, _) => "4", // DEADLINE_EXCEEDED
        (StatusCode::NOT_FOUND, _) => "5",   // NOT_FOUND
        (StatusCode::FORBIDDEN, _) => "7",   // PERMISSION_DENIED
        (StatusCode::PAYLOAD_TOO_LARGE | StatusCode::TOO_MANY_REQUESTS, _) => "8", // RESOURCE_EXHAUSTED
        (StatusCode::SERVICE_UNAVAILABLE, "queue_full") => "8",
        (StatusCode::UNAVAILABLE_FOR_LEGAL_REASONS, _) => "9", // FAILED_PRECONDITION
        (StatusCode::NOT_IMPLEMENTED | StatusCode::UNSUPPORTED_MEDIA_TYPE, _) => "12", // UNIMPLEMENTED
        (StatusCode::SERVICE_UNAVAILABLE, _) => "14",          // UNAVAILABLE
        (StatusCode::UNAUTHORIZED, _) => "16",                 // UNAUTHENTICATED
        _ => "13",                                             // INTERNAL
    }
}

/// `grpc-message` is printable ASCII; all else, and `%`, is escaped.
fn escaped(message: &str) -> String {
    let mut out = String::with_capacity(message.len());
    for byte in message.bytes() {
        match byte {
            b'%' => out.push_str("%25"),
            b' '..=b'~' => out.push(char::from(byte)),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Outcome;

    fn text<'t>(trailers: &'t HeaderMap, name: &str) -> &'t str {
        trailers[name].to_str().unwrap()
    }

    #[test]
    fn a_refusal_has_rests_sentence_code_and_wait_and_the_status_that_fits() {
        let wait = std::time::Duration::from_millis(1500);
        let full = trailers(Some(Problem::full("the queue is full", wait)));
        assert_eq!(
            (
                text(&full, "grpc-status"),
                text(&full, "retry-after"),
                text(&full, "meridian-code")
            ),
            ("8", "2", "queue_full")
        );
        assert!(
            full[MESSAGE]
                .to_str()
                .unwrap()
                .starts_with("the queue is full: try again")
        );
        assert_eq!(trailers(Some(Problem::starting()))[STATUS], "14");
        let odd = Problem::new(StatusCode::IM_A_TEAPOT, "odd", "50 % \u{e9}\n", Outcome::Failed);
        let odd = trailers(Some(odd));
        assert_eq!(
            (text(&odd, "grpc-status"), text(&odd, "grpc-message")),
            ("13", "50 %25 %C3%A9%0A")
        );
    }
}
