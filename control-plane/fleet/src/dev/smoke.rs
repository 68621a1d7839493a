//! What `fleet dev smoke` tries, one function a promise. Each gives what was seen, so that the table can be disputed.

mod receipt;

use std::future::Future;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use http::StatusCode;
use models::golden::Vector;
use proto::ids::{ContentHash, ModelName, Release};
use serde::Serialize;

use super::client::{Answer, DevClient};
use super::layout::{INSIDE, NODES, REGIONS};
use super::world::World;

/// The bundled model that the smoke run serves.
pub const MODEL: &str = "magika";
/// A request for people to paste.
pub const SAMPLE: &str = r##"{"inputs":[{"name":"file","datatype":"BYTES","shape":[1],"data":["#!/usr/bin/env python3\nimport sys\nprint(sys.argv)\n"]}]}"##;
/// Answers that show that the fleet has settled.
const IN_A_ROW: u32 = 8;
/// Clients that ask at the same time while something is broken.
const CLIENTS: usize = 4;
/// Longest wait for something that should come about by itself.
const PATIENCE: Duration = Duration::from_secs(30);

/// One line of the table.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    /// The promise.
    pub(super) check: String,
    /// What was seen.
    pub(super) seen: String,
    /// How long it took to see it.
    pub(super) took_ms: u128,
    /// Whether it held.
    pub(super) holds: bool,
}

/// Runs all checks, in an order in which each leaves the fleet whole for the next.
///
/// # Errors
/// The model could not be served at all; a check that does not hold is a row, not an error.
pub(super) async fn run(world: &mut World, step: impl Fn(&str)) -> Result<Vec<Row>> {
    world.serve_model(MODEL, &step).await?;
    let golden = crate::zoo::bundled_golden(MODEL)?;
    ensure!(!golden.is_empty(), "the bundled model has no golden vectors");
    wait_for_router(world).await?;
    let mut rows = Vec::new();
    step("asking from every place");
    for region in &REGIONS {
        let name = format!("a client in {} gets the golden answers from {}", region.city, region.id);
        rows.push(row(name, nearest_answers(world, &golden, region.id, region.client)).await);
    }
    step("killing the nearest node, then its region, then its boundary");
    rows.push(
        row(
            "killing the nearest node reroutes in the boundary, no request fails",
            kill_nearest(world),
        )
        .await,
    );
    rows.push(
        row(
            "a boundary without nodes answers 451 and sends nothing outside",
            kill_boundary(world),
        )
        .await,
    );
    step("starting the killed nodes again");
    rows.push(
        row(
            "killed nodes come back by themselves from their own disks",
            revive(world),
        )
        .await,
    );
    step("rolling out a second version");
    rows.push(
        row(
            "a second version reaches every region, all report one digest",
            second_version(world),
        )
        .await,
    );
    step("rolling back");
    rows.push(row("a rollback returns every region to the first digest", roll_back(world)).await);
    step("killing the control plane");
    rows.push(
        row(
            "killing the control plane disturbs nothing, also not a node's restart",
            kill_control(world),
        )
        .await,
    );
    step("revoking a key");
    rows.push(row("a revoked key is refused by every node within 2 s", revoke(world)).await);
    rows.push(row("the release log verifies offline, every entry", verify_log(world)).await);
    let check = "an answer has a signed receipt, which the node's log and the release log bear out";
    rows.push(row(check, receipt::borne_out(world)).await);
    Ok(rows)
}

async fn row(check: impl Into<String>, trial: impl Future<Output = Result<String>>) -> Row {
    let begun = runtime::clock::instant();
    let outcome = trial.await;
    let took_ms = begun.elapsed().as_millis();
    let (seen, holds) = match outcome {
        Ok(seen) => (seen, true),
        Err(e) => (format!("{e:#}"), false),
    };
    Row {
        check: check.into(),
        seen,
        took_ms,
        holds,
    }
}

/// Waits until `holds` gives a value; the last reason why not is told when patience ends.
async fn until<T, F: Future<Output = Result<T>>>(what: &str, mut holds: impl FnMut() -> F) -> Result<T> {
    let deadline = runtime::clock::instant() + PATIENCE;
    loop {
        match holds().await {
            Ok(value) => return Ok(value),
            Err(e) if runtime::clock::instant() > deadline => return Err(e.context(format!("waited for {what}"))),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn wait_for_router(world: &World) -> Result<()> {
    for region in &REGIONS {
        let client = world.through_router(region.client, "world")?;
        until("the router to find every region", async || {
            let answer = client.infer(MODEL, &Bytes::from_static(SAMPLE.as_bytes())).await?;
            ensure!(
                answer.status.is_success() && answer.region() == region.id,
                "{} from {}",
                answer.status,
                answer.region()
            );
            Ok(())
        })
        .await?;
    }
    Ok(())
}

async fn nearest_answers(world: &World, golden: &[Vector], region: &str, place: Ipv4Addr) -> Result<String> {
    let client = world.through_router(place, "world")?;
    let mut model = String::new();
    for vector in golden {
        let answer = client.infer(MODEL, &Bytes::from(vector.request_json())).await?;
        ensure!(
            answer.status == StatusCode::OK,
            "{}: {}",
            answer.status,
            String::from_utf8_lossy(&answer.body)
        );
        ensure!(
            answer.region() == region,
            "answered by {}",
            answer.header("meridian-served-by")
        );
        vector
            .check_response_json(&answer.body)
            .context("not the golden output")?;
        answer.header("meridian-model").clone_into(&mut model);
    }
    Ok(format!("{} golden answers of {}", golden.len(), short_model(&model)))
}

/// `name@version b3:0123..` with the digest cut for a table.
fn short_model(header: &str) -> String {
    header.chars().take(header.find("b3:").map_or(0, |i| i + 15)).collect()
}

/// Clients that ask without pause while `trouble` happens; gives how many answers came and from which regions.
async fn under_load<T>(client: DevClient, trouble: impl Future<Output = Result<T>>) -> Result<(T, u64, Vec<String>)> {
    let stop = Arc::new(AtomicBool::new(false));
    let answered = Arc::new(AtomicU64::new(0));
    let one = |client: DevClient| {
        let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
        async move {
            let mut regions: Vec<String> = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                // A different input each time, so that no cache answers for a node.
                let n = answered.fetch_add(1, Ordering::Relaxed);
                let body = Bytes::from(SAMPLE.replace("sys.argv", &format!("{n}")));
                let answer = client.infer(MODEL, &body).await.context("a request failed")?;
                ensure!(
                    answer.status.is_success(),
                    "a request got {}: {}",
                    answer.status,
                    String::from_utf8_lossy(&answer.body)
                );
                if regions.last().is_none_or(|last| last != answer.region()) {
                    regions.push(answer.region().to_owned());
                }
            }
            Ok::<_, anyhow::Error>(regions)
        }
    };
    let load = futures_util::future::try_join_all((0..CLIENTS).map(|_| one(client.clone())));
    let trouble = async {
        let outcome = trouble.await;
        stop.store(true, Ordering::Relaxed);
        outcome
    };
    let (regions, outcome) = tokio::join!(load, trouble);
    let mut regions: Vec<String> = regions?.concat();
    regions.dedup();
    Ok((outcome?, answered.load(Ordering::Relaxed), regions))
}

async fn kill_nearest(world: &mut World) -> Result<String> {
    let client = world.through_router(REGIONS[0].client, "europe")?;
    let nearest = client.infer(MODEL, &Bytes::from_static(SAMPLE.as_bytes())).await?;
    let nearest = nearest.header("meridian-served-by").to_owned();
    let probe = client.clone();
    let trouble = async {
        world.kill_node(&nearest).await?;
        settled(&probe, |a| a.header("meridian-served-by") != nearest).await?;
        // The whole nearest region: what is left of the boundary is one country further.
        for node in NODES.iter().filter(|n| n.id.starts_with("eu-fra/") && n.id != nearest) {
            world.kill_node(node.id).await?;
        }
        settled(&probe, |a| a.region() == "eu-dub").await
    };
    let ((), answered, regions) = under_load(client, trouble).await?;
    ensure!(
        regions.iter().all(|r| INSIDE.contains(&r.as_str())),
        "answers came from {regions:?}"
    );
    Ok(format!(
        "{answered} requests, 0 failed; {nearest} killed, eu-dub took over"
    ))
}

/// Waits for answers in a row that are as they should be, to inputs that no cache has seen. They queue behind what nodes
/// hold already, so what was sent again before is answered by then: no request meets two kills, of which it is owed one.
async fn settled(client: &DevClient, good: impl Fn(&Answer) -> bool) -> Result<()> {
    let mut in_a_row = 0;
    let deadline = runtime::clock::instant() + PATIENCE;
    for n in 0_u64.. {
        let body = Bytes::from(SAMPLE.replace("sys.argv", &format!("settled[{n}]")));
        let answer = client.infer(MODEL, &body).await?;
        in_a_row = if answer.status.is_success() && good(&answer) {
            in_a_row + 1
        } else {
            0
        };
        if in_a_row == IN_A_ROW {
            break;
        }
        ensure!(
            runtime::clock::instant() < deadline,
            "still answered by {}",
            answer.header("meridian-served-by")
        );
    }
    Ok(())
}

/// Requests that a node has seen on its infer routes, whatever came of them, from its own metrics.
async fn requests_seen(world: &World, id: &str) -> Result<u64> {
    let home = crate::home::Home::open(&world.folders.home())?;
    let node = NODES.iter().find(|n| n.id == id).context("a node of the dev fleet")?;
    let client = runtime::https::Client::new(home.identity.ingress_client_config(home.identity.ca_pem())?);
    let name = crate::issue::node_tls_name(&node.node_id(), &home.trust.fleet);
    let request = http::Request::get("/metrics").body(runtime::https::empty())?;
    let answer = client.request(world.addresses.node(node), &name, request).await?;
    let body = http_body_util::BodyExt::collect(answer.into_body()).await?.to_bytes();
    let text = String::from_utf8_lossy(&body).into_owned();
    let lines = text.lines().filter(|l| l.starts_with("edge_requests_total"));
    let count = |line: &str| line.rsplit(' ').next().and_then(|n| n.parse::<u64>().ok());
    let counts: Vec<u64> = lines.filter_map(count).collect();
    ensure!(!counts.is_empty(), "{id} exports no edge_requests_total");
    Ok(counts.iter().sum())
}

async fn kill_boundary(world: &mut World) -> Result<String> {
    let before = requests_seen(world, "us-iad/n1").await?;
    for node in NODES
        .iter()
        .filter(|n| INSIDE.iter().any(|r| n.id.starts_with(&format!("{r}/"))))
    {
        if world.has_node(node.id) {
            world.kill_node(node.id).await?;
        }
    }
    let client = world.through_router(REGIONS[0].client, "europe")?;
    let body = until("451", async || {
        let answer = client.infer(MODEL, &Bytes::from_static(SAMPLE.as_bytes())).await?;
        ensure!(answer.status.as_u16() == 451, "answered {}", answer.status);
        Ok(answer.body)
    })
    .await?;
    for _ in 0..50 {
        let answer = client.infer(MODEL, &Bytes::from_static(SAMPLE.as_bytes())).await?;
        ensure!(answer.status.as_u16() == 451, "answered {}", answer.status);
    }
    let after = requests_seen(world, "us-iad/n1").await?;
    ensure!(
        after == before,
        "us-iad/n1 saw {} requests of a European tenant",
        after - before
    );
    let error: serde_json::Value = serde_json::from_slice(&body).context("the refusal is JSON")?;
    ensure!(
        error["error"].is_string() && error["code"].is_string(),
        "the refusal has no error and code: {error}"
    );
    let outside = world.through_router(REGIONS[0].client, "world")?;
    let answer = outside.infer(MODEL, &Bytes::from_static(SAMPLE.as_bytes())).await?;
    ensure!(
        answer.region() == "us-iad",
        "the unbounded tenant was answered by `{}`",
        answer.region()
    );
    Ok("51 times 451, us-iad saw 0 of them; an unbounded tenant goes on in us-iad".to_owned())
}

async fn revive(world: &mut World) -> Result<String> {
    let dead: Vec<_> = NODES.iter().filter(|n| !world.has_node(n.id)).collect();
    for node in &dead {
        world.start_node(node).await?;
    }
    wait_for_router(world).await?;
    Ok(format!("{} nodes serve again", dead.len()))
}

async fn second_version(world: &mut World) -> Result<String> {
    let before = world.one_digest(MODEL, SAMPLE).await?;
    let client = world.through_router(REGIONS[2].client, "world")?;
    let release = world
        .publish(MODEL, Some("the same weights under a second description"))
        .await?;
    let rollout = world.roll_out(&release, &["eu-dub", "eu-fra+us-iad"]);
    let ((), answered, _) = under_load(client, rollout).await?;
    let after = until("every node to answer with the new digest", async || {
        let digest = world.one_digest(MODEL, SAMPLE).await?;
        ensure!(digest != before, "still {before}");
        Ok(digest)
    })
    .await?;
    Ok(format!(
        "{} on 4 nodes in 2 waves, {answered} requests meanwhile, 0 failed",
        short_model(&after)
    ))
}

async fn roll_back(world: &mut World) -> Result<String> {
    let session = world.session().await?;
    let model: ModelName = MODEL.parse()?;
    let options = crate::cli::Rollback {
        model: model.clone(),
        to: None,
        reason: "smoke".to_owned(),
    };
    crate::rollout::back(&session, &options, runtime::clock::now_ms()).await?;
    crate::rollout::watch(&session, Some(&model), PATIENCE, |_| {}).await?;
    let fleet = crate::state::fleet(&session.home).await?;
    let first = fleet
        .release(&Release {
            model,
            version: "1".parse()?,
        })
        .context("version 1 is published")?
        .manifest;
    let digest = until("every node to answer with the first digest", async || {
        let seen = world.one_digest(MODEL, SAMPLE).await?;
        let digest: ContentHash = seen.split(' ').nth(1).context("a digest in Meridian-Model")?.parse()?;
        ensure!(digest == first, "still {seen}");
        Ok(seen)
    })
    .await?;
    Ok(format!("{} on 4 nodes", short_model(&digest)))
}

async fn kill_control(world: &mut World) -> Result<String> {
    let client = world.through_router(REGIONS[0].client, "europe")?;
    let node = NODES
        .iter()
        .find(|n| n.id == "eu-dub/n1")
        .context("a node of the dev fleet")?;
    let ids = async {
        world.kill_control().await?;
        world.stop_node(node.id).await?;
        world.start_node(node).await
    };
    let ((), answered, _) = under_load(client, ids).await?;
    let direct = world.at_node(node.id, "europe")?;
    until("the restarted node to serve without a control plane", async || {
        let answer = direct.infer(MODEL, &Bytes::from_static(SAMPLE.as_bytes())).await?;
        ensure!(answer.status.is_success(), "answered {}", answer.status);
        Ok(())
    })
    .await?;
    world.start_control().await?;
    Ok(format!(
        "{answered} requests meanwhile, 0 failed; {} restarted and serves",
        node.id
    ))
}

async fn revoke(world: &mut World) -> Result<String> {
    let session = world.session().await?;
    let (key, key_hash) = crate::commands::new_api_key()?;
    let tenant: proto::ids::TenantId = "short-lived".parse()?;
    let boundary = "global".parse()?;
    session
        .command(&proto::entry::Body::TenantAdd {
            tenant: tenant.clone(),
            boundary,
            key_hash,
        })
        .await?;
    world.keys.insert("short-lived".to_owned(), key);
    let clients = NODES
        .iter()
        .map(|n| world.at_node(n.id, "short-lived"))
        .collect::<Result<Vec<_>>>()?;
    let ask = async |client: &DevClient| client.get("/v2/models/magika").await;
    for client in &clients {
        until("the new key to be known", async || {
            let status = ask(client).await?.status;
            ensure!(status.is_success(), "answered {status}");
            Ok(())
        })
        .await?;
    }
    let begun = runtime::clock::instant();
    session.command(&proto::entry::Body::TenantRevoke { tenant }).await?;
    for client in &clients {
        while ask(client).await?.status != StatusCode::UNAUTHORIZED {
            if begun.elapsed() > Duration::from_secs(2) {
                bail!("still accepted after 2 s");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    Ok(format!(
        "4 nodes refuse it {} ms after the command",
        begun.elapsed().as_millis()
    ))
}

async fn verify_log(world: &World) -> Result<String> {
    let home = crate::home::Home::open(&world.folders.home())?;
    let copy = tempfile::tempdir()?;
    let size = crate::export::log(&home, copy.path()).await?;
    crate::audit::verify_log(copy.path(), &home.trust.log_vkey, None)?;
    Ok(format!("{size} entries"))
}
