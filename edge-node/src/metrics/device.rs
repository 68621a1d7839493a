//! What is counted of devices and of the processor that stands in for them.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

/// Instruments of all devices of a node. Clones share the values.
#[derive(Clone, Debug, Default)]
pub struct DeviceMetrics {
    /// Models whose device is out of use.
    pub out_of_use: Gauge,
    /// Calls that have not returned in their time, and not since.
    pub hung: Gauge,
    /// Calls and tries that failed, or were answered wrongly.
    pub failed: Counter,
    /// Calls that nobody could wait for any longer.
    pub late: Counter,
    /// Runs of the processor in a device's place.
    pub stand_in_runs: Counter,
}

impl DeviceMetrics {
    /// Shows them in `registry`.
    pub(super) fn show(self, registry: &mut runtime::metrics::Metrics) {
        registry.register(
            "edge_device_out_of_use",
            "Models whose device is out of use: the processor answers in its place",
            self.out_of_use,
        );
        registry.register(
            "edge_device_hung",
            "Calls of devices that have not returned in their time",
            self.hung,
        );
        registry.register(
            "edge_device_failures",
            "Calls and tries of devices that failed or were answered wrongly",
            self.failed,
        );
        registry.register(
            "edge_device_late",
            "Calls of devices that a request could not wait for any longer",
            self.late,
        );
        registry.register(
            "edge_device_stand_in_runs",
            "Runs of the processor in a device's place",
            self.stand_in_runs,
        );
    }
}
