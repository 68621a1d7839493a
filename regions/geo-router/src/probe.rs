//! Asks every node how it is, each period; and carries checkpoints from node to node.
//!
//! A node counts as answering only if it says so as itself: over the fleet's own certificates, under its own name.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use proto::ids::{ModelName, NodeId, PrincipalName};
use proto::limits::{NODE_STATUS_BYTES_MAX, PROBES_AT_ONCE_MAX};
use regions::health::{Event, Readiness, State};
use regions::topology::Node;
use runtime::https::{Client, empty, full};
use runtime::lifecycle::Lifecycle;
use serde::Deserialize;

use crate::gossip::{Gossip, Seen};
use crate::metrics::{ByProbe, Instruments, ProbeOutcome};
use crate::steering::Steering;

/// The name that a node's ingress certificate carries.
#[must_use]
pub fn server_name(node: &NodeId, fleet: &PrincipalName) -> String {
    format!("{}.{}.{fleet}.internal", node.name, node.region)
}

/// What probing takes.
pub struct Prober {
    /// Sends requests as this router.
    pub client: Client,
    /// Name of the fleet.
    pub fleet: PrincipalName,
    /// Who is told.
    pub steering: Arc<Steering>,
    /// What checkpoints are compared in.
    pub gossip: Arc<Mutex<Gossip>>,
    /// What is counted.
    pub instruments: Instruments,
    /// Between two rounds.
    pub period: Duration,
    /// For one node.
    pub timeout: Duration,
}

/// What `GET /v1/node` says, as far as it is used here: newer nodes may say more.
#[derive(Debug, Deserialize)]
struct NodeStatus {
    node: String,
    region: String,
    status: String,
    #[serde(default)]
    queued: u32,
    #[serde(default)]
    models: Vec<ModelStatus>,
    #[serde(default)]
    checkpoint: String,
}

#[derive(Debug, Deserialize)]
struct ModelStatus {
    name: String,
}

/// What a node said: what is learnt about it, and its newest checkpoint.
fn read_status(node: &NodeId, body: &[u8]) -> Option<(Event, String)> {
    let status: NodeStatus = serde_json::from_slice(body).ok()?;
    // A node may give its short or its full name; the region decides between two that share a short one.
    let own = status.node == node.name.as_str() || status.node == node.to_string();
    if !own || status.region != node.region.as_str() {
        return None;
    }
    let readiness = match status.status.as_str() {
        "ready" => Readiness::Ready,
        "draining" => Readiness::Draining,
        _ => Readiness::Starting,
    };
    let models: Vec<ModelName> = status.models.into_iter().filter_map(|m| m.name.parse().ok()).collect();
    Some((
        Event::Answered {
            readiness,
            queued: status.queued,
            models,
        },
        status.checkpoint,
    ))
}

impl Prober {
    /// Asks until the lifecycle drains.
    pub async fn run(self, lifecycle: Lifecycle) {
        let mut ticks = tokio::time::interval(self.period);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut told = Vec::new();
        loop {
            tokio::select! {
                () = lifecycle.drain().cancelled() => return,
                _ = ticks.tick() => {}
            }
            tokio::select! {
                () = lifecycle.drain().cancelled() => return,
                () = self.round() => {}
            }
            let notes = self.gossip.lock().unwrap_or_else(PoisonError::into_inner).notes();
            if notes != told {
                tokio::select! {
                    () = lifecycle.drain().cancelled() => return,
                    () = self.pass_on(&notes) => {}
                }
                told = notes;
            }
        }
    }
    /// Asks all nodes once.
    pub async fn round(&self) {
        let Some(fleet) = self.steering.fleet() else { return };
        let asked = futures_util::stream::iter(&fleet.nodes);
        asked
            .for_each_concurrent(PROBES_AT_ONCE_MAX, |node| self.probe(node))
            .await;
        let up = fleet
            .nodes
            .iter()
            .filter(|n| self.steering.state(&n.id) == State::Up)
            .count();
        self.instruments.nodes_up.set(i64::try_from(up).unwrap_or(i64::MAX));
    }
    async fn probe(&self, node: &Node) {
        let answer = tokio::time::timeout(self.timeout, self.get(node)).await.ok().flatten();
        let read = answer.and_then(|body| read_status(&node.id, &body));
        let outcome = if read.is_some() {
            ProbeOutcome::Answered
        } else {
            ProbeOutcome::Unanswered
        };
        self.instruments.probes.get_or_create(&ByProbe { outcome }).inc();
        match read {
            Some((event, checkpoint)) => {
                self.steering.learn(&node.id, event);
                self.compare(&node.id, &checkpoint);
            }
            None => self.steering.learn(&node.id, Event::Unanswered),
        }
    }
    async fn get(&self, node: &Node) -> Option<Bytes> {
        let request = Request::get("/v1/node").body(empty()).ok()?;
        let name = server_name(&node.id, &self.fleet);
        let response = self.client.request(node.ingress, &name, request).await.ok()?;
        if response.status() != StatusCode::OK {
            return None;
        }
        Limited::new(response.into_body(), NODE_STATUS_BYTES_MAX)
            .collect()
            .await
            .ok()
            .map(|body| body.to_bytes())
    }
    fn compare(&self, node: &NodeId, checkpoint: &str) {
        if checkpoint.is_empty() {
            return;
        }
        match self
            .gossip
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .see(checkpoint)
        {
            Seen::New | Seen::Known => {}
            Seen::NotSigned => tracing::warn!(%node, "its checkpoint is not signed by the fleet's log"),
            Seen::Forked => {
                self.instruments.forks.inc();
                tracing::error!(%node, "the release log has forked: compare with `fleet log verify`");
            }
        }
    }
    /// Shows `notes` to every node that is up. A node that misses them is shown the next ones.
    async fn pass_on(&self, notes: &[String]) {
        let Some(fleet) = self.steering.fleet() else { return };
        let body = Bytes::from(serde_json::json!({ "checkpoints": notes }).to_string());
        let up = fleet.nodes.iter().filter(|n| self.steering.state(&n.id) == State::Up);
        let post = |node: &Node| {
            let (name, address, body) = (server_name(&node.id, &self.fleet), node.ingress, body.clone());
            async move {
                let request = Request::builder().method(Method::POST).uri("/v1/checkpoints");
                let request = request.header("content-type", "application/json").body(full(body));
                let Ok(request) = request else { return };
                let sent = tokio::time::timeout(self.timeout, self.client.request(address, &name, request)).await;
                if !matches!(sent, Ok(Ok(_))) {
                    tracing::debug!(name, "did not take the checkpoints");
                }
            }
        };
        futures_util::stream::iter(up)
            .for_each_concurrent(PROBES_AT_ONCE_MAX, post)
            .await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_node_that_answers_under_its_own_name_is_believed() {
        let node: NodeId = "eu-fra/n1".parse().unwrap();
        let status = |name: &str, region: &str, status: &str| {
            format!(
                "{{\"node\":\"{name}\",\"region\":\"{region}\",\"status\":\"{status}\",\"queued\":3,\"seq\":1,\"epoch\":2,\
                 \"models\":[{{\"name\":\"minilm\",\"version\":\"1\",\"manifest\":\"b3:00\"}}],\"checkpoint\":\"c\"}}"
            )
        };
        let (event, checkpoint) = read_status(&node, status("n1", "eu-fra", "ready").as_bytes()).unwrap();
        let models = vec!["minilm".parse().unwrap()];
        assert_eq!(
            event,
            Event::Answered {
                readiness: Readiness::Ready,
                queued: 3,
                models
            }
        );
        assert_eq!(checkpoint, "c");
        assert!(read_status(&node, status("eu-fra/n1", "eu-fra", "ready").as_bytes()).is_some());
        assert!(read_status(&node, status("n1", "us-iad", "ready").as_bytes()).is_none());
        assert!(read_status(&node, status("n2", "eu-fra", "ready").as_bytes()).is_none());
        assert!(read_status(&node, b"<html>").is_none());
    }
}
