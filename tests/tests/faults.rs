//! Bytes change on disks and wires, and nodes are told to go: nobody gets a wrong answer, nobody's request is lost.
//!
//! Method: one fleet of real processes; each promise breaks one thing, watches what is answered meanwhile, and leaves
//! the fleet whole for the next. All answers come from the engine: caches are told to stand aside.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use fleet::dev::layout::{Folders, NODES};
use fleet::dev::smoke::{MODEL, SAMPLE};
use fleet::dev::world::World;
use fleet::home::Home;
use http::StatusCode;
use http::header::{AUTHORIZATION, CACHE_CONTROL};
use http_body_util::Full;
use meridian_tests::fleet::*;
use meridian_tests::keepalive::{Caller, Ended};
use meridian_tests::link::BadLink;
use models::golden::Vector;
use tokio::task::JoinSet;

/// Every so manieth datagram has a wrong bit: QUIC finds it and drops it, so this is a loss of 2 %.
const SPOIL_EVERY: u64 = 50;
/// Clients of each protocol that ask while a node goes.
const CLIENTS: usize = 4;
/// What a node's file allows it for going, and a little for the process itself.
const GOING_MAX: Duration = Duration::from_secs(15);

/// What every promise needs.
struct Stage {
    world: World,
    golden: Vec<Vector>,
    /// `magika@1 b3:..`: what is served, and must be served at the end of each promise.
    model: String,
}

impl Stage {
    async fn served(&self, node: &str) -> Result<()> {
        let model = served_golden(&self.world, node, &self.golden).await?;
        ensure!(model == self.model, "{node} serves {model}, the others {}", self.model);
        Ok(())
    }
    /// Every answer of `node` is now 503 with its reason.
    async fn does_not_serve(&self, node: &str) -> Result<()> {
        for vector in &self.golden {
            let answer = ask(&self.world, node, vector).await?;
            let told = String::from_utf8_lossy(&answer.body).into_owned();
            ensure!(
                answer.status == StatusCode::SERVICE_UNAVAILABLE,
                "{node}: {} {told}",
                answer.status
            );
            ensure!(told.contains("\"loading\""), "{node}: {told}");
        }
        let client = self.world.at_node(node, "world")?;
        for page in ["/v2/health/ready", "/v2/models/magika/ready"] {
            let status = client.get(page).await?.status;
            ensure!(status == StatusCode::SERVICE_UNAVAILABLE, "{node}: {page} is {status}");
        }
        Ok(())
    }
}

async fn a_flipped_byte_on_a_nodes_disk_is_never_loaded_and_is_fetched_again(stage: &mut Stage) -> Result<()> {
    let node = "eu-dub/n1";
    let weights = weights_in(&node_files(&stage.world, node))?;
    stage.world.stop_node(node).await?;
    flip_a_byte(&weights)?;
    ensure!(!hashes_right(&weights)?, "the flip changed nothing");
    let before = log_of(&stage.world, node);
    stage.world.start_node_named(node).await?;
    stage.served(node).await?;
    ensure!(hashes_right(&weights)?, "what lies on disk is still damaged");
    let log = log_since(&stage.world, node, &before);
    let order = [
        "files on disk do not match their digest",
        "fetching",
        "serves from now on",
    ]
    .map(|line| log.find(line));
    ensure!(order[0].is_some() && order.is_sorted() && order[2].is_some(), "{log}");
    ensure!(
        !log.contains("serves again after the restart"),
        "loaded before it was fetched: {log}"
    );
    ensure!(
        metric(&stage.world, node, "store_bad_files_total").await? == 1,
        "not counted"
    );
    let fetched = metric(&stage.world, node, "sync_fetched_bytes_total").await?;
    ensure!(fetched == std::fs::metadata(&weights)?.len(), "{fetched} bytes fetched");
    Ok(())
}

async fn without_a_control_plane_a_damaged_model_is_not_served_until_it_can_be_fetched(
    stage: &mut Stage,
) -> Result<()> {
    let node = "eu-dub/n1";
    let weights = weights_in(&node_files(&stage.world, node))?;
    stage.world.kill_control().await?;
    stage.world.stop_node(node).await?;
    flip_a_byte(&weights)?;
    let before = log_of(&stage.world, node);
    stage.world.start_node_named(node).await?;
    until("a first try to fetch", async || {
        let log = log_since(&stage.world, node, &before);
        ensure!(log.contains("fetching again"), "{log}");
        Ok(())
    })
    .await?;
    stage.does_not_serve(node).await?;
    let log = log_since(&stage.world, node, &before);
    ensure!(log.contains("files on disk do not match their digest"), "{log}");
    stage.world.start_control().await?;
    stage.served(node).await?;
    ensure!(hashes_right(&weights)?, "what lies on disk is still damaged");
    Ok(())
}

async fn a_damaged_artifact_store_hands_out_nothing_wrong_and_says_why(stage: &mut Stage) -> Result<()> {
    let node = "us-iad/n1";
    let name = weights_in(&node_files(&stage.world, node))?;
    let published = published_files(&stage.world).join(name.file_name().context("a name")?);
    let right = std::fs::read(&published)?;
    stage.world.stop_node(node).await?;
    empty_the_store(&stage.world, node)?;
    flip_a_byte(&published)?;
    stage.world.start_node_named(node).await?;
    let home = Home::open(&stage.world.folders.home())?;
    let why = until("the reason to be seen", async || {
        let status = fleet::state::status(&home).await?;
        let nodes = status.regions.iter().flat_map(|region| &region.nodes);
        let seen = nodes.filter(|n| n.node.to_string() == node).flat_map(|n| &n.models);
        let why = seen
            .filter(|model| model.stage == "refused")
            .find_map(|model| model.why.clone());
        why.with_context(|| format!("no reason in {:?}", status.regions))
    })
    .await?;
    ensure!(why.contains("damaged on disk"), "{why}");
    let told = log_of(&stage.world, "control-plane");
    ensure!(
        told.contains("damaged on disk"),
        "the control plane's log does not say so: {told}"
    );
    stage.does_not_serve(node).await?;
    std::fs::write(&published, right)?;
    stage.served(node).await?;
    ensure!(hashes_right(&name)?, "another file was stored under this name");
    Ok(())
}

async fn over_a_wire_that_flips_bits_a_node_gets_the_right_bytes(stage: &mut Stage) -> Result<()> {
    let node = "us-iad/n1";
    let config = stage.world.folders.node(node).join("node.toml");
    let direct = std::fs::read_to_string(&config)?;
    let plane = stage.world.addresses.control_plane;
    let link = BadLink::to(plane, SPOIL_EVERY).await?;
    let spoilt = direct.replace(&plane.to_string(), &link.address.to_string());
    ensure!(spoilt != direct, "the node's file names no {plane}");
    stage.world.stop_node(node).await?;
    empty_the_store(&stage.world, node)?;
    std::fs::write(&config, spoilt)?;
    stage.world.start_node_named(node).await?;
    stage.served(node).await?;
    ensure!(link.spoilt() > 0, "the wire was good");
    ensure!(
        hashes_right(&weights_in(&node_files(&stage.world, node))?)?,
        "wrong bytes were stored"
    );
    println!("   {} datagrams had a wrong bit", link.spoilt());
    stage.world.stop_node(node).await?;
    std::fs::write(&config, direct)?;
    stage.world.start_node_named(node).await?;
    stage.served(node).await
}

async fn a_node_that_is_told_to_go_answers_all_that_it_accepted(stage: &mut Stage) -> Result<()> {
    let node = "eu-fra/n1";
    let caller = caller(&stage.world, node)?;
    let begun = Arc::clone(&caller.begun);
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        clients.spawn(caller.clone().over_http1());
        clients.spawn(caller.clone().over_http2());
    }
    until("the load to run", async || {
        ensure!(begun.load(std::sync::atomic::Ordering::Relaxed) > 200, "not yet");
        Ok(())
    })
    .await?;
    let asked_to_go = runtime::clock::instant();
    // An exit status other than 0 is an error of this.
    stage.world.stop_node(node).await?;
    let took = asked_to_go.elapsed();
    let mut all = Ended::default();
    while let Some(client) = clients.join_next().await {
        all = all.and(client.context("a client panicked")?);
    }
    println!("   gone after {} ms; {all:?}", took.as_millis());
    ensure!(all.refused.is_empty() && all.cut.is_empty(), "{all:?}");
    ensure!(all.answered > 200, "{all:?}");
    ensure!(took < GOING_MAX, "it took {took:?}");
    stage.world.start_node_named(node).await?;
    stage.served(node).await
}

/// Asks `node` as any client would; gives what it says of its cache.
async fn kept(stage: &Stage, node: &str) -> Result<String> {
    let body = Bytes::from(stage.golden[0].request_json());
    let request = http::Request::post(format!("/v2/models/{MODEL}/infer")).header("meridian-subject", "p-7f3a");
    let answer = stage.world.at_node(node, "world")?.send(request, body).await?;
    ensure!(answer.status == StatusCode::OK, "{node}: {}", answer.status);
    Ok(answer.header("cache-status").to_owned())
}

async fn what_is_purged_is_gone_on_every_node_and_a_node_that_is_down_is_named(stage: &mut Stage) -> Result<()> {
    let (up, down) = ("eu-fra/n1", "eu-dub/n1");
    let person = ["--json", "cache", "purge", "--tenant", "world", "--subject", "p-7f3a"];
    for node in [up, down] {
        kept(stage, node).await?;
        let again = kept(stage, node).await?;
        ensure!(again.contains("hit"), "{node}: {again}");
    }
    let report: serde_json::Value = serde_json::from_str(&command(&stage.world, &person).await?)?;
    ensure!(
        report["purged"].as_array().map(Vec::len) == Some(NODES.len()),
        "{report}"
    );
    for node in [up, down] {
        let again = kept(stage, node).await?;
        ensure!(again.contains("miss"), "{node} still has it: {again}");
    }
    stage.world.stop_node(down).await?;
    let output = try_command(&stage.world, &stage.world.folders.home(), &person).await?;
    let report: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let missing = report["missing"].as_array().context("who is missing")?;
    ensure!(
        !output.status.success() && missing.len() == 1 && missing[0]["node"] == down,
        "{} {report}",
        output.status
    );
    let again = kept(stage, up).await?;
    ensure!(again.contains("miss"), "{up} waited for {down}: {again}");
    stage.world.start_node_named(down).await?;
    stage.served(down).await
}

/// A client with a key; no two of its requests are the same.
fn caller(world: &World, node: &str) -> Result<Caller> {
    let home = Home::open(&world.folders.home())?;
    let at = NODES.iter().find(|n| n.id == node).context("a node of the dev fleet")?;
    let key = format!("Bearer {}", world.keys["world"]);
    let request = move |number: u64| {
        let body = SAMPLE.replace("sys.argv", &format!("sys.argv[{number}]"));
        http::Request::post(format!("/v2/models/{MODEL}/infer"))
            .header(AUTHORIZATION, &key)
            .header(CACHE_CONTROL, "no-cache")
            .body(Full::new(Bytes::from(body)))
            .expect("its parts are right")
    };
    Ok(Caller {
        server: world.addresses.node(at),
        server_name: fleet::issue::node_tls_name(&at.node_id(), &home.trust.fleet),
        tls: runtime::identity::anonymous_client_config(home.identity.ca_pem())?,
        request: Arc::new(request),
        begun: Arc::default(),
    })
}

#[test]
fn flipped_bytes_are_never_served_and_a_node_that_goes_loses_no_request() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime starts");
    runtime.block_on(async {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let world = World::up(Folders::new(folder.path()).expect("folders"), false, |_| {})
            .await
            .expect("the fleet starts");
        next_version(&world, "to be damaged").await.expect("it serves");
        let golden = fleet::zoo::bundled_golden(MODEL).expect("golden vectors");
        let model = served_golden(&world, "eu-fra/n1", &golden)
            .await
            .expect("golden answers");
        let mut stage = Stage { world, golden, model };
        macro_rules! hold {
            ($($promise:ident),+ $(,)?) => {$(
                let began = runtime::clock::instant();
                let held = $promise(&mut stage).await;
                println!("{} ms: {}", began.elapsed().as_millis(), stringify!($promise));
                held.expect(stringify!($promise));
            )+};
        }
        hold!(
            a_flipped_byte_on_a_nodes_disk_is_never_loaded_and_is_fetched_again,
            without_a_control_plane_a_damaged_model_is_not_served_until_it_can_be_fetched,
            a_damaged_artifact_store_hands_out_nothing_wrong_and_says_why,
            over_a_wire_that_flips_bits_a_node_gets_the_right_bytes,
            what_is_purged_is_gone_on_every_node_and_a_node_that_is_down_is_named,
            a_node_that_is_told_to_go_answers_all_that_it_accepted,
        );
        stage.world.down().await.expect("all parts stop");
    });
}
