//! Refusals and ends in the words of gRPC.

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use proto::oip::grpc::{status, status_message};
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
    trailers.insert(
        STATUS,
        HeaderValue::from_static(status(problem.status.as_u16(), problem.code)),
    );
    trailers.insert(CODE, HeaderValue::from_static(problem.code));
    for (name, value) in &problem.headers {
        if let Ok(value) = HeaderValue::from_str(value) {
            trailers.insert(*name, value);
        }
    }
    if let Ok(message) = HeaderValue::from_str(&status_message(&problem.message)) {
        trailers.insert(MESSAGE, message);
    }
    trailers
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

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
