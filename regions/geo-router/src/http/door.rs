//! What a request is about, read from its head alone: pure.

use std::time::Duration;

use http::request::Parts;
use http::{HeaderMap, Method, header};
use proto::ids::{ContentHash, ModelName, NodeId};
use proto::jobs::JobId;
use proto::oip::grpc::{HEALTH, SERVICE};
use proto::receipt::ReceiptId;

use super::grpc;
use crate::config::Mode;

/// The client's time budget for one request, milliseconds from its arrival.
pub(super) const DEADLINE: &str = "meridian-deadline-ms";
/// Clients that name a session are sent to one node as long as it is there.
const SESSION: &str = "meridian-session";
/// Names one request of a client, however often it is sent.
const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// `mk_` and 64 digits.
const KEY_BYTES: usize = 67;

/// What a path stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// `/v2/health/live`: the router is there.
    Live,
    /// `/v2/health/ready`, and gRPC's own check of health: the router has a view.
    Ready,
    /// `/v1/router`: how the router is, for the fleet.
    Status,
    /// `/metrics`, for the fleet.
    Metrics,
    /// Anything of the inference protocol about no model in particular.
    Server,
    /// Anything of it about one model.
    Model(ModelName),
    /// Anything about one job or receipt: its node alone has it.
    Kept(NodeId),
    /// A model's name that cannot be one.
    BadModel,
    /// Nothing that is served here.
    Other,
}

/// Reads a path.
pub(super) fn route(path: &str) -> Route {
    match path {
        "/v2/health/live" => return Route::Live,
        "/v2/health/ready" => return Route::Ready,
        "/v1/router" => return Route::Status,
        "/metrics" => return Route::Metrics,
        "/v2" | "/v1/embeddings" => return Route::Server,
        _ => {}
    }
    if path.strip_prefix(HEALTH) == Some("Check") {
        return Route::Ready;
    }
    if let Some(call) = path.strip_prefix(SERVICE) {
        return match call {
            "ServerLive" => Route::Live,
            "ServerReady" => Route::Ready,
            _ => Route::Server,
        };
    }
    if let Some(job) = path.strip_prefix("/v1/jobs/") {
        let id = job.split('/').next().unwrap_or_default().parse::<JobId>();
        return id.map_or(Route::Other, |id| Route::Kept(id.node));
    }
    if let Some(receipt) = path.strip_prefix("/v1/receipts/") {
        let id = receipt.parse::<ReceiptId>();
        return id.map_or(Route::Other, |id| Route::Kept(id.node));
    }
    let Some(rest) = path.strip_prefix("/v2/") else {
        return Route::Other;
    };
    match rest
        .strip_prefix("models/")
        .map(|m| m.split('/').next().unwrap_or_default())
    {
        Some(name) => name.parse().map_or(Route::BadModel, Route::Model),
        None => Route::Server,
    }
}

/// Whether doing it twice is doing it once: reads, and inference.
pub(super) fn is_idempotent(method: &Method, path: &str) -> bool {
    method.is_safe()
        || (method == Method::POST
            && ["/infer", "/ModelInfer", "/embeddings"]
                .iter()
                .any(|call| path.ends_with(call)))
}

/// The digest of the key in `Authorization: Bearer`, if it has the shape of one.
pub(super) fn key_hash(headers: &HeaderMap) -> Option<ContentHash> {
    let (scheme, key) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let key = key.trim();
    let shaped = key.len() == KEY_BYTES && key.starts_with("mk_");
    (scheme.eq_ignore_ascii_case("bearer") && shaped).then(|| ContentHash::of(key.as_bytes()))
}

/// The session that a client names; without one, what it says is the same request goes to the same node, which alone knows
/// that it is.
pub(super) fn session(headers: &HeaderMap) -> Option<&[u8]> {
    headers
        .get(SESSION)
        .or_else(|| headers.get(IDEMPOTENCY_KEY))
        .map(http::HeaderValue::as_bytes)
}

/// The time budget that a client names.
///
/// # Errors
/// What stands there is no number of milliseconds from 1.
pub(super) fn deadline(headers: &HeaderMap) -> Result<Option<Duration>, ()> {
    let Some(value) = headers.get(DEADLINE) else {
        return Ok(None);
    };
    let ms: u32 = value.to_str().map_err(|_| ())?.trim().parse().map_err(|_| ())?;
    if ms == 0 {
        Err(())
    } else {
        Ok(Some(Duration::from_millis(ms.into())))
    }
}

/// What is to be done with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// Pass it on.
    Proxy,
    /// Send the client to the node.
    Redirect,
    /// Say who would answer, and why.
    Explain,
}

/// What the request asks for by `?explain=1`, `?redirect=1` or `Prefer: redirect`, else what `mode` says.
pub(super) fn wish(head: &Parts, mode: Mode) -> Wish {
    let has = |flag: &str| head.uri.query().is_some_and(|q| q.split('&').any(|pair| pair == flag));
    let prefers = |v: &http::HeaderValue| {
        v.to_str()
            .is_ok_and(|v| v.split(',').any(|token| token.trim().eq_ignore_ascii_case("redirect")))
    };
    if grpc::is_grpc(&head.headers) {
        // A call follows no redirect and reads no explanation.
        Wish::Proxy
    } else if has("explain=1") {
        Wish::Explain
    } else if has("redirect=1") || head.headers.get_all("prefer").iter().any(prefers) || mode == Mode::Redirect {
        Wish::Redirect
    } else {
        Wish::Proxy
    }
}

/// Path and query as the node should see them: without what was meant for the router.
pub(super) fn path_for_node(head: &Parts) -> String {
    let own = |pair: &&str| !matches!(*pair, "explain=1" | "redirect=1");
    let query: Vec<&str> = head.uri.query().unwrap_or_default().split('&').filter(own).collect();
    let query = query.join("&");
    let path = head.uri.path();
    if query.is_empty() {
        path.to_owned()
    } else {
        format!("{path}?{query}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn head(uri: &str, headers: &[(&'static str, &str)]) -> Parts {
        let mut request = http::Request::get(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn the_model_is_read_from_the_path_whatever_follows_it() {
        let minilm = Route::Model("minilm".parse().unwrap());
        for path in [
            "/v2/models/minilm",
            "/v2/models/minilm/infer",
            "/v2/models/minilm/versions/7/infer",
        ] {
            assert_eq!(route(path), minilm, "{path}");
        }
        assert_eq!(route("/v2/models/..%2f/infer"), Route::BadModel);
        assert_eq!((route("/v2/"), route("/v1/embeddings")), (Route::Server, Route::Server));
        assert_eq!(route("/v2/health/ready"), Route::Ready);
        assert_eq!(
            route("/v1/node"),
            Route::Other,
            "what only the fleet may ask of a node is not passed on"
        );
        assert_eq!(route("/"), Route::Other);
    }

    #[test]
    fn a_job_or_receipt_is_asked_of_the_node_that_its_id_names() {
        let node = Route::Kept("eu-fra/n1".parse().unwrap());
        let id = "eu-fra:n1:00112233445566778899aabbccddeeff";
        assert_eq!(route(&format!("/v1/jobs/{id}")), node);
        assert_eq!(route(&format!("/v1/jobs/{id}/result")), node);
        assert_eq!(
            (route("/v1/jobs"), route("/v1/jobs/key")),
            (Route::Other, Route::Other),
            "no node is meant"
        );
        let receipt = format!("/v1/receipts/eu-fra:n1:12-{}", "0f".repeat(32));
        assert_eq!(route(&receipt), node);
        for path in [&format!("{receipt}/x"), "/v1/receipts/key", "/v1/receipts/checkpoint"] {
            assert_eq!(route(path), Route::Other, "{path}");
        }
    }

    #[test]
    fn only_a_key_of_the_right_shape_is_looked_up() {
        let key = format!("mk_{}", "ab".repeat(32));
        let hash = |value: &str| key_hash(&head("/", &[("authorization", value)]).headers);
        assert_eq!(hash(&format!("Bearer {key}")), Some(ContentHash::of(key.as_bytes())));
        assert_eq!(hash(&format!("bearer {key}")), Some(ContentHash::of(key.as_bytes())));
        for bad in [
            "",
            "Bearer",
            "Bearer mk_1",
            &format!("Basic {key}"),
            &format!("Bearer {key}0"),
        ] {
            assert_eq!(hash(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_request_can_ask_for_a_redirect_or_an_explanation() {
        assert_eq!(
            wish(&head("/v2/models/m/infer?explain=1", &[]), Mode::Proxy),
            Wish::Explain
        );
        assert_eq!(
            wish(&head("/v2/models/m/infer?a=b&redirect=1", &[]), Mode::Proxy),
            Wish::Redirect
        );
        assert_eq!(
            wish(&head("/v2", &[("prefer", "wait=3, redirect")]), Mode::Proxy),
            Wish::Redirect
        );
        assert_eq!(wish(&head("/v2", &[]), Mode::Redirect), Wish::Redirect);
        assert_eq!(wish(&head("/v2?explain=10", &[]), Mode::Proxy), Wish::Proxy);
        assert_eq!(
            path_for_node(&head("/v2/models/m/infer?redirect=1&a=b", &[])),
            "/v2/models/m/infer?a=b"
        );
        assert_eq!(path_for_node(&head("/v2?redirect=1", &[])), "/v2");
    }

    #[test]
    fn only_reads_and_inference_may_be_sent_twice() {
        assert!(is_idempotent(&Method::GET, "/v2/models/m"));
        assert!(is_idempotent(&Method::POST, "/v2/models/m/infer"));
        assert!(is_idempotent(&Method::POST, "/v1/embeddings"));
        assert!(is_idempotent(
            &Method::POST,
            "/inference.GRPCInferenceService/ModelInfer"
        ));
        assert!(!is_idempotent(
            &Method::POST,
            "/inference.GRPCInferenceService/ModelStreamInfer"
        ));
        assert!(!is_idempotent(&Method::POST, "/v2/models/m/generate"));
        assert!(!is_idempotent(&Method::DELETE, "/v2/models/m/infer"));
    }

    #[test]
    fn a_deadline_is_a_number_of_milliseconds_from_one() {
        let read = |value: &str| deadline(&head("/", &[(DEADLINE, value)]).headers);
        assert_eq!(read("250"), Ok(Some(Duration::from_millis(250))));
        assert_eq!(deadline(&HeaderMap::new()), Ok(None));
        for bad in ["0", "-1", "1.5", "soon", "99999999999"] {
            assert_eq!(read(bad), Err(()), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_path_makes_the_door_panic(path in "/.{0,100}") {
            let _ = route(&path);
        }
    }
}
