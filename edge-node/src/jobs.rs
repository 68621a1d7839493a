//! Answers for those who do not wait: jobs that are accepted durably, run when nobody else waits, and kept until they are
//! fetched.
//!
//! ```text
//!   ingress --submit--> ledger + store --take--> worker --> ingress runs it, last in the queue --ended--> ledger + store
//!                                                                                                |
//!                                                                 webhook task: signed, to hosts that the operator allows
//! ```
//! [`ledger`] decides and is pure, [`store`] is the disk, [`worker`] and [`webhook`] are loops. A job runs at least once: one
//! whose answer was not stored before a crash runs again. Jobs never leave the node, and a tenant's are erased where its
//! boundary no longer holds the node.

pub mod ledger;
pub mod record;
pub mod store;
pub mod webhook;
pub mod worker;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use proto::ids::{NodeId, TenantId};
use proto::jobs::{JobId, JobKey};
use runtime::clock;
use tokio::sync::Notify;

use crate::metrics::Metrics;
use ledger::{Bounds, Ending, Full, Ledger, Seen};
use record::{Ask, Hook, Kept, Progress, Record, State, Trouble, Twin};
use store::{Part, Store, StoreError};
use webhook::Allowed;

/// What an operator says of jobs.
#[derive(Clone, Debug)]
pub struct JobsConfig {
    /// What may be kept, and how long.
    pub bounds: Bounds,
    /// Jobs that are run at the same time.
    pub at_once: usize,
    /// Where webhooks may be sent.
    pub webhooks: Vec<Allowed>,
    /// Authorities whose certificates receivers of webhooks may have, PEM.
    pub webhook_ca: PathBuf,
    /// Where jobs lie.
    pub folder: PathBuf,
}

/// What a client wants done later.
#[derive(Debug)]
pub struct Submission {
    /// Whose it is.
    pub tenant: TenantId,
    /// What is to be run.
    pub ask: Ask,
    /// The body as it was sent.
    pub body: bytes::Bytes,
    /// What makes it the same as another.
    pub twin: Option<Twin>,
    /// Whom to tell.
    pub webhook: Option<String>,
}

/// Why a job is not accepted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// No room.
    #[error("as many jobs as may be kept are kept")]
    Full,
    /// The idempotency key came with another question before.
    #[error("the idempotency key was used for another question")]
    Mismatch,
    /// The disk.
    #[error("the job could not be stored")]
    Store(#[from] StoreError),
    /// No random bits.
    #[error("the system gives no random bits")]
    Random,
}

/// The jobs of a node. Clones share them.
#[derive(Clone, Debug)]
pub struct Jobs(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    node: NodeId,
    config: JobsConfig,
    store: Store,
    ledger: Mutex<Ledger>,
    metrics: Metrics,
    /// A job may be due.
    work: Notify,
    /// A webhook may be due.
    hooks: Notify,
}

impl Jobs {
    /// Opens the jobs of `node` with all that were accepted before. Blocks.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn open(node: NodeId, config: JobsConfig, metrics: Metrics) -> Result<Self, StoreError> {
        let (store, found) = Store::open(&config.folder)?;
        let mut ledger = Ledger::new(config.bounds);
        for (key, record) in found {
            ledger.restore(key, record);
        }
        let jobs = Self(Arc::new(Shared {
            node,
            config,
            store,
            ledger: Mutex::new(ledger),
            metrics,
            work: Notify::new(),
            hooks: Notify::new(),
        }));
        jobs.0.tell(&jobs.0.lock());
        Ok(jobs)
    }

    /// What the operator says of them.
    #[must_use]
    pub fn config(&self) -> &JobsConfig {
        &self.0.config
    }

    /// The full name of a job of this node.
    #[must_use]
    pub fn id(&self, key: JobKey) -> JobId {
        JobId {
            node: self.0.node.clone(),
            key,
        }
    }

    /// The key of `id`, if it is a job of this node.
    #[must_use]
    pub fn key(&self, id: &JobId) -> Option<JobKey> {
        (id.node == self.0.node).then_some(id.key)
    }

    /// Accepts a job, durably when this returns; the same job again for the same question under the same idempotency key.
    ///
    /// # Errors
    /// [`SubmitError`]; nothing is kept then.
    pub async fn submit(&self, submission: Submission) -> Result<(JobKey, Record), SubmitError> {
        self.aside(move |shared| shared.submit(submission)).await
    }

    /// The job, if it is here and `tenant`'s.
    #[must_use]
    pub fn get(&self, key: JobKey, tenant: &TenantId) -> Option<Record> {
        self.0
            .lock()
            .get(key)
            .filter(|record| record.tenant == *tenant)
            .cloned()
    }

    /// Jobs of `tenant`, newest first, at most `max`; and how many there are.
    #[must_use]
    pub fn list(&self, tenant: &TenantId, state: Option<State>, max: usize) -> (Vec<(JobKey, Record)>, usize) {
        let ledger = self.0.lock();
        let found = ledger.of_tenant(tenant, state);
        let all = found.len();
        (
            found
                .into_iter()
                .take(max)
                .map(|(key, record)| (key, record.clone()))
                .collect(),
            all,
        )
    }

    /// The answer of a job that is done.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn answer(&self, key: JobKey) -> Result<Option<Kept>, StoreError> {
        self.aside(move |shared| Ok(Kept::read(&shared.store.read(key, Part::Answer)?)))
            .await
    }

    /// Forgets a job: it is not run any more, and its files go. One that is being run is finished for nobody.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn forget(&self, key: JobKey) -> Result<(), StoreError> {
        self.aside(move |shared| {
            let gone = shared.change(|ledger| ledger.forget(key));
            gone.map_or(Ok(()), |_| shared.store.remove(key))
        })
        .await
    }

    /// Runs `work` where it may block. Nothing of it is undone when the caller leaves.
    async fn aside<T: Send + 'static>(&self, work: impl FnOnce(&Shared) -> T + Send + 'static) -> T {
        let shared = Arc::clone(&self.0);
        let work = tokio::task::spawn_blocking(move || work(&shared));
        work.await.expect("jobs are read and written without a panic")
    }
}

impl Shared {
    fn submit(&self, submission: Submission) -> Result<(JobKey, Record), SubmitError> {
        let Submission {
            tenant,
            ask,
            body,
            twin,
            webhook,
        } = submission;
        if let Some(known) = self.known(twin.as_ref())? {
            return Ok(known);
        }
        let bytes = u64::try_from(body.len()).unwrap_or(u64::MAX);
        self.lock().room(&tenant, bytes).map_err(|Full| SubmitError::Full)?;
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(|_| SubmitError::Random)?;
        let key = JobKey(random);
        self.store.write(key, Part::Body, &body)?;
        let now = clock::now_ms();
        let hook = webhook.map(|url| Hook {
            url,
            attempts: 0,
            progress: Progress::Idle,
        });
        let accepted = self.accept(key, |ledger| Record {
            tenant,
            ask,
            twin,
            state: State::Queued,
            attempts: 0,
            created: now,
            due: now,
            expires: ledger.expiry(now),
            bytes,
            trouble: None,
            hook,
        });
        if !matches!(&accepted, Ok((accepted, _)) if *accepted == key) {
            self.store.drop_file(key, Part::Body);
        }
        accepted
    }

    /// Adds the job unless another submission was faster, and makes either durable.
    fn accept(&self, key: JobKey, record: impl FnOnce(&Ledger) -> Record) -> Result<(JobKey, Record), SubmitError> {
        let mut ledger = self.lock();
        let record = record(&ledger);
        let seen = record.twin.as_ref().map_or(Seen::New, |twin| ledger.seen(twin));
        if seen == Seen::New {
            ledger
                .room(&record.tenant, record.bytes)
                .map_err(|Full| SubmitError::Full)?;
            self.store.put(key, &record)?;
            ledger.add(key, record.clone());
            self.tell(&ledger);
            drop(ledger);
            if let Err(error) = self.store.flush() {
                self.lock().forget(key);
                return Err(error.into());
            }
            self.work.notify_one();
            return Ok((key, record));
        }
        drop(ledger);
        self.known(record.twin.as_ref())?.ok_or(SubmitError::Full)
    }

    /// The job that is meant again, as durable as a new one would be.
    fn known(&self, twin: Option<&Twin>) -> Result<Option<(JobKey, Record)>, SubmitError> {
        let Some(twin) = twin else { return Ok(None) };
        let ledger = self.lock();
        let found = match ledger.seen(twin) {
            Seen::New => return Ok(None),
            Seen::Other => return Err(SubmitError::Mismatch),
            Seen::Same(key) => ledger.get(key).map(|record| (key, record.clone())),
        };
        drop(ledger);
        self.store.flush()?;
        Ok(found)
    }

    /// Takes the next job and notes durably that its run begins: one that kills the node is not run for ever.
    fn take(&self) -> Option<worker::Taken> {
        let (key, record) = self.change(|ledger| ledger.take(clock::now_ms()))?;
        self.note(key, &record);
        match self.store.read(key, Part::Body) {
            Ok(body) => Some(worker::Taken {
                key,
                record,
                body: body.into(),
            }),
            Err(error) => {
                tracing::error!(error = chain(&error), "a job is given up: its body is gone");
                let message = "the node lost the body of this job: submit it again".to_owned();
                let trouble = Trouble {
                    status: 500,
                    code: "internal".to_owned(),
                    message,
                };
                self.ended(key, worker::Outcome::Refused(trouble));
                None
            }
        }
    }

    /// Notes how a run ended; an answer is on disk before anybody is told of it.
    fn ended(&self, key: JobKey, outcome: worker::Outcome) {
        if self.lock().get(key).is_none() {
            return; // forgotten while it ran
        }
        let ending = match outcome {
            worker::Outcome::Answered(kept) => {
                let bytes = kept.write();
                match self.store.write(key, Part::Answer, &bytes) {
                    Ok(()) => Ending::Answered {
                        bytes: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
                    },
                    Err(error) => {
                        tracing::error!(error = chain(&error), "a job's answer is not kept");
                        let message = "the node could not store the answer".to_owned();
                        Ending::Failed(Trouble {
                            status: 503,
                            code: "storage".to_owned(),
                            message,
                        })
                    }
                }
            }
            worker::Outcome::Refused(trouble) => Ending::Refused(trouble),
            worker::Outcome::Failed(trouble) => Ending::Failed(trouble),
            worker::Outcome::Later(trouble) => Ending::Later(trouble),
        };
        match self.change(|ledger| ledger.ended(key, ending, clock::now_ms())) {
            Some(record) => {
                self.note(key, &record);
                self.tidy(key, record.state);
            }
            // Forgotten while the answer was written.
            None => self.store.drop_file(key, Part::Answer),
        }
        self.hooks.notify_one();
    }

    /// Gives up and forgets what is over, and erases the jobs of tenants whose data may not lie here.
    fn sweep(&self, may_hold: impl Fn(&TenantId) -> bool) {
        let (failed, mut gone) = self.change(|ledger| ledger.expire(clock::now_ms()));
        for (key, record) in failed {
            self.note(key, &record);
            self.tidy(key, State::Failed);
            self.hooks.notify_one();
        }
        gone.extend(self.change(|ledger| {
            let foreign: Vec<TenantId> = ledger
                .tenants()
                .into_iter()
                .filter(|tenant| !may_hold(tenant))
                .collect();
            let keys = foreign
                .iter()
                .flat_map(|tenant| ledger.of_tenant(tenant, None))
                .map(|(key, _)| key);
            let keys: Vec<JobKey> = keys.collect();
            keys.into_iter()
                .filter(|key| ledger.forget(*key).is_some())
                .collect::<Vec<_>>()
        }));
        for key in gone {
            if let Err(error) = self.store.remove(key) {
                tracing::error!(error = chain(&error), "a job that is over stays on disk");
            }
        }
    }

    /// Removes the files that a job in `state` needs no more.
    fn tidy(&self, key: JobKey, state: State) {
        if state.is_final() {
            self.store.drop_file(key, Part::Body);
        }
        if state == State::Failed {
            self.store.drop_file(key, Part::Answer);
        }
    }

    /// Writes a change. Where the disk fails the change holds until the next start, and the job may run once more then.
    fn note(&self, key: JobKey, record: &Record) {
        let written = self.store.put(key, record).and_then(|()| self.store.flush());
        if let Err(error) = written {
            tracing::error!(error = chain(&error), "a job's change is not on disk");
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut Ledger) -> T) -> T {
        let mut ledger = self.lock();
        let changed = change(&mut ledger);
        self.tell(&ledger);
        changed
    }
    fn tell(&self, ledger: &Ledger) {
        self.metrics.jobs_are(ledger.counts());
    }
    fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An error as logs take it, with all that it came from.
pub(crate) fn chain(error: &(impl std::error::Error + 'static)) -> &(dyn std::error::Error + 'static) {
    error
}

#[cfg(test)]
mod tests;
