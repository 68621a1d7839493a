//! Tells receivers that a job is finished: a CloudEvents 1.0 event (structured JSON), signed after Standard Webhooks.
//!
//! Only the job's id and state are told, never what was asked or answered. Sent only to prefixes that the operator allows, over
//! HTTPS with a certificate of the named host; redirects are not followed and the body of the answer is not read. At least
//! once: a receiver knows a repetition by `webhook-id`.
//!
//! The signature is `v1a`: Ed25519 by the node's own key over `id.timestamp.body`, so that no secret has to be shared with
//! any node; `GET /v1/jobs/key` shows the public key.
//!
//! # Source
//! Standard Webhooks 1.0 (github.com/standard-webhooks/standard-webhooks), CloudEvents 1.0.2, JSON format.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signer, SigningKey};
use http::uri::Scheme;
use http::{Request, Uri};
use proto::ids::UnixMs;
use proto::jobs::JobId;
use proto::limits::{SETUP_FILE_BYTES_MAX, WEBHOOK_MS_MAX, WEBHOOK_URL_BYTES_MAX, WEBHOOKS_AT_ONCE_MAX};
use runtime::clock;
use runtime::https::once;
use serde::Serialize;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Jobs;
use super::record::Record;
use crate::metrics::HookEnd;

/// How long the loop sleeps at most.
const NAP: Duration = Duration::from_secs(1);

/// A prefix of addresses that webhooks may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowed(Target);

/// The address of a webhook.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    host: String,
    port: u16,
    path: String,
}

impl Allowed {
    /// Reads `https://host[:port]/path`; the path and what lies below it is allowed.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        target(text).map(Self)
    }
    fn holds(&self, asked: &Target) -> bool {
        let path = asked.path.split('?').next().unwrap_or_default();
        let below = path.strip_prefix(self.0.path.as_str());
        let below = below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || self.0.path.ends_with('/'));
        self.0.host == asked.host && self.0.port == asked.port && below
    }
}

/// Whether a webhook may be sent to `url`.
///
/// # Errors
/// Why not.
pub fn check(allowed: &[Allowed], url: &str) -> Result<(), &'static str> {
    let target = target(url)?;
    if allowed.iter().any(|allowed| allowed.holds(&target)) {
        return Ok(());
    }
    Err("is not under an address that the operator of this node allows in `[jobs] webhooks`")
}

fn target(text: &str) -> Result<Target, &'static str> {
    if text.len() > WEBHOOK_URL_BYTES_MAX {
        return Err("is too long");
    }
    let uri: Uri = text.parse().map_err(|_| "is not an address")?;
    let parts = uri.into_parts();
    if parts.scheme != Some(Scheme::HTTPS) || text.contains('#') {
        return Err("does not begin with `https://`, or has a fragment");
    }
    let authority = parts.authority.ok_or("names no host")?;
    if authority.as_str().contains('@') || authority.host().is_empty() {
        return Err("names a user, or no host");
    }
    let path = parts
        .path_and_query
        .map_or_else(|| "/".to_owned(), |path| path.as_str().to_owned());
    let bare = path.split('?').next().unwrap_or_default();
    // What a server may read as another path than we do is not compared with prefixes at all.
    if bare.contains(['%', '\\']) || bare.split('/').any(|segment| matches!(segment, "." | "..")) {
        return Err("has a path with `.`, `..`, `%` or `\\`");
    }
    Ok(Target {
        host: authority.host().to_ascii_lowercase(),
        port: authority.port_u16().unwrap_or(443),
        path,
    })
}

/// What is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The same for every sending of one event.
    pub id: String,
    /// When it is sent, seconds.
    pub timestamp: u64,
    /// JSON.
    pub body: String,
    /// `v1a,` and base64.
    pub signature: String,
}

impl Message {
    /// The event that `record` is finished, as it is sent at `now`.
    #[must_use]
    pub fn of(job: &JobId, record: &Record, key: &SigningKey, now: UnixMs) -> Self {
        #[derive(Serialize)]
        struct Data<'a> {
            id: &'a str,
            state: &'static str,
            location: String,
        }
        #[derive(Serialize)]
        struct Event<'a> {
            specversion: &'static str,
            id: &'a str,
            source: String,
            #[serde(rename = "type")]
            kind: String,
            subject: &'a str,
            datacontenttype: &'static str,
            data: Data<'a>,
        }
        let (name, state) = (job.to_string(), record.state.word());
        let id = format!("msg_{}", job.key.hex());
        let body = serde_json::to_string(&Event {
            specversion: "1.0",
            id: &id,
            source: format!("/meridian/{}", job.node),
            kind: format!("dev.meridian.job.{state}"),
            subject: &name,
            datacontenttype: "application/json",
            data: Data {
                id: &name,
                state,
                location: format!("/v1/jobs/{name}"),
            },
        })
        .expect("events hold only types that JSON writes");
        let timestamp = now / 1000;
        let signature = key.sign(format!("{id}.{timestamp}.{body}").as_bytes());
        let signature = format!("v1a,{}", STANDARD.encode(signature.to_bytes()));
        Self {
            id,
            timestamp,
            body,
            signature,
        }
    }
}

/// The public half of `key`, as Standard Webhooks writes it.
#[must_use]
pub fn public_key(key: &SigningKey) -> String {
    format!("whpk_{}", STANDARD.encode(key.verifying_key().as_bytes()))
}

/// Sends webhooks in the name of a node. Clones share what it trusts.
#[derive(Clone)]
pub struct Sender {
    key: SigningKey,
    tls: once::Tls,
}

impl std::fmt::Debug for Sender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sender")
    }
}

impl Sender {
    /// Signs with `key` and believes the authorities in the file `ca`.
    ///
    /// # Errors
    /// The file holds none, as a sentence.
    pub fn new(key: SigningKey, ca: &Path) -> Result<Self, String> {
        let failed = |why: String| format!("read the authorities of webhooks in {}: {why}", ca.display());
        let bytes = std::fs::metadata(ca).map_err(|e| failed(e.to_string()))?.len();
        if bytes > SETUP_FILE_BYTES_MAX {
            return Err(failed(format!(
                "it has {bytes} bytes, allowed are {SETUP_FILE_BYTES_MAX}"
            )));
        }
        let pem = std::fs::read_to_string(ca).map_err(|e| failed(e.to_string()))?;
        let tls = once::Tls::of(&pem).map_err(|e| failed(e.to_string()))?;
        Ok(Self { key, tls })
    }

    /// Whether the receiver has confirmed: any 2xx within the time.
    async fn send(&self, url: &str, message: Message) -> Result<(), String> {
        let target = target(url)?;
        let limit = Duration::from_millis(WEBHOOK_MS_MAX);
        let sent = tokio::time::timeout(limit, self.post(&target, message)).await;
        sent.map_err(|_| format!("no answer within {WEBHOOK_MS_MAX} ms"))?
    }

    async fn post(&self, target: &Target, message: Message) -> Result<(), String> {
        let host = target.host.trim_matches(['[', ']']);
        let addresses = tokio::net::lookup_host((host, target.port))
            .await
            .map_err(|e| e.to_string())?;
        let addresses: Vec<SocketAddr> = addresses.collect();
        let mut last = "the host has no address".to_owned();
        for address in addresses.into_iter().take(2) {
            let request = Request::post(target.path.as_str())
                .header("host", format!("{}:{}", target.host, target.port))
                .header("content-type", "application/cloudevents+json; charset=utf-8")
                .header("webhook-id", &message.id)
                .header("webhook-timestamp", message.timestamp)
                .header("webhook-signature", &message.signature)
                .body(http_body_util::Full::new(message.body.clone().into()))
                .map_err(|e| e.to_string())?;
            match self.tls.send(address, host, request).await {
                Ok(status) if status.is_success() => return Ok(()),
                Ok(status) => return Err(format!("status {}", status.as_u16())),
                Err(error) => last = error.to_string(),
            }
        }
        Err(last)
    }
}

/// Sends webhooks until `drain`; what was not confirmed is sent after the next start.
pub async fn deliver(jobs: Jobs, sender: Sender, drain: CancellationToken) {
    let mut sending = JoinSet::new();
    while !drain.is_cancelled() {
        while sending.len() < WEBHOOKS_AT_ONCE_MAX {
            let taken = jobs.0.lock().take_hook(clock::now_ms());
            let Some((key, record)) = taken else { break };
            let (jobs, sender) = (jobs.clone(), sender.clone());
            sending.spawn(async move { one(&jobs, &sender, key, &record).await });
        }
        let (next, now) = (jobs.0.lock().next_hook(), clock::now_ms());
        let nap = next
            .filter(|at| *at > now)
            .map_or(NAP, |at| Duration::from_millis(at - now).min(NAP));
        tokio::select! {
            () = drain.cancelled() => {}
            () = jobs.0.hooks.notified() => {}
            Some(_) = sending.join_next() => {}
            () = tokio::time::sleep(nap) => {}
        }
    }
}

async fn one(jobs: &Jobs, sender: &Sender, key: proto::jobs::JobKey, record: &Record) {
    let Some(hook) = &record.hook else { return };
    let message = Message::of(&jobs.id(key), record, &sender.key, clock::now_ms());
    // What the operator has taken off the list since is not sent any more, but goes on being counted as a failure.
    let sent = match check(&jobs.config().webhooks, &hook.url) {
        Ok(()) => sender.send(&hook.url, message).await,
        Err(why) => Err(why.to_owned()),
    };
    if let Err(error) = &sent {
        tracing::debug!(%error, attempt = hook.attempts + 1, "a webhook is not confirmed");
    }
    let confirmed = sent.is_ok();
    let after = jobs.aside(move |shared| {
        let record = shared.change(|ledger| ledger.hook_ended(key, confirmed, clock::now_ms()))?;
        shared.note(key, &record);
        Some(record.hook_due().is_some())
    });
    let end = match (confirmed, after.await) {
        (true, _) => HookEnd::Sent,
        (false, Some(true)) => HookEnd::Retried,
        (false, _) => HookEnd::GivenUp,
    };
    jobs.0.metrics.hook_ended(end);
}
