//! `GET /v1/router`: how the router is, for people and tools of the fleet.

use std::sync::PoisonError;

use serde_json::{Value, json};

use super::front::Front;

/// The router in JSON: which view, which nodes, and whether the log has forked.
pub(super) fn status(front: &Front) -> Value {
    let gossip = front.gossip.lock().unwrap_or_else(PoisonError::into_inner);
    let fork = gossip.fork().map(|f| json!({ "size": f.size, "checkpoints": f.notes }));
    let checkpoints = gossip.notes();
    drop(gossip);
    let Some(fleet) = front.steering.fleet() else {
        return json!({ "router": front.proxy.name, "status": "starting", "fork": fork, "checkpoints": checkpoints });
    };
    let node = |n: &regions::topology::Node| {
        let state = format!("{:?}", front.steering.state(&n.id)).to_lowercase();
        json!({ "node": n.id.to_string(), "state": state, "ingress": n.ingress.to_string() })
    };
    json!({
        "router": front.proxy.name,
        "status": "ready",
        "seq": fleet.seq,
        "epoch": fleet.epoch,
        "stale": fleet.is_stale(runtime::clock::now_ms()),
        "nodes": fleet.nodes.iter().map(node).collect::<Vec<_>>(),
        "models": fleet.models().map(ToString::to_string).collect::<Vec<_>>(),
        "fork": fork,
        "checkpoints": checkpoints,
    })
}
