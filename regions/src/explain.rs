//! A decision in words: JSON for tools, a table for people. Nothing of a request is in it but where it came from.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::geo::Places;
use crate::steer::{Ask, Decision, Reason, Refusal, Verdict};
use crate::topology::Topology;

impl Reason {
    /// The name it has in JSON, tables and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::OutsideBoundary => "outside-boundary",
            Self::NotServed => "not-served",
            Self::NotLoaded => "not-loaded",
            Self::Down => "down",
            Self::Starting => "starting",
            Self::Draining => "draining",
        }
    }
}

impl Refusal {
    /// The name it has in JSON, tables and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Residency => "residency",
            Self::NoneHealthy => "none-healthy",
            Self::UnknownModel => "unknown-model",
        }
    }
}

/// `decision` as JSON. Distances are rounded to whole km.
#[must_use]
pub fn to_json(ask: &Ask<'_>, decision: &Decision, fleet: &Topology) -> Value {
    let candidates: Vec<Value> = decision
        .candidates
        .iter()
        .map(|c| {
            let id = fleet.nodes[c.node].id.to_string();
            let country = &fleet.region_of(c.node).country;
            match c.verdict {
                Verdict::Accepted(rank) => {
                    json!({ "node": id, "country": country, "km": c.km.round(), "accepted": true, "rank": rank })
                }
                Verdict::Rejected(reason) => {
                    json!({ "node": id, "country": country, "km": c.km.round(), "accepted": false, "reason": reason.name() })
                }
            }
        })
        .collect();
    json!({
        "seq": decision.seq,
        "epoch": decision.epoch,
        "client": ask.client.and_then(|c| Places::builtin().nearest(c)).map(|p| p.id.as_str()),
        "boundary": ask.boundary.as_str(),
        "model": ask.model.map(|m| m.as_str()),
        "chosen": decision.outcome.ok().map(|node| fleet.nodes[node].id.to_string()),
        "refusal": decision.outcome.err().map(Refusal::name),
        "candidates": candidates,
    })
}

/// `decision` as a table of one node a line.
#[must_use]
pub fn to_table(decision: &Decision, fleet: &Topology) -> String {
    let width = fleet
        .nodes
        .iter()
        .map(|n| n.id.to_string().len())
        .max()
        .unwrap_or(0)
        .max(4);
    let mut table = format!("{:<width$}  {:>7}  verdict\n", "node", "km");
    for c in &decision.candidates {
        let verdict = match c.verdict {
            Verdict::Accepted(0) => "chosen".to_owned(),
            Verdict::Accepted(rank) => format!("accepted, rank {rank}"),
            Verdict::Rejected(reason) => reason.name().to_owned(),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(
            table,
            "{:<width$}  {:>7.0}  {verdict}",
            fleet.nodes[c.node].id.to_string(),
            c.km
        );
    }
    table
}
