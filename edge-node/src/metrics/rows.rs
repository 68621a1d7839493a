//! What is counted of decoded rows that are kept.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

/// Instruments of the rows that a node keeps. Clones share the values.
#[derive(Clone, Debug, Default)]
pub struct RowMetrics {
    /// Bytes of them.
    pub bytes: Gauge,
    /// Rows that were found decoded.
    pub found: Counter,
    /// Rows that were decoded.
    pub made: Counter,
}

impl RowMetrics {
    /// Shows them in `registry`.
    pub(super) fn show(self, registry: &mut runtime::metrics::Metrics) {
        registry.register("edge_cache_rows_bytes", "Decoded pictures kept in memory", self.bytes);
        registry.register("edge_cache_rows_found", "Pictures that were found decoded", self.found);
        registry.register(
            "edge_cache_rows_made",
            "Pictures that were decoded to be kept",
            self.made,
        );
    }
}
