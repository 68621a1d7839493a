//! A model answers at a steady rate while another one of 90 MB comes on the same node: it is loaded from the node's disk; or it is rolled
//! out, which is to say fetched, tried in a child process, loaded and warmed.
//!
//! It is the tiny model that answers, which shows each wait of a fraction of a millisecond, and then the embedder, which is what such nodes
//! serve.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use runtime::clock;

use super::super::{Figure, median};
use super::asked::{Length, Requests};
use super::connection::Connection;
use super::embedder::requests;
use super::latency::Latencies;
use super::open::Open;
use super::ours::Aside;
use super::target::{OK, Report, Target};
use super::{Bench, EMBEDDER, EMBEDDER_F32, NO_CACHE, SUITE, TINY};

const CONNECTIONS_MAX: usize = 64;
/// What comes takes less.
const LONGEST: Duration = Duration::from_secs(120);
/// Loads of the large model in a round, each after another one took its place.
const TURNS: u32 = 10;
/// With less time than loading takes and more than running, a request has its model loaded and is not run.
const HASTY: &str = "cache-control: no-cache\r\nmeridian-deadline-ms: 10\r\n";
/// What it is answered: 504.
const LATE: u16 = 504;

/// What figures of rollouts beside the embedder are called.
const ROLLOUT_EMBEDDER: &str = "/rollout/embedder";

/// What is asked meanwhile.
struct Steady {
    requests: Requests,
    /// A small part of what the node can do.
    per_second: f64,
}

/// Times before and meanwhile, and how long what came took, seconds.
#[derive(Default)]
struct Seen {
    before: Latencies,
    during: Latencies,
    took: Vec<f64>,
}

/// Beside the tiny model, 90 MB are loaded from disk over and over: the node has room for one of two others, which are asked for in turn.
pub(super) async fn loads(bench: &Bench) -> Result<Vec<Figure>> {
    loaded(bench, &Steady::tiny(bench)?, "", [EMBEDDER, EMBEDDER_F32]).await
}

/// The same beside the embedder, of two large ones. [`rollouts_beside_embedder`] has left a second one.
pub(super) async fn loads_beside_embedder(bench: &Bench) -> Result<Vec<Figure>> {
    let other = rolled_out_as(ROLLOUT_EMBEDDER, 1);
    loaded(bench, &Steady::embedder(bench)?, "/embedder", [&other, EMBEDDER_F32]).await
}

async fn loaded(bench: &Bench, steady: &Steady, of: &str, models: [&str; 2]) -> Result<Vec<Figure>> {
    let _aside = bench.ours.leave_the_cores()?;
    let mut turns = Turns::new(bench, models).await?;
    let loads = || bench.ours.metric("edge_model_loads_total");
    let (mut seen, rounds, before) = (Seen::default(), bench.scale.pick(3, 10), loads().await?);
    for number in 1..=rounds {
        eprintln!("·· isolation{of}: {TURNS} loads, {number} of {rounds}");
        seen.round(bench, steady, turns.all()).await?;
    }
    let (done, asked) = (loads().await? - before, f64::from(2 * TURNS * rounds));
    ensure!(done >= 0.7 * asked, "{done} models of {asked} were loaded");
    Ok(seen.figures(of, "load_s"))
}

/// The large model and another one, which push each other out of memory.
struct Turns {
    connection: Connection,
    /// Asks for each with too little time; and how long it takes to load.
    models: [(Vec<u8>, Duration); 2],
}

impl Turns {
    /// Has each loaded and run once, for the time that it takes.
    async fn new(bench: &Bench, [other, large]: [&str; 2]) -> Result<Self> {
        let mut connection = Connection::open(bench.ours.address).await?;
        let request = |model, headers: &str| -> Result<Vec<u8>> {
            let mut request = Vec::new();
            bench.ours.door(model, headers)?.texts(&["word".to_owned()])?(0, &mut request);
            Ok(request)
        };
        let mut models = Vec::new();
        for model in [other, large, other, large] {
            let (patient, hasty) = (request(model, NO_CACHE)?, request(model, HASTY)?);
            let began = clock::instant();
            let answer = tokio::time::timeout(LONGEST, connection.ask(&patient)).await??;
            ensure!(answer.status == OK, "{}", String::from_utf8_lossy(&answer.body()));
            models.push((hasty, began.elapsed()));
        }
        let models = <[_; 2]>::try_from(models.split_off(2));
        let models = models.map_err(|_| anyhow!("two models"))?;
        Ok(Self { connection, models })
    }

    /// Has them loaded in turn, one when the other one is; gives how long the large one takes.
    async fn all(&mut self) -> Result<Vec<f64>> {
        for _ in 0..TURNS {
            for (request, takes) in &self.models {
                let answer = tokio::time::timeout(LONGEST, self.connection.ask(request)).await??;
                ensure!(
                    [OK, LATE].contains(&answer.status),
                    "{}",
                    String::from_utf8_lossy(&answer.body())
                );
                // Nobody says when it is there, but for those who have it run. Beside others it takes a little longer.
                tokio::time::sleep(*takes * 5 / 4).await;
            }
        }
        Ok(vec![self.models[1].1.as_secs_f64()])
    }
}

/// Beside the tiny model. Rolls `first` out, which is published already; then the same bytes under further names.
pub(super) async fn rollouts(bench: &Bench, first: &str) -> Result<Vec<Figure>> {
    rolled_out(bench, &Steady::tiny(bench)?, "/rollout", Some(first)).await
}

/// Beside the embedder, which is served already.
pub(super) async fn rollouts_beside_embedder(bench: &Bench) -> Result<Vec<Figure>> {
    rolled_out(bench, &Steady::embedder(bench)?, ROLLOUT_EMBEDDER, None).await
}

/// Name of the model that is rolled out in that round.
fn rolled_out_as(of: &str, round: u32) -> String {
    format!("{EMBEDDER_F32}{}-{round}", of.replace('/', "-"))
}

/// A rollout takes a second or less, in which few requests come: percentiles are of those of all rollouts together.
async fn rolled_out(bench: &Bench, steady: &Steady, of: &str, first: Option<&str>) -> Result<Vec<Figure>> {
    let rounds: u32 = bench.scale.pick(3, 10);
    let aside = bench.ours.leave_the_cores()?;
    let mut seen = Seen::default();
    for number in 1..=rounds {
        let name = rolled_out_as(of, number);
        let release = match first {
            Some(first) if number == 1 => first.to_owned(),
            _ => bench.ours.publish(&[EMBEDDER, "--name", &name, "--no-int8"]).await?,
        };
        eprintln!("·· isolation{of}: {number} of {rounds}");
        seen.round(bench, steady, rollout(bench, &release, &aside)).await?;
    }
    Ok(seen.figures(of, "rollout_s"))
}

async fn rollout(bench: &Bench, release: &str, aside: &Aside) -> Result<Vec<f64>> {
    let began = clock::instant();
    bench.ours.roll_out_aside(release, aside).await?;
    Ok(vec![began.elapsed().as_secs_f64()])
}

impl Seen {
    /// What is asked is asked for a while, and then until `comes` is over, which gives how long it took.
    async fn round(
        &mut self,
        bench: &Bench,
        steady: &Steady,
        comes: impl Future<Output = Result<Vec<f64>>>,
    ) -> Result<()> {
        let lasts = Duration::from_secs(bench.scale.pick(2, 5));
        let before = steady.ask(bench, lasts, Arc::default()).await?;
        let stop = Arc::new(AtomicBool::new(false));
        let meanwhile = steady.ask(bench, LONGEST, Arc::clone(&stop));
        let comes = async {
            let took = comes.await;
            stop.store(true, Ordering::Relaxed);
            took
        };
        let (during, took) = tokio::join!(meanwhile, comes);
        let during = during?;
        for report in [&before, &during] {
            ensure!(
                report.unanswered == 0 && report.refused.count() == 0,
                "not all were answered: {:?}",
                report.statuses
            );
        }
        told("meanwhile", &mut during.answered.clone());
        self.before.extend(&before.answered);
        self.during.extend(&during.answered);
        self.took.extend(took?);
        Ok(())
    }

    fn figures(&mut self, of: &str, took: &str) -> Vec<Figure> {
        let figure = |name: &str, value, unit| Figure::alone(SUITE, format!("load_isolation/{name}{of}"), value, unit);
        let [before_ms, during_ms] = [
            told("all before", &mut self.before),
            told("all meanwhile", &mut self.during),
        ];
        vec![
            figure("p99_ratio", during_ms / before_ms, ""),
            figure("p99_ms", during_ms, "ms").beside("before", before_ms),
            figure(took, median(&mut self.took), "s"),
        ]
    }
}

impl Steady {
    fn tiny(bench: &Bench) -> Result<Self> {
        Ok(Self {
            requests: bench.ours.door(TINY, NO_CACHE)?.tables("features"),
            per_second: 1_000.0,
        })
    }

    fn embedder(bench: &Bench) -> Result<Self> {
        Ok(Self {
            requests: requests(bench, EMBEDDER, NO_CACHE, Length::Mixed)?,
            per_second: 200.0,
        })
    }

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
