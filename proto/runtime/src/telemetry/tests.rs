use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::service::service_fn;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;
use tracing::Instrument;

use super::*;
use crate::https::{Inbound, PlainListener, serve_plain};
use crate::lifecycle::Lifecycle;

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// A collector in this process: its endpoint and what it got.
async fn collector(lifecycle: &Lifecycle) -> (String, Arc<Mutex<Vec<ExportTraceServiceRequest>>>) {
    let got = Arc::new(Mutex::new(Vec::new()));
    let listener = PlainListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.address());
    let seen = got.clone();
    let service = service_fn(move |request: Request<Inbound>| {
        let seen = seen.clone();
        async move {
            assert_eq!(request.uri().path(), "/v1/traces");
            assert_eq!(request.headers()["content-type"], "application/x-protobuf");
            let body = request.into_body().collect().await.unwrap().to_bytes();
            seen.lock()
                .unwrap()
                .push(ExportTraceServiceRequest::decode(body).unwrap());
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::new())))
        }
    });
    serve_plain(listener, lifecycle, service);
    (endpoint, got)
}

fn file(otlp: String) -> TelemetryFile {
    TelemetryFile {
        otlp: Some(otlp),
        log: "off".to_owned(),
        ..TelemetryFile::default()
    }
}

#[tokio::test]
async fn spans_arrive_at_the_collector_as_children_of_the_callers_span() {
    let lifecycle = Lifecycle::new();
    let (endpoint, got) = collector(&lifecycle).await;
    let (subscriber, telemetry) = build(&file(endpoint), "edge-node", "eu-fra/n1").unwrap();
    let mut onward = HeaderMap::new();
    {
        let _on = tracing::subscriber::set_default(subscriber);
        let mut incoming = HeaderMap::new();
        incoming.insert("traceparent", PARENT.parse().unwrap());
        let span = tracing::info_span!("request", model = "minilm");
        extract_parent(&incoming, &span);
        inject_current(&span, &mut onward);
        async { tracing::info_span!("exec").in_scope(|| ()) }
            .instrument(span)
            .await;
    }
    telemetry.shutdown().await;

    let got = got.lock().unwrap().clone();
    let [resource] = got[0].resource_spans.as_slice() else {
        panic!("{got:?}")
    };
    let about = format!("{:?}", resource.resource);
    assert!(about.contains("edge-node") && about.contains("eu-fra/n1"), "{about}");
    let spans = &resource.scope_spans[0].spans;
    let find = |name: &str| spans.iter().find(|span| span.name == name).unwrap();
    let (request, exec) = (find("request"), find("exec"));
    assert_eq!(proto::ids::hex(&request.trace_id), "0af7651916cd43dd8448eb211c80319c");
    assert_eq!(proto::ids::hex(&request.parent_span_id), "b7ad6b7169203331");
    assert_eq!(
        (&exec.trace_id, &exec.parent_span_id),
        (&request.trace_id, &request.span_id)
    );
    let sent_on = format!(
        "00-0af7651916cd43dd8448eb211c80319c-{}-01",
        proto::ids::hex(&request.span_id)
    );
    assert_eq!(onward["traceparent"], sent_on.as_str());
    assert!(lifecycle.stop(Duration::from_secs(10)).await);
}

#[tokio::test]
async fn a_collector_that_never_answers_holds_up_shutdown_for_two_seconds_at_most() {
    let deaf = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (subscriber, telemetry) = build(&file(format!("http://{}", deaf.local_addr().unwrap())), "x", "y").unwrap();
    tracing::subscriber::with_default(subscriber, || tracing::info_span!("lost").in_scope(|| ()));
    let begin = crate::clock::instant();
    telemetry.shutdown().await;
    assert!(
        begin.elapsed() < SHUTDOWN_MAX + Duration::from_millis(500),
        "{:?}",
        begin.elapsed()
    );
}

#[test]
fn where_nobody_exports_a_requests_spans_they_are_not_made_before_debug() {
    for (log, made) in [
        ("info", false),
        ("info,other=warn", false),
        ("debug", true),
        ("trace", true),
    ] {
        let file = TelemetryFile {
            log: log.to_owned(),
            ..TelemetryFile::default()
        };
        let (subscriber, _telemetry) = build(&file, "x", "y").unwrap();
        tracing::subscriber::with_default(subscriber, || {
            let span = tracing::info_span!(target: PER_REQUEST, "infer");
            assert_eq!(span.is_disabled(), !made, "{log}");
            assert!(!tracing::info_span!("of the fleet").is_disabled(), "{log}");
        });
    }
}

#[tokio::test]
async fn without_traces_a_callers_context_is_left_as_it_is() {
    let mut headers = HeaderMap::new();
    headers.insert("traceparent", PARENT.parse().unwrap());
    let span = tracing::info_span!("request");
    extract_parent(&headers, &span);
    inject_current(&span, &mut headers);
    assert_eq!(headers["traceparent"], PARENT);
}

#[tokio::test]
async fn a_collector_elsewhere_a_bad_filter_and_a_bad_share_are_refused_by_key() {
    let refused = |file: TelemetryFile| build(&file, "x", "y").err().map(|e| e.to_string()).unwrap_or_default();
    for endpoint in [
        "http://10.0.0.1:4318",
        "https://127.0.0.1:4318",
        "http://collector.example",
        "127.0.0.1:4318",
        "",
    ] {
        let reason = refused(file(endpoint.to_owned()));
        assert!(reason.starts_with("`telemetry.otlp` is"), "{endpoint}: {reason}");
    }
    let bad_log = TelemetryFile {
        log: "info,=x=".to_owned(),
        ..TelemetryFile::default()
    };
    assert!(refused(bad_log).starts_with("`telemetry.log` is"));
    let bad_share = TelemetryFile {
        sample_ratio: 1.5,
        ..TelemetryFile::default()
    };
    assert!(refused(bad_share).starts_with("`telemetry.sample-ratio` is 1.5"));
}

#[test]
fn the_example_of_the_telemetry_table_is_the_default() {
    let example = <TelemetryFile as crate::config::Example>::example("telemetry");
    assert_eq!(
        crate::config::parse::<TelemetryFile>(&example),
        Ok(TelemetryFile::default())
    );
    assert_eq!(crate::config::parse::<TelemetryFile>(""), Ok(TelemetryFile::default()));
}

#[test]
fn an_error_is_logged_with_all_its_causes() {
    let cause = std::io::Error::other("no route");
    let error = crate::https::HttpsError::Bind {
        address: "x:1".to_owned(),
        source: cause,
    };
    assert_eq!(chain(&error), "listen on x:1: no route");
}
