//! The status page, folded from the log and from what nodes told last.

use proto::entry::{Fleet, PlanEntry, PlanStatus, Target};
use proto::ids::{ContentHash, ModelName, NodeId, RegionId, Release, UnixMs};
use proto::message::Stage;
use proto::status::{NodeModel, NodeStatus, PlanLine, RegionModel, RegionStatus, ReleaseLine, Status, TenantLine};

use super::Pages;
use crate::registry::Seen;

/// The fleet, or `region` of it; none if the log does not know that region. Blocking at first sight of a plan.
pub(super) fn status(pages: &Pages, region: Option<&RegionId>, now: UnixMs) -> Option<Status> {
    let snapshot = pages.ledger.snapshot();
    let fleet = &snapshot.fleet;
    if region.is_some_and(|asked| !fleet.regions.contains_key(asked)) {
        return None;
    }
    let seen = pages.registry.all();
    let shown = fleet
        .regions
        .values()
        .filter(|info| region.is_none_or(|asked| asked == &info.id));
    let regions = shown.map(|info| RegionStatus {
        region: info.clone(),
        seq: pages
            .outbox
            .states_of(&info.id)
            .borrow()
            .as_ref()
            .map_or(0, |made| made.seq),
        models: models_of(fleet, &info.id),
        nodes: nodes_of(fleet, &info.id, &seen),
    });
    Some(Status {
        fleet: pages.trust.fleet.clone(),
        epoch: fleet.epoch,
        checkpoint: snapshot.checkpoint.clone(),
        now,
        fork: pages.registry.fork(),
        regions: regions.collect(),
        plans: fleet
            .plans
            .iter()
            .map(|plan| plan_line(pages, fleet, plan, now))
            .collect(),
        releases: releases(fleet),
        tenants: fleet
            .tenants
            .values()
            .map(|t| TenantLine {
                tenant: t.id.clone(),
                boundary: t.boundary.clone(),
            })
            .collect(),
    })
}

fn models_of(fleet: &Fleet, region: &RegionId) -> Vec<RegionModel> {
    let targets = fleet.targets.iter().filter(|((of, _), _)| of == region);
    let model = |((_, model), target): (&(RegionId, ModelName), &Target)| RegionModel {
        model: model.clone(),
        target: target.release.clone(),
        manifest: target.manifest,
        plan: target.plan,
        active: fleet
            .activations
            .get(&(region.clone(), model.clone()))
            .and_then(|all| all.last().cloned()),
    };
    targets.map(model).collect()
}

fn nodes_of(fleet: &Fleet, region: &RegionId, seen: &std::collections::BTreeMap<NodeId, Seen>) -> Vec<NodeStatus> {
    let nodes = fleet.nodes.iter().filter(|(id, _)| &id.region == region);
    nodes
        .map(|(id, entry)| {
            let last = seen.get(id);
            let report = last.map(|seen| &seen.report);
            NodeStatus {
                node: id.clone(),
                class: entry.class.clone(),
                ingress: entry.ingress,
                enrolled: entry.enrolled,
                last_seen: last.map(|seen| seen.at),
                seq: report.map_or(0, |r| r.seq),
                queued: report.map_or(0, |r| r.queued),
                stopped: report.and_then(|r| r.stopped.clone()),
                models: report
                    .map(|r| r.models.iter().map(|m| node_model(fleet, m)).collect())
                    .unwrap_or_default(),
            }
        })
        .collect()
}

fn node_model(fleet: &Fleet, model: &proto::message::ModelReport) -> NodeModel {
    let (stage, why) = match &model.stage {
        Stage::Fetching => ("fetching", None),
        Stage::Warming => ("warming", None),
        Stage::Serving => ("serving", None),
        Stage::Refused(why) => ("refused", Some(why.clone())),
    };
    NodeModel {
        manifest: model.manifest,
        release: release_of(fleet, &model.manifest),
        stage: stage.to_owned(),
        why,
        fetched_bytes: model.fetched_bytes,
        need_bytes: model.need_bytes,
    }
}

fn release_of(fleet: &Fleet, manifest: &ContentHash) -> Option<Release> {
    fleet.releases.iter().find_map(|(model, versions)| {
        let (version, _) = versions.iter().find(|(_, published)| &published.manifest == manifest)?;
        Some(Release {
            model: model.clone(),
            version: *version,
        })
    })
}

fn plan_line(pages: &Pages, fleet: &Fleet, plan: &PlanEntry, now: UnixMs) -> PlanLine {
    let open = matches!(plan.status, PlanStatus::Open { .. });
    PlanLine {
        plan: plan.id,
        serial: plan.serial,
        to: plan.to.clone(),
        manifest: plan.manifest,
        waves: plan.waves,
        status: plan.status,
        waits_for: open.then(|| pages.conductor.waits_for(fleet, plan, now)).flatten(),
    }
}

fn releases(fleet: &Fleet) -> Vec<ReleaseLine> {
    let lines = fleet.releases.iter().flat_map(|(model, versions)| {
        versions.iter().map(|(version, published)| ReleaseLine {
            model: model.clone(),
            version: *version,
            manifest: published.manifest,
            published: published.time,
        })
    });
    lines.collect()
}
