//! What this crate counts: one struct, made once and handed on. Clones share the values.

pub mod device;
pub mod rows;
pub mod usage;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

use crate::jobs::record::State;

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(missing_docs, reason = "the names are the label values")]
pub enum Outcome {
    Answered,
    BadRequest,
    Unauthorized,
    NotFound,
    TooLarge,
    Residency,
    RateLimited,
    QueueFull,
    Draining,
    Starting,
    DeadlineUnmeetable,
    DeadlineExceeded,
    Failed,
    ClientGone,
}

/// Where an answer came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(missing_docs, reason = "the names are the label values")]
pub enum CacheUse {
    HitMemory,
    HitDisk,
    Miss,
    Collapsed,
    Bypass,
}

/// Where a request's time goes: stages that follow one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// From the head to the queue: who asks, may it, the body, was it answered before.
    Route,
    /// Waiting for an engine thread.
    Queue,
    /// Being joined with others.
    Batch,
    /// In the engine.
    Exec,
    /// From the engine to the written answer.
    Encode,
}

impl Stage {
    /// In the order of a request.
    pub const ALL: [Self; 5] = [Self::Route, Self::Queue, Self::Batch, Self::Exec, Self::Encode];
    /// As `Server-Timing` and metrics name it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Route => "route",
            Self::Queue => "queue",
            Self::Batch => "batch",
            Self::Exec => "exec",
            Self::Encode => "encode",
        }
    }
}

impl EncodeLabelValue for Stage {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        EncodeLabelValue::encode(&self.name(), encoder)
    }
}

/// A stage, as a label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
#[allow(missing_docs, reason = "the name is the label")]
pub struct Passed {
    pub stage: Stage,
}

/// What came of sending a webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(missing_docs, reason = "the names are the label values")]
pub enum HookEnd {
    Sent,
    Retried,
    GivenUp,
}

/// Where jobs stand, as a label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
#[allow(missing_docs, reason = "the name is the label")]
pub struct Standing {
    pub state: &'static str,
}

/// A sending's end, as a label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
#[allow(missing_docs, reason = "the name is the label")]
pub struct HookEnded {
    pub end: HookEnd,
}

/// A request's end, as a label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
#[allow(missing_docs, reason = "the name is the label")]
pub struct Ended {
    pub outcome: Outcome,
}

/// An answer's origin, as a label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
#[allow(missing_docs, reason = "the name is the label")]
pub struct Origin {
    pub cache: CacheUse,
}

impl Outcome {
    const ALL: [Self; 14] = [
        Self::Answered,
        Self::BadRequest,
        Self::Unauthorized,
        Self::NotFound,
        Self::TooLarge,
        Self::Residency,
        Self::RateLimited,
        Self::QueueFull,
        Self::Draining,
        Self::Starting,
        Self::DeadlineUnmeetable,
        Self::DeadlineExceeded,
        Self::Failed,
        Self::ClientGone,
    ];
}

impl HookEnd {
    const ALL: [Self; 3] = [Self::Sent, Self::Retried, Self::GivenUp];
}

impl CacheUse {
    const ALL: [Self; 5] = [
        Self::HitMemory,
        Self::HitDisk,
        Self::Miss,
        Self::Collapsed,
        Self::Bypass,
    ];
}

/// A counter for each value of a label, shown from the start: counting takes no lock.
#[derive(Clone, Debug)]
pub struct Counts<T, const N: usize>([(T, Counter); N]);

impl<T: Copy + PartialEq, const N: usize> Counts<T, N> {
    fn of<L>(family: &Family<L, Counter>, values: [T; N], label: impl Fn(T) -> L) -> Self
    where
        L: Clone + std::hash::Hash + Eq,
    {
        Self(values.map(|value| (value, family.get_or_create_owned(&label(value)))))
    }
    fn inc(&self, value: T) {
        let counter = self.0.iter().find(|(of, _)| *of == value);
        debug_assert!(counter.is_some(), "a value that stands in no list of all");
        if let Some((_, counter)) = counter {
            counter.inc();
        }
    }
}

/// The instruments of a node.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Inference requests by their end.
    pub requests: Counts<Outcome, 14>,
    /// Answers by their origin.
    pub cache: Counts<CacheUse, 5>,
    /// Requests that wait for an engine thread.
    pub queued: Gauge,
    /// Time of answered requests by stage.
    stages: [Histogram; Stage::ALL.len()],
    /// Time of answered requests.
    total: Histogram,
    /// Time that engine threads were at it.
    pub engine_busy: Counter<f64, AtomicU64>,
    /// Orders that left the queue without a run: their time was over or their clients had gone.
    pub queue_lost: Counter,
    /// Time of one run.
    pub exec: Histogram,
    /// Rows of one run.
    pub batch_rows: Histogram,
    /// Who has had what.
    pub usage: Arc<usage::Usage>,
    /// Runs that failed as a whole and were repeated one by one.
    pub batch_retries: Counter,
    /// Bytes in the memory tier of the result cache.
    pub cache_memory_bytes: Gauge,
    /// Bytes in the disk tier of the result cache.
    pub cache_disk_bytes: Gauge,
    /// Results that were not written to disk since the writer was behind.
    pub cache_dropped: Counter,
    /// Models that lie in memory.
    pub models_in_memory: Gauge,
    /// Bytes of their files.
    pub models_memory_bytes: Gauge,
    /// Models that were loaded since somebody asked.
    pub model_loads: Counter,
    /// Models that left memory for others.
    pub model_unloads: Counter,
    /// Jobs by where they stand, in the order of `State::ALL`.
    pub jobs: [Gauge; 4],
    /// Sendings of webhooks by their end.
    pub hooks: Counts<HookEnd, 3>,
    /// Purges of the result cache that are durable.
    pub cache_purges: Counter,
    /// Receipts that clients were promised.
    pub receipts_promised: Counter,
    /// Receipts on disk.
    pub receipts_written: Counter,
    /// 1 while they can be given.
    pub receipts_open: Gauge,
    /// Devices, and who stands in for them.
    pub device: device::DeviceMetrics,
    /// Decoded rows that are kept.
    pub rows: rows::RowMetrics,
}

impl Metrics {
    /// Makes the instruments and shows them in `registry`.
    #[must_use]
    pub fn new(registry: &mut runtime::metrics::Metrics) -> Self {
        let seconds = || Histogram::new(exponential_buckets(0.000_05, 2.5, 14));
        let (requests, cache, hooks) = (Family::default(), Family::default(), Family::default());
        let jobs = Family::<Standing, Gauge>::default();
        let stages = Family::<Passed, Histogram>::new_with_constructor(seconds);
        let metrics = Self {
            requests: Counts::of(&requests, Outcome::ALL, |outcome| Ended { outcome }),
            cache: Counts::of(&cache, CacheUse::ALL, |cache| Origin { cache }),
            queued: Gauge::default(),
            stages: Stage::ALL.map(|stage| stages.get_or_create_owned(&Passed { stage })),
            total: seconds(),
            engine_busy: Counter::default(),
            usage: Arc::default(),
            queue_lost: Counter::default(),
            exec: seconds(),
            batch_rows: Histogram::new(exponential_buckets(1.0, 2.0, 9)),
            batch_retries: Counter::default(),
            cache_memory_bytes: Gauge::default(),
            cache_disk_bytes: Gauge::default(),
            cache_dropped: Counter::default(),
            models_in_memory: Gauge::default(),
            models_memory_bytes: Gauge::default(),
            model_loads: Counter::default(),
            model_unloads: Counter::default(),
            jobs: State::ALL.map(|state| jobs.get_or_create_owned(&Standing { state: state.word() })),
            hooks: Counts::of(&hooks, HookEnd::ALL, |end| HookEnded { end }),
            cache_purges: Counter::default(),
            receipts_promised: Counter::default(),
            receipts_written: Counter::default(),
            receipts_open: Gauge::default(),
            device: device::DeviceMetrics::default(),
            rows: rows::RowMetrics::default(),
        };
        registry.register("edge_requests", "Inference requests by how they ended", requests);
        registry.register("edge_answers", "Answers by where they came from", cache);
        registry.register(
            "edge_stage_seconds",
            "Time of answered requests by stage, of the stages that they passed",
            stages,
        );
        registry.register("edge_jobs", "Jobs by where they stand", jobs);
        registry.register("edge_webhooks", "Sendings of webhooks by how they ended", hooks);
        metrics.clone().show_work(registry);
        metrics.clone().show_kept(registry);
        metrics.device.clone().show(registry);
        metrics.rows.clone().show(registry);
        metrics
    }
    /// Shows what the queue and the engine do.
    fn show_work(self, registry: &mut runtime::metrics::Metrics) {
        registry.register(
            "edge_queue_requests",
            "Requests that wait for an engine thread",
            self.queued,
        );
        registry.register(
            "edge_request_seconds",
            "Time of answered requests from their head to the written answer",
            self.total,
        );
        registry.register(
            "edge_engine_busy_seconds",
            "Time that engine threads ran models, all threads together",
            self.engine_busy,
        );
        registry.register(
            "edge_queue_lost",
            "Requests that left the queue without a run: too late, or nobody waited",
            self.queue_lost,
        );
        registry.register("edge_exec_seconds", "Time of one run of a model", self.exec);
        registry.register("edge_batch_rows", "Rows of one run of a model", self.batch_rows);
        registry.register(
            "edge_batch_retries",
            "Runs that were repeated request by request",
            self.batch_retries,
        );
    }
    /// Shows what lies in memory and on disk.
    fn show_kept(self, registry: &mut runtime::metrics::Metrics) {
        registry.register(
            "edge_cache_memory_bytes",
            "Results kept in memory",
            self.cache_memory_bytes,
        );
        registry.register("edge_cache_disk_bytes", "Results kept on disk", self.cache_disk_bytes);
        registry.register(
            "edge_cache_dropped",
            "Results not written to disk: the writer was behind",
            self.cache_dropped,
        );
        registry.register(
            "edge_models_in_memory",
            "Models that lie in memory",
            self.models_in_memory,
        );
        registry.register(
            "edge_models_memory_bytes",
            "Bytes of the files of models that lie in memory",
            self.models_memory_bytes,
        );
        registry.register(
            "edge_model_loads",
            "Models loaded since somebody asked for them",
            self.model_loads,
        );
        registry.register(
            "edge_model_unloads",
            "Models that left memory for others",
            self.model_unloads,
        );
        registry.register(
            "edge_cache_purges",
            "Times that results were forgotten for good because somebody asked",
            self.cache_purges,
        );
        registry.register(
            "edge_receipts_promised",
            "Receipts that clients were promised",
            self.receipts_promised,
        );
        registry.register(
            "edge_receipts_written",
            "Receipts that are durable in the log of this node",
            self.receipts_written,
        );
        registry.register(
            "edge_receipts_open",
            "1 while receipts can be given, 0 where they are not, or their log cannot be written",
            self.receipts_open,
        );
    }
    /// Counts a request's end.
    pub fn ended(&self, outcome: Outcome) {
        self.requests.inc(outcome);
    }
    /// Counts where the time of an answered request went. Stages of no time were not passed.
    pub fn took(&self, stages: impl Iterator<Item = (Stage, Duration)>, total: Duration) {
        for ((_, time), histogram) in stages.zip(&self.stages) {
            if !time.is_zero() {
                histogram.observe(time.as_secs_f64());
            }
        }
        self.total.observe(total.as_secs_f64());
    }
    /// Shows how many jobs stand where, in the order of `State::ALL`.
    pub fn jobs_are(&self, counts: [usize; 4]) {
        for (gauge, count) in self.jobs.iter().zip(counts) {
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }
    /// Counts a sending of a webhook.
    pub fn hook_ended(&self, end: HookEnd) {
        self.hooks.inc(end);
    }
    /// Counts an answer's origin.
    pub fn answered_from(&self, cache: CacheUse) {
        self.cache.inc(cache);
    }
}

#[cfg(test)]
mod tests {
    /// Dashboards depend on these names.
    #[test]
    fn the_exported_names_are_these() {
        let mut registry = runtime::metrics::Metrics::new();
        let metrics = super::Metrics::new(&mut registry);
        metrics.ended(super::Outcome::DeadlineUnmeetable);
        metrics.answered_from(super::CacheUse::HitMemory);
        let text = registry.encode();
        let names: Vec<&str> = text.lines().filter_map(|l| l.strip_prefix("# TYPE ")).collect();
        assert_eq!(
            names,
            [
                "edge_requests counter",
                "edge_answers counter",
                "edge_stage_seconds histogram",
                "edge_jobs gauge",
                "edge_webhooks counter",
                "edge_queue_requests gauge",
                "edge_request_seconds histogram",
                "edge_engine_busy_seconds counter",
                "edge_queue_lost counter",
                "edge_exec_seconds histogram",
                "edge_batch_rows histogram",
                "edge_batch_retries counter",
                "edge_cache_memory_bytes gauge",
                "edge_cache_disk_bytes gauge",
                "edge_cache_dropped counter",
                "edge_models_in_memory gauge",
                "edge_models_memory_bytes gauge",
                "edge_model_loads counter",
                "edge_model_unloads counter",
                "edge_cache_purges counter",
                "edge_receipts_promised counter",
                "edge_receipts_written counter",
                "edge_receipts_open gauge",
                "edge_device_out_of_use gauge",
                "edge_device_hung gauge",
                "edge_device_failures counter",
                "edge_device_late counter",
                "edge_device_stand_in_runs counter",
                "edge_cache_rows_bytes gauge",
                "edge_cache_rows_found counter",
                "edge_cache_rows_made counter",
            ]
        );
        assert!(
            text.contains(r#"edge_requests_total{outcome="DeadlineUnmeetable"} 1"#),
            "{text}"
        );
    }
}
