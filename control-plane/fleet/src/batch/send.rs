//! Asks a fleet, and waits where it says so.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use http::{StatusCode, Uri, header};
use http_body_util::{BodyExt, Limited};
use proto::limits::{BATCH_LINE_BYTES_MAX, DEADLINE_MS_MAX, SETUP_FILE_BYTES_MAX};
use runtime::https;

use super::line::{Asked, Ended};
use crate::batch::BatchRun;

/// How often one request is sent.
const TRIES_MAX: u32 = 10;
/// The longest wait between two of them.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// Answers may be longer than questions.
const ANSWER_BYTES_MAX: usize = 2 * BATCH_LINE_BYTES_MAX;

/// What came back.
#[derive(Clone, Debug)]
pub(super) struct Got {
    pub(super) status: StatusCode,
    pub(super) retry_after: Option<Duration>,
    pub(super) body: Bytes,
}

/// Whoever answers.
pub(super) trait Ask {
    /// Sends one request.
    async fn ask(&self, body: Bytes) -> Result<Got>;
}

/// A fleet, by its router or one node.
#[derive(Debug)]
pub(super) struct Client {
    http: https::Client,
    server: SocketAddr,
    name: String,
    path: String,
    key: String,
}

impl Client {
    pub(super) async fn new(options: &BatchRun) -> Result<Self> {
        let endpoint: Uri = options.endpoint.parse().context("--endpoint is not an address")?;
        ensure!(
            endpoint.scheme_str() == Some("https"),
            "--endpoint does not begin with https://: write https://HOST:PORT"
        );
        let name = endpoint
            .host()
            .context("--endpoint names no host")?
            .trim_matches(['[', ']'])
            .to_owned();
        let port = endpoint.port_u16().unwrap_or(443);
        let found = tokio::net::lookup_host((name.as_str(), port))
            .await
            .with_context(|| format!("look up `{name}`"))?;
        let server = found
            .collect::<Vec<_>>()
            .into_iter()
            .next()
            .with_context(|| format!("`{name}` has no address"))?;
        let ca = || {
            format!(
                "read the authorities in {}: name another file with --ca",
                options.ca.display()
            )
        };
        let bytes = std::fs::metadata(&options.ca).with_context(ca)?.len();
        ensure!(bytes <= SETUP_FILE_BYTES_MAX, "{} is too long", options.ca.display());
        let tls = runtime::identity::anonymous_client_config(&std::fs::read_to_string(&options.ca).with_context(ca)?)?;
        let version = options
            .version
            .map(|version| format!("/versions/{version}"))
            .unwrap_or_default();
        Ok(Self {
            http: https::Client::new(tls),
            server,
            name,
            path: format!("/v2/models/{}{version}/infer", options.model),
            key: options.key.clone(),
        })
    }
}

impl Ask for Client {
    async fn ask(&self, body: Bytes) -> Result<Got> {
        let request = http::Request::post(&self.path)
            .header(header::AUTHORIZATION, format!("Bearer {}", self.key))
            .header("meridian-deadline-ms", DEADLINE_MS_MAX)
            .header(header::CONTENT_TYPE, "application/json")
            .body(https::full(body))?;
        let exchange = async {
            let answer = self.http.request(self.server, &self.name, request).await?;
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
            let body = body
                .map_err(|e| anyhow::anyhow!("the answer broke off: {e}"))?
                .to_bytes();
            let seconds = head
                .headers
                .get(header::RETRY_AFTER)
                .and_then(|value| value.to_str().ok()?.parse().ok());
            Ok(Got {
                status: head.status,
                retry_after: seconds.map(Duration::from_secs),
                body,
            })
        };
        let limit = Duration::from_millis(DEADLINE_MS_MAX) + Duration::from_secs(10);
        match tokio::time::timeout(limit, exchange).await {
            Ok(got) => got,
            Err(_) => bail!("no answer within {} s", limit.as_secs()),
        }
    }
}

/// Asks until there is an answer or a refusal that will not pass, waiting as long as the fleet wishes.
pub(super) async fn patiently(ask: &impl Ask, asked: Asked) -> Ended {
    let mut tries = 0;
    loop {
        tries += 1;
        let got = ask.ask(asked.body.clone()).await;
        let wait = match &got {
            Ok(got) if passes(got.status) => got.retry_after,
            Ok(got) => return Ended::of(&asked, Ok((got.status, &got.body))),
            Err(_) => None,
        };
        if tries >= TRIES_MAX {
            return match got {
                Ok(got) => Ended::of(&asked, Ok((got.status, &got.body))),
                Err(error) => Ended::of(&asked, Err(format!("{error:#}"))),
            };
        }
        let wait = wait.unwrap_or_else(|| Duration::from_millis(250 << tries.min(8)));
        tokio::time::sleep(wait.min(WAIT_MAX)).await;
    }
}

/// Whether another time may be better.
fn passes(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT
            | StatusCode::REQUEST_TIMEOUT
    )
}
