//! The registry that `/metrics` shows: names and help are fixed at start, values change under it.
//!
//! Each crate has one struct of instruments; it registers them here while the part is built. Afterwards the
//! registry is shared and only read. Names follow `<area>_<noun>_<unit>`; `_total` is added to counters by the
//! encoder. Label values come from closed enums, never from users.

mod process;

use prometheus_client::registry::{Metric, Registry};

/// The content type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All instruments of one process.
#[derive(Debug, Default)]
pub struct Metrics {
    registry: Registry,
}

impl Metrics {
    /// No instruments yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Shows `instrument` as `name`; keep a clone of it to change its value.
    pub fn register(&mut self, name: &str, help: &str, instrument: impl Metric) {
        self.registry.register(name, help, instrument);
    }

    /// Shows what this process and its machine use, too.
    pub fn show_process(&mut self) {
        self.registry.register_collector(Box::new(process::Process));
    }

    /// The registry itself, for collectors and prefixes.
    pub fn registry(&mut self) -> &mut Registry {
        &mut self.registry
    }

    /// All values now, as OpenMetrics text.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).expect("writing to a String cannot fail");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::metrics::counter::Counter;

    #[test]
    fn what_is_registered_is_shown_with_its_help_and_newest_value() {
        let mut metrics = Metrics::new();
        let seen: Counter = Counter::default();
        metrics.register("edge_requests", "Requests that arrived", seen.clone());
        seen.inc_by(3);
        assert_eq!(
            metrics.encode(),
            "# HELP edge_requests Requests that arrived.\n# TYPE edge_requests counter\nedge_requests_total 3\n# EOF\n"
        );
    }
}
