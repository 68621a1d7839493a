//! A real node process of a real fleet, asked over TLS 1.3 on one kept-alive connection: what it adds to its engine, and
//! how soon it answers after a start.
//!
//! The node tells in `Server-Timing` how long the engine itself ran; all else of the client's time is what we add: TLS,
//! HTTP, JSON, the queue, the client. Requests follow one another, so nothing waits for another request.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use fleet::dev::client::{Answer, DevClient};
use fleet::dev::layout::Folders;
use fleet::dev::world::World;
use http::Request;
use http::header::CACHE_CONTROL;
use runtime::clock;

use super::{Figure, median};
use crate::fleet::command;

const SUITE: &str = "node";
/// The nearest region's only node: nobody else is asked.
const NODE: &str = "eu-dub/n1";
/// How often a node that starts is asked, and for how long.
const LOOK_EVERY: Duration = Duration::from_millis(2);
const PATIENCE: Duration = Duration::from_secs(60);
/// Times that the node is killed and started.
const STARTS: usize = 7;

/// A model, and a request of one row.
struct Sample {
    model: &'static str,
    kind: &'static str,
    body: &'static str,
}

/// Rows of a request that is large enough for all engine threads.
const ROWS: usize = 32;

const TINY: Sample = Sample {
    model: "iris-mlp",
    kind: "tiny model",
    body: r#"{"inputs":[{"name":"features","datatype":"FP32","shape":[1,4],"data":[5.1,3.5,1.4,0.2]}]}"#,
};
const EMBEDDER: Sample = Sample {
    model: "minilm-l6",
    kind: "embedder",
    body: r#"{"inputs":[{"name":"text","datatype":"BYTES","shape":[1],"data":["Where is the nearest node that may answer?"]}]}"#,
};

/// Measures with `requests` requests a model.
///
/// # Errors
/// A part did not start, or a request failed.
pub async fn run(requests: u32) -> Result<Vec<Figure>> {
    let folder = tempfile::tempdir()?;
    let folders = Folders::new(&folder.path().join("fleet"))?;
    let mut world = World::up(folders, false, |what| eprintln!("·· {what}")).await?;
    let figures = measure(&mut world, requests).await;
    world.down().await?;
    figures
}

async fn measure(world: &mut World, requests: u32) -> Result<Vec<Figure>> {
    for sample in [&TINY, &EMBEDDER] {
        eprintln!("·· publishing and rolling out `{}`", sample.model);
        let printed = command(world, &["--json", "publish", sample.model]).await?;
        let printed: serde_json::Value = serde_json::from_str(&printed)?;
        let release = printed["release"].as_str().context("a release")?;
        command(world, &["rollout", "start", release, "--watch"]).await?;
    }
    let mut figures = Vec::new();
    for sample in [&TINY, &EMBEDDER] {
        eprintln!("·· asking `{}` {requests} times", sample.model);
        figures.extend(added(world, sample, requests).await?);
    }
    eprintln!("·· asking `{}` for {ROWS} rows at a time", EMBEDDER.model);
    figures.push(large(world, requests.div_ceil(20)).await?);
    eprintln!("·· killing and starting {NODE} {STARTS} times");
    figures.extend(starts(world).await?);
    Ok(figures)
}

async fn ask(client: &DevClient, sample: &Sample) -> Result<Answer> {
    ask_for(client, sample, Bytes::from_static(sample.body.as_bytes())).await
}

async fn ask_for(client: &DevClient, sample: &Sample, body: Bytes) -> Result<Answer> {
    let request = Request::post(format!("/v2/models/{}/infer", sample.model)).header(CACHE_CONTROL, "no-cache");
    let answer = client.send(request, body).await?;
    let told = String::from_utf8_lossy(&answer.body);
    ensure!(answer.status.is_success(), "{}: {} {told}", sample.model, answer.status);
    Ok(answer)
}

/// What the node adds to one run of the engine, beside that run.
async fn added(world: &World, sample: &Sample, requests: u32) -> Result<Vec<Figure>> {
    let client = world.at_node(NODE, "world")?;
    for _ in 0..requests / 10 {
        ask(&client, sample).await?;
    }
    let (mut added, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..requests {
        let began = clock::instant();
        let answer = ask(&client, sample).await?;
        let all = began.elapsed().as_secs_f64() * 1e6;
        let engine = exec_ms(answer.header("server-timing")).context("the node tells how long its engine ran")? * 1e3;
        added.push(all - engine);
        bare.push(engine);
    }
    let name = format!("added latency, {} ({}), p50", sample.kind, sample.model);
    Ok(vec![
        Figure::alone(SUITE, name, median(&mut added), "us").beside("bare engine, p50", median(&mut bare)),
    ])
}

/// How soon the engine is done with a request of many rows, beside as many requests of one row after each other: it cuts
/// the rows among the threads that are idle.
async fn large(world: &World, requests: u32) -> Result<Figure> {
    let client = world.at_node(NODE, "world")?;
    let text = r#""Where is the nearest node that may answer?""#;
    let one = format!(r#""shape":[1],"data":[{text}]"#);
    ensure!(EMBEDDER.body.contains(&one), "another text than the sample's");
    let many = format!(r#""shape":[{ROWS}],"data":[{}]"#, [text; ROWS].join(","));
    let many = Bytes::from(EMBEDDER.body.replace(&one, &many));
    let single_row = Bytes::from_static(EMBEDDER.body.as_bytes());
    let (mut whole, mut single) = (Vec::new(), Vec::new());
    for _ in 0..requests.max(5) {
        for (body, times) in [(&many, &mut whole), (&single_row, &mut single)] {
            let answer = ask_for(&client, &EMBEDDER, body.clone()).await?;
            let told = exec_ms(answer.header("server-timing"));
            times.push(told.context("the node tells how long its engine ran")?);
        }
    }
    let name = format!("engine time of {ROWS} rows in one request ({}), p50", EMBEDDER.model);
    let rows = f64::from(u32::try_from(ROWS)?);
    Ok(Figure::alone(SUITE, name, median(&mut whole), "ms").beside("one by one", median(&mut single) * rows))
}

/// Milliseconds of `exec;dur=..` in a `Server-Timing`.
fn exec_ms(timing: &str) -> Option<f64> {
    let dur = timing
        .split(',')
        .find_map(|part| part.trim().strip_prefix("exec;dur="))?;
    dur.parse().ok()
}

/// From starting the process to its first answer, both models on its disk.
async fn starts(world: &mut World) -> Result<Vec<Figure>> {
    let (mut first, mut both) = (Vec::new(), Vec::new());
    for _ in 0..STARTS {
        world.kill_node(NODE).await?;
        let began = clock::instant();
        world.start_node_named(NODE).await?;
        answers(world, &TINY).await?;
        first.push(began.elapsed().as_secs_f64() * 1e3);
        answers(world, &EMBEDDER).await?;
        both.push(began.elapsed().as_secs_f64() * 1e3);
    }
    Ok(vec![
        Figure::alone(
            SUITE,
            "start to the first answer, models on disk",
            median(&mut first),
            "ms",
        ),
        Figure::alone(SUITE, "start to an embedding, models on disk", median(&mut both), "ms"),
    ])
}

/// Waits until the node answers `sample`, each time on a new connection.
async fn answers(world: &World, sample: &Sample) -> Result<()> {
    let answered = async {
        while ask(&world.at_node(NODE, "world")?, sample).await.is_err() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(PATIENCE, answered)
        .await
        .with_context(|| format!("{NODE} does not answer {}", sample.model))?
}

#[cfg(test)]
mod tests {
    use super::exec_ms;

    #[test]
    fn the_engines_time_is_found_among_the_others() {
        assert_eq!(
            exec_ms("queue;dur=0.010, batch;dur=0.000, exec;dur=1.250, total;dur=2"),
            Some(1.25)
        );
        assert_eq!(exec_ms("total;dur=2"), None);
    }
}
