//! The loop that makes this node serve what the signed state says: reads what should be, reads what is, does the
//! difference. It is the only publisher of [`crate::serving::Serving`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use proto::ids::{ModelName, NodeClass};
use proto::manifest::Manifest;
use runtime::clock;
use runtime::lifecycle::Lifecycle;
use tokio::sync::{mpsc, watch};

use super::machine::{Action, Candidate, Event, Target};
use super::status::{ModelStatus, Status};
use super::track::Track;
use super::wishes::{self, Wish};
use super::works::{Done, Golden, Outcome, Works};
use crate::batch::plain::PlainMap;
use crate::serving::{ModelSlot, Serving, ServingSet};
use crate::store::{ActiveModel, Kept};
use crate::sync::{Instruments, Orders};

/// How often the clock is looked at: expiry and rests.
const TICK: Duration = Duration::from_millis(500);

/// Owner of everything that is loaded.
pub(crate) struct Releases {
    pub(super) works: Works,
    pub(super) done: mpsc::Receiver<Done>,
    pub(super) kept: Arc<Kept>,
    pub(super) serving: Serving,
    pub(super) class: NodeClass,
    pub(super) orders: watch::Receiver<Orders>,
    pub(super) status: watch::Sender<Status>,
    pub(super) instruments: Instruments,
    pub(super) lifecycle: Lifecycle,
    pub(super) seed: u64,
    pub(super) tracks: BTreeMap<ModelName, Track>,
    /// What served before the restart and has not been loaded again.
    pub(super) before: BTreeMap<ModelName, Target>,
    pub(super) stopped: Option<String>,
    pub(super) changed: Changed,
}

/// What the next pass has to write down or hand out.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Changed {
    set: bool,
    active: bool,
    files: bool,
}

enum Woken {
    Orders,
    Done(Done),
    Tick,
    Stop,
}

impl Releases {
    pub(crate) async fn run(mut self) {
        self.restore().await;
        self.changed = Changed {
            set: true,
            active: false,
            files: true,
        };
        let drain = self.lifecycle.drain().clone();
        loop {
            self.pass().await;
            let woken = tokio::select! {
                Some(done) = self.done.recv() => Woken::Done(done),
                changed = self.orders.changed() => if changed.is_ok() { Woken::Orders } else { Woken::Stop },
                () = tokio::time::sleep(TICK) => Woken::Tick,
                () = drain.cancelled() => Woken::Stop,
            };
            match woken {
                Woken::Orders => self.changed.set = true,
                Woken::Done(done) => self.take(done),
                Woken::Tick => {}
                Woken::Stop => return,
            }
        }
    }

    /// Loads what served before the restart, if a plan is in force for the model. Files are hashed again.
    async fn restore(&mut self) {
        let Some(accepted) = self.orders.borrow().accepted.clone() else {
            return;
        };
        let active = self.kept.active().into_iter();
        let active: Vec<_> = active.filter(|(model, _)| accepted.plan_of(model).is_some()).collect();
        let build = self.works.build();
        let loading = active.iter().map(|(_, active)| reload(&self.works, &build, active));
        let loaded = futures_util::future::join_all(loading).await;
        for ((model, active), loaded) in active.into_iter().zip(loaded) {
            let target = Target::from(active.serving.clone());
            match loaded {
                Some(slot) => {
                    tracing::info!(release = %target.release, "serves again after the restart");
                    self.tracks.insert(model, Track::resumed(target, &active, slot));
                }
                None => {
                    self.tracks.insert(model.clone(), Track::lost(&active));
                    self.before.insert(model, target);
                }
            }
        }
    }

    async fn pass(&mut self) {
        let orders = self.orders.borrow_and_update().clone();
        let stopped = orders.stopped(clock::now_ms());
        if stopped != self.stopped {
            if let Some(why) = &stopped {
                tracing::warn!(why, "activations are stopped; what is active goes on serving");
            }
            (self.stopped, self.changed.set) = (stopped, true);
        }
        let accepted = orders.accepted.as_deref();
        for (model, wish) in wishes::wishes(accepted, self.stopped.is_some(), &self.class, &self.known()) {
            let track = self.tracks.entry(model.clone()).or_default();
            track.no_variant = None;
            match wish {
                Wish::Serve(target, plan) => {
                    self.feed(&model, Event::Wanted(target.clone()), None);
                    let track = self.tracks.entry(model).or_default();
                    self.changed.active |= track.wanted_by(plan, &target, clock::now_ms());
                }
                Wish::Tell(event) => self.feed(&model, event, None),
                Wish::NoVariant { release, manifest } => {
                    track.no_variant = Some((release, manifest));
                    if let Some(serving) = track.machine.serving.clone() {
                        self.feed(&model, Event::Wanted(serving), None);
                    }
                }
            }
        }
        self.wake_rested();
        if std::mem::take(&mut self.changed.active) {
            self.write_active().await;
        }
        if std::mem::take(&mut self.changed.set) {
            self.publish(&orders);
        }
        self.tell();
        self.sweep().await;
    }

    fn known(&self) -> wishes::Serving {
        let before = self
            .before
            .iter()
            .map(|(model, target)| (model.clone(), Some(target.clone())));
        let mut known: wishes::Serving = before.collect();
        for (model, track) in &self.tracks {
            let serving = track.machine.serving.clone();
            known
                .entry(model.clone())
                .and_modify(|t| *t = serving.clone().or(t.clone()))
                .or_insert(serving);
        }
        known
    }

    fn take(&mut self, Done { target, outcome }: Done) {
        let model = target.release.model.clone();
        let Some(track) = self.tracks.get_mut(&model) else {
            return;
        };
        match outcome {
            Outcome::Fetched(manifest) => {
                track.fetched(&target, manifest);
                self.feed(&model, Event::Stored(target), None);
            }
            Outcome::Warmed(slot) => self.feed(&model, Event::Warmed(target), Some(slot)),
            Outcome::Lacking(files) => {
                track.failed(&target, format!("{files} files on disk did not match their digest"));
                self.feed(&model, Event::Lacking(target), None);
            }
            Outcome::Failed(why) => {
                tracing::error!(release = %target.release, why, "refused a release");
                track.failed(&target, why);
                self.instruments.refusals.inc();
                self.feed(&model, Event::Failed(target), None);
            }
        }
    }

    /// One step of one machine, and what it asks for.
    fn feed(&mut self, model: &ModelName, event: Event, warm: Option<Arc<ModelSlot>>) {
        let seed = self.seed;
        let track = self.tracks.entry(model.clone()).or_default();
        let (machine, action) = std::mem::take(&mut track.machine).on(event);
        track.machine = machine;
        match action {
            Action::Wait => {}
            Action::Fetch(target) => {
                let (progress, cancel) = track.begin(&target);
                tracing::info!(release = %target.release, manifest = %target.manifest, "fetching");
                let known = self.manifests_of(model);
                self.works.fetch(target, progress, known, cancel);
            }
            Action::Warm(target) => {
                let manifest = track
                    .manifest()
                    .expect("a candidate is stored together with its manifest");
                self.works.warm(target, manifest);
            }
            Action::Switch(target) => {
                let slot = warm.expect("a candidate is warmed together with its loaded model");
                track.switched(slot);
                self.before.remove(model);
                self.instruments.switches.inc();
                self.changed = Changed {
                    set: true,
                    active: true,
                    files: true,
                };
                tracing::info!(release = %target.release, manifest = %target.manifest, "serves from now on");
            }
            Action::Rest(_, tries) => track.rest(tries, seed, clock::instant()),
            Action::Withdraw => {
                track.withdrawn();
                self.changed = Changed {
                    set: true,
                    active: true,
                    files: true,
                };
                tracing::info!(%model, "serves no more: the state does not name it");
            }
        }
        if let Some(track) = self.tracks.get_mut(model) {
            track.tidy();
        }
    }

    /// Manifests of the same model whose files may hold chunks of the next release.
    fn manifests_of(&self, model: &ModelName) -> Vec<Arc<Manifest>> {
        let Some(track) = self.tracks.get(model) else {
            return Vec::new();
        };
        let before = self.before.get(model);
        let ids: BTreeSet<_> = track.kept().chain(before).map(|t| t.manifest).collect();
        ids.iter()
            .filter_map(|id| self.works.shelf().manifest(id).ok().flatten())
            .collect()
    }

    fn wake_rested(&mut self) {
        let now = clock::instant();
        let rested: Vec<Target> = self.tracks.values_mut().filter_map(|track| track.rested(now)).collect();
        for target in rested {
            let model = target.release.model.clone();
            self.feed(&model, Event::RetryDue(target), None);
        }
    }

    async fn write_active(&self) {
        let build = self.works.build();
        let active = |(model, track): (&ModelName, &Track)| Some((model.clone(), track.active(&build)?));
        let active = self.tracks.iter().filter_map(active).collect();
        let kept = Arc::clone(&self.kept);
        match tokio::task::spawn_blocking(move || kept.save_active(&active)).await {
            Ok(Ok(())) => {}
            // It serves all the same; after a restart it is checked afresh and its bake begins again.
            Ok(Err(e)) => tracing::error!(error = runtime::telemetry::chain(&e), "could not keep what is active"),
            Err(e) => tracing::error!(error = %e, "could not keep what is active"),
        }
    }

    fn publish(&self, orders: &Orders) {
        let Some(accepted) = &orders.accepted else { return };
        let state = &accepted.state;
        let loaded = |(model, track): (&ModelName, &Track)| Some((model.clone(), track.loaded.clone()?));
        let models: PlainMap<_, _> = self.tracks.iter().filter_map(loaded).collect();
        let desired = state.desired.iter().map(|desired| &desired.release.model);
        let missing: BTreeSet<_> = desired.filter(|model| !models.contains_key(*model)).cloned().collect();
        let has_variant = |model: &ModelName| self.tracks.get(model).is_none_or(|track| track.no_variant.is_none());
        self.serving.publish(ServingSet {
            region: Some(state.region.clone()),
            tenants: state.tenants.iter().map(|t| (t.key_hash, t.clone())).collect(),
            coming: missing
                .iter()
                .any(|model| accepted.plan_of(model).is_some() && has_variant(model)),
            awaited: missing,
            models,
            seq: state.seq,
            epoch: state.epoch,
            checkpoint: state.checkpoint.clone(),
            stopped: self.stopped.clone(),
        });
    }

    /// Wakes the reporter only when something other than byte counts changed.
    fn tell(&self) {
        let mut models = Vec::new();
        self.tracks.values().for_each(|track| track.status(&mut models));
        let orders = self.orders.borrow().accepted.clone();
        let forbidden = orders.iter().flat_map(|accepted| &accepted.forbidden);
        models.extend(forbidden.map(|f| ModelStatus::refused(&f.release, f.manifest, f.why.to_string())));
        let stopped = self.stopped.clone();
        self.status.send_if_modified(|status| {
            let facts = |m: &ModelStatus| (m.manifest, m.stage.clone(), m.ready);
            let same = status.stopped == stopped && status.models.iter().map(facts).eq(models.iter().map(facts));
            *status = Status { models, stopped };
            !same
        });
    }

    /// Removes files that nothing here needs, once nothing is under way.
    async fn sweep(&mut self) {
        let quiet = self
            .tracks
            .values()
            .all(|track| track.machine.candidate == Candidate::None);
        // Without a state nobody knows what is needed: what lies here waits for the next one.
        let unknown = self.orders.borrow().accepted.is_none();
        if !quiet || !self.changed.files || self.stopped.is_some() || unknown {
            return;
        }
        self.changed.files = false;
        let keep: BTreeSet<Target> = self
            .tracks
            .values()
            .flat_map(Track::kept)
            .chain(self.before.values())
            .cloned()
            .collect();
        let shelf = self.works.shelf().clone();
        match tokio::task::spawn_blocking(move || shelf.sweep(&keep)).await {
            Ok(Ok(0)) => {}
            Ok(Ok(files)) => tracing::info!(files, "removed files of releases that are not needed any more"),
            Ok(Err(e)) => tracing::warn!(error = runtime::telemetry::chain(&e), "could not remove old files"),
            Err(e) => tracing::warn!(error = %e, "could not remove old files"),
        }
    }
}

/// Loads one release again. `None` when its files are gone or bad: then it is fetched like any other.
async fn reload(works: &Works, build: &str, active: &ActiveModel) -> Option<Arc<ModelSlot>> {
    let target = Target::from(active.serving.clone());
    let manifest = works.shelf().manifest(&target.manifest).ok().flatten()?;
    let golden = if active.checked_by == build {
        Golden::Known
    } else {
        Golden::Check
    };
    match works.prepared(&target, manifest, golden).await? {
        Outcome::Warmed(slot) => Some(slot),
        Outcome::Failed(why) => {
            tracing::error!(release = %target.release, why, "could not load what served before the restart");
            None
        }
        Outcome::Lacking(_) | Outcome::Fetched(_) => None,
    }
}
