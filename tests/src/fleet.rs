//! A dev fleet as its people work it and look at it: commands, pages, logs, and what lies on disk.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use fleet::dev::client::Answer;
use fleet::dev::layout::NODES;
use fleet::dev::smoke::MODEL;
use fleet::dev::world::World;
use fleet::home::Home;
use http::StatusCode;
use http::header::CACHE_CONTROL;
use models::golden::Vector;
use proto::ids::ContentHash;
use tokio::process::Command;

/// Longest wait for something that should come about by itself.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is looked whether it has.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Runs `fleet` with `args` from the folder `home`, whatever comes of it.
///
/// # Errors
/// It cannot be run.
pub async fn try_command(world: &World, home: &Path, args: &[&str]) -> Result<Output> {
    run(Command::new(world.program("fleet")), home, args).await
}

async fn run(mut fleet: Command, home: &Path, args: &[&str]) -> Result<Output> {
    fleet.args(args).env("FLEET_HOME", home);
    fleet.stdin(Stdio::null()).kill_on_drop(true);
    fleet.output().await.context("run fleet")
}

/// Runs `fleet` with `args` as the operator would; gives what it printed.
///
/// # Errors
/// It ended with an error.
pub async fn command(world: &World, args: &[&str]) -> Result<String> {
    printed(try_command(world, &world.folders.home(), args).await?, args)
}

/// As [`command`], on what others leave of one `core`: operators have machines of their own.
///
/// # Errors
/// It ended with an error.
pub async fn command_aside(world: &World, core: usize, args: &[&str]) -> Result<String> {
    let mut aside = Command::new("taskset");
    aside.args(["--cpu-list", &core.to_string(), "chrt", "--idle", "0"]);
    aside.arg(world.program("fleet"));
    printed(run(aside, &world.folders.home(), args).await?, args)
}

fn printed(output: Output, args: &[&str]) -> Result<String> {
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "fleet {args:?}: {told}");
    Ok(String::from_utf8(output.stdout)?)
}

/// Publishes the bundled model once more and rolls it out everywhere; gives the release.
///
/// # Errors
/// Either was refused.
pub async fn next_version(world: &World, description: &str) -> Result<String> {
    let printed = command(world, &["--json", "publish", MODEL, "--description", description]).await?;
    let printed: serde_json::Value = serde_json::from_str(&printed)?;
    let release = printed["release"].as_str().context("a release")?.to_owned();
    command(world, &["rollout", "start", &release, "--watch"]).await?;
    Ok(release)
}

/// Waits until `holds` gives a value; the last reason why not is told when patience ends.
///
/// # Errors
/// The last one of `holds`.
pub async fn until<T>(what: &str, mut holds: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let deadline = runtime::clock::instant() + PATIENCE;
    loop {
        match holds().await {
            Ok(value) => return Ok(value),
            Err(e) if runtime::clock::instant() > deadline => return Err(e.context(format!("waited for {what}"))),
            Err(_) => tokio::time::sleep(LOOK_EVERY).await,
        }
    }
}

/// Asks a node for `vector`; the engine itself answers, no cache.
///
/// # Errors
/// No answer.
pub async fn ask(world: &World, node: &str, vector: &Vector) -> Result<Answer> {
    let request = http::Request::post(format!("/v2/models/{MODEL}/infer")).header(CACHE_CONTROL, "no-cache");
    let body = Bytes::from(vector.request_json());
    world.at_node(node, "world")?.send(request, body).await
}

/// Waits until a node serves; every answer on the way must be right or 503. Gives its `Meridian-Model`.
///
/// # Panics
/// An answer was wrong: that is what must never be seen.
///
/// # Errors
/// It does not serve for too long.
pub async fn served_golden(world: &World, node: &str, golden: &[Vector]) -> Result<String> {
    let mut model = String::new();
    for vector in golden {
        let answer = until("a node to serve", async || {
            let answer = ask(world, node, vector).await?;
            let told = String::from_utf8_lossy(&answer.body).into_owned();
            match answer.status {
                StatusCode::OK => Ok(answer),
                StatusCode::SERVICE_UNAVAILABLE => anyhow::bail!("{node}: {told}"),
                other => panic!("{node} answered {other}: {told}"),
            }
        })
        .await?;
        let right = vector.check_response_json(&answer.body);
        assert!(right.is_ok(), "{node} gave a wrong answer: {right:?}");
        answer.header("meridian-model").clone_into(&mut model);
    }
    Ok(model)
}

/// One figure of a node's `/metrics`; 0 where it has not been counted yet.
///
/// # Errors
/// No answer.
pub async fn metric(world: &World, node: &str, name: &str) -> Result<u64> {
    let home = Home::open(&world.folders.home())?;
    let at = NODES.iter().find(|n| n.id == node).context("a node of the dev fleet")?;
    let tls = home.identity.ingress_client_config(home.identity.ca_pem())?;
    let server_name = fleet::issue::node_tls_name(&at.node_id(), &home.trust.fleet);
    let request = http::Request::get("/metrics").body(runtime::https::empty())?;
    let client = runtime::https::Client::new(tls);
    let answer = client.request(world.addresses.node(at), &server_name, request).await?;
    let body = http_body_util::BodyExt::collect(answer.into_body()).await?.to_bytes();
    let text = String::from_utf8(body.to_vec())?;
    let line = text.lines().find(|line| line.split([' ', '{']).next() == Some(name));
    let line = line.with_context(|| format!("{node} exports no {name}"))?;
    Ok(line.rsplit(' ').next().unwrap_or_default().parse()?)
}

/// What a part has written to its log.
#[must_use]
pub fn log_of(world: &World, part: &str) -> String {
    std::fs::read_to_string(world.folders.log(part)).unwrap_or_default()
}

/// What a part has written since its log was `before`.
#[must_use]
pub fn log_since(world: &World, part: &str, before: &str) -> String {
    log_of(world, part).split_off(before.len())
}

/// Files that a node has fetched.
#[must_use]
pub fn node_files(world: &World, node: &str) -> PathBuf {
    world.folders.node(node).join("data/artifacts/files")
}

/// Files that were published.
#[must_use]
pub fn published_files(world: &World) -> PathBuf {
    world.folders.control_plane().join("data/store/files")
}

/// The largest file of a folder: of a model's files, the weights.
///
/// # Errors
/// There is none.
pub fn weights_in(folder: &Path) -> Result<PathBuf> {
    let files = std::fs::read_dir(folder)?.filter_map(Result::ok);
    let largest = files.max_by_key(|file| file.metadata().map_or(0, |about| about.len()));
    Ok(largest.context("no file")?.path())
}

/// Turns one bit in the middle of a file, as a bad disk would.
///
/// # Errors
/// It cannot be read or written.
pub fn flip_a_byte(path: &Path) -> Result<()> {
    let mut bytes = std::fs::read(path)?;
    let middle = bytes.len() / 2;
    *bytes.get_mut(middle).context("an empty file")? ^= 1;
    Ok(std::fs::write(path, bytes)?)
}

/// Whether the file holds the bytes that its name promises.
///
/// # Errors
/// It cannot be read.
pub fn hashes_right(path: &Path) -> Result<bool> {
    let name = path.file_name().and_then(|n| n.to_str()).context("a name")?;
    Ok(ContentHash::of(&std::fs::read(path)?).hex() == name)
}

/// Removes all files that a stopped node has fetched: it knows its state and lacks the bytes.
///
/// # Errors
/// They cannot be removed.
pub fn empty_the_store(world: &World, node: &str) -> Result<()> {
    let files = node_files(world, node);
    std::fs::remove_dir_all(&files)?;
    Ok(std::fs::create_dir(&files)?)
}
