//! An embedder, asked for texts of mixed lengths by as many connections as fill the cores.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fleet::zoo::{self, fetch};
use serde_json::Value;

use super::super::Figure;
use super::added::added;
use super::asked::{Length, Requests, texts};
use super::closed::Closed;
use super::connection::Connection;
use super::peers::{Kind, Peer, Served};
use super::rounds::{Best, Contender, Measured, OURS, beside, measure as rounds};
use super::target::{OK, Target};
use super::{Bench, EMBEDDER, EMBEDDER_F32, NO_CACHE, SUITE, in_tree};

const OURS_F32: &str = "ours-f32";
/// Connections.
pub(super) const CONNECTIONS: usize = 32;
/// Texts whose embeddings are compared.
const COMPARED: u64 = 100;
/// How far cosines may differ and count as equal.
const SAME: f64 = 1e-5;
/// Requests that a peer joins at most, and how long they wait. One at a time was quickest: texts of mixed lengths are padded to
/// the longest (of mosec 294 a second, beside 141 with 8 rows and 5 ms, 65 to 114 with 16 and 32).
const BATCH: (&str, &str) = ("1", "0");

/// Name, program, whether its weights are int8.
const PEERS: [(&str, Kind, bool); 5] = [
    ("mosec", Kind::Mosec, false),
    ("mosec-int8", Kind::Mosec, true),
    ("fastapi", Kind::Fastapi, false),
    ("fastapi-int8", Kind::Fastapi, true),
    ("triton", Kind::Triton, false),
];

/// The texts, the same for everybody.
pub(super) fn requests(bench: &Bench, model: &str, headers: &str, length: Length) -> Result<Requests> {
    let texts = texts(&in_tree("models/zoo/judge/names.jsonl"), length)?;
    bench.ours.door(model, headers)?.texts(&texts)
}

/// Peers that serve the embedder; those that cannot are left out.
pub(super) async fn start(bench: &Bench, wanted: &[&'static str], requests: &Requests) -> Result<Vec<Peer>> {
    let recipe = zoo::read(&zoo::folder()?, EMBEDDER)?;
    let fetched = fetch::fetch(&recipe, &fetch::cache_folder()?)?;
    let file = |name: &str| {
        fetched
            .files
            .iter()
            .find(|(file, _)| file == name)
            .map(|(_, path)| path.as_path())
    };
    let model = file(&recipe.model.file).context("the embedder's file")?;
    let tokenizer = file("tokenizer.json").context("the embedder's tokenizer")?;
    let int8 = bench.peers.int8(model)?;
    let mut started = Vec::new();
    for (name, kind, coded) in PEERS.into_iter().filter(|(name, ..)| wanted.contains(name)) {
        let Some(file) = (if coded { int8.as_deref() } else { Some(model) }) else {
            continue;
        };
        started.extend(bench.peers.start(kind, name, &served(file, tokenizer), requests).await);
    }
    Ok(started)
}

fn served(file: &Path, tokenizer: &Path) -> Served {
    Served {
        model: EMBEDDER,
        file: file.to_owned(),
        tokenizer: Some(tokenizer.to_owned()),
        batch: BATCH,
    }
}

pub(super) async fn measure(bench: &Bench) -> Result<Vec<Figure>> {
    eprintln!("·· embedder, {CONNECTIONS} connections");
    let all = requests(bench, EMBEDDER, NO_CACHE, Length::Mixed)?;
    let ours = |name, requests| Contender {
        name,
        target: Target::new(bench.ours.address, requests),
    };
    let f32 = requests(bench, EMBEDDER_F32, NO_CACHE, Length::Mixed)?;
    let mut contenders = vec![ours(OURS, all.clone()), ours(OURS_F32, f32)];
    let peers = start(bench, &PEERS.map(|(name, ..)| name), &all).await?;
    for Peer { name, process } in &peers {
        let target = Target::new(process.address, all.clone());
        contenders.push(Contender { name, target });
    }
    let exact = contenders
        .iter()
        .find(|c| c.name != OURS && !is_int8(c.name) && c.name != OURS_F32);
    let exact = embeddings(&exact.unwrap_or(&contenders[1]).target).await?;
    let mut cosines = Vec::new();
    for contender in &contenders {
        let cosine = least_cosine(&embeddings(&contender.target).await?, &exact)?;
        cosines.push((contender.name, cosine));
    }
    let closed = Closed {
        connections: CONNECTIONS,
        warm: Duration::from_millis(bench.scale.pick(500, 1_000)),
        lasts: Duration::from_millis(bench.scale.pick(1_500, 5_000)),
    };
    let measured = rounds(&contenders, closed, bench.scale.pick(2, 5)).await?;
    let mut figures = figures(&measured, &cosines)?;
    drop(peers);
    for (length, name) in [
        (Length::Mixed, "node/added_us/embedder"),
        (Length::Passage, "node/added_us/embedder/passage"),
    ] {
        let texts = requests(bench, EMBEDDER, NO_CACHE, length)?;
        figures.extend(added(bench, EMBEDDER, name, &Target::new(bench.ours.address, texts)).await?);
    }
    Ok(figures)
}

fn is_int8(name: &str) -> bool {
    name.ends_with("-int8")
}

/// Ours stand beside those that answer at least as closely; what is quicker and further off has a row of its own.
fn figures(all: &[Measured], cosines: &[(&'static str, f64)]) -> Result<Vec<Figure>> {
    let cosine = |name: &str| {
        cosines
            .iter()
            .find(|(n, _)| *n == name)
            .map_or(0.0, |(_, cosine)| *cosine)
    };
    let [int8, f32, theirs @ ..] = all else {
        anyhow::bail!("both of ours were measured");
    };
    let of = |wanted: &dyn Fn(&Measured) -> bool| theirs.iter().filter(|peer| wanted(peer)).collect::<Vec<_>>();
    let close = of(&|peer| cosine(peer.name) + SAME >= cosine(OURS));
    let (exact, coded) = (of(&|peer| !is_int8(peer.name)), of(&|peer| is_int8(peer.name)));
    let name = "embedder/c32/rps";
    let mut figures = beside(name, "1/s", (int8, &close), |m| m.rps, Best::Most);
    figures.extend(beside(
        &format!("{name}/f32"),
        "1/s",
        (f32, &exact),
        |m| m.rps,
        Best::Most,
    ));
    if !coded.is_empty() {
        figures.extend(beside(
            &format!("{name}/quick"),
            "1/s",
            (int8, &coded),
            |m| m.rps,
            Best::Most,
        ));
    }
    for (ours, beside_whom, name) in [
        (int8, &close, "embedder/c32/p99_ms"),
        (f32, &exact, "embedder/c32/p99_ms/f32"),
    ] {
        figures.extend(beside(name, "ms", (ours, beside_whom), |m| m.p99_ms, Best::Least));
    }
    let ours = Figure::alone(SUITE, "embedder/cosine_min", cosine(OURS), "");
    let theirs = coded
        .first()
        .map(|peer| ours.clone().beside(peer.name, cosine(peer.name)));
    figures.push(theirs.unwrap_or(ours));
    Ok(figures)
}

type Embedding = Vec<f64>;

async fn embeddings(target: &Target) -> Result<Vec<Embedding>> {
    let mut connection = Connection::open(target.address).await?;
    let mut all = Vec::new();
    for n in 0..COMPARED {
        let mut request = Vec::new();
        (target.write)(n, &mut request);
        let answer = connection.ask(&request).await?;
        ensure!(
            answer.status == OK,
            "an embedding: {}",
            String::from_utf8_lossy(&answer.body())
        );
        let body: Value = serde_json::from_slice(&answer.body())?;
        let data = body["outputs"][0]["data"]
            .as_array()
            .context("an embedding's numbers")?;
        all.push(data.iter().filter_map(Value::as_f64).collect());
    }
    Ok(all)
}

fn least_cosine(ours: &[Embedding], exact: &[Embedding]) -> Result<f64> {
    ensure!(
        ours.len() == exact.len() && !ours.is_empty(),
        "as many embeddings on both sides"
    );
    let dot = |a: &Embedding, b: &Embedding| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let mut least = f64::INFINITY;
    for (a, b) in ours.iter().zip(exact) {
        ensure!(a.len() == b.len(), "embeddings of {} and {} numbers", a.len(), b.len());
        least = least.min(dot(a, b) / (dot(a, a) * dot(b, b)).sqrt());
    }
    Ok(least)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn int8_stands_beside_the_fastest_that_answers_as_closely() {
        let m = |name, rps| Measured {
            name,
            rps,
            p50_ms: 0.0,
            p99_ms: 1.0,
            p999_ms: 0.0,
        };
        let all = [
            m(OURS, 400.0),
            m(OURS_F32, 200.0),
            m("mosec", 100.0),
            m("mosec-int8", 500.0),
            m("triton", 50.0),
        ];
        let rows = |int8: f64| {
            let cosines = [(OURS, 0.998), ("mosec", 1.0), ("mosec-int8", int8), ("triton", 1.0)];
            let rows = figures(&all, &cosines).unwrap();
            let rival = |name: &str| rows.iter().find(|row| row.name == name).and_then(|row| row.rival);
            [
                rival("embedder/c32/rps"),
                rival("embedder/c32/rps/f32"),
                rival("embedder/c32/rps/quick"),
                rival("embedder/c32/rps/triton"),
            ]
        };
        let quick = Some("mosec-int8");
        assert_eq!(rows(0.97), [Some("mosec"), Some("mosec"), quick, Some("triton")]);
        assert_eq!(rows(0.999), [quick, Some("mosec"), quick, Some("triton")]);
    }

    #[test]
    fn the_least_cosine_is_that_of_the_worst_text() {
        let exact = vec![vec![1.0, 0.0], vec![0.0, 2.0]];
        let cosine = least_cosine(&[vec![3.0, 0.0], vec![1.0, 1.0]], &exact).unwrap();
        assert!((cosine - 0.5_f64.sqrt()).abs() < 1e-12);
        assert!(least_cosine(&[], &[]).is_err());
        assert!(least_cosine(&[vec![1.0], vec![1.0]], &exact).is_err());
    }
}
