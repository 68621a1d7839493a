//! What an auditor's certificate opens, with the real programs: the release log, one region's status, and nothing else.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use fleet::client::Session;
use fleet::dev::layout::{Folders, NODES, ROUTER_IP};
use fleet::dev::world::World;
use fleet::home::Home;
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use meridian_tests::fleet::{command, log_of, log_since, try_command};
use proto::ids::ContentHash;
use proto::message::{ErrorCode, Request, Response};
use serde_json::Value;

const AUDITOR: &str = "auditor/eu-fra/bob";

/// A request to the control plane's door for people.
async fn page(home: &Home, method: Method, path: &str) -> Result<(StatusCode, Value)> {
    let client = runtime::https::Client::new(home.identity.client_config(&[b"h2", b"http/1.1"])?);
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .body(runtime::https::empty())?;
    let answer = client
        .request(home.endpoints.operator_api, "control-plane", request)
        .await?;
    let status = answer.status();
    let body = answer.into_body().collect().await?.to_bytes();
    Ok((status, serde_json::from_slice(&body).unwrap_or_default()))
}

async fn an_auditor_reads_the_whole_log_and_the_status_of_one_region(world: &World, dir: &Path) -> Result<()> {
    let printed = try_command(world, dir, &["--json", "status"]).await?;
    ensure!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
    let home = Home::open(dir)?;
    let (status, shown) = page(&home, Method::GET, "/v1/status").await?;
    ensure!(status == StatusCode::OK, "{status} {shown}");
    let regions = shown["regions"].as_array().context("regions")?;
    let ids: Vec<&Value> = regions.iter().map(|r| &r["region"]["id"]).collect();
    ensure!(ids == ["eu-fra"], "{ids:?}");
    for elsewhere in NODES.iter().filter(|n| !n.id.starts_with("eu-fra/")) {
        let told = shown["regions"].to_string();
        ensure!(!told.contains(elsewhere.id), "{} is shown: {told}", elsewhere.id);
    }
    let verified = try_command(world, dir, &["log", "verify"]).await?;
    ensure!(
        verified.status.success(),
        "{}",
        String::from_utf8_lossy(&verified.stderr)
    );
    Ok(())
}

async fn another_region_and_every_write_are_forbidden_and_logged(world: &World, dir: &Path) -> Result<()> {
    let home = Home::open(dir)?;
    for (method, path) in [
        (Method::GET, "/v1/status?region=us-iad"),
        (Method::GET, "/metrics"),
        (Method::POST, "/v1/status"),
        (Method::PUT, "/log/checkpoint"),
        (Method::DELETE, "/log/tile/0/000"),
        (Method::POST, "/v1/tenants"),
    ] {
        let before = log_of(world, "control-plane");
        let (status, told) = page(&home, method.clone(), path).await?;
        ensure!(status == StatusCode::FORBIDDEN, "{method} {path}: {status} {told}");
        ensure!(told["code"] == "forbidden" && told["error"].is_string(), "{told}");
        let log = log_since(world, "control-plane", &before);
        let logged = log
            .lines()
            .any(|line| line.contains("denied") && line.contains(AUDITOR));
        ensure!(logged, "{method} {path} is not in the log: {log}");
    }
    Ok(())
}

async fn the_machines_door_takes_nothing_from_an_auditor_and_logs_who_tried(world: &World, dir: &Path) -> Result<()> {
    let session = Session::connect(Home::open(dir)?).await?;
    let allowed = session.connection().ask(&Request::Checkpoint).await?;
    ensure!(matches!(allowed, Response::Checkpoint(_)), "{allowed:?}");
    let hash = ContentHash::of(b"x");
    for (request, kind) in [
        (Request::PutChunk { bytes: vec![1] }, "put-chunk"),
        (Request::Missing { chunks: vec![hash] }, "missing"),
        (Request::Command { leaf: "{}".to_owned() }, "command"),
        (Request::NextVersion("magika".parse()?), "next-version"),
        (Request::Chunks { chunks: vec![hash] }, "chunks"),
        (
            Request::FollowView {
                after_seq: 0,
                tree_size: 0,
            },
            "follow-view",
        ),
    ] {
        let before = log_of(world, "control-plane");
        let answer = session.connection().ask(&request).await?;
        let forbidden = matches!(
            &answer,
            Response::Error {
                code: ErrorCode::Forbidden,
                ..
            }
        );
        ensure!(forbidden, "{kind}: {answer:?}");
        let log = log_since(world, "control-plane", &before);
        let told = |line: &str| line.contains("refused") && line.contains(kind) && line.contains(AUDITOR);
        ensure!(log.lines().any(told), "{kind} is not in the log: {log}");
    }
    Ok(())
}

async fn no_command_of_an_auditor_changes_the_fleet(world: &World, dir: &Path) -> Result<()> {
    let before = world.session().await?.epoch().await?;
    for args in [
        ["tenant", "add", "mallory", "--boundary", "eea"].as_slice(),
        &["node", "revoke", "eu-fra/n1"],
        &["region", "add", "eu-ber", "--place", "ber"],
    ] {
        let ran = try_command(world, dir, args).await?;
        ensure!(!ran.status.success(), "fleet {args:?} worked");
    }
    let after = world.session().await?.epoch().await?;
    ensure!(before == after, "the log grew from {before} to {after}");
    Ok(())
}

async fn nodes_and_router_show_an_auditor_nothing(world: &World, dir: &Path) -> Result<()> {
    let home = Home::open(dir)?;
    let client = runtime::https::Client::new(home.identity.ingress_client_config(home.identity.ca_pem())?);
    let router = ("infer.meridian.test".to_owned(), world.addresses.http);
    ensure!(router.1.ip() == ROUTER_IP, "the router stands elsewhere");
    let name = |node: &fleet::dev::layout::DevNode| fleet::issue::node_tls_name(&node.node_id(), &home.trust.fleet);
    let nodes = NODES
        .iter()
        .map(|node| (name(node), world.addresses.node(node), "/v1/node"));
    let doors = nodes.chain([(router.0, router.1, "/v1/router")]);
    for (server, address, status_page) in doors {
        for path in [status_page, "/metrics"] {
            let request = http::Request::get(path).body(runtime::https::empty())?;
            let status = client.request(address, &server, request).await?.status();
            ensure!(status == StatusCode::FORBIDDEN, "{server}{path}: {status}");
        }
    }
    Ok(())
}

#[test]
fn an_auditors_certificate_reads_the_log_and_one_region_and_nothing_else() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime starts");
    runtime.block_on(async {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut world = World::up(Folders::new(folder.path()).expect("folders"), false, |_| {})
            .await
            .expect("the fleet starts");
        let dir = folder.path().join("bob");
        let out = dir.to_str().expect("a plain path");
        command(
            &world,
            &["auditor", "enroll", "bob", "--region", "eu-fra", "--out", out],
        )
        .await
        .expect("a certificate");
        an_auditor_reads_the_whole_log_and_the_status_of_one_region(&world, &dir)
            .await
            .expect("reads");
        another_region_and_every_write_are_forbidden_and_logged(&world, &dir)
            .await
            .expect("403");
        the_machines_door_takes_nothing_from_an_auditor_and_logs_who_tried(&world, &dir)
            .await
            .expect("forbidden");
        no_command_of_an_auditor_changes_the_fleet(&world, &dir)
            .await
            .expect("unchanged");
        nodes_and_router_show_an_auditor_nothing(&world, &dir)
            .await
            .expect("nothing shown");
        world.down().await.expect("all parts stop");
    });
}
