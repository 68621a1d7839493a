//! The router's instruments. Label values come from the enums here, never from requests.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use runtime::metrics::Metrics;

/// How a request over HTTP ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Outcome {
    /// A node's answer was passed through.
    Proxied,
    /// The client was sent to a node.
    Redirected,
    /// The decision was shown.
    Explained,
    /// Answered by the router itself: health and status.
    Local,
    /// No key, or one that nobody has.
    Unauthorized,
    /// Asked for what only the fleet may see.
    Forbidden,
    /// Malformed, or for nothing that is served here.
    Malformed,
    /// No region serves the model.
    UnknownModel,
    /// Nobody inside the boundary is up.
    Residency,
    /// Nobody is up.
    NoneHealthy,
    /// Nodes were asked and broke off.
    Unreachable,
    /// No answer before the deadline.
    Deadline,
    /// The router has no view yet, or is at its bound.
    NotReady,
}

impl Outcome {
    /// The name in spans and in the `code` of error bodies.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Proxied => "proxied",
            Self::Redirected => "redirected",
            Self::Explained => "explained",
            Self::Local => "local",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::Malformed => "malformed",
            Self::UnknownModel => "unknown-model",
            Self::Residency => "residency",
            Self::NoneHealthy => "none-healthy",
            Self::Unreachable => "unreachable",
            Self::Deadline => "deadline",
            Self::NotReady => "not-ready",
        }
    }
}

/// What became of a DNS query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum DnsOutcome {
    /// Records were given.
    Answered,
    /// The name exists, the type does not.
    NoData,
    /// Nobody allowed is up: no data, with the reason.
    NobodyAllowed,
    /// No such name in the zone.
    NoName,
    /// Outside the zone, or a transfer.
    Refused,
    /// Not a query that can be read.
    Malformed,
    /// An operation or EDNS version that is not offered.
    NotOffered,
    /// The router has no view yet.
    NotReady,
}

/// How a probe ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum ProbeOutcome {
    /// The node answered.
    Answered,
    /// It did not, not in time, or not as itself.
    Unanswered,
}

/// The label of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByOutcome {
    /// How it ended.
    pub outcome: Outcome,
}

/// The label of DNS queries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByDns {
    /// How it ended.
    pub outcome: DnsOutcome,
}

/// The label of probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByProbe {
    /// How it ended.
    pub outcome: ProbeOutcome,
}

/// All instruments; clones share them.
#[derive(Clone, Debug)]
pub struct Instruments {
    /// HTTP requests that ended.
    pub requests: Family<ByOutcome, Counter>,
    /// Requests that were sent once more, to another node.
    pub replays: Counter,
    /// From a request's head to the first byte sent to a node.
    pub route_seconds: Histogram,
    /// DNS queries.
    pub dns: Family<ByDns, Counter>,
    /// Probes of nodes.
    pub probes: Family<ByProbe, Counter>,
    /// Nodes that are up.
    pub nodes_up: Gauge,
    /// Nodes in the view.
    pub nodes: Gauge,
    /// `seq` of the view in use.
    pub view_seq: Gauge,
    /// Views that were refused.
    pub views_refused: Counter,
    /// Forked checkpoints seen.
    pub forks: Counter,
}

impl Instruments {
    /// Makes the instruments and shows them in `metrics`.
    #[must_use]
    pub fn register(metrics: &mut Metrics) -> Self {
        // 50 us to 400 ms.
        let bounds = prometheus_client::metrics::histogram::exponential_buckets(50e-6, 2.0, 14);
        let all = Self {
            requests: Family::default(),
            replays: Counter::default(),
            route_seconds: Histogram::new(bounds),
            dns: Family::default(),
            probes: Family::default(),
            nodes_up: Gauge::default(),
            nodes: Gauge::default(),
            view_seq: Gauge::default(),
            views_refused: Counter::default(),
            forks: Counter::default(),
        };
        metrics.register(
            "router_requests",
            "HTTP requests by how they ended",
            all.requests.clone(),
        );
        metrics.register(
            "router_replays",
            "Requests sent once more to another node",
            all.replays.clone(),
        );
        metrics.register(
            "router_route_seconds",
            "Time to decide and begin sending",
            all.route_seconds.clone(),
        );
        metrics.register(
            "router_dns_queries",
            "DNS queries by what became of them",
            all.dns.clone(),
        );
        metrics.register("router_probes", "Probes of nodes by how they ended", all.probes.clone());
        metrics.register("router_nodes_up", "Nodes that are up", all.nodes_up.clone());
        metrics.register("router_nodes", "Nodes in the view", all.nodes.clone());
        metrics.register(
            "router_view_seq",
            "Sequence number of the view in use",
            all.view_seq.clone(),
        );
        metrics.register(
            "router_views_refused",
            "Views that were not believed",
            all.views_refused.clone(),
        );
        metrics.register(
            "router_log_forks",
            "Checkpoints that contradict one seen before",
            all.forks.clone(),
        );
        all
    }
    /// Counts one request.
    pub fn request(&self, outcome: Outcome) {
        self.requests.get_or_create(&ByOutcome { outcome }).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exported_names_are_those_that_dashboards_use() {
        let mut metrics = Metrics::new();
        let instruments = Instruments::register(&mut metrics);
        instruments.request(Outcome::Proxied);
        instruments
            .dns
            .get_or_create(&ByDns {
                outcome: DnsOutcome::Answered,
            })
            .inc();
        instruments
            .probes
            .get_or_create(&ByProbe {
                outcome: ProbeOutcome::Answered,
            })
            .inc();
        let text = metrics.encode();
        let names: Vec<&str> = text
            .lines()
            .filter_map(|l| l.strip_prefix("# TYPE "))
            .filter_map(|l| l.split(' ').next())
            .collect();
        let want = [
            "router_requests",
            "router_replays",
            "router_route_seconds",
            "router_dns_queries",
            "router_probes",
            "router_nodes_up",
            "router_nodes",
            "router_view_seq",
            "router_views_refused",
            "router_log_forks",
        ];
        assert_eq!(names, want);
    }
}
