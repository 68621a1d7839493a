//! Performs what the machines decide, each job in a task of its own that reports back with a [`Done`].
//!
//! Loading runs on threads of its own, at most [`WARMING_MAX`] at a time: it takes seconds of CPU and may never hold up
//! the threads that serve sockets.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use engine::leisure::{PATIENCE_AHEAD, at_leisure};
use proto::manifest::Manifest;
use runtime::lifecycle::Lifecycle;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::fetch::Fetcher;
use super::machine::Target;
use super::package::{Loader, Package};
use super::progress::Progress;
use super::shelf::Shelf;
use crate::memory::{Load, Memory, NICE_AHEAD, Seat};
use crate::serving::ModelSlot;

/// Models that are checked and loaded at the same time.
const WARMING_MAX: usize = 2;
/// Stack of a loading thread: graph optimisers recurse.
const STACK_BYTES: usize = 16 << 20;

/// How a job ended.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) target: Target,
    pub(super) outcome: Outcome,
}

#[derive(Debug)]
pub(super) enum Outcome {
    Fetched(Arc<Manifest>),
    Warmed(Arc<ModelSlot>),
    /// Files on disk are not what they were.
    Lacking(usize),
    Failed(String),
}

/// Whether this very build has reproduced the golden vectors with these very bytes before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Golden {
    Known,
    Check,
}

/// Starts jobs. Clones share everything.
#[derive(Clone)]
pub(super) struct Works {
    fetcher: Fetcher,
    loader: Arc<dyn Loader>,
    lifecycle: Lifecycle,
    done: mpsc::Sender<Done>,
    warming: Arc<Semaphore>,
    memory: Memory,
}

impl Works {
    pub(super) fn new(
        fetcher: Fetcher,
        loader: Arc<dyn Loader>,
        memory: Memory,
        lifecycle: Lifecycle,
        done: mpsc::Sender<Done>,
    ) -> Self {
        Self {
            fetcher,
            loader,
            lifecycle,
            done,
            warming: Arc::new(Semaphore::new(WARMING_MAX)),
            memory,
        }
    }

    pub(super) fn shelf(&self) -> &Shelf {
        &self.fetcher.shelf
    }

    /// What the loader calls itself: golden vectors that another build reproduced are reproduced again.
    pub(super) fn build(&self) -> String {
        self.loader.build()
    }

    /// Fetches until it is done, fails, or `cancel` is called.
    pub(super) fn fetch(
        &self,
        target: Target,
        progress: Arc<Progress>,
        known: Vec<Arc<Manifest>>,
        cancel: CancellationToken,
    ) {
        let (works, drain) = (self.clone(), self.lifecycle.drain().clone());
        self.lifecycle.spawn("release fetch", async move {
            let fetched = tokio::select! {
                fetched = works.fetcher.fetch(&target, &progress, &known) => fetched,
                () = cancel.cancelled() => return,
                () = drain.cancelled() => return,
            };
            let outcome = match fetched {
                Ok(manifest) => Outcome::Fetched(manifest),
                Err(e) => Outcome::Failed(runtime::telemetry::chain(&e)),
            };
            // Nobody listens only when the node stops.
            let _ = works.done.send(Done { target, outcome }).await;
        });
    }

    /// Hashes, checks, loads and warms.
    pub(super) fn warm(&self, target: Target, manifest: Arc<Manifest>) {
        let works = self.clone();
        self.lifecycle.spawn("release warm", async move {
            let Some(outcome) = works.prepared(&target, manifest, Golden::Check).await else {
                return;
            };
            let _ = works.done.send(Done { target, outcome }).await;
        });
    }

    /// As [`Works::warm`], waiting for the end. `None` when the node stops first.
    pub(super) async fn prepared(&self, target: &Target, manifest: Arc<Manifest>, golden: Golden) -> Option<Outcome> {
        let permit = Arc::clone(&self.warming).acquire_owned().await.ok()?;
        let (send, receive) = oneshot::channel();
        let (works, target) = (self.clone(), target.clone());
        let work = move || {
            let prepare = || at_leisure(NICE_AHEAD, PATIENCE_AHEAD, || works.prepare(&target, &manifest, golden));
            let prepare = AssertUnwindSafe(prepare);
            let panicked = |_| Outcome::Failed("loading panicked: the model is not served".to_owned());
            // Nobody listens only when the node stops.
            let _ = send.send(catch_unwind(prepare).unwrap_or_else(panicked));
            drop(permit);
        };
        let thread = std::thread::Builder::new()
            .name("release warm".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(work);
        if let Err(e) = thread {
            return Some(Outcome::Failed(format!("no thread to load on: {e}")));
        }
        tokio::select! {
            outcome = receive => outcome.ok(),
            () = self.lifecycle.drain().cancelled() => None,
        }
    }

    /// The blocking part, in the order in which it becomes more trusting.
    #[tracing::instrument(name = "release.warm", skip_all, fields(release = %target.release))]
    fn prepare(&self, target: &Target, manifest: &Arc<Manifest>, golden: Golden) -> Outcome {
        let Some(variant) = manifest.variant(&target.variant) else {
            return Outcome::Failed(format!("the manifest has no variant `{}`", target.variant));
        };
        match self.shelf().unsound(manifest, variant) {
            Ok(0) => {}
            Ok(files) => {
                self.fetcher
                    .instruments
                    .bad_files
                    .inc_by(u64::try_from(files).unwrap_or(u64::MAX));
                tracing::error!(release = %target.release, files, "files on disk do not match their digest");
                return Outcome::Lacking(files);
            }
            Err(e) => return Outcome::Failed(runtime::telemetry::chain(&e)),
        }
        let package = self.shelf().package(manifest, variant);
        let checked = if golden == Golden::Known {
            Ok(())
        } else {
            self.loader.check(&package)
        };
        let slot = checked.and_then(|()| self.seated(package, golden)).and_then(|seat| {
            ModelSlot::seated(target.manifest, Arc::clone(manifest), variant.clone(), seat)
                .ok_or_else(|| "the variant's file is not in the manifest".to_owned())
        });
        slot.map_or_else(Outcome::Failed, |slot| Outcome::Warmed(Arc::new(slot)))
    }

    /// Loads it, and lets others leave memory for it. What served before a restart is left on disk where it does not fit: the
    /// first who asks brings it back.
    fn seated(&self, package: Package, golden: Golden) -> Result<Seat, String> {
        let Package { manifest, variant, .. } = &package;
        let (model, load_us) = (manifest.model.clone(), u64::from(variant.measured.load_us));
        let bytes = manifest.files_for(variant).map(|file| file.bytes).sum();
        let may_wait = golden == Golden::Known && !self.memory.is_pinned(&model);
        let room = if may_wait {
            self.memory.room(bytes)
        } else {
            Some(self.memory.make_room(bytes))
        };
        let loaded = room.as_ref().map(|_| self.loader.load(&package)).transpose()?;
        let (loader, shelf) = (Arc::clone(&self.loader), self.shelf().clone());
        let again: Load = Arc::new(move || match shelf.unsound(&package.manifest, &package.variant) {
            Ok(0) => loader.load(&package),
            Ok(files) => Err(format!(
                "{files} files on disk do not match their digest: restart the node to fetch them again"
            )),
            Err(e) => Err(runtime::telemetry::chain(&e)),
        });
        let seat = self
            .memory
            .seat(&model, bytes, Duration::from_micros(load_us), again, loaded);
        drop(room);
        Ok(seat)
    }
}
