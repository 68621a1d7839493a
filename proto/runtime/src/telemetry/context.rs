//! W3C Trace Context: how one trace spans router, node and engine. `traceparent` and `tracestate` headers.

use http::HeaderMap;
use opentelemetry::Context;
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::TraceContextExt;
use opentelemetry_http::{HeaderExtractor, HeaderInjector};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// Makes `span` a child of the span that `headers` name. Call it before the span is entered. Does nothing without a
/// valid `traceparent` or without traces.
pub fn extract_parent(headers: &HeaderMap, span: &Span) {
    if span.is_disabled() || !headers.contains_key("traceparent") {
        return;
    }
    let parent = TraceContextPropagator::new().extract_with_context(&Context::new(), &HeaderExtractor(headers));
    if parent.span().span_context().is_valid() {
        let _ = span.set_parent(parent); // fails only where no traces are made
    }
}

/// Names `span` as the parent in `headers`. Does nothing without traces, so that a caller's own headers pass through.
pub fn inject_current(span: &Span, headers: &mut HeaderMap) {
    let context = span.context();
    if context.span().span_context().is_valid() {
        TraceContextPropagator::new().inject_context(&context, &mut HeaderInjector(headers));
    }
}
