//! The fold: one entry after the other becomes the fleet's state. An entry that contradicts the state is refused, so
//! that a log which was appended to through [`Fleet::apply`] always folds.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{
    Activation, Body, CONTROL_PLANE, EntryError, Fleet, Leaf, NodeEntry, PlanEntry, PlanStatus, Published, Target,
    command_message,
};
use crate::ids::{ContentHash, ModelName, ModelVersion, NodeId, PrincipalName, RegionId, Release, UnixMs};
use crate::region_state::{RegionInfo, Tenant};
use crate::signed::Operator;

fn conflict<T>(what: String) -> Result<T, EntryError> {
    Err(EntryError::Conflict { what })
}

impl Fleet {
    /// Takes one leaf. On an error nothing has changed.
    ///
    /// # Errors
    /// [`EntryError`]: malformed, not allowed, or in conflict with what the log says already.
    pub fn apply(&mut self, leaf_bytes: &[u8]) -> Result<Body, EntryError> {
        let (leaf, body) = Leaf::decode(leaf_bytes)?;
        self.authorise(&leaf, &body)?;
        self.take(leaf.time, &body)?;
        self.epoch += 1;
        Ok(body)
    }

    /// Who says it must be allowed to: an operator by signature, the control plane by the log's own.
    fn authorise(&self, leaf: &Leaf, body: &Body) -> Result<(), EntryError> {
        let refuse = |why| {
            Err(EntryError::NotAllowed {
                by: leaf.by.clone(),
                kind: body.kind(),
                why,
            })
        };
        if self.epoch == 0 && !matches!(body, Body::FleetInit { .. }) {
            return refuse("the first entry of a log is `fleet-init`");
        }
        let Some(sig) = &leaf.sig else {
            let itself = leaf.by.as_str() == CONTROL_PLANE && body.is_control_plane();
            return if itself {
                Ok(())
            } else {
                refuse("it needs an operator's signature")
            };
        };
        let Some(operator) = self.operators.iter().find(|o| o.name == leaf.by) else {
            return refuse("no such operator; see `fleet-init` in the log");
        };
        let Some(fleet) = &self.name else {
            return refuse("the fleet has no name yet");
        };
        let signature = STANDARD.decode(sig).ok().and_then(|s| <[u8; 64]>::try_from(s).ok());
        let message = command_message(fleet, self.epoch, leaf.body.get());
        match signature {
            Some(s) if operator.key.verifies(&message, &s) => Ok(()),
            _ => refuse("the signature is not of this operator, fleet, log position and text; sign it again"),
        }
    }

    fn take(&mut self, time: UnixMs, body: &Body) -> Result<(), EntryError> {
        match body {
            Body::FleetInit { .. }
            | Body::RegionAdd { .. }
            | Body::NodeEnrol { .. }
            | Body::NodeRevoke { .. }
            | Body::TenantAdd { .. }
            | Body::TenantRevoke { .. } => self.take_member(body.clone()),
            Body::Publish { .. }
            | Body::Plan { .. }
            | Body::Step { .. }
            | Body::Active { .. }
            | Body::Complete { .. }
            | Body::Abort { .. } => self.take_change(time, body.clone()),
        }
    }

    /// Who belongs to the fleet.
    fn take_member(&mut self, body: Body) -> Result<(), EntryError> {
        match body {
            Body::FleetInit {
                fleet,
                operators,
                threshold,
            } => self.take_init(fleet, operators, threshold)?,
            Body::RegionAdd {
                region,
                country,
                lat_e6,
                lon_e6,
            } => self.take_region(RegionInfo {
                id: region,
                country,
                lat_e6,
                lon_e6,
            })?,
            Body::NodeEnrol {
                node,
                class,
                ingress,
                key,
            } => self.take_node(
                node,
                NodeEntry {
                    class,
                    ingress,
                    key,
                    enrolled: true,
                },
            )?,
            Body::NodeRevoke { node } => match self.nodes.get_mut(&node) {
                Some(entry) if entry.enrolled => entry.enrolled = false,
                _ => return conflict(format!("node `{node}` is not enrolled")),
            },
            Body::TenantAdd {
                tenant: id,
                boundary,
                key_hash,
            } => self.take_tenant(Tenant { id, boundary, key_hash })?,
            Body::TenantRevoke { tenant } => {
                if self.tenants.remove(&tenant).is_none() {
                    return conflict(format!("tenant `{tenant}` is unknown"));
                }
            }
            other => return conflict(format!("`{}` is not about members", other.kind())),
        }
        Ok(())
    }

    /// What the fleet serves.
    fn take_change(&mut self, time: UnixMs, body: Body) -> Result<(), EntryError> {
        match body {
            Body::Publish {
                model,
                version,
                manifest,
            } => self.take_publish(time, model, version, manifest)?,
            Body::Plan {
                plan,
                serial,
                model,
                version,
                manifest,
                waves,
                ..
            } => {
                let to = Release { model, version };
                self.take_plan(PlanEntry {
                    id: plan,
                    serial,
                    to,
                    manifest,
                    waves,
                    status: PlanStatus::Open { waves_begun: 0 },
                })?;
            }
            Body::Step {
                plan, wave, regions, ..
            } => self.take_step(plan, wave, regions)?,
            Body::Active {
                region,
                model,
                version,
                manifest,
                nodes,
            } => {
                self.take_active(time, region, Release { model, version }, manifest, &nodes)?;
            }
            Body::Complete { plan } => self.close_plan(plan, PlanStatus::Complete)?,
            Body::Abort { plan, .. } => self.close_plan(plan, PlanStatus::Aborted)?,
            other => return conflict(format!("`{}` is not about releases", other.kind())),
        }
        Ok(())
    }

    fn take_init(
        &mut self,
        fleet: PrincipalName,
        operators: Vec<Operator>,
        threshold: usize,
    ) -> Result<(), EntryError> {
        if self.epoch != 0 {
            return conflict("the fleet is initialised already".to_owned());
        }
        if threshold == 0 || threshold > operators.len() {
            return conflict(format!("threshold {threshold} of {} operators", operators.len()));
        }
        (self.name, self.operators, self.threshold) = (Some(fleet), operators, threshold);
        Ok(())
    }

    fn take_node(&mut self, node: NodeId, entry: NodeEntry) -> Result<(), EntryError> {
        if !self.regions.contains_key(&node.region) {
            return conflict(format!("region `{}` is unknown: add it first", node.region));
        }
        self.nodes.insert(node, entry);
        Ok(())
    }

    fn take_tenant(&mut self, tenant: Tenant) -> Result<(), EntryError> {
        if self.tenants.contains_key(&tenant.id) {
            return conflict(format!("tenant `{}` exists: revoke it first", tenant.id));
        }
        self.tenants.insert(tenant.id.clone(), tenant);
        Ok(())
    }

    fn take_region(&mut self, region: RegionInfo) -> Result<(), EntryError> {
        let country = region.country.len() == 2 && region.country.bytes().all(|b| b.is_ascii_uppercase());
        let place = region.lat_e6.unsigned_abs() <= 90_000_000 && region.lon_e6.unsigned_abs() <= 180_000_000;
        if !country || !place {
            return conflict(format!(
                "region `{}` needs a two-letter country and a place on earth",
                region.id
            ));
        }
        if self.regions.contains_key(&region.id) {
            return conflict(format!("region `{}` exists", region.id));
        }
        self.regions.insert(region.id.clone(), region);
        Ok(())
    }

    fn take_publish(
        &mut self,
        time: UnixMs,
        model: ModelName,
        version: ModelVersion,
        manifest: ContentHash,
    ) -> Result<(), EntryError> {
        let next = self.next_version(&model);
        if version != next {
            return conflict(format!("{model}@{version} does not follow: the next version is {next}"));
        }
        self.releases
            .entry(model)
            .or_default()
            .insert(version, Published { manifest, time });
        Ok(())
    }

    fn take_plan(&mut self, plan: PlanEntry) -> Result<(), EntryError> {
        match self.release(&plan.to) {
            Some(published) if published.manifest == plan.manifest => {}
            _ => return conflict(format!("{} with manifest {} is not published", plan.to, plan.manifest)),
        }
        if plan.serial != self.next_plan_serial(&plan.to.model) {
            return conflict(format!(
                "plan serial {} does not follow: sign the plan again",
                plan.serial
            ));
        }
        // A newer plan of the same model takes over: the older one begins no further wave.
        for older in self.plans.iter_mut().filter(|p| p.to.model == plan.to.model) {
            if matches!(older.status, PlanStatus::Open { .. }) {
                older.status = PlanStatus::Aborted;
            }
        }
        self.plans.push(plan);
        Ok(())
    }

    fn take_step(&mut self, id: ContentHash, wave: usize, regions: Vec<RegionId>) -> Result<(), EntryError> {
        let Some(plan) = self.plans.iter_mut().find(|p| p.id == id) else {
            return conflict(format!("plan {id} is unknown"));
        };
        match &mut plan.status {
            PlanStatus::Open { waves_begun } if *waves_begun == wave && wave < plan.waves => *waves_begun += 1,
            _ => return conflict(format!("wave {wave} of plan {id} is not the next step")),
        }
        let target = Target {
            release: plan.to.clone(),
            manifest: plan.manifest,
            plan: id,
        };
        for region in regions {
            self.targets
                .insert((region, target.release.model.clone()), target.clone());
        }
        Ok(())
    }

    fn take_active(
        &mut self,
        since: UnixMs,
        region: RegionId,
        release: Release,
        manifest: ContentHash,
        nodes: &[NodeId],
    ) -> Result<(), EntryError> {
        let key = (region, release.model.clone());
        match self.targets.get(&key) {
            Some(t) if t.release == release && t.manifest == manifest && !nodes.is_empty() => {}
            _ => return conflict(format!("{release} is not what `{}` was to serve", key.0)),
        }
        let activation = Activation {
            since,
            entry: self.epoch,
            release,
            manifest,
        };
        self.activations.entry(key).or_default().push(activation);
        Ok(())
    }

    fn close_plan(&mut self, id: ContentHash, status: PlanStatus) -> Result<(), EntryError> {
        match self.plans.iter_mut().find(|p| p.id == id) {
            Some(plan) if matches!(plan.status, PlanStatus::Open { .. }) => plan.status = status,
            _ => return conflict(format!("plan {id} is not open")),
        }
        Ok(())
    }

    /// The version that the next release of `model` gets.
    #[must_use]
    pub fn next_version(&self, model: &ModelName) -> ModelVersion {
        let last = self
            .releases
            .get(model)
            .and_then(|versions| versions.keys().next_back());
        last.map_or(ModelVersion::FIRST, |v| v.next())
    }
    /// The serial that the next plan of `model` gets.
    #[must_use]
    pub fn next_plan_serial(&self, model: &ModelName) -> u64 {
        self.plans
            .iter()
            .filter(|p| &p.to.model == model)
            .map(|p| p.serial)
            .max()
            .unwrap_or(0)
            + 1
    }
    /// A published release.
    #[must_use]
    pub fn release(&self, release: &Release) -> Option<&Published> {
        self.releases.get(&release.model)?.get(&release.version)
    }
    /// A plan.
    #[must_use]
    pub fn plan(&self, id: &ContentHash) -> Option<&PlanEntry> {
        self.plans.iter().find(|p| &p.id == id)
    }
    /// What `region` answered with for `model` at `time`; `None` before its first activation.
    #[must_use]
    pub fn active_at(&self, region: &RegionId, model: &ModelName, time: UnixMs) -> Option<&Activation> {
        let all = self.activations.get(&(region.clone(), model.clone()))?;
        all.iter().take_while(|a| a.since <= time).last()
    }
    /// Enrolled nodes of `region`.
    pub fn nodes_of<'a>(&'a self, region: &'a RegionId) -> impl Iterator<Item = (&'a NodeId, &'a NodeEntry)> {
        self.nodes
            .iter()
            .filter(move |(id, node)| &id.region == region && node.enrolled)
    }
}
