//! A model answers at a steady rate while another one of 90 MB is fetched, tried, loaded and warmed on the same node.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use runtime::clock;

use super::super::{Figure, median};
use super::latency::Latencies;
use super::open::Open;
use super::target::{Report, Target};
use super::{Bench, EMBEDDER, EMBEDDER_F32, NO_CACHE, SUITE, TINY};

/// Requests a second: a small part of what the node can do.
const PER_SECOND: f64 = 1_000.0;
const CONNECTIONS_MAX: usize = 64;
/// A rollout takes less.
const LONGEST: Duration = Duration::from_secs(120);

/// Rolls `first` out meanwhile, which is published already; then the same bytes under further names, which need no fetching.
/// A rollout takes a second or less, in which few requests come: percentiles are of those of all rollouts together.
pub(super) async fn measure(bench: &Bench, first: &str) -> Result<Vec<Figure>> {
    let rounds: u32 = bench.scale.pick(3, 10);
    bench.ours.leave_the_cores()?;
    let (mut before, mut during, mut took) = (Latencies::default(), Latencies::default(), Vec::new());
    for number in 1..=rounds {
        let name = format!("{EMBEDDER_F32}-{number}");
        let large = match number {
            1 => first.to_owned(),
            _ => bench.ours.publish(&[EMBEDDER, "--name", &name, "--no-int8"]).await?,
        };
        let round = round(bench, &large).await?;
        before.extend(&round.before);
        during.extend(&round.during);
        took.push(round.took.as_secs_f64());
    }
    let figure = |name: &str, value, unit| Figure::alone(SUITE, format!("load_isolation/{name}"), value, unit);
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

async fn round(bench: &Bench, large: &str) -> Result<Round> {
    eprintln!("·· isolation");
    let lasts = Duration::from_secs(bench.scale.pick(2, 5));
    let stop = Arc::new(AtomicBool::new(false));
    let before = steady(bench, lasts, Arc::default()).await?;
    let meanwhile = steady(bench, LONGEST, Arc::clone(&stop));
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

async fn steady(bench: &Bench, lasts: Duration, stop: Arc<AtomicBool>) -> Result<Report> {
    let open = Open {
        per_second: PER_SECOND,
        connections_max: CONNECTIONS_MAX,
        lasts,
        stop,
    };
    let requests = bench.ours.door(TINY, NO_CACHE)?.tables("features");
    open.drive(Target::new(bench.ours.address, requests)).await
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
