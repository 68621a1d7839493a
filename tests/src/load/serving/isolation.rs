//! A model answers at a steady rate while another one of 90 MB is fetched, tried, loaded and warmed on the same node.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Result;
use runtime::clock;

use super::super::Figure;
use super::open::Open;
use super::target::{Report, Target};
use super::{Bench, NO_CACHE, SUITE, TINY};

/// Requests a second: a small part of what the node can do.
const PER_SECOND: f64 = 500.0;
const CONNECTIONS_MAX: usize = 64;
/// A rollout takes less.
const LONGEST: Duration = Duration::from_secs(120);

/// Rolls `large` out meanwhile; it must be published already.
pub(super) async fn measure(bench: &Bench, large: &str) -> Result<Vec<Figure>> {
    eprintln!("·· isolation");
    let lasts = Duration::from_secs(bench.scale.pick(4, 20));
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
    let during = told("meanwhile", report?);
    let figure = |name: &str, value, unit| Figure::alone(SUITE, format!("load_isolation/{name}"), value, unit);
    Ok(vec![
        figure("p99_ratio", during / before, ""),
        figure("p99_ms", during, "ms").beside("before", before),
        figure("rollout_s", took?.as_secs_f64(), "s"),
    ])
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
