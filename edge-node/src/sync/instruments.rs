//! What river 2 counts. Names are fixed: dashboards depend on them.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use runtime::metrics::Metrics;

/// How something that was offered ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Outcome {
    /// Taken.
    Accepted,
    /// Against a rule.
    Refused,
    /// No answer.
    Failed,
}

/// The one label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByOutcome {
    /// How it ended.
    pub outcome: Outcome,
}

/// Counters and gauges of sync and release. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Instruments {
    pub(crate) fetched_bytes: Counter,
    pub(crate) reused_bytes: Counter,
    pub(crate) bad_chunks: Counter,
    pub(crate) bad_files: Counter,
    pub(crate) states: Family<ByOutcome, Counter>,
    pub(crate) reports: Family<ByOutcome, Counter>,
    pub(crate) connected: Gauge,
    pub(crate) forked: Gauge,
    pub(crate) seq: Gauge,
    pub(crate) switches: Counter,
    pub(crate) refusals: Counter,
}

impl Instruments {
    /// Shows them in `metrics`.
    #[must_use]
    pub fn registered(metrics: &mut Metrics) -> Self {
        let i = Self::default();
        metrics.register(
            "sync_fetched_bytes",
            "Chunk bytes that came over the network",
            i.fetched_bytes.clone(),
        );
        metrics.register(
            "sync_reused_bytes",
            "Chunk bytes taken from files already on disk",
            i.reused_bytes.clone(),
        );
        metrics.register(
            "sync_bad_chunks",
            "Chunks refused because they did not match their digest",
            i.bad_chunks.clone(),
        );
        metrics.register(
            "store_bad_files",
            "Files on disk that did not match their digest",
            i.bad_files.clone(),
        );
        metrics.register(
            "sync_states",
            "Region states that were sent, by outcome",
            i.states.clone(),
        );
        metrics.register(
            "sync_reports",
            "Reports to the control plane, by outcome",
            i.reports.clone(),
        );
        metrics.register(
            "sync_connected",
            "1 while connected to the control plane",
            i.connected.clone(),
        );
        metrics.register(
            "sync_forked",
            "1 once the release log was found to have forked",
            i.forked.clone(),
        );
        metrics.register("sync_seq", "Sequence number of the accepted state", i.seq.clone());
        metrics.register(
            "release_switches",
            "Times a release began to answer",
            i.switches.clone(),
        );
        metrics.register(
            "release_refusals",
            "Times a release was refused on this node",
            i.refusals.clone(),
        );
        i
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_names_is_what_dashboards_know() {
        let mut metrics = Metrics::new();
        let instruments = Instruments::registered(&mut metrics);
        // A family without a member is not shown.
        let accepted = ByOutcome {
            outcome: Outcome::Accepted,
        };
        instruments.states.get_or_create(&accepted).inc();
        instruments.reports.get_or_create(&accepted).inc();
        let text = metrics.encode();
        let names: Vec<&str> = text.lines().filter_map(|l| l.strip_prefix("# TYPE ")).collect();
        let want = [
            "sync_fetched_bytes counter",
            "sync_reused_bytes counter",
            "sync_bad_chunks counter",
            "store_bad_files counter",
            "sync_states counter",
            "sync_reports counter",
            "sync_connected gauge",
            "sync_forked gauge",
            "sync_seq gauge",
            "release_switches counter",
            "release_refusals counter",
        ];
        assert_eq!(names, want);
    }
}
