//! The control plane's instruments. Dashboards depend on their names: a test pins the list.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use runtime::metrics::Metrics;

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Outcome {
    /// Answered.
    Done,
    /// Refused: the caller's fault, or too much at once.
    Refused,
    /// Failed: our fault.
    Failed,
}

/// Which request, and how it ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    /// Kind of request: a closed list.
    pub request: &'static str,
    /// How it ended.
    pub outcome: Outcome,
}

/// What the control plane counts and measures. Clones share the values.
#[derive(Clone, Debug)]
pub struct Instruments {
    /// Entries in the release log.
    pub log_entries: Gauge,
    /// Seconds until an append is on disk.
    pub append_seconds: Histogram,
    /// Times that somebody showed a signed checkpoint of another history.
    pub log_forks: Counter,
    /// Requests over QUIC.
    pub requests: Family<RequestLabels, Counter>,
    /// Chunk bytes taken in.
    pub received_bytes: Counter,
    /// Chunk bytes handed out.
    pub sent_bytes: Counter,
    /// Bytes in the artifact store.
    pub store_bytes: Gauge,
    /// Open QUIC connections.
    pub connections: Gauge,
    /// States and views signed.
    pub states_made: Counter,
    /// Regions whose state cannot be made.
    pub regions_stuck: Gauge,
}

impl Default for Instruments {
    fn default() -> Self {
        Self {
            log_entries: Gauge::default(),
            append_seconds: Histogram::new([0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0]),
            log_forks: Counter::default(),
            requests: Family::default(),
            received_bytes: Counter::default(),
            sent_bytes: Counter::default(),
            store_bytes: Gauge::default(),
            connections: Gauge::default(),
            states_made: Counter::default(),
            regions_stuck: Gauge::default(),
        }
    }
}

impl Instruments {
    /// Shows them all in `metrics`.
    pub fn register(&self, metrics: &mut Metrics) {
        metrics.register(
            "control_log_entries",
            "Entries in the release log",
            self.log_entries.clone(),
        );
        metrics.register(
            "control_log_append_seconds",
            "Until an append is on disk",
            self.append_seconds.clone(),
        );
        let forks = "Signed checkpoints of another history that were seen";
        metrics.register("control_log_forks", forks, self.log_forks.clone());
        metrics.register("control_requests", "Requests over QUIC", self.requests.clone());
        metrics.register(
            "control_received_bytes",
            "Chunk bytes taken in",
            self.received_bytes.clone(),
        );
        metrics.register("control_sent_bytes", "Chunk bytes handed out", self.sent_bytes.clone());
        metrics.register(
            "control_store_bytes",
            "Bytes in the artifact store",
            self.store_bytes.clone(),
        );
        metrics.register("control_connections", "Open QUIC connections", self.connections.clone());
        metrics.register(
            "control_states_made",
            "States and views signed",
            self.states_made.clone(),
        );
        let stuck = "Regions whose state cannot be made";
        metrics.register("control_regions_stuck", stuck, self.regions_stuck.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exported_names_do_not_change() {
        let mut metrics = Metrics::new();
        let instruments = Instruments::default();
        instruments.register(&mut metrics);
        let labels = RequestLabels {
            request: "report",
            outcome: Outcome::Done,
        };
        instruments.requests.get_or_create(&labels).inc();
        let text = metrics.encode();
        let types: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
        assert_eq!(
            types,
            [
                "control_log_entries gauge",
                "control_log_append_seconds histogram",
                "control_log_forks counter",
                "control_requests counter",
                "control_received_bytes counter",
                "control_sent_bytes counter",
                "control_store_bytes gauge",
                "control_connections gauge",
                "control_states_made counter",
                "control_regions_stuck gauge",
            ]
        );
        assert!(
            text.contains(r#"control_requests_total{request="report",outcome="Done"} 1"#),
            "{text}"
        );
    }
}
