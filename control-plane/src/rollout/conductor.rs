//! The loop that moves rollouts on and keeps everybody told: woken by the log, by reports and by the clock.
//!
//! Each pass reads what the log and the evidence say by now, appends what follows, and then makes the states and
//! views that follow from that. A pass is idempotent, so it does not matter what woke it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use proto::entry::{Fleet, PlanEntry};
use proto::ids::{NodeId, UnixMs};
use proto::message::NodeReport;
use runtime::clock;
use runtime::lifecycle::Lifecycle;
use runtime::reconcile::reconcile;
use tokio::sync::watch;

use super::evidence::Evidence;
use super::keeper::{KeepError, Keeper};
use super::next;
use crate::artifacts::documents::{Documents, Plans, plans_needed};
use crate::ledger::Ledger;
use crate::metrics::Instruments;
use crate::registry::Registry;
use crate::state::Moment;
use crate::state::maker::Maker;

/// How often a pass runs though nothing has woken it: bake times end and states are renewed by the clock.
const PERIOD: Duration = Duration::from_secs(1);
/// Rounds of entries in one pass: each wave takes a few, and the next pass goes on.
const ROUNDS_MAX: usize = 64;

/// Evidence, rollouts and states together. Cheap to clone.
#[derive(Clone)]
pub struct Conductor {
    ledger: Ledger,
    documents: Documents,
    registry: Registry,
    instruments: Instruments,
    evidence: Arc<Mutex<Evidence>>,
    keeper: Arc<Keeper>,
    maker: Arc<Mutex<Maker>>,
    wake: watch::Sender<u64>,
}

/// What a conductor works with.
pub struct Parts {
    /// The log.
    pub ledger: Ledger,
    /// The signed documents.
    pub documents: Documents,
    /// Telemetry of nodes, and whether a fork was seen.
    pub registry: Registry,
    /// Makes states.
    pub maker: Maker,
    /// Keeps evidence.
    pub keeper: Keeper,
    /// Counts.
    pub instruments: Instruments,
}

impl Conductor {
    /// Goes on with the evidence that is on disk. Blocking.
    ///
    /// # Errors
    /// [`KeepError`].
    pub fn new(parts: Parts) -> Result<Self, KeepError> {
        let plans = parts.documents.plans_of(&parts.ledger.snapshot().fleet);
        parts.keeper.sweep(&plans_needed(&parts.ledger.snapshot().fleet))?;
        let mut evidence = Evidence::default();
        parts.keeper.recall(&plans, &mut evidence);
        Ok(Self {
            ledger: parts.ledger,
            documents: parts.documents,
            registry: parts.registry,
            instruments: parts.instruments,
            evidence: Arc::new(Mutex::new(evidence)),
            keeper: Arc::new(parts.keeper),
            maker: Arc::new(Mutex::new(parts.maker)),
            wake: watch::channel(0).0,
        })
    }

    /// Runs until the lifecycle drains.
    pub async fn run(self, lifecycle: Lifecycle) {
        let mut changes = self.ledger.changes();
        let (waker, drained) = (self.wake.clone(), lifecycle.clone());
        lifecycle.spawn("wake-on-log", async move {
            loop {
                let gone = tokio::select! {
                    () = drained.drain().cancelled() => true,
                    changed = changes.changed() => changed.is_err(),
                };
                if gone {
                    return;
                }
                waker.send_modify(|count| *count = count.wrapping_add(1));
            }
        });
        let wanted = self.wake.subscribe();
        reconcile(lifecycle, wanted, PERIOD, move |_| self.clone().pass()).await;
    }

    /// Takes the signed reports inside a node's report as evidence. Blocking: what is new is on disk when it returns.
    pub fn take(&self, from: &NodeId, report: &NodeReport) {
        let snapshot = self.ledger.snapshot();
        let plans = self.documents.plans_of(&snapshot.fleet);
        for ready in report.models.iter().filter_map(|model| model.ready.as_ref()) {
            let mut evidence = self.evidence.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(plan) = evidence.offer(&snapshot.fleet, &plans, from, ready) else {
                continue;
            };
            if let Err(error) = self.keeper.save(&plan, &evidence) {
                tracing::error!(error = runtime::telemetry::chain(&error), "evidence is in memory only");
            }
            drop(evidence);
            self.wake.send_modify(|count| *count = count.wrapping_add(1));
        }
    }

    /// What an open plan waits for, in words; none when it goes on by itself. Blocking at first sight.
    #[must_use]
    pub fn waits_for(&self, fleet: &Fleet, entry: &PlanEntry, now: UnixMs) -> Option<String> {
        let doc = self.documents.plan(&entry.id);
        let Some(doc) = doc else {
            return Some("its document is not in the store: put the plan again".to_owned());
        };
        let evidence = self.evidence.lock().unwrap_or_else(PoisonError::into_inner);
        super::waits_for(fleet, entry, &doc.plan, &evidence, now)
    }

    async fn pass(self) {
        for _ in 0..ROUNDS_MAX {
            let now = clock::now_ms();
            let (conductor, snapshot) = (self.clone(), self.ledger.snapshot());
            let fleet = Arc::clone(&snapshot);
            let work = tokio::task::spawn_blocking(move || conductor.due(&fleet.fleet, now)).await;
            let Ok((plans, bodies)) = work else { return };
            if bodies.is_empty() {
                let conductor = self.clone();
                let made = tokio::task::spawn_blocking(move || conductor.make(&snapshot, &plans, now)).await;
                return made.unwrap_or_default();
            }
            for body in bodies {
                let kind = body.kind();
                if let Err(refusal) = self.ledger.say(body).await {
                    tracing::warn!(kind, %refusal, "not logged; looking again");
                    return;
                }
            }
        }
    }

    /// What the log should say next: nothing while a fork has not been explained.
    fn due(&self, fleet: &Fleet, now: UnixMs) -> (Plans, Vec<proto::entry::Body>) {
        let plans = self.documents.plans_of(fleet);
        let mut evidence = self.evidence.lock().unwrap_or_else(PoisonError::into_inner);
        evidence.retain(&plans_needed(fleet));
        self.keeper.recall(&plans, &mut evidence);
        let bodies = if self.registry.fork().is_some() {
            Vec::new()
        } else {
            next(fleet, &plans, &evidence, now)
        };
        drop(evidence);
        (plans, bodies)
    }

    fn make(&self, snapshot: &crate::ledger::Snapshot, plans: &Plans, now: UnixMs) {
        let mut maker = self.maker.lock().unwrap_or_else(PoisonError::into_inner);
        if !maker.is_due(snapshot.fleet.epoch, now) {
            return;
        }
        let evidence = self.evidence.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let moment = Moment {
            fleet: &snapshot.fleet,
            plans,
            evidence: &evidence,
            checkpoint: &snapshot.checkpoint,
            expires: maker.expires(now),
        };
        match maker.round(&moment, now) {
            Ok(stuck) => {
                let made = snapshot.fleet.regions.len() + 1 - stuck.len();
                self.instruments
                    .states_made
                    .inc_by(u64::try_from(made).unwrap_or(u64::MAX));
                self.instruments
                    .regions_stuck
                    .set(i64::try_from(stuck.len()).unwrap_or(i64::MAX));
                for error in stuck {
                    tracing::error!(%error, "the region keeps its last state");
                }
            }
            Err(error) => tracing::error!(error = runtime::telemetry::chain(&error), "no states were made"),
        }
    }
}
