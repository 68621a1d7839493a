//! A model answers at a steady rate while another one of 90 MB is fetched, tried, loaded and warmed on the same node.
//!
//! It is the tiny one, which shows each wait of a fraction of a millisecond, and then the embedder, which is what such nodes serve.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use runtime::clock;

use super::super::{Figure, median};
use super::asked::{Length, Requests};
use super::embedder::requests;
use super::latency::Latencies;
use super::open::Open;
use super::target::{Report, Target};
use super::{Bench, EMBEDDER, EMBEDDER_F32, NO_CACHE, SUITE, TINY};

const CONNECTIONS_MAX: usize = 64;
/// A rollout takes less.
const LONGEST: Duration = Duration::from_secs(120);

/// What is asked meanwhile.
struct Steady {
    /// Behind the figures' names; and in those of the models that are rolled out.
    of: &'static str,
    requests: Requests,
    /// A small part of what the node can do.
    per_second: f64,
}

/// Beside the tiny model. Rolls `first` out, which is published already; then the same bytes under further names.
pub(super) async fn measure(bench: &Bench, first: &str) -> Result<Vec<Figure>> {
    let steady = Steady {
        of: "",
        requests: bench.ours.door(TINY, NO_CACHE)?.tables("features"),
        per_second: 1_000.0,
    };
    beside(bench, &steady, Some(first)).await
}

/// Beside the embedder, which is served already.
pub(super) async fn measure_beside_embedder(bench: &Bench) -> Result<Vec<Figure>> {
    let steady = Steady {
        of: "/embedder",
        requests: requests(bench, EMBEDDER, NO_CACHE, Length::Mixed)?,
        per_second: 200.0,
    };
    beside(bench, &steady, None).await
}

/// A rollout takes a second or less, in which few requests come: percentiles are of those of all rollouts together.
async fn beside(bench: &Bench, steady: &Steady, first: Option<&str>) -> Result<Vec<Figure>> {
    let rounds: u32 = bench.scale.pick(3, 10);
    bench.ours.leave_the_cores()?;
    let (mut before, mut during, mut took) = (Latencies::default(), Latencies::default(), Vec::new());
    for number in 1..=rounds {
        let name = format!("{EMBEDDER_F32}{}-{number}", steady.of.replace('/', "-"));
        let large = match first {
            Some(first) if number == 1 => first.to_owned(),
            _ => bench.ours.publish(&[EMBEDDER, "--name", &name, "--no-int8"]).await?,
        };
        let round = round(bench, steady, &large).await?;
        before.extend(&round.before);
        during.extend(&round.during);
        took.push(round.took.as_secs_f64());
    }
    let figure =
        |name: &str, value, unit| Figure::alone(SUITE, format!("load_isolation/{name}{}", steady.of), value, unit);
    let [before_ms, during_ms] = [told("before", &mut before), told("meanwhile", &mut during)];
    Ok(vec![
        figure("p99_ratio", during_ms / before_ms, ""),
        figure("p99_ms", during_ms, "ms").beside("before", before_ms),
        figure("rollout_s", median(&mut took), "s"),
    ])
}

/// One rollout: times before it and meanwhile.
struct Round {
    before: Latencies,
    during: Latencies,
    took: Duration,
}

async fn round(bench: &Bench, steady: &Steady, large: &str) -> Result<Round> {
    eprintln!("·· isolation{}", steady.of);
    let lasts = Duration::from_secs(bench.scale.pick(2, 5));
    let stop = Arc::new(AtomicBool::new(false));
    let before = steady.ask(bench, lasts, Arc::default()).await?;
    let meanwhile = steady.ask(bench, LONGEST, Arc::clone(&stop));
    let rollout = async {
        let began = clock::instant();
        let done = bench.ours.roll_out(large).await;
        stop.store(true, Ordering::Relaxed);
        done.map(|()| began.elapsed())
    };
    let (report, took) = tokio::join!(meanwhile, rollout);
    let during = report?;
    for report in [&before, &during] {
        ensure!(
            report.unanswered == 0 && report.refused.count() == 0,
            "not all were answered: {:?}",
            report.statuses
        );
    }
    Ok(Round {
        before: before.answered,
        during: during.answered,
        took: took?,
    })
}

impl Steady {
    async fn ask(&self, bench: &Bench, lasts: Duration, stop: Arc<AtomicBool>) -> Result<Report> {
        let open = Open {
            per_second: self.per_second,
            connections_max: CONNECTIONS_MAX,
            lasts,
            stop,
        };
        open.drive(Target::new(bench.ours.address, Arc::clone(&self.requests)))
            .await
    }
}

/// Their p99, milliseconds.
fn told(when: &str, times: &mut Latencies) -> f64 {
    let [p50, p99, p999] = [5_000, 9_900, 9_990].map(|per| times.percentile_ms(per));
    eprintln!(
        "   {when}: p50 {p50:.3}, p99 {p99:.3}, p99.9 {p999:.3} ms of {}",
        times.count()
    );
    p99
}
