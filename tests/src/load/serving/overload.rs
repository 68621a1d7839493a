//! Four times as many requests as the node can answer: it is to answer as many as ever, in time, and to refuse the rest at once.
//!
//! Texts are of like lengths: of mixed ones the short ones are answered in time, and more of them than of the mixture. Passages are
//! what the figures without a further name are of. Of sentences so many can be answered that asking and refusing four times as many takes
//! a third of two cores, of which the client has half: so they are measured on cores shared with it, and on cores of the node's own too.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use runtime::clock;

use super::super::{Figure, median};
use super::asked::{Length, Requests};
use super::closed::Closed;
use super::connection::Connection;
use super::embedder::{CONNECTIONS, requests, start};
use super::open::Open;
use super::target::{OK, Report, Target, on_own_thread};
use super::{Bench, EMBEDDER, NO_CACHE, SUITE};

/// How long users wait, and the header that says so.
const BOUND_MS: u64 = 200;
/// As many times the capacity.
const TIMES: f64 = 4.0;
/// Most connections: what comes in [`BOUND_MS`], several times over.
const CONNECTIONS_MAX: usize = 1_024;
/// Connections that find what it can do: the best of these. Few leave a core idle, many wait for each other.
const CAPACITY: [usize; 2] = [CONNECTIONS, 4 * CONNECTIONS];
/// A peer with a queue of its own.
const PEER: &str = "mosec";
/// Longest wait for a server to come to rest, and how long one request may take meanwhile.
const REST: Duration = Duration::from_secs(60);
const ONE: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Rounds {
    share: Vec<f64>,
    admitted_p99_ms: Vec<f64>,
    refusal_p50_ms: Vec<f64>,
}

/// On whose cores the client runs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Client {
    /// On the server's.
    Among,
    /// On its own.
    Apart,
}

pub(super) async fn measure(bench: &mut Bench) -> Result<Vec<Figure>> {
    let mut figures = of(bench, Length::Passage, "", Client::Among).await?;
    figures.extend(of(bench, Length::Alike, "/sentence", Client::Among).await?);
    if bench.ours.apart().await? {
        let apart = of(bench, Length::Alike, "/sentence/apart", Client::Apart).await;
        bench.ours.together().await?;
        figures.extend(apart?);
    } else {
        eprintln!("·· no overload with clients apart: there is one core");
    }
    Ok(figures)
}

async fn of(bench: &Bench, length: Length, name: &str, client: Client) -> Result<Vec<Figure>> {
    eprintln!("·· overload{name}");
    let rounds: u32 = bench.scale.pick(2, 5);
    let headers = format!("{NO_CACHE}meridian-deadline-ms: {BOUND_MS}\r\n");
    let (all, patient) = (
        requests(bench, EMBEDDER, &headers, length)?,
        requests(bench, EMBEDDER, NO_CACHE, length)?,
    );
    let peer = match client {
        Client::Among => start(bench, &[PEER], &all).await?.pop(),
        Client::Apart => None,
    };
    let (mut ours, mut theirs) = (Rounds::default(), Rounds::default());
    for _ in 0..rounds {
        let at = |address| {
            [&patient, &all].map(|requests| Target {
                awake: client == Client::Apart,
                ..Target::new(address, requests.clone())
            })
        };
        ours.take(&overloaded(bench, at(bench.ours.address)).await?);
        if let Some(peer) = &peer {
            match overloaded(bench, at(peer.process.address)).await {
                Ok(overload) => theirs.take(&overload),
                Err(why) => eprintln!("·· without {PEER}: {why:#}"),
            }
        }
    }
    let figure = |what: &str, values: &mut Vec<f64>, unit, rival: &mut Vec<f64>| {
        let figure = Figure::alone(SUITE, format!("overload4x/{what}{name}"), median(values), unit);
        if rival.is_empty() {
            figure
        } else {
            figure.beside(PEER, median(rival))
        }
    };
    Ok(vec![
        figure("goodput", &mut ours.share, "share", &mut theirs.share),
        figure(
            "admitted_p99_ms",
            &mut ours.admitted_p99_ms,
            "ms",
            &mut theirs.admitted_p99_ms,
        ),
        figure(
            "refusal_p50_ms",
            &mut ours.refusal_p50_ms,
            "ms",
            &mut theirs.refusal_p50_ms,
        ),
    ])
}

struct Overload {
    capacity: f64,
    report: Report,
}

/// What it can do, measured just before by users who wait as long as it takes, and what became of four times as much.
async fn overloaded(bench: &Bench, [patient, target]: [Target; 2]) -> Result<Overload> {
    let lasts = Duration::from_millis(bench.scale.pick(2_000, 6_000));
    rest(&patient).await?;
    let mut best = 0.0_f64;
    for connections in CAPACITY {
        best = best.max(capacity(&patient, lasts / 2, connections).await?);
    }
    let open = Open {
        per_second: best * TIMES,
        connections_max: CONNECTIONS_MAX,
        lasts,
        stop: Arc::default(),
    };
    let report = open.drive(target).await.context("the open loop")?;
    // What it still works off would take the cores from whoever is measured next.
    rest(&patient).await?;
    Ok(Overload { capacity: best, report })
}

/// Waits until a server has done what it was left with: until it answers a request that comes alone, and soon.
async fn rest(target: &Target) -> Result<()> {
    let target = target.clone();
    on_own_thread(async move || {
        let deadline = clock::instant() + REST;
        let mut request = Vec::new();
        (target.write)(0, &mut request);
        while clock::instant() < deadline {
            let mut connection = Connection::open(target.address).await?;
            let answered = tokio::time::timeout(ONE, connection.ask(&request)).await;
            if matches!(answered, Ok(Ok(answer)) if answer.status == OK) {
                return Ok(());
            }
        }
        bail!("it does not come to rest")
    })
    .await
}

/// Requests that a server answers a second on so many connections, when none is in vain.
pub(super) async fn capacity(target: &Target, lasts: Duration, connections: usize) -> Result<f64> {
    let closed = Closed {
        connections,
        warm: lasts / 4,
        lasts,
    };
    Ok(closed.drive(target.clone()).await?.per_second())
}

impl Rounds {
    fn take(&mut self, Overload { capacity, report }: &Overload) {
        let mut report = report.clone();
        let share = report.goodput(Duration::from_millis(BOUND_MS)) / capacity;
        let (admitted, refusal) = (
            report.answered.percentile_ms(9_900),
            report.refused.percentile_ms(5_000),
        );
        let Report {
            statuses, unanswered, ..
        } = &report;
        eprintln!(
            "   {capacity:.0}/s; of 4 times as much {:.0} % in time, admitted p99 {admitted:.1} ms, refused p50 {refusal:.2} ms; \
             {statuses:?}, {unanswered} unanswered",
            share * 100.0
        );
        self.share.push(share);
        self.admitted_p99_ms.push(admitted);
        if report.refused.count() > 0 {
            self.refusal_p50_ms.push(refusal);
        }
    }
}

/// Requests for the n-th of which `which` picks one of several.
pub(super) fn by_turns(several: Vec<Requests>) -> Requests {
    let count = several.len();
    Arc::new(move |n, request| {
        let turn = usize::try_from(n).unwrap_or(0) % count.max(1);
        if let Some(one) = several.get(turn) {
            one(n, request);
        }
    })
}
