//! What a daemon tells about itself: logs to stderr, traces by OTLP. Metrics are in [`crate::metrics`].
//!
//! Neither may hold up the work: spans wait in a bounded queue and are dropped when it is full, and a collector that
//! does not answer costs at most [`SHUTDOWN_MAX`] when the process stops. Payloads, keys and user ids never go in.

mod context;
mod otlp;

use std::time::Duration;

use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::Subscriber;
use tracing_subscriber::filter::{LevelFilter, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{EnvFilter, Layer, Registry};

pub use context::{extract_parent, inject_current};

/// The target of spans that each inference request opens. Where nobody exports them, at `info`, they are not made: they cost a
/// request microseconds, for words in lines that are seldom written.
pub const PER_REQUEST: &str = "meridian::requests";

/// The longest that [`Telemetry::shutdown`] takes.
pub const SHUTDOWN_MAX: Duration = Duration::from_secs(2);

crate::config_file! {
    /// The `[telemetry]` table of every daemon's file.
    #[derive(PartialEq)]
    #[serde(default)]
    pub struct TelemetryFile {
        /// Where traces go: the OTLP/HTTP endpoint of a collector on this machine. Without it none are made.
        pub otlp: Option<String> = optional "http://127.0.0.1:4318",
        /// The share of new traces that is kept, 0.0 to 1.0. A caller's decision is followed.
        pub sample_ratio: f64 = optional 1.0,
        /// What is logged: error, warn, info, debug or trace, also by module: "info,runtime=debug". Lines of a node name the request they
        /// belong to where traces are made, or from debug on.
        pub log: String = required "info",
        /// How logs look: "text" for people, "json" for machines.
        pub format: Format = required "text",
    }
}

impl Default for TelemetryFile {
    fn default() -> Self {
        Self {
            otlp: None,
            sample_ratio: 1.0,
            log: "info".to_owned(),
            format: Format::Text,
        }
    }
}

/// How logs look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// A line for people.
    Text,
    /// A JSON object a line.
    Json,
}

/// Why telemetry cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TelemetryError {
    /// The filter is not one.
    #[error("`telemetry.log` is `{text}`: {reason}")]
    Log {
        /// As configured.
        text: String,
        /// Why.
        reason: String,
    },
    /// The collector's address is not usable.
    #[error("`telemetry.otlp` is `{text}`: {reason}")]
    Otlp {
        /// As configured.
        text: String,
        /// Why.
        reason: String,
    },
    /// Not a share.
    #[error("`telemetry.sample-ratio` is {found}, allowed is 0.0 to 1.0")]
    SampleRatio {
        /// As configured.
        found: f64,
    },
    /// Telemetry was started before in this process.
    #[error("telemetry is already running in this process")]
    Twice,
}

/// Running telemetry; hand it to [`Telemetry::shutdown`] last.
#[derive(Debug)]
#[must_use = "spans that wait are lost without shutdown"]
pub struct Telemetry {
    traces: Option<SdkTracerProvider>,
}

/// Starts logs and traces for the process. `service` and `instance` name it in traces: `edge-node`, `eu-fra/n1`.
/// Call it inside a tokio runtime.
///
/// # Errors
/// Any [`TelemetryError`].
pub fn init(file: &TelemetryFile, service: &'static str, instance: &str) -> Result<Telemetry, TelemetryError> {
    let (subscriber, telemetry) = build(file, service, instance)?;
    tracing::subscriber::set_global_default(subscriber).map_err(|_| TelemetryError::Twice)?;
    Ok(telemetry)
}

fn build(
    file: &TelemetryFile,
    service: &'static str,
    instance: &str,
) -> Result<(Box<dyn Subscriber + Send + Sync>, Telemetry), TelemetryError> {
    let bad_log = |e: tracing_subscriber::filter::ParseError| TelemetryError::Log {
        text: file.log.clone(),
        reason: e.to_string(),
    };
    let filter = EnvFilter::builder().parse(&file.log).map_err(bad_log)?;
    if !(0.0..=1.0).contains(&file.sample_ratio) {
        return Err(TelemetryError::SampleRatio {
            found: file.sample_ratio,
        });
    }
    let Some(endpoint) = &file.otlp else {
        // Not a filter of the logs alone: beside one of those the registry keeps each span that it refuses.
        let told = filter.max_level_hint().is_none_or(|level| level > LevelFilter::INFO);
        let requests = filter_fn(move |of| told || of.target() != PER_REQUEST);
        let all = Registry::default().with(filter).with(requests).with(lines(file.format));
        return Ok((Box::new(all), Telemetry { traces: None }));
    };
    let provider = otlp::provider(endpoint, file.sample_ratio, service, instance)?;
    let spans = otlp::layer(&provider, service);
    let all = Registry::default()
        .with(lines(file.format).with_filter(filter))
        .with(spans);
    Ok((Box::new(all), Telemetry { traces: Some(provider) }))
}

/// Writes logs to standard error.
fn lines<S>(format: Format) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let logs = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    match format {
        Format::Text => {
            let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
            logs.with_ansi(colours).boxed()
        }
        Format::Json => logs.json().flatten_event(true).boxed(),
    }
}

impl Telemetry {
    /// Sends the spans that wait, for at most [`SHUTDOWN_MAX`], and stops.
    pub async fn shutdown(self) {
        let Some(traces) = self.traces else { return };
        let flush = tokio::task::spawn_blocking(move || traces.shutdown_with_timeout(SHUTDOWN_MAX));
        match tokio::time::timeout(SHUTDOWN_MAX, flush).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => tracing::warn!(%error, "the last traces were not sent"),
            Ok(Err(_)) | Err(_) => tracing::warn!("the last traces were not sent in time"),
        }
    }
}

/// An error with all its causes in one line, for logs.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests;
