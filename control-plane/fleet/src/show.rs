//! `fleet status` and `fleet diff`, rendered.

use std::collections::BTreeSet;

use proto::entry::{Fleet, PlanStatus};
use proto::ids::{ModelName, RegionId};
use proto::status::{NodeStatus, Status};

use crate::output::{BAD, GOOD, paint, table};

/// What runs where: a table of regions and models, one of nodes.
#[must_use]
pub fn status(status: &Status) -> String {
    let nodes: Vec<&NodeStatus> = status.regions.iter().flat_map(|r| &r.nodes).collect();
    let mut out = format!(
        "fleet {}   log {} entries   {} regions   {} nodes   {} tenants\n\n",
        status.fleet,
        status.epoch,
        status.regions.len(),
        nodes.iter().filter(|n| n.enrolled).count(),
        status.tenants.len(),
    );
    if let Some(fork) = &status.fork {
        out += &format!(
            "{}\n\n",
            paint(BAD, &format!("the log has forked, rollouts are stopped: {fork}"))
        );
    }
    let models = status
        .regions
        .iter()
        .flat_map(|r| r.models.iter().map(move |m| (&r.region.id, m)));
    let rows: Vec<Vec<String>> = models
        .map(|(region, m)| {
            let done = m.active.as_ref().is_some_and(|a| a.manifest == m.manifest);
            vec![
                region.to_string(),
                m.model.to_string(),
                m.target.version.to_string(),
                m.active
                    .as_ref()
                    .map_or("-".to_owned(), |a| a.release.version.to_string()),
                m.manifest.short(),
                if done {
                    paint(GOOD, "active")
                } else {
                    paint(BAD, "changing")
                },
            ]
        })
        .collect();
    out += &table(
        &["region", "model", "wanted", "active", "digest", "state"],
        &rows,
        &["wanted", "active"],
    );
    for plan in &status.plans {
        if let PlanStatus::Open { waves_begun } = plan.status {
            let waits = plan.waits_for.as_deref().unwrap_or("its nodes");
            out += &format!(
                "\n\nrollout of {}: wave {waves_begun} of {}, waits for {waits}",
                plan.to, plan.waves
            );
        }
    }
    let rows: Vec<Vec<String>> = nodes.iter().flat_map(|n| node_rows(n, status.now)).collect();
    out += "\n\n";
    out += &table(
        &["node", "model", "digest", "seq", "seen", "stage"],
        &rows,
        &["seq", "seen"],
    );
    out
}

fn node_rows(node: &NodeStatus, now: u64) -> Vec<Vec<String>> {
    let seen = node.last_seen.map_or("never".to_owned(), |at| {
        let ms = now.saturating_sub(at);
        format!("{}.{} s ago", ms / 1000, ms % 1000 / 100)
    });
    let row = |model: String, digest: String, stage: String| {
        vec![
            node.node.to_string(),
            model,
            digest,
            node.seq.to_string(),
            seen.clone(),
            stage,
        ]
    };
    if !node.enrolled {
        return vec![row("-".to_owned(), "-".to_owned(), paint(BAD, "revoked"))];
    }
    let state = |m: &proto::status::NodeModel| match &m.why {
        Some(why) => paint(BAD, &format!("{}: {why}", m.stage)),
        None if m.stage == "serving" => paint(GOOD, "serving"),
        None => m.stage.clone(),
    };
    if node.models.is_empty() {
        let why = node.stopped.clone().unwrap_or_else(|| "nothing yet".to_owned());
        return vec![row("-".to_owned(), "-".to_owned(), why)];
    }
    let name = |m: &proto::status::NodeModel| m.release.as_ref().map_or("-".to_owned(), ToString::to_string);
    node.models
        .iter()
        .map(|m| row(name(m), m.manifest.short(), state(m)))
        .collect()
}

/// What two regions run differently: `(model, left, right)` with `-` for not served.
#[must_use]
pub fn diff(fleet: &Fleet, left: &RegionId, right: &RegionId) -> Vec<(ModelName, String, String)> {
    let active = |region: &RegionId, model: &ModelName| {
        let last = fleet
            .activations
            .get(&(region.clone(), model.clone()))
            .and_then(|all| all.last());
        last.map_or("-".to_owned(), |a| format!("{} {}", a.release, a.manifest))
    };
    let models: BTreeSet<&ModelName> = fleet.activations.keys().map(|(_, model)| model).collect();
    let rows = models
        .into_iter()
        .map(|m| (m.clone(), active(left, m), active(right, m)));
    rows.filter(|(_, l, r)| l != r).collect()
}
