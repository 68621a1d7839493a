//! Which job stands where, and what is next: pure, `now` is an argument.
//!
//! ```text
//!             take                    answered
//!   Queued ----------> Running ------------------> Done  --expires--> forgotten
//!     ^  |                |  \
//!     |  | expires        |   \ refused, or failed JOB_ATTEMPTS_MAX times
//!     |  v                |    v
//!     |  Failed           |   Failed (dead letter)      --expires--> forgotten
//!     +-------------------+ may pass: later, with backoff; called off: not counted
//! ```
//! Invariant: what is indexed is what the records say; every change goes through `Ledger::change`. Late and repeated
//! events of jobs that are gone are normal and do nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::time::Duration;

use proto::ids::{ContentHash, TenantId, UnixMs};
use proto::jobs::JobKey;
use proto::limits::{JOB_ATTEMPTS_MAX, WEBHOOK_ATTEMPTS_MAX};

use super::record::{Progress, Record, State, Trouble, Twin};
use crate::sync::Backoff;

/// Waits between runs of one job.
const RUN_WAIT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
/// Waits while a job cannot be run for a reason that is not its own.
const LATER_WAIT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));
/// Waits between sendings of one webhook.
const HOOK_WAIT: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(3600));

/// What may be kept, and how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Jobs, finished ones included.
    pub count_max: usize,
    /// Bytes of their files.
    pub bytes_max: u64,
    /// How long a job may wait for its answer.
    pub queue_ttl: Duration,
    /// How long it is kept when it is finished.
    pub result_ttl: Duration,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Its answer is on disk and takes so many bytes.
    Answered {
        /// Bytes of its file.
        bytes: u64,
    },
    /// It will never have one.
    Refused(Trouble),
    /// It may have one another time.
    Failed(Trouble),
    /// It was not this job's fault: not counted.
    Later(Trouble),
}

/// What an idempotency key has seen before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Nothing.
    New,
    /// The same question.
    Same(JobKey),
    /// Another question.
    Other,
}

/// There is no room for one more job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// All jobs of a node.
#[derive(Debug)]
pub struct Ledger {
    bounds: Bounds,
    jobs: HashMap<JobKey, Record>,
    twins: HashMap<ContentHash, JobKey>,
    /// Queued jobs by tenant, so that none waits behind all of another's.
    queued: BTreeMap<TenantId, BTreeSet<(UnixMs, JobKey)>>,
    /// Whose turn it was last.
    served: Option<TenantId>,
    ends: BTreeSet<(UnixMs, JobKey)>,
    hooks: BTreeSet<(UnixMs, JobKey)>,
    /// Webhooks that are being sent.
    sending: BTreeSet<JobKey>,
    used: HashMap<TenantId, (usize, u64)>,
    bytes: u64,
    counts: [usize; 4],
}

impl Ledger {
    /// No jobs.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            jobs: HashMap::new(),
            twins: HashMap::new(),
            queued: BTreeMap::new(),
            served: None,
            ends: BTreeSet::new(),
            hooks: BTreeSet::new(),
            sending: BTreeSet::new(),
            used: HashMap::new(),
            bytes: 0,
            counts: [0; 4],
        }
    }

    /// Puts a job back as it was on disk. One that was being run is queued again: whether its run ended, nobody knows.
    pub fn restore(&mut self, key: JobKey, mut record: Record) {
        if record.state == State::Running {
            record.state = State::Queued;
        }
        self.add(key, record);
    }

    /// Whether `tenant` may add a job of `bytes`: nobody takes more than half, so that nobody shuts others out.
    ///
    /// # Errors
    /// [`Full`].
    pub fn room(&self, tenant: &TenantId, bytes: u64) -> Result<(), Full> {
        let (count, used) = self.used.get(tenant).copied().unwrap_or_default();
        let Bounds {
            count_max, bytes_max, ..
        } = self.bounds;
        let all = self.jobs.len() < count_max && self.bytes.saturating_add(bytes) <= bytes_max;
        let own = count < count_max.div_ceil(2) && used.saturating_add(bytes) <= bytes_max / 2;
        if all && own { Ok(()) } else { Err(Full) }
    }

    /// What `twin` means here.
    #[must_use]
    pub fn seen(&self, twin: &Twin) -> Seen {
        let found = self
            .twins
            .get(&twin.key)
            .and_then(|key| Some((*key, self.jobs.get(key)?)));
        match found {
            None => Seen::New,
            Some((key, record)) if record.twin.is_some_and(|t| t.asked == twin.asked) => Seen::Same(key),
            Some(_) => Seen::Other,
        }
    }

    /// When a job that is accepted at `now` is given up.
    #[must_use]
    pub fn expiry(&self, now: UnixMs) -> UnixMs {
        now.saturating_add(ms(self.bounds.queue_ttl))
    }

    /// Adds a job. The caller has asked [`Ledger::room`] and [`Ledger::seen`].
    pub fn add(&mut self, key: JobKey, record: Record) {
        self.forget(key);
        self.index(key, &record);
        self.jobs.insert(key, record);
    }

    /// The job, if it is here.
    #[must_use]
    pub fn get(&self, key: JobKey) -> Option<&Record> {
        self.jobs.get(&key)
    }

    /// Jobs of `tenant` in `state`, or all of them, newest first.
    #[must_use]
    pub fn of_tenant(&self, tenant: &TenantId, state: Option<State>) -> Vec<(JobKey, &Record)> {
        let mine = |record: &Record| record.tenant == *tenant && state.is_none_or(|state| record.state == state);
        let mut found: Vec<(JobKey, &Record)> = self
            .jobs
            .iter()
            .filter(|(_, r)| mine(r))
            .map(|(key, record)| (*key, record))
            .collect();
        found.sort_by_key(|(key, record)| (std::cmp::Reverse(record.created), *key));
        found
    }

    /// Takes a job out.
    pub fn forget(&mut self, key: JobKey) -> Option<Record> {
        let record = self.jobs.remove(&key)?;
        self.unindex(key, &record);
        Some(record)
    }

    /// The next job to run, which runs from now on: tenants take turns, each its oldest first.
    pub fn take(&mut self, now: UnixMs) -> Option<(JobKey, Record)> {
        let due = |line: &BTreeSet<(UnixMs, JobKey)>| line.first().filter(|(at, _)| *at <= now).map(|(_, key)| *key);
        let after = match &self.served {
            Some(tenant) => (Bound::Excluded(tenant.clone()), Bound::Unbounded),
            None => (Bound::Unbounded, Bound::Unbounded),
        };
        let turn = self.queued.range(after).chain(self.queued.iter());
        let (tenant, key) = turn
            .filter_map(|(tenant, line)| Some((tenant.clone(), due(line)?)))
            .next()?;
        self.served = Some(tenant);
        let record = self.change(key, |record| {
            record.state = State::Running;
            record.attempts += 1;
        })?;
        Some((key, record))
    }

    /// Notes how a run ended. The job as it is now, if it is still here.
    pub fn ended(&mut self, key: JobKey, ending: Ending, now: UnixMs) -> Option<Record> {
        if self.jobs.get(&key)?.state != State::Running {
            return None;
        }
        let kept_until = now.saturating_add(ms(self.bounds.result_ttl));
        self.change(key, |record| match ending {
            // Running => Done.
            Ending::Answered { bytes } => {
                record.bytes = bytes;
                finish(record, State::Done, None, kept_until, now);
            }
            // Running => Failed, at once.
            Ending::Refused(trouble) => finish(record, State::Failed, Some(trouble), kept_until, now),
            // Running => Failed, it was tried often enough.
            Ending::Failed(trouble) if record.attempts >= JOB_ATTEMPTS_MAX => {
                finish(record, State::Failed, Some(trouble), kept_until, now);
            }
            // Running => Queued, after a wait.
            Ending::Failed(trouble) => {
                record.due = now.saturating_add(wait(RUN_WAIT, key, record.attempts));
                record.state = State::Queued;
                record.trouble = Some(trouble);
            }
            // Running => Queued, as if it had not been taken.
            Ending::Later(trouble) => {
                record.attempts = record.attempts.saturating_sub(1);
                let waited = u32::try_from((now.saturating_sub(record.created) / 1000).min(8)).unwrap_or(8);
                record.due = now.saturating_add(wait(LATER_WAIT, key, waited));
                record.state = State::Queued;
                record.trouble = Some(trouble);
            }
        })
    }

    /// Gives up and forgets what is over: jobs that are [`State::Failed`] now, and jobs that are gone. A running one is
    /// left until its run has ended.
    pub fn expire(&mut self, now: UnixMs) -> (Vec<(JobKey, Record)>, Vec<JobKey>) {
        let over: Vec<JobKey> = self
            .ends
            .iter()
            .take_while(|(at, _)| *at <= now)
            .map(|(_, key)| *key)
            .collect();
        let kept_until = now.saturating_add(ms(self.bounds.result_ttl));
        let (mut failed, mut gone) = (Vec::new(), Vec::new());
        for key in over {
            match self.jobs.get(&key).map(|record| record.state) {
                Some(State::Queued) => {
                    failed.extend(
                        self.change(key, |record| {
                            let last = record
                                .trouble
                                .take()
                                .map(|t| format!("; last: {}", t.message))
                                .unwrap_or_default();
                            let message = format!("the job was not answered in the time that jobs may wait here{last}");
                            let code = "expired".to_owned();
                            let trouble = Trouble {
                                status: 504,
                                code,
                                message,
                            };
                            finish(record, State::Failed, Some(trouble), kept_until, now);
                        })
                        .map(|record| (key, record)),
                    );
                }
                Some(State::Done | State::Failed) => {
                    self.forget(key);
                    gone.push(key);
                }
                Some(State::Running) | None => {}
            }
        }
        (failed, gone)
    }

    /// The next webhook to send, which is being sent from now on.
    pub fn take_hook(&mut self, now: UnixMs) -> Option<(JobKey, Record)> {
        let due = self.hooks.iter().take_while(|(at, _)| *at <= now);
        let key = due.map(|(_, key)| *key).find(|key| !self.sending.contains(key))?;
        self.sending.insert(key);
        Some((key, self.jobs.get(&key)?.clone()))
    }

    /// Notes whether the receiver has confirmed. The job as it is now, if it is still here.
    pub fn hook_ended(&mut self, key: JobKey, confirmed: bool, now: UnixMs) -> Option<Record> {
        self.sending.remove(&key);
        self.change(key, |record| {
            let Some(hook) = record.hook.as_mut() else { return };
            hook.attempts += 1;
            hook.progress = match confirmed {
                true => Progress::Sent,
                false if hook.attempts >= WEBHOOK_ATTEMPTS_MAX => Progress::GivenUp,
                false => Progress::Due(now.saturating_add(wait(HOOK_WAIT, key, hook.attempts))),
            };
        })
    }

    /// When there is something to do next, runs apart from webhooks.
    #[must_use]
    pub fn next_run(&self) -> Option<UnixMs> {
        let first = |line: &BTreeSet<(UnixMs, JobKey)>| line.first().map(|(at, _)| *at);
        self.queued.values().filter_map(first).min()
    }

    /// When the next webhook is to be sent.
    #[must_use]
    pub fn next_hook(&self) -> Option<UnixMs> {
        self.hooks
            .iter()
            .find(|(_, key)| !self.sending.contains(key))
            .map(|(at, _)| *at)
    }

    /// Tenants that have jobs here.
    #[must_use]
    pub fn tenants(&self) -> Vec<TenantId> {
        self.used.keys().cloned().collect()
    }

    /// Jobs by [`State::ALL`].
    #[must_use]
    pub fn counts(&self) -> [usize; 4] {
        self.counts
    }

    fn change(&mut self, key: JobKey, change: impl FnOnce(&mut Record)) -> Option<Record> {
        let mut record = self.jobs.remove(&key)?;
        self.unindex(key, &record);
        change(&mut record);
        self.index(key, &record);
        self.jobs.insert(key, record.clone());
        Some(record)
    }

    fn index(&mut self, key: JobKey, record: &Record) {
        if record.state == State::Queued {
            let line = self.queued.entry(record.tenant.clone()).or_default();
            line.insert((record.due, key));
        }
        if let Some(twin) = record.twin {
            self.twins.insert(twin.key, key);
        }
        self.ends.insert((record.expires, key));
        if let Some(at) = record.hook_due() {
            self.hooks.insert((at, key));
        }
        let used = self.used.entry(record.tenant.clone()).or_default();
        *used = (used.0 + 1, used.1 + record.bytes);
        self.bytes += record.bytes;
        self.counts[place(record.state)] += 1;
    }

    fn unindex(&mut self, key: JobKey, record: &Record) {
        if let Some(line) = self.queued.get_mut(&record.tenant) {
            line.remove(&(record.due, key));
            if line.is_empty() {
                self.queued.remove(&record.tenant);
            }
        }
        if let Some(twin) = record.twin
            && self.twins.get(&twin.key) == Some(&key)
        {
            self.twins.remove(&twin.key);
        }
        self.ends.remove(&(record.expires, key));
        if let Some(at) = record.hook_due() {
            self.hooks.remove(&(at, key));
        }
        if let Some(used) = self.used.get_mut(&record.tenant) {
            *used = (used.0 - 1, used.1 - record.bytes);
            if used.0 == 0 {
                self.used.remove(&record.tenant);
            }
        }
        self.bytes -= record.bytes;
        self.counts[place(record.state)] -= 1;
    }
}

fn finish(record: &mut Record, state: State, trouble: Option<Trouble>, kept_until: UnixMs, now: UnixMs) {
    record.state = state;
    record.trouble = trouble;
    record.expires = kept_until;
    if state == State::Failed {
        record.bytes = 0; // its files go
    }
    if let Some(hook) = record.hook.as_mut() {
        hook.progress = Progress::Due(now);
    }
}

fn place(state: State) -> usize {
    State::ALL.iter().position(|s| *s == state).unwrap_or_default()
}

/// The wait after `tries` tries, spread by the job's own random bits.
fn wait((base, cap): (Duration, Duration), key: JobKey, tries: u32) -> UnixMs {
    let seed = u64::from_le_bytes(*key.0.first_chunk().expect("a key has 16 bytes"));
    let grown = base.saturating_mul(1 << tries.saturating_sub(1).min(16)).min(cap);
    ms(Backoff::new(grown, cap, seed.wrapping_add(u64::from(tries))).wait())
}

fn ms(time: Duration) -> UnixMs {
    UnixMs::try_from(time.as_millis()).unwrap_or(UnixMs::MAX)
}

#[cfg(test)]
mod tests;
