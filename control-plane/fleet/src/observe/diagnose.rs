//! What holds a node up, from two readings of what it counts.
//!
//! ```text
//!   a device out of use?      -> the processor does its work: named before all that follows from it
//!   memory or disk short?     -> they slow everything else down, so they are named next
//!   requests wait or refused? -> engine threads busy: CPU; else the queue's own waiting
//!   most time before it       -> network: bodies come slowly
//!   most time in the engine   -> the model itself
//! ```
//! The first of these that is found is the bottleneck; all that is found is told, with its numbers and what to do.

use std::time::Instant;

use proto::ids::NodeId;
use proto::usage::UsagePage;
use serde::Serialize;

use super::series::Series;

/// From this share on something is called short, or busy.
const MEMORY_FULL: f64 = 0.9;
const MEMORY_AVAILABLE_MIN: f64 = 0.05;
const MEMORY_WAIT: f64 = 0.05;
const DISK_WAIT: f64 = 0.1;
const BUSY: f64 = 0.85;
const CPU_WAIT: f64 = 0.3;
const REFUSED: f64 = 0.01;
const STAGE_LARGE: f64 = 0.5;
const QUEUE_LARGE: f64 = 0.3;
/// A mean below this is no cause for complaint whatever its stages, milliseconds.
const QUICK_MS: f64 = 2.0;

/// One reading.
#[derive(Clone, Debug)]
pub struct Sample {
    /// When.
    pub at: Instant,
    /// Its metrics.
    pub series: Series,
    /// Its accounts.
    pub usage: UsagePage,
}

/// What can be short.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names say it")]
pub enum Resource {
    Device,
    Memory,
    Disk,
    Cpu,
    Queue,
    Network,
    Model,
}

impl Resource {
    /// As people read it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Memory => "memory",
            Self::Disk => "disk",
            Self::Cpu => "CPU",
            Self::Queue => "queue",
            Self::Network => "network",
            Self::Model => "model",
        }
    }
}

/// Something that was found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// What is short.
    pub resource: Resource,
    /// By which numbers.
    pub evidence: String,
    /// What to do.
    pub advice: String,
}

/// One stage of the answered requests.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StageShare {
    /// Which.
    pub stage: &'static str,
    /// Of an answered request.
    pub mean_ms: f64,
    /// Of all time that answered requests took.
    pub share: f64,
}

/// The verdict.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Diagnosis {
    /// Whose.
    pub node: NodeId,
    /// Between the readings.
    pub seconds: f64,
    /// Answered in that time.
    pub answered_per_s: f64,
    /// Of an answered request, from its head to the written answer.
    pub mean_ms: f64,
    /// Of all requests, those refused for want of room or time.
    pub refused_share: f64,
    /// Of the engine threads' time.
    pub engine_busy: f64,
    /// Where the time went.
    pub stages: Vec<StageShare>,
    /// The first of the findings.
    pub bottleneck: Option<Resource>,
    /// All that was found, the gravest first.
    pub findings: Vec<Finding>,
}

/// What changed between two readings.
struct Change<'a> {
    before: &'a Sample,
    after: &'a Sample,
    seconds: f64,
}

impl Change<'_> {
    fn of(&self, name: &str) -> f64 {
        (self.after.series.get(name) - self.before.series.get(name)).max(0.0)
    }
    fn sum(&self, name: &str) -> f64 {
        (self.after.series.sum(name) - self.before.series.sum(name)).max(0.0)
    }
    fn ended(&self, outcome: &str) -> f64 {
        self.of(&format!("edge_requests_total{{outcome=\"{outcome}\"}}"))
    }
    fn stage(&self, stage: &str) -> f64 {
        self.of(&format!("edge_stage_seconds_sum{{stage=\"{stage}\"}}"))
    }
    /// Seconds of each second in which something waited.
    fn waited(&self, resource: &str) -> f64 {
        self.of(&format!("node_pressure_{resource}_waiting_seconds_total")) / self.seconds
    }
}

/// Compares two readings of `node`.
#[must_use]
pub fn of(node: &NodeId, before: &Sample, after: &Sample) -> Diagnosis {
    let seconds = after.at.saturating_duration_since(before.at).as_secs_f64().max(1e-3);
    let change = Change { before, after, seconds };
    let answered = change.of("edge_request_seconds_count");
    let total = change.of("edge_request_seconds_sum");
    let refused: f64 = ["QueueFull", "DeadlineUnmeetable", "DeadlineExceeded"]
        .map(|outcome| change.ended(outcome))
        .iter()
        .sum();
    let stages = ["route", "queue", "batch", "exec", "encode"].map(|stage| StageShare {
        stage,
        mean_ms: ratio(change.stage(stage), answered) * 1e3,
        share: ratio(change.stage(stage), total),
    });
    let threads = f64::from(u32::try_from(after.usage.engine_threads).unwrap_or(u32::MAX));
    let mut diagnosis = Diagnosis {
        node: node.clone(),
        seconds,
        answered_per_s: answered / seconds,
        mean_ms: ratio(total, answered) * 1e3,
        refused_share: ratio(refused, change.sum("edge_requests_total")),
        engine_busy: ratio(change.of("edge_engine_busy_seconds_total"), seconds * threads),
        stages: stages.to_vec(),
        bottleneck: None,
        findings: Vec::new(),
    };
    let found = [
        device(&change),
        memory(&change),
        disk(&change),
        cpu(&change, &diagnosis),
        queue(&diagnosis),
        network(&diagnosis),
        model(&change, &diagnosis),
    ];
    diagnosis.findings = found.into_iter().flatten().collect();
    diagnosis.bottleneck = diagnosis.findings.first().map(|finding| finding.resource);
    diagnosis
}

fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

fn finding(resource: Resource, evidence: String, advice: &str) -> Option<Finding> {
    let advice = advice.to_owned();
    Some(Finding {
        resource,
        evidence,
        advice,
    })
}

fn share(d: &Diagnosis, stages: &[&str]) -> f64 {
    let of = d.stages.iter().filter(|stage| stages.contains(&stage.stage));
    of.map(|stage| stage.share).sum()
}

fn device(change: &Change<'_>) -> Option<Finding> {
    let series = &change.after.series;
    let (out, hung) = (series.get("edge_device_out_of_use"), series.get("edge_device_hung"));
    let failed = change.of("edge_device_failures_total");
    let stood_in = change.of("edge_device_stand_in_runs_total");
    if out < 1.0 && hung < 1.0 && stood_in < 1.0 {
        return None;
    }
    finding(
        Resource::Device,
        format!(
            "the device of {out:.0} models is out of use, {hung:.0} calls of it do not return, {failed:.0} calls and tries failed, and \
             the processor ran {stood_in:.0} times in its place"
        ),
        "look at the device and its driver: the node tries it again by itself, but calls that do not return need a restart; `/v1/node` \
         says why for each model",
    )
}

fn memory(change: &Change<'_>) -> Option<Finding> {
    let series = &change.after.series;
    let machine = series.told("machine_memory_bytes");
    let limit = [series.told("container_spec_memory_limit_bytes"), machine];
    let limit = limit.into_iter().flatten().reduce(f64::min)?;
    let used = series.get("process_resident_memory_bytes") / limit;
    let available = ratio(series.get("machine_memory_available_bytes"), machine.unwrap_or(limit));
    let waited = change.waited("memory");
    if used < MEMORY_FULL && available > MEMORY_AVAILABLE_MIN && waited < MEMORY_WAIT {
        return None;
    }
    finding(
        Resource::Memory,
        format!(
            "the node holds {:.0} % of its limit, {:.0} % of the machine's memory is available, something waits for memory \
             {:.0} % of the time",
            used * 100.0,
            available * 100.0,
            waited * 100.0
        ),
        "lower `cache.memory-bytes`, serve fewer models here, or give the node more memory",
    )
}

fn disk(change: &Change<'_>) -> Option<Finding> {
    let (waited, dropped) = (change.waited("io"), change.of("edge_cache_dropped_total"));
    if waited < DISK_WAIT && dropped < 1.0 {
        return None;
    }
    finding(
        Resource::Disk,
        format!(
            "something waits for the disk {:.0} % of the time, {dropped:.0} answers were not kept on it since its writer was behind",
            waited * 100.0
        ),
        "put `data` on a faster disk, lower `cache.disk-bytes`, or look for what else writes there",
    )
}

fn cpu(change: &Change<'_>, d: &Diagnosis) -> Option<Finding> {
    let cores = change.after.series.told("machine_cpu_cores").unwrap_or(1.0);
    let process = change.of("process_cpu_seconds_total") / (change.seconds * cores);
    let waited = change.waited("cpu");
    let numbers = format!(
        "engine threads are busy {:.0} % of the time, the process uses {:.0} % of {cores:.0} cores, tasks wait for one {:.0} % \
         of the time",
        d.engine_busy * 100.0,
        process * 100.0,
        waited * 100.0
    );
    if d.engine_busy >= BUSY && process < BUSY && waited < CPU_WAIT {
        return finding(
            Resource::Cpu,
            numbers,
            "cores stand idle: raise `engine.threads`, which is 0 for one on each core",
        );
    }
    if d.engine_busy >= BUSY || process >= BUSY {
        let advice = "add a node to this region, roll out an int8 form of the model, or give background tenants a rate";
        return finding(Resource::Cpu, numbers, advice);
    }
    // Others take what this node does not use.
    if waited >= CPU_WAIT && d.answered_per_s > 0.0 {
        return finding(
            Resource::Cpu,
            numbers,
            "other processes of this machine take its cores: move them, or the node",
        );
    }
    None
}

fn queue(d: &Diagnosis) -> Option<Finding> {
    let waiting = share(d, &["queue", "batch"]);
    if d.refused_share < REFUSED && (waiting < QUEUE_LARGE || d.mean_ms < QUICK_MS) {
        return None;
    }
    let evidence = format!(
        "{:.0} % of the time of answered requests is waiting for the engine or for company, {:.1} % of all requests are refused",
        waiting * 100.0,
        d.refused_share * 100.0
    );
    let advice = if d.engine_busy >= BUSY {
        "the engine is the cause, see CPU; clients that cannot wait should ask with a shorter deadline and another node"
    } else {
        "the engine is not busy: requests come in bursts or wait for company; lower `batch.linger-ms`, or put the model into the \
         class `realtime`"
    };
    finding(Resource::Queue, evidence, advice)
}

fn network(d: &Diagnosis) -> Option<Finding> {
    let before = share(d, &["route"]);
    if before < STAGE_LARGE || d.mean_ms < QUICK_MS {
        return None;
    }
    finding(
        Resource::Network,
        format!(
            "{:.0} % of the time passes before a request is in the queue: bodies arrive slowly",
            before * 100.0
        ),
        "send binary tensors instead of JSON, compress them, keep connections, or place a node nearer to these clients",
    )
}

/// Which model takes most of the engine, when the engine takes most of the time.
fn model(change: &Change<'_>, d: &Diagnosis) -> Option<Finding> {
    let exec = share(d, &["exec"]);
    if exec < STAGE_LARGE || d.mean_ms < QUICK_MS {
        return None;
    }
    let mut by_model = std::collections::BTreeMap::new();
    let mut add = |usage: &UsagePage, sign: f64| {
        for line in &usage.lines {
            let us = std::time::Duration::from_micros(line.used.engine_us).as_secs_f64();
            *by_model.entry(line.model.clone()).or_insert(0.0) += sign * us;
        }
    };
    add(&change.after.usage, 1.0);
    add(&change.before.usage, -1.0);
    let all: f64 = by_model.values().sum();
    let (name, most) = by_model.into_iter().max_by(|a, b| a.1.total_cmp(&b.1))?;
    finding(
        Resource::Model,
        format!(
            "{:.0} % of the time is the engine's, and `{name}` takes {:.0} % of that",
            exec * 100.0,
            ratio(most, all) * 100.0
        ),
        "roll out an int8 form of it, send fewer rows a request, or ask for it on a node with a graphics processor",
    )
}

#[cfg(test)]
mod tests;
