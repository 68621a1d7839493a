//! Traces to a collector on this machine: OTLP over HTTP, protobuf.
//!
//! The collector must be local because everything that leaves the machine is TLS; a collector forwards with its own.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider;
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider};
use proto::limits::SPANS_WAITING_MAX;
use tracing::Subscriber;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::registry::LookupSpan;

use super::TelemetryError;

const EXPORT_TIMEOUT: Duration = Duration::from_secs(2);
const EXPORT_EVERY: Duration = Duration::from_secs(1);
const EXPORT_SPANS_MAX: usize = 512;
/// A collector's answer is a few bytes; more is not read.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Collects spans and sends them from its own thread.
pub(super) fn provider(
    endpoint: &str,
    sample_ratio: f64,
    service: &'static str,
    instance: &str,
) -> Result<SdkTracerProvider, TelemetryError> {
    let failed = |reason: String| TelemetryError::Otlp {
        text: endpoint.to_owned(),
        reason,
    };
    let url = traces_url(endpoint).map_err(failed)?;
    let runtime = tokio::runtime::Handle::try_current().map_err(|e| failed(e.to_string()))?;
    let client = Client::builder(TokioExecutor::new()).build(HttpConnector::new());
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(Poster { client, runtime })
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(url)
        .with_timeout(EXPORT_TIMEOUT)
        .build()
        .map_err(|e| failed(e.to_string()))?;
    let batch = BatchConfigBuilder::default()
        .with_max_queue_size(SPANS_WAITING_MAX)
        .with_max_export_batch_size(EXPORT_SPANS_MAX)
        .with_scheduled_delay(EXPORT_EVERY)
        .build();
    let resource = Resource::builder_empty()
        .with_service_name(service)
        .with_attribute(KeyValue::new("service.instance.id", instance.to_owned()))
        .build();
    Ok(SdkTracerProvider::builder()
        .with_span_processor(BatchSpanProcessor::builder(exporter).with_batch_config(batch).build())
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(sample_ratio))))
        .with_resource(resource)
        .build())
}

/// Turns our spans into traces; those of the network libraries would only say how they work inside.
pub(super) fn layer<S>(provider: &SdkTracerProvider, service: &'static str) -> impl Layer<S> + Send + Sync + use<S>
where
    S: Subscriber + for<'span> LookupSpan<'span> + Send + Sync,
{
    let noisy = [
        "hyper",
        "hyper_util",
        "h2",
        "quinn",
        "quinn_proto",
        "quinn_udp",
        "rustls",
        "tokio",
        "opentelemetry",
    ];
    let ours = Targets::new()
        .with_default(LevelFilter::INFO)
        .with_targets(noisy.map(|target| (target, LevelFilter::OFF)));
    tracing_opentelemetry::layer()
        .with_tracer(provider.tracer(service))
        .with_filter(ours)
}

/// The traces URL of a collector: `http://127.0.0.1:4318` gets the standard path.
fn traces_url(endpoint: &str) -> Result<String, String> {
    let uri: http::Uri = endpoint.parse().map_err(|e: http::uri::InvalidUri| e.to_string())?;
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let local = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    if uri.scheme_str() != Some("http") || !local {
        return Err("write `http://` and a loopback address; a collector there forwards over TLS".to_owned());
    }
    let path = uri.path();
    if path.is_empty() || path == "/" {
        Ok(format!("{}/v1/traces", endpoint.trim_end_matches('/')))
    } else {
        Ok(endpoint.to_owned())
    }
}

/// Posts for the exporter's thread, which has no runtime of its own.
#[derive(Clone, Debug)]
struct Poster {
    client: Client<HttpConnector, Full<Bytes>>,
    runtime: tokio::runtime::Handle,
}

type Posted<'a> = Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'a>>;

impl HttpClient for Poster {
    fn send_bytes<'a, 'f>(&'a self, request: Request<Bytes>) -> Posted<'f>
    where
        'a: 'f,
        Self: 'f,
    {
        let client = self.client.clone();
        let post = async move {
            let (parts, body) = client.request(request.map(Full::new)).await?.into_parts();
            let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await?.to_bytes();
            Ok::<_, HttpError>(Response::from_parts(parts, body))
        };
        // On the runtime's threads, so that its sockets and timers work; the exporter's thread only waits.
        let post = self
            .runtime
            .spawn(async move { tokio::time::timeout(EXPORT_TIMEOUT, post).await });
        Box::pin(async move { post.await?? })
    }
}
