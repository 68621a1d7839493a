//! Calls over gRPC on their way through. The router reads no message: metadata may name the model for it.

use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Version};
use http_body_util::BodyExt;
use proto::ids::ModelName;
use proto::oip::grpc::{is_content_type, status, status_message};
use runtime::https::{Body, empty, full};

const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
/// What REST has as `code`.
const CODE: &str = "meridian-code";
/// The model that a call is for.
const MODEL: &str = "meridian-model";
/// `{live: true}`, `{ready: true}` and `{status: SERVING}`, and what is false or unknown, behind their prefix.
const YES: &[u8] = &[0, 0, 0, 0, 2, 8, 1];
const NO: &[u8] = &[0; 5];

/// Whether `request` is a call.
pub(super) fn speaks<B>(request: &Request<B>) -> bool {
    request.version() == Version::HTTP_2 && is_grpc(request.headers())
}

/// Whether a body with these headers is one of gRPC.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .is_some_and(|value| is_content_type(value.as_bytes()))
}

/// The model that a client names for the router.
pub(super) fn model(headers: &HeaderMap) -> Option<ModelName> {
    headers.get(MODEL)?.to_str().ok()?.parse().ok()
}

/// Whether a node's answer is a refusal at its door that another node may not make, as REST's 503 is.
pub(super) fn turned_away(headers: &HeaderMap) -> bool {
    let is = |name: &str, text: &str| headers.get(name).is_some_and(|value| value == text);
    is("grpc-status", "14") || (is("grpc-status", "8") && is(CODE, "queue_full"))
}

/// Whether a node that turned a call away is about to stop.
pub(super) fn is_draining(headers: &HeaderMap) -> bool {
    headers.get(CODE).is_some_and(|code| code == "draining")
}

/// What the router itself answers, in the words of gRPC; answers of nodes are that already. An answer without a body
/// says that the router is live or ready, or not.
pub(super) async fn translated(response: Response<Body>) -> Response<Body> {
    if is_grpc(response.headers()) {
        return response;
    }
    let (head, body) = response.into_parts();
    let body = body
        .collect()
        .await
        .map(http_body_util::Collected::to_bytes)
        .unwrap_or_default();
    let mut answer;
    let mut end = HeaderMap::new();
    if body.is_empty() {
        end.insert(STATUS, HeaderValue::from_static("0"));
        let message = full(if head.status == StatusCode::OK { YES } else { NO });
        answer = Response::new(message.with_trailers(std::future::ready(Some(Ok(end)))).boxed_unsync());
    } else {
        let said: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        let code = said["code"].as_str().unwrap_or_default();
        end.insert(STATUS, HeaderValue::from_static(status(head.status.as_u16(), code)));
        let sentence = status_message(said["error"].as_str().unwrap_or_default());
        for (name, value) in [(MESSAGE, sentence.as_str()), (HeaderName::from_static(CODE), code)] {
            if let Ok(value) = HeaderValue::from_str(value) {
                end.insert(name, value);
            }
        }
        if let Some(wait) = head.headers.get(RETRY_AFTER) {
            end.insert(RETRY_AFTER, wait.clone());
        }
        answer = Response::new(empty());
        *answer.headers_mut() = end;
    }
    answer
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_the_router_refuses_has_its_sentence_and_the_status_that_fits() {
        let mut refusal = Response::new(full(
            r#"{"error":"no node is up: try again later","code":"none-healthy"}"#,
        ));
        *refusal.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        refusal.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        let answer = translated(refusal).await;
        let header = |name: &str| answer.headers()[name].to_str().unwrap();
        assert_eq!(
            (answer.status(), header("grpc-status"), header("retry-after")),
            (StatusCode::OK, "14", "1")
        );
        assert_eq!(header("grpc-message"), "no node is up: try again later");
        let live = translated(Response::new(empty()))
            .await
            .into_body()
            .collect()
            .await
            .unwrap();
        assert_eq!(live.trailers().unwrap()["grpc-status"], "0");
        assert_eq!(live.to_bytes(), YES);
    }
}
