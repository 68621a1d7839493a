//! What the fleet is: folded from the log, which is checked first; and how its nodes say they are.

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use proto::entry::Fleet;
use proto::status::Status;
use proto::{merkle, note, tile};
use runtime::https;

use crate::home::Home;

/// Longest answer read from the operator API.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Gets one path of the operator API.
///
/// # Errors
/// No answer, too long, or an error status; the control plane's sentence is kept.
pub async fn get(home: &Home, path: &str) -> Result<Bytes> {
    let client = https::Client::new(home.identity.client_config(&[b"h2", b"http/1.1"])?);
    get_with(&client, home, path).await
}

async fn get_with(client: &https::Client, home: &Home, path: &str) -> Result<Bytes> {
    let address = home.endpoints.operator_api;
    let request = http::Request::get(format!("https://control-plane:{}{path}", address.port())).body(https::empty())?;
    let answer = client
        .request(address, "control-plane", request)
        .await
        .with_context(|| format!("the control plane does not answer at {address}; is it running?"))?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
    let body = body
        .map_err(|e| anyhow::anyhow!("read the control plane's answer: {e}"))?
        .to_bytes();
    if !status.is_success() {
        let said = serde_json::from_slice::<serde_json::Value>(&body).ok();
        let said = said
            .and_then(|v| v["error"].as_str().map(str::to_owned))
            .unwrap_or_default();
        bail!("the control plane answered {status} for {path}: {said}");
    }
    Ok(body)
}

/// How nodes say they are: `/v1/status`.
///
/// # Errors
/// As [`get`], or the answer is not JSON.
pub async fn status(home: &Home) -> Result<Status> {
    let body = get(home, "/v1/status").await?;
    serde_json::from_slice(&body).context("the control plane's status is of another version: update the older side")
}

/// The fleet as its log tells it. The checkpoint's signature, every entry against its root, and every operator's
/// signature are checked on the way.
///
/// # Errors
/// No answer, or a log that does not verify.
pub async fn fleet(home: &Home) -> Result<Fleet> {
    let client = https::Client::new(home.identity.client_config(&[b"h2", b"http/1.1"])?);
    let text = get_with(&client, home, "/log/checkpoint").await?;
    let text = String::from_utf8(text.to_vec()).context("the checkpoint is not text")?;
    let checkpoint = note::open_checkpoint(&text, &home.trust.log_vkey)?;
    let mut fleet = Fleet::default();
    let mut leaves = Vec::new();
    for path in tile::entry_paths(checkpoint.size) {
        let bundle = get_with(&client, home, &format!("/log/{path}")).await?;
        for leaf in tile::read_entries(&bundle)? {
            leaves.push(merkle::leaf_hash(leaf));
            fleet
                .apply(leaf)
                .with_context(|| format!("log entry {}", leaves.len() - 1))?;
        }
    }
    if merkle::root_of(&leaves) != checkpoint.root {
        bail!(
            "the log's entries do not match its signed checkpoint: keep a copy and look at it with `fleet log verify`"
        );
    }
    Ok(fleet)
}
