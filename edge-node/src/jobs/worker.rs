//! Runs jobs when nobody else waits: a loop around the ledger.
//!
//! A job is started while no request waits in the queue beyond those of jobs, and never more than a few at once: a request
//! that comes waits at most for runs that have begun. Where the queue is never empty one job a second is let in all the
//! same, at the last level, so that none waits for ever.

use std::future::Future;
use std::time::{Duration, Instant};

use bytes::Bytes;
use proto::ids::{TenantId, UnixMs};
use proto::jobs::JobKey;
use runtime::clock;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::record::{Kept, Record, Trouble};
use super::{Jobs, Shared};

/// How often the queue is looked at while jobs are due and requests wait.
const LOOK: Duration = Duration::from_millis(5);
/// How often what is over is looked for.
const SWEEP: Duration = Duration::from_secs(1);
/// A job is let in after so long without one, whoever waits.
const PATIENCE: Duration = Duration::from_secs(1);

/// A job whose run begins.
#[derive(Clone, Debug)]
pub struct Taken {
    /// Which.
    pub key: JobKey,
    /// What is known of it.
    pub record: Record,
    /// The body as it was sent.
    pub body: Bytes,
}

/// What came of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// This.
    Answered(Kept),
    /// Nothing, and nothing will.
    Refused(Trouble),
    /// Nothing this time.
    Failed(Trouble),
    /// It could not be run, and that is not its fault.
    Later(Trouble),
}

/// What runs jobs.
pub trait Runner: Clone + Send + Sync + 'static {
    /// Whether one more may start while `running` are.
    fn has_room(&self, running: usize) -> bool;
    /// Whether data of `tenant` may lie on this node; false erases it.
    fn may_hold(&self, tenant: &TenantId) -> bool;
    /// Runs one.
    fn run(&self, taken: Taken) -> impl Future<Output = Outcome> + Send;
}

/// Runs jobs until `drain`, then finishes those that run. What is dropped runs again after the next start.
pub async fn work<R: Runner>(jobs: Jobs, runner: R, drain: CancellationToken) {
    let mut running = JoinSet::new();
    let (mut swept, mut fed) = (None::<Instant>, clock::instant());
    while !drain.is_cancelled() {
        let now = clock::instant();
        if swept.is_none_or(|at| now.duration_since(at) >= SWEEP) {
            swept = Some(now);
            let runner = runner.clone();
            jobs.aside(move |shared| shared.sweep(|tenant| runner.may_hold(tenant)))
                .await;
        }
        let due = || jobs.0.lock().next_run().is_some_and(|at| at <= clock::now_ms());
        let mut held = false;
        while running.len() < jobs.config().at_once && due() {
            let patient = running.is_empty() && clock::instant().duration_since(fed) >= PATIENCE;
            held = !(patient || runner.has_room(running.len()));
            if held {
                break;
            }
            fed = clock::instant();
            let Some(taken) = jobs.aside(Shared::take).await else {
                continue;
            };
            let (jobs, runner) = (jobs.clone(), runner.clone());
            running.spawn(async move {
                let key = taken.key;
                let outcome = runner.run(taken).await;
                jobs.aside(move |shared| shared.ended(key, outcome)).await;
            });
        }
        let nap = if held {
            LOOK
        } else {
            nap(jobs.0.lock().next_run(), clock::now_ms())
        };
        tokio::select! {
            () = drain.cancelled() => {}
            () = jobs.0.work.notified() => {}
            Some(ended) = running.join_next() => lost(ended),
            () = tokio::time::sleep(nap) => {}
        }
    }
    while let Some(ended) = running.join_next().await {
        lost(ended);
    }
}

fn lost(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a job's run broke off: it runs again after the next start");
    }
}

/// Until `next`, at most until the next sweep. While something is due and may not start, its end wakes the loop.
fn nap(next: Option<UnixMs>, now: UnixMs) -> Duration {
    match next {
        Some(at) if at > now => Duration::from_millis(at - now).min(SWEEP),
        _ => SWEEP,
    }
}
