//! What receipts cost: a promise alone and in a crowd, a node that gives one with each answer, and how soon they are on disk.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use edge_node::receipt::sign;
use proto::ids::{ContentHash, NodeId};
use proto::note::Signer;
use proto::receipt::{Answered, Commitment, CommitmentKey, Promise};
use runtime::clock;

use super::super::{Figure, median};
use super::closed::Closed;
use super::connection::Connection;
use super::rounds::{Contender, OURS, measure as rounds};
use super::target::{OK, Target, on_own_thread};
use super::{Bench, NO_CACHE, SUITE, TINY};

/// Its input's name.
const INPUT: &str = "features";
/// Asks for a receipt, and for a run of the model.
const ASKING: &str = "cache-control: no-cache\r\nmeridian-receipt: ?1\r\n";
/// Longest wait for a proof.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) async fn measure(bench: &Bench) -> Result<Vec<Figure>> {
    let mut figures = signing(bench)?;
    let address = bench.ours.address;
    let target = |headers| anyhow::Ok(Target::new(address, bench.ours.door(TINY, headers)?.tables(INPUT)));
    let contenders = [("ours-receipts", ASKING), (OURS, NO_CACHE)].map(|(name, headers)| {
        let target = target(headers)?;
        anyhow::Ok(Contender { name, target })
    });
    let contenders: Vec<Contender> = contenders.into_iter().collect::<Result<_>>()?;
    for connections in [1, 8, 64] {
        eprintln!("·· receipts, {connections} connections");
        let closed = Closed {
            connections,
            warm: Duration::from_millis(bench.scale.pick(200, 500)),
            lasts: Duration::from_millis(bench.scale.pick(1_000, 3_000)),
        };
        let all = rounds(&contenders, closed, bench.scale.pick(2, 5)).await?;
        let [with, without] = all.as_slice() else {
            anyhow::bail!("one of two was not measured");
        };
        for (what, unit, ours, bare) in [
            ("rps", "1/s", with.rps, without.rps),
            ("p50_ms", "ms", with.p50_ms, without.p50_ms),
        ] {
            let figure = Figure::alone(SUITE, format!("receipts/c{connections}/{what}"), ours, unit);
            figures.push(figure.beside("without receipts", bare));
        }
    }
    figures.push(until_proven(bench, contenders[0].target.clone()).await?);
    Ok(figures)
}

/// Microseconds that a promise takes, its batch's signature included, beside a signature for each.
fn signing(bench: &Bench) -> Result<Vec<Figure>> {
    eprintln!("·· signing");
    let node: NodeId = "eu-dub/n1".parse()?;
    let signer = Signer::new("dev/receipts/eu-dub/n1/00000000/promises", [7; 32])?;
    let key = CommitmentKey([9; 32]);
    let answered = Answered {
        release: "minilm@7".parse()?,
        manifest: ContentHash::of(b"a manifest"),
        variant: "cpu-int8".parse()?,
        numerics: "tract-0.23.9+kernels-7/s8-weights-u8-rows".to_owned(),
        input: Commitment::of(&key, b"a question"),
        output: Commitment::of(&key, b"an answer"),
    };
    let rounds: usize = bench.scale.pick(200, 2_000);
    let mut bare = Vec::new();
    for n in 0..rounds {
        let began = clock::instant();
        let note = signer.sign_checkpoint(u64::try_from(n)?, &[7; 32]);
        bare.push(micros(began));
        ensure!(!note.is_empty());
    }
    let bare = median(&mut bare);
    let mut figures = Vec::new();
    for together in [1_u32, 8, 64, 512] {
        let mut each = Vec::new();
        for _ in 0..(rounds / usize::try_from(together)?).max(20) {
            let answers = (0..together).map(|_| (answered.clone(), key)).collect();
            let began = clock::instant();
            let (entries, promises) = sign(&node, &signer, 0, 0, answers);
            each.push(micros(began) / f64::from(together));
            ensure!(entries.len() == promises.len(), "a promise for each");
        }
        let figure = Figure::alone(SUITE, format!("receipts/sign/{together}"), median(&mut each), "us");
        figures.push(figure.beside("a signature each", bare));
    }
    Ok(figures)
}

fn micros(began: Instant) -> f64 {
    began.elapsed().as_secs_f64() * 1e6
}

/// Milliseconds from an answer to the proof that its receipt stands in the log, which is then on disk: 99 of 100.
async fn until_proven(bench: &Bench, target: Target) -> Result<Figure> {
    eprintln!("·· from promises to proofs");
    let count: u64 = bench.scale.pick(50, 500);
    let key = bench.ours.door(TINY, "")?.key;
    let mut took = on_own_thread(async move || {
        let mut connection = Connection::open(target.address).await?;
        let (mut took, mut request) = (Vec::new(), Vec::new());
        for n in 0..count {
            request.clear();
            (target.write)(n, &mut request);
            let answer = connection.ask(&request).await?;
            ensure!(answer.status == OK, "the model answers {}", answer.status);
            let promise = Promise::read(answer.header("meridian-receipt").context("a promise")?)?;
            let began = clock::instant();
            let page = format!(
                "GET /v1/receipts/{} HTTP/1.1\r\nhost: node\r\nauthorization: Bearer {key}\r\n\r\n",
                promise.id
            );
            while connection.ask(page.as_bytes()).await?.status != OK {
                ensure!(began.elapsed() < PATIENCE, "no proof within {PATIENCE:?}");
            }
            took.push(began.elapsed().as_secs_f64() * 1e3);
        }
        Ok(took)
    })
    .await?;
    took.sort_by(f64::total_cmp);
    let p99 = took[took.len() * 99 / 100];
    Ok(Figure::alone(SUITE, "receipts/proven_p99_ms", p99, "ms"))
}
