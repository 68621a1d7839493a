//! A model answers at a steady rate while another one of 90 MB is fetched, tried, loaded and warmed on the same node.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Result;
use runtime::clock;

use super::super::{Figure, median};
use super::open::Open;
use super::target::{Report, Target};
use super::{Bench, EMBEDDER, EMBEDDER_F32, NO_CACHE, SUITE, TINY};

/// Requests a second: a small part of what the node can do.
const PER_SECOND: f64 = 500.0;
const CONNECTIONS_MAX: usize = 64;
/// A rollout takes less.
const LONGEST: Duration = Duration::from_secs(120);

/// Rolls `first` out meanwhile, which is published already; then the same bytes under further names, which need no fetching.
pub(super) async fn measure(bench: &Bench, first: &str) -> Result<Vec<Figure>> {
    let rounds: u32 = bench.scale.pick(1, 5);
    let mut all: Vec<Round> = vec![round(bench, first).await?];
    for number in 2..=rounds {
        let name = format!("{EMBEDDER_F32}-{number}");
        let large = bench.ours.publish(&[EMBEDDER, "--name", &name, "--no-int8"]).await?;
        all.push(round(bench, &large).await?);
    }
    let middle = |of: fn(&Round) -> f64| median(&mut all.iter().map(of).collect::<Vec<_>>());
    let figure = |name: &str, value, unit| Figure::alone(SUITE, format!("load_isolation/{name}"), value, unit);
    Ok(vec![
        figure("p99_ratio", middle(|round| round.during_ms / round.before_ms), ""),
        figure("p99_ms", middle(|round| round.during_ms), "ms").beside("before", middle(|round| round.before_ms)),
        figure("rollout_s", middle(|round| round.took.as_secs_f64()), "s"),
    ])
}

/// One rollout: p99 before it and meanwhile.
struct Round {
    before_ms: f64,
    during_ms: f64,
    took: Duration,
}

async fn round(bench: &Bench, large: &str) -> Result<Round> {
    eprintln!("·· isolation");
    let lasts = Duration::from_secs(bench.scale.pick(4, 10));
    let stop = Arc::new(AtomicBool::new(false));
    let before = told("before", steady(bench, lasts, Arc::default()).await?);
    let meanwhile = steady(bench, LONGEST, Arc::clone(&stop));
    let rollout = async {
        let began = clock::instant();
        let done = bench.ours.roll_out(large).await;
        stop.store(true, Ordering::Relaxed);
        done.map(|()| began.elapsed())
    };
    let (report, took) = tokio::join!(meanwhile, rollout);
    Ok(Round {
        before_ms: before,
        during_ms: told("meanwhile", report?),
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

/// Its p99, milliseconds.
fn told(when: &str, mut report: Report) -> f64 {
    let [p50, p99, p999] = [5_000, 9_900, 9_990].map(|per| report.answered.percentile_ms(per));
    let (statuses, unanswered) = (&report.statuses, report.unanswered);
    eprintln!("   {when}: p50 {p50:.3}, p99 {p99:.3}, p99.9 {p999:.3} ms; {statuses:?}, {unanswered} unanswered");
    p99
}
