//! An end user of the dev fleet: stands at a loopback address, trusts the dev authority, asks through the router or a node.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body_util::{BodyExt, Limited};
use runtime::https;

/// Longest answer read.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// A client at one place.
#[derive(Clone)]
pub struct DevClient {
    http: https::Client,
    server: SocketAddr,
    server_name: String,
    key: String,
}

/// What came back.
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// All headers, and what followed the body.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

impl Answer {
    /// A header's text, empty where it is missing.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
    }
    /// Region of the node that answered.
    #[must_use]
    pub fn region(&self) -> &str {
        self.header("meridian-served-by").split('/').next().unwrap_or_default()
    }
}

impl DevClient {
    /// A client that stands at `place` and asks `server` with `key`, trusting `ca_pem`.
    ///
    /// # Errors
    /// The authority is not a certificate.
    pub fn new(place: Ipv4Addr, server: SocketAddr, server_name: &str, ca_pem: &str, key: &str) -> Result<Self> {
        let tls = runtime::identity::anonymous_client_config(ca_pem)?;
        Ok(Self {
            http: https::Client::standing_at(tls, IpAddr::V4(place)),
            server,
            server_name: server_name.to_owned(),
            key: key.to_owned(),
        })
    }

    /// Sends one request without body.
    ///
    /// # Errors
    /// No answer, or one that broke off.
    pub async fn get(&self, path: &str) -> Result<Answer> {
        self.send(http::Request::get(path), Bytes::new()).await
    }
    /// Asks a model in JSON.
    ///
    /// # Errors
    /// No answer, or one that broke off.
    pub async fn infer(&self, model: &str, body: &Bytes) -> Result<Answer> {
        self.send(http::Request::post(format!("/v2/models/{model}/infer")), body.clone())
            .await
    }
    /// Sends any request, with this client's key.
    ///
    /// # Errors
    /// No answer, or one that broke off.
    pub async fn send(&self, request: http::request::Builder, body: Bytes) -> Result<Answer> {
        let request = request
            .header(http::header::AUTHORIZATION, format!("Bearer {}", self.key))
            .body(https::full(body))?;
        let answer = self.http.request(self.server, &self.server_name, request).await?;
        let (mut head, body) = answer.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
        let body = body
            .map_err(|e| anyhow::anyhow!("the answer broke off: {e}"))
            .context("read the answer")?;
        head.headers.extend(body.trailers().cloned().unwrap_or_default());
        Ok(Answer {
            status: head.status,
            headers: head.headers,
            body: body.to_bytes(),
        })
    }
}
