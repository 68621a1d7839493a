//! One model on this node: its machine, what is loaded, and the job under way for its candidate.

use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::ids::{ContentHash, Release, UnixMs};
use proto::manifest::Manifest;
use proto::message::Stage;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::machine::{Candidate, Machine, Target};
use super::progress::Progress;
use super::status::ModelStatus;
use crate::serving::ModelSlot;
use crate::store::{ActiveModel, Held, Ready};
use crate::sync::Backoff;

/// The first rest of a refused release, doubling with each try.
const REST_BASE: Duration = Duration::from_secs(15);
/// The longest rest.
const REST_CAP: Duration = Duration::from_secs(600);

/// Everything about one model.
#[derive(Default)]
pub(super) struct Track {
    pub(super) machine: Machine,
    /// The model behind `machine.serving`.
    pub(super) loaded: Option<Arc<ModelSlot>>,
    /// By which plan what serves is ready. None between a switch and the pass that follows it.
    pub(super) ready: Option<Ready>,
    progress: Arc<Progress>,
    job: Option<Job>,
    /// Named by the state, but the plan has no form for this node's class.
    pub(super) no_variant: Option<(Release, ContentHash)>,
}

/// What is under way for a candidate. Dropping it cancels the fetch.
struct Job {
    target: Target,
    progress: Arc<Progress>,
    manifest: Option<Arc<Manifest>>,
    refusal: Option<String>,
    retry_at: Option<Instant>,
    cancel: CancellationToken,
    _guard: DropGuard,
}

impl Track {
    /// A model that was restored after a restart.
    pub(super) fn resumed(serving: Target, active: &ActiveModel, loaded: Arc<ModelSlot>) -> Self {
        let progress = Arc::new(Progress::default());
        progress.set_need(loaded.manifest.files_for(&loaded.variant).map(|f| f.bytes).sum());
        Self {
            machine: Machine::resumed(serving, active.previous.clone().map(Target::from)),
            loaded: Some(loaded),
            ready: active.ready,
            progress,
            ..Self::default()
        }
    }

    /// A model that served before a restart and could not be loaded again as it lay there.
    pub(super) fn lost(active: &ActiveModel) -> Self {
        let previous = active.previous.clone().map(Target::from);
        Self {
            machine: Machine {
                previous,
                ..Machine::default()
            },
            ..Self::default()
        }
    }

    /// Begins a job, or goes on with the one for the same release; gives what the fetcher needs.
    pub(super) fn begin(&mut self, target: &Target) -> (Arc<Progress>, CancellationToken) {
        let job = match self.job.take() {
            Some(job) if &job.target == target => job,
            _ => Job::new(target.clone()),
        };
        let needed = (Arc::clone(&job.progress), job.cancel.clone());
        self.job = Some(Job {
            refusal: None,
            retry_at: None,
            ..job
        });
        needed
    }

    /// Keeps what the fetcher found.
    pub(super) fn fetched(&mut self, target: &Target, manifest: Arc<Manifest>) {
        if let Some(job) = self.job.as_mut().filter(|job| &job.target == target) {
            job.manifest = Some(manifest);
        }
    }

    /// The manifest of the candidate, once it was fetched.
    pub(super) fn manifest(&self) -> Option<Arc<Manifest>> {
        self.job.as_ref()?.manifest.clone()
    }

    /// Keeps why a candidate failed.
    pub(super) fn failed(&mut self, target: &Target, why: String) {
        if let Some(job) = self.job.as_mut().filter(|job| &job.target == target) {
            job.refusal = Some(why);
        }
    }

    /// Lets a refused candidate rest; the wait grows with the tries.
    pub(super) fn rest(&mut self, tries: u8, seed: u64, now: Instant) {
        let mut backoff = Backoff::new(REST_BASE, REST_CAP, seed);
        let wait = (0..tries.max(1)).fold(Duration::ZERO, |_, _| backoff.wait());
        if let Some(job) = &mut self.job {
            job.retry_at = Some(now + wait);
        }
    }

    /// The refused candidate, once it has rested.
    pub(super) fn rested(&mut self, now: Instant) -> Option<Target> {
        let job = self.job.as_mut()?;
        job.retry_at.take_if(|at| *at <= now).map(|_| job.target.clone())
    }

    /// The candidate serves from now on; [`Track::wanted_by`] says by which plan.
    pub(super) fn switched(&mut self, loaded: Arc<ModelSlot>) {
        if let Some(job) = self.job.take() {
            self.progress = job.progress;
        }
        self.loaded = Some(loaded);
        self.ready = None;
    }

    /// `target` is wanted by `plan`: if it serves, it has been ready for this plan since `now`, or since it was told so
    /// first. True if that is new.
    pub(super) fn wanted_by(&mut self, plan: ContentHash, target: &Target, now: UnixMs) -> bool {
        let is_new = self.machine.serving.as_ref() == Some(target) && self.ready.is_none_or(|ready| ready.plan != plan);
        if is_new {
            self.ready = Some(Ready { plan, since: now });
        }
        is_new
    }

    /// The model is not wanted any more.
    pub(super) fn withdrawn(&mut self) {
        (self.loaded, self.ready) = (None, None);
    }

    /// Drops a job whose candidate was given up.
    pub(super) fn tidy(&mut self) {
        let candidate = self.machine.candidate.target();
        if self.job.as_ref().is_some_and(|job| Some(&job.target) != candidate) {
            self.job = None;
        }
    }

    /// How it lies in `active.json`; none while it does not serve.
    pub(super) fn active(&self, checked_by: &str) -> Option<ActiveModel> {
        let serving = Held::from(self.machine.serving.as_ref()?);
        let previous = self.machine.previous.as_ref().map(Held::from);
        Some(ActiveModel {
            serving,
            ready: self.ready,
            checked_by: checked_by.to_owned(),
            previous,
        })
    }

    /// Releases whose files stay: `{previous, stable, candidate}`.
    pub(super) fn kept(&self) -> impl Iterator<Item = &Target> {
        let machine = &self.machine;
        machine
            .serving
            .iter()
            .chain(&machine.previous)
            .chain(machine.candidate.target())
    }

    /// Its lines of the report.
    pub(super) fn status(&self, lines: &mut Vec<ModelStatus>) {
        let line = |t: &Target, stage, ready, progress: &Arc<Progress>| ModelStatus {
            release: t.release.clone(),
            manifest: t.manifest,
            stage,
            ready,
            progress: Arc::clone(progress),
        };
        if let Some(serving) = &self.machine.serving {
            lines.push(line(serving, Stage::Serving, self.ready, &self.progress));
        }
        let refusal = || {
            self.job
                .as_ref()
                .and_then(|job| job.refusal.clone())
                .unwrap_or_default()
        };
        let candidate = match &self.machine.candidate {
            Candidate::None => None,
            Candidate::Fetching(t, _) => Some((t, Stage::Fetching)),
            Candidate::Warming(t, _) => Some((t, Stage::Warming)),
            Candidate::Refused(t, _) => Some((t, Stage::Refused(refusal()))),
        };
        if let (Some((target, stage)), Some(job)) = (candidate, &self.job) {
            lines.push(line(target, stage, None, &job.progress));
        }
        if let Some((release, manifest)) = &self.no_variant {
            let why = "the plan names no variant for this node's class: sign one that does";
            lines.push(ModelStatus::refused(release, *manifest, why.to_owned()));
        }
    }
}

impl Job {
    fn new(target: Target) -> Self {
        let cancel = CancellationToken::new();
        let guard = cancel.clone().drop_guard();
        Self {
            target,
            progress: Arc::default(),
            manifest: None,
            refusal: None,
            retry_at: None,
            cancel,
            _guard: guard,
        }
    }
}
