//! What a node tells routers and the control plane's people, and what it hears from routers.

use std::time::Duration;

use http::StatusCode;
use proto::ids::{ContentHash, ModelName, ModelVersion, NodeName, RegionId};
use proto::limits::{GOSSIP_CHECKPOINTS_MAX, INFER_BODY_MS_MAX, NOTE_BYTES_MAX};
use runtime::https::Inbound;
use serde::{Deserialize, Serialize};

use super::body::Room;
use super::reply::Problem;
use super::{Answer, Parts, body, reply};
use crate::engine::device::Standing;
use crate::serving::ServingSet;

/// The answer to `GET /v1/node`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Which node of its region.
    pub node: NodeName,
    /// Which region.
    pub region: RegionId,
    /// `starting`, `ready` or `draining`.
    pub status: String,
    /// Requests that wait for an engine thread.
    pub queued: u32,
    /// The region state it follows; 0 before the first.
    pub seq: u64,
    /// Size of the release log behind that state.
    pub epoch: u64,
    /// What answers now.
    pub models: Vec<ServedModel>,
    /// The newest checkpoint of the release log it has accepted.
    pub checkpoint: String,
    /// Why its activations are stopped, if they are.
    pub stopped: Option<String>,
}

/// One model that answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServedModel {
    /// Which model.
    pub name: ModelName,
    /// Which version.
    pub version: ModelVersion,
    /// Its manifest.
    pub manifest: ContentHash,
    /// `cold` on disk, `loading`, `warm` in memory, or `hot`: asked within the last minute.
    #[serde(default)]
    pub warmth: String,
    /// How the device is that it runs on, where it is in memory and needs one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceStatus>,
}

/// How a device is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceStatus {
    /// `in-use`, or `out-of-use`: the processor answers.
    pub state: String,
    /// Why it is out of use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// For how long, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_ms: Option<u64>,
    /// Tries in vain since then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tries: Option<u32>,
    /// Until it is tried again, milliseconds; absent while a call of it is under way, or does not return.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_try_ms: Option<u64>,
}

impl From<Standing> for DeviceStatus {
    fn from(standing: Standing) -> Self {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        match standing {
            Standing::InUse => Self {
                state: "in-use".to_owned(),
                why: None,
                since_ms: None,
                tries: None,
                next_try_ms: None,
            },
            Standing::OutOfUse {
                trouble,
                since,
                tries,
                next_try,
            } => Self {
                state: "out-of-use".to_owned(),
                why: Some(trouble.told().to_owned()),
                since_ms: Some(ms(since)),
                tries: Some(tries),
                next_try_ms: next_try.map(ms),
            },
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Heard {
    checkpoints: Vec<String>,
}

#[derive(Serialize)]
struct Said {
    checkpoint: String,
}

/// Ready: a state is followed, the node is not about to stop, and some model answers if any can.
pub(super) fn ready(parts: &Parts) -> Result<Answer, Problem> {
    match status(parts, &parts.serving.load()) {
        "ready" => Ok(reply::empty(StatusCode::OK)),
        "draining" => Err(Problem::draining()),
        _ => Err(Problem::starting()),
    }
}

fn status(parts: &Parts, set: &ServingSet) -> &'static str {
    let answers = set.region.is_some() && (!set.coming || !set.models.is_empty());
    match (parts.draining.is_cancelled(), answers) {
        (true, _) => "draining",
        (false, true) => "ready",
        (false, false) => "starting",
    }
}

/// How this node is.
pub(super) fn node(parts: &Parts) -> NodeStatus {
    let set = parts.serving.load();
    let mut models: Vec<ServedModel> = set
        .models
        .values()
        .map(|slot| ServedModel {
            name: slot.release.model.clone(),
            version: slot.release.version,
            manifest: slot.manifest_id,
            warmth: slot.seat.warmth().name().to_owned(),
            device: slot.seat.device().map(DeviceStatus::from),
        })
        .collect();
    models.sort_by(|a, b| a.name.cmp(&b.name));
    NodeStatus {
        node: parts.node.name.clone(),
        region: parts.node.region.clone(),
        status: status(parts, &set).to_owned(),
        queued: parts.serving.queued(),
        seq: set.seq,
        epoch: set.epoch,
        models,
        checkpoint: set.checkpoint.clone(),
        stopped: set.stopped.clone(),
    }
}

/// Hands what a router has seen to sync, and answers with what this node has seen.
pub(super) async fn checkpoints(parts: &Parts, room: &Room, incoming: Inbound) -> Result<Answer, Problem> {
    let (bytes_max, time) = (
        2 * GOSSIP_CHECKPOINTS_MAX * NOTE_BYTES_MAX,
        Duration::from_millis(INFER_BODY_MS_MAX),
    );
    let received = body::read(room, incoming, bytes_max, time)
        .await?
        .ok_or_else(Problem::deadline_exceeded)?;
    let heard: Heard = serde_json::from_slice(&received.bytes).map_err(|e| Problem::bad_request(e.to_string()))?;
    if heard.checkpoints.len() > GOSSIP_CHECKPOINTS_MAX || heard.checkpoints.iter().any(|c| c.len() > NOTE_BYTES_MAX) {
        let bounds = format!("at most {GOSSIP_CHECKPOINTS_MAX} checkpoints of {NOTE_BYTES_MAX} bytes each are read");
        return Err(Problem::too_large(bounds));
    }
    let heard_all = heard
        .checkpoints
        .into_iter()
        .all(|checkpoint| parts.gossip.offer(checkpoint));
    if !heard_all {
        return Err(Problem::full(
            "more checkpoints wait than are read",
            Duration::from_secs(1),
        ));
    }
    Ok(reply::json(&Said {
        checkpoint: parts.serving.load().checkpoint.clone(),
    }))
}
