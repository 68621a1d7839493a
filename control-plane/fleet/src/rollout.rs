//! Plans: who changes to what, in which order. Made here, signed here; the control plane only carries them out.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use proto::entry::Body;
use proto::ids::{ModelName, ModelVersion, RegionId, Release, UnixMs};
use proto::manifest::Manifest;
use proto::message::{Request, Response};
use proto::plan::{Plan, Wave, Witness};
use proto::signed::{Document, Signed};
use proto::status::Status;

use crate::cli::{Rollback, RolloutStart};
use crate::client::Session;
use crate::state;

/// A rollback's plan may be carried out this long.
const ROLLBACK_EXPIRES_MS: u64 = 24 * 3_600_000;

/// Splits `eu-fra,eu-dub+us-iad` into waves of regions; nothing given means all regions in one wave.
///
/// # Errors
/// A name is not a region of the fleet, or stands twice.
pub fn waves(given: &[String], all: &[RegionId]) -> Result<Vec<Vec<RegionId>>> {
    if given.is_empty() {
        return Ok(vec![all.to_vec()]);
    }
    let mut seen = BTreeSet::new();
    let mut waves = Vec::new();
    for wave in given {
        let mut regions = Vec::new();
        for name in wave.split('+') {
            let region: RegionId = name.parse()?;
            if !all.contains(&region) {
                bail!("`{region}` is not a region of this fleet; there are {all:?}");
            }
            if !seen.insert(region.clone()) {
                bail!("`{region}` stands in two places of --waves");
            }
            regions.push(region);
        }
        waves.push(regions);
    }
    Ok(waves)
}

/// The waves with their witnesses: the nodes enrolled now, with their keys.
fn with_witnesses(
    waves: Vec<Vec<RegionId>>,
    fleet: &proto::entry::Fleet,
    quorum: Option<u32>,
    bake_ms: u64,
) -> Result<Vec<Wave>> {
    let mut out = Vec::new();
    for regions in waves {
        let mut witnesses = Vec::new();
        let mut majority = u32::MAX;
        for region in &regions {
            let nodes: Vec<Witness> = fleet
                .nodes_of(region)
                .map(|(id, entry)| Witness {
                    node: id.clone(),
                    key: entry.key,
                })
                .collect();
            if nodes.is_empty() {
                bail!(
                    "region `{region}` has no enrolled node: enrol one with `fleet node enroll`, or leave it out of --waves"
                );
            }
            majority = majority.min(u32::try_from(nodes.len() / 2 + 1)?);
            witnesses.extend(nodes);
        }
        out.push(Wave {
            regions,
            witnesses,
            quorum_per_region: quorum.unwrap_or(majority),
            bake_ms,
        });
    }
    Ok(out)
}

async fn manifest_of(session: &Session, fleet: &proto::entry::Fleet, release: &Release) -> Result<(Signed, Manifest)> {
    let published = fleet
        .release(release)
        .with_context(|| format!("{release} is not published: see `fleet status`, or publish it first"))?;
    let Response::Signed(signed) = session.ask(&Request::Manifest(published.manifest)).await? else {
        bail!("the control plane answered something else than a manifest");
    };
    if signed.id() != published.manifest {
        bail!("the control plane sent another manifest than the log names for {release}");
    }
    let manifest = signed.open::<Manifest>(&session.home.trust.operator_keys(), 1)?;
    Ok((signed, manifest))
}

/// Signs a plan that changes regions to `release`, and has the control plane begin it.
///
/// # Errors
/// The release or a region is unknown, or the control plane refused.
pub async fn start(session: &Session, options: &RolloutStart, now: UnixMs) -> Result<Plan> {
    let fleet = state::fleet(&session.home).await?;
    let release = &options.release;
    let all: Vec<RegionId> = fleet.regions.keys().cloned().collect();
    if all.is_empty() {
        bail!("the fleet has no regions: add one with `fleet region add`");
    }
    let waves = waves(&options.waves, &all)?;
    let waves = with_witnesses(waves, &fleet, options.quorum, options.bake)?;
    let plan = compose(
        session,
        &fleet,
        release,
        waves,
        now + options.expires,
        options.reason.clone(),
    )
    .await?;
    submit(session, &plan).await?;
    Ok(plan)
}

async fn compose(
    session: &Session,
    fleet: &proto::entry::Fleet,
    release: &Release,
    waves: Vec<Wave>,
    expires: UnixMs,
    reason: String,
) -> Result<Plan> {
    let (signed, manifest) = manifest_of(session, fleet, release).await?;
    let variants = manifest
        .proposals
        .iter()
        .map(|p| (p.class.clone(), p.variant.clone()))
        .collect();
    let from = waves.iter().flat_map(|w| &w.regions).find_map(|region| {
        let active = fleet
            .activations
            .get(&(region.clone(), release.model.clone()))?
            .last()?;
        Some(active.release.clone())
    });
    let plan = Plan {
        serial: fleet.next_plan_serial(&release.model),
        from,
        to: release.clone(),
        manifest: signed.id(),
        variants,
        waves,
        expires,
        author: session.operator()?,
        reason,
    };
    plan.check()?;
    Ok(plan)
}

async fn submit(session: &Session, plan: &Plan) -> Result<()> {
    let signed = Signed::seal(plan, session.home.identity.signing_key());
    let id = signed.id();
    session.ask(&Request::PutPlan(signed)).await?;
    let body = Body::Plan {
        plan: id,
        serial: plan.serial,
        model: plan.to.model.clone(),
        version: plan.to.version,
        manifest: plan.manifest,
        waves: plan.waves.len(),
        reason: plan.reason.clone(),
    };
    session.command(&body).await?;
    Ok(())
}

/// Signs a plan back to an earlier release, for all regions that serve the model, in one wave.
///
/// # Errors
/// There is nothing to go back to, or the control plane refused.
pub async fn back(session: &Session, options: &Rollback, now: UnixMs) -> Result<Plan> {
    let fleet = state::fleet(&session.home).await?;
    let model = &options.model;
    let regions: Vec<RegionId> = fleet
        .targets
        .keys()
        .filter(|(_, m)| m == model)
        .map(|(region, _)| region.clone())
        .collect();
    if regions.is_empty() {
        bail!("no region serves `{model}`");
    }
    let version = match options.to {
        Some(version) => version,
        None => before(&fleet, model, &regions).with_context(|| {
            format!("`{model}` has had one version only: name one with --to, or roll out a fixed one")
        })?,
    };
    let release = Release {
        model: model.clone(),
        version,
    };
    // Going back must not wait for the sick: one ready node makes a region turn.
    let waves = with_witnesses(vec![regions], &fleet, Some(1), 0)?;
    let plan = compose(
        session,
        &fleet,
        &release,
        waves,
        now + ROLLBACK_EXPIRES_MS,
        options.reason.clone(),
    )
    .await?;
    submit(session, &plan).await?;
    Ok(plan)
}

/// The version that the first of `regions` answered with before its present target.
fn before(fleet: &proto::entry::Fleet, model: &ModelName, regions: &[RegionId]) -> Option<ModelVersion> {
    let key = (regions.first()?.clone(), model.clone());
    let target = fleet.targets.get(&key)?;
    let earlier = fleet
        .activations
        .get(&key)?
        .iter()
        .rev()
        .find(|a| a.release != target.release)?;
    Some(earlier.release.version)
}

/// How far a rollout is, region by region.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Progress {
    /// Which model.
    pub model: ModelName,
    /// Its newest plan's release.
    pub to: Release,
    /// Where the plan stands.
    pub status: proto::entry::PlanStatus,
    /// Regions told to change, and whether they have.
    pub regions: Vec<(RegionId, bool)>,
    /// Waves in all.
    pub waves: usize,
}

/// Reads a rollout's progress from the log.
#[must_use]
pub fn progress(fleet: &proto::entry::Fleet, model: &ModelName) -> Option<Progress> {
    let plan = fleet.plans.iter().rev().find(|p| &p.to.model == model)?;
    let told = fleet
        .targets
        .iter()
        .filter(|((_, m), target)| m == model && target.plan == plan.id);
    let regions = told
        .map(|((region, m), _)| {
            let last = fleet
                .activations
                .get(&(region.clone(), m.clone()))
                .and_then(|all| all.last());
            (region.clone(), last.is_some_and(|a| a.manifest == plan.manifest))
        })
        .collect();
    Some(Progress {
        model: model.clone(),
        to: plan.to.clone(),
        status: plan.status,
        regions,
        waves: plan.waves,
    })
}

/// Why a rollout does not get on: what nodes refused, and what the next wave waits for.
fn obstacles(status: &Status) -> String {
    let nodes = status.regions.iter().flat_map(|r| &r.nodes);
    let refused = nodes.flat_map(|n| {
        n.models
            .iter()
            .filter_map(move |m| Some(format!("{}: {}", n.node, m.why.as_ref()?)))
    });
    let stopped = status
        .regions
        .iter()
        .flat_map(|r| &r.nodes)
        .filter_map(|n| Some(format!("{}: {}", n.node, n.stopped.as_ref()?)));
    let waits = status.plans.iter().filter_map(|p| p.waits_for.clone());
    let all: Vec<String> = refused.chain(stopped).chain(waits).collect();
    if all.is_empty() {
        "no node gave a reason; are they running?".to_owned()
    } else {
        all.join("; ")
    }
}

/// Follows open rollouts until all are complete; `seen` is called with each change.
///
/// # Errors
/// A rollout was aborted, or `timeout` passed; says what its nodes refused.
pub async fn watch(
    session: &Session,
    model: Option<&ModelName>,
    timeout: Duration,
    mut seen: impl FnMut(&Progress),
) -> Result<()> {
    use proto::entry::PlanStatus;
    let begun = runtime::clock::instant();
    let mut last: Vec<Progress> = Vec::new();
    loop {
        let fleet = state::fleet(&session.home).await?;
        let models: BTreeSet<ModelName> = match model {
            Some(model) => BTreeSet::from([model.clone()]),
            None => fleet.plans.iter().map(|p| p.to.model.clone()).collect(),
        };
        let now: Vec<Progress> = models.iter().filter_map(|m| progress(&fleet, m)).collect();
        if let (Some(model), true) = (model, now.is_empty()) {
            bail!("`{model}` has no rollout: begin one with `fleet rollout start {model}@VERSION`");
        }
        now.iter().filter(|p| !last.contains(p)).for_each(&mut seen);
        if let Some(aborted) = now.iter().find(|p| model.is_some() && p.status == PlanStatus::Aborted) {
            bail!(
                "the rollout of {} was aborted; regions that changed keep it: `fleet rollback {}`",
                aborted.to,
                aborted.model
            );
        }
        if now.iter().all(|p| !matches!(p.status, PlanStatus::Open { .. })) {
            return Ok(());
        }
        if begun.elapsed() > timeout {
            let why = obstacles(&state::status(&session.home).await?);
            bail!("not complete after {} s: {why}", timeout.as_secs());
        }
        last = now;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Ends a model's open plan: no further wave begins.
///
/// # Errors
/// There is no open plan.
pub async fn abort(session: &Session, model: &ModelName, reason: &str) -> Result<Release> {
    let fleet = state::fleet(&session.home).await?;
    let open = |p: &&proto::entry::PlanEntry| {
        &p.to.model == model && matches!(p.status, proto::entry::PlanStatus::Open { .. })
    };
    let plan = fleet
        .plans
        .iter()
        .rev()
        .find(open)
        .with_context(|| format!("`{model}` has no open rollout"))?;
    session
        .command(&Body::Abort {
            plan: plan.id,
            reason: reason.to_owned(),
        })
        .await?;
    Ok(plan.to.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn regions(names: &[&str]) -> Vec<RegionId> {
        names.iter().map(|n| n.parse().unwrap()).collect()
    }

    #[test]
    fn no_waves_means_all_regions_at_once() {
        let all = regions(&["eu-fra", "us-iad"]);
        assert_eq!(waves(&[], &all).unwrap(), vec![all]);
    }

    #[test]
    fn a_plus_joins_regions_into_one_wave() {
        let all = regions(&["eu-dub", "eu-fra", "us-iad"]);
        let given = ["eu-fra".to_owned(), "eu-dub+us-iad".to_owned()];
        assert_eq!(
            waves(&given, &all).unwrap(),
            vec![regions(&["eu-fra"]), regions(&["eu-dub", "us-iad"])]
        );
    }

    #[test]
    fn a_region_cannot_stand_in_two_waves_or_be_unknown() {
        let all = regions(&["eu-fra", "us-iad"]);
        assert!(waves(&["eu-fra".to_owned(), "eu-fra".to_owned()], &all).is_err());
        assert!(waves(&["mars".to_owned()], &all).is_err());
    }
}
