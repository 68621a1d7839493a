//! A model that costs nothing: what is measured is the server around it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};

use super::super::Figure;
use super::added::added;
use super::closed::Closed;
use super::peers::{Kind, Peer, Served};
use super::rounds::{Best, Contender, Measured, OURS, beside, measure as rounds};
use super::target::Target;
use super::{Bench, NO_CACHE, SUITE, TINY, in_tree};

/// Its input's name, and the one that furnace gives to each model's only one.
const INPUT: &str = "features";
const FURNACES_INPUT: &str = "input";
/// Ours, asked with caches on.
const UNCACHED: &str = "ours-uncached";
/// Inputs that the cache is asked for again and again.
const REMEMBERED: u64 = 64;

/// With the requests that are joined at most, and how long they wait for each other: what was quickest here.
const PEERS: [(Kind, &str, (&str, &str)); 4] = [
    (Kind::Furnace, "furnace", ("1", "0")),
    (Kind::Fastapi, "fastapi", ("1", "0")),
    (Kind::Mosec, "mosec", ("1", "0")),
    (Kind::Triton, "triton", ("32", "0")),
];

pub(super) async fn measure(bench: &Bench) -> Result<Vec<Figure>> {
    let door = bench.ours.door(TINY, NO_CACHE)?;
    let mut peers = Vec::new();
    let ours = Target::new(bench.ours.address, door.tables(INPUT));
    let mut contenders = vec![Contender {
        name: OURS,
        target: ours,
    }];
    for (kind, name, batch) in PEERS {
        let served = Served {
            model: TINY,
            file: in_tree("models/zoo/iris-mlp/model.onnx"),
            tokenizer: None,
            batch,
        };
        let input = if kind == Kind::Furnace { FURNACES_INPUT } else { INPUT };
        let requests = door.tables(input);
        if let Some(peer) = bench.peers.start(kind, name, &served, &requests).await {
            let target = Target::new(peer.process.address, requests);
            contenders.push(Contender { name, target });
            peers.push(peer);
        }
    }
    let mut figures = Vec::new();
    for connections in [8, 32] {
        figures.extend(on(bench, &contenders, connections).await?);
    }
    figures.extend(memory(bench, &peers)?);
    drop(peers);
    figures.extend(alone(bench).await?);
    figures.extend(added(bench, TINY, "node/added_us", &contenders[0].target).await?);
    Ok(figures)
}

fn closed(bench: &Bench, connections: usize) -> Closed {
    Closed {
        connections,
        warm: Duration::from_millis(bench.scale.pick(200, 500)),
        lasts: Duration::from_millis(bench.scale.pick(1_000, 3_000)),
    }
}

async fn on(bench: &Bench, contenders: &[Contender], connections: usize) -> Result<Vec<Figure>> {
    eprintln!("·· tiny, {connections} connections");
    let all = rounds(contenders, closed(bench, connections), bench.scale.pick(2, 5)).await?;
    let (ours, theirs) = all.split_first().context("ours was measured")?;
    let theirs: Vec<&Measured> = theirs.iter().collect();
    let name = |what: &str| format!("tiny/c{connections}/{what}");
    let mut figures = beside(&name("rps"), "1/s", (ours, &theirs), |m| m.rps, Best::Most);
    figures.extend(beside(
        &name("p50_ms"),
        "ms",
        (ours, &theirs),
        |m| m.p50_ms,
        Best::Least,
    ));
    figures.extend(beside(
        &name("p99_ms"),
        "ms",
        (ours, &theirs),
        |m| m.p99_ms,
        Best::Least,
    ));
    figures.extend(beside(
        &name("p999_ms"),
        "ms",
        (ours, &theirs),
        |m| m.p999_ms,
        Best::Least,
    ));
    Ok(figures)
}

/// Before anything else was served: the cache holds nothing, no other model is loaded.
fn memory(bench: &Bench, peers: &[Peer]) -> Result<Vec<Figure>> {
    let ours = bench.ours.rss_mib()?;
    let figure = |name: &str| Figure::alone(SUITE, name, ours, "MiB");
    let mut weighed = Vec::new();
    for peer in peers {
        weighed.push((peer.name, peer.process.rss_mib()?));
    }
    weighed.sort_by(|(_, a), (_, b)| a.total_cmp(b));
    let Some(((name, least), others)) = weighed.split_first() else {
        return Ok(vec![figure("tiny/rss_mib")]);
    };
    let others = others
        .iter()
        .map(|(name, rss)| figure(&format!("tiny/rss_mib/{name}")).beside(name, *rss));
    Ok([figure("tiny/rss_mib").beside(name, *least)]
        .into_iter()
        .chain(others)
        .collect())
}

/// What only ours has: answers that are new to the cache, and answers out of it.
async fn alone(bench: &Bench) -> Result<Vec<Figure>> {
    eprintln!("·· the cache");
    let (door, runs) = (bench.ours.door(TINY, "")?, bench.scale.pick(2, 5));
    let all = door.tables(INPUT);
    let new = Target::new(bench.ours.address, Arc::clone(&all));
    // Further on in the inputs each round, so that none comes twice.
    let again = Target::new(
        bench.ours.address,
        Arc::new(move |n: u64, request: &mut Vec<u8>| all(u64::MAX - n % REMEMBERED, request)),
    );
    let hit = Contender {
        name: "ours-hit",
        target: again,
    };
    let hits = rounds(&[hit], closed(bench, 32), runs).await?;
    let hits = Figure::alone(SUITE, "cache_hit/rps", hits.first().context("ours")?.rps, "1/s");
    let new = Contender {
        name: UNCACHED,
        target: new,
    };
    // One round: a second one would find what the first has left.
    let new = rounds(&[new], closed(bench, 32), 1).await?;
    let new = Figure::alone(SUITE, "tiny/c32/rps/uncached", new.first().context("ours")?.rps, "1/s");
    Ok(vec![hits, new])
}
