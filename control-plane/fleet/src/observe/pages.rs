//! Asking nodes what the fleet's own people may ask, as this operator.

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use proto::status::NodeStatus;
use runtime::https;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::home::Home;
use crate::issue::node_tls_name;

/// Longest page read.
const PAGE_BYTES_MAX: usize = 32 << 20;

/// Asks nodes.
pub struct Pages<'h> {
    home: &'h Home,
    client: https::Client,
}

impl<'h> Pages<'h> {
    /// As the person of `home`.
    ///
    /// # Errors
    /// Their certificate cannot be used.
    pub fn new(home: &'h Home) -> Result<Self> {
        let tls = home.identity.ingress_client_config(home.identity.ca_pem())?;
        let client = https::Client::new(tls);
        Ok(Self { home, client })
    }

    /// A page as text.
    ///
    /// # Errors
    /// No answer, a refusal, or not text.
    pub async fn text(&self, node: &NodeStatus, path: &str) -> Result<String> {
        let bytes = self.ask(node, path, None).await?;
        String::from_utf8(bytes.to_vec()).with_context(|| format!("{}{path} is not text", node.node))
    }

    /// A page as a document.
    ///
    /// # Errors
    /// No answer, a refusal, or another document.
    pub async fn json<T: DeserializeOwned>(&self, node: &NodeStatus, path: &str) -> Result<T> {
        document(node, path, &self.ask(node, path, None).await?)
    }

    /// What a node answers to `document`.
    ///
    /// # Errors
    /// No answer, a refusal, or another document.
    pub async fn post<T: DeserializeOwned>(&self, node: &NodeStatus, path: &str, asked: &impl Serialize) -> Result<T> {
        let asked = serde_json::to_vec(asked).context("write what is asked as JSON")?;
        document(node, path, &self.ask(node, path, Some(asked)).await?)
    }

    async fn ask(&self, node: &NodeStatus, path: &str, body: Option<Vec<u8>>) -> Result<Bytes> {
        let (name, address) = (node_tls_name(&node.node, &self.home.trust.fleet), node.ingress);
        let request = match body {
            None => http::Request::get(path).body(https::empty())?,
            Some(body) => http::Request::post(path)
                .header("content-type", "application/json")
                .body(https::full(body))?,
        };
        let answer = self.client.request(address, &name, request).await;
        let answer = answer.with_context(|| format!("{} does not answer at {address}", node.node))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), PAGE_BYTES_MAX).collect().await;
        let body = body.map_err(|e| anyhow::anyhow!("read {path} of {}: {e}", node.node))?;
        if !status.is_success() {
            let said: Option<Refusal> = serde_json::from_slice(&body.to_bytes()).ok();
            let said = said.map_or_else(|| "is it of the same version?".to_owned(), |refusal| refusal.error);
            bail!("{} answered {status} for {path}: {said}", node.node);
        }
        Ok(body.to_bytes())
    }
}

/// What a node says when it does not do what was asked.
#[derive(serde::Deserialize)]
struct Refusal {
    error: String,
}

fn document<T: DeserializeOwned>(node: &NodeStatus, path: &str, bytes: &[u8]) -> Result<T> {
    let other = || format!("{}{path} is of another version: update the older side", node.node);
    serde_json::from_slice(bytes).with_context(other)
}
