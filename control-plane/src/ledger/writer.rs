//! The task that owns the right to append.

use std::sync::{Arc, Mutex};

use proto::entry::{Body, Fleet};
use proto::ids::UnixMs;
use proto::message::ErrorCode;
use runtime::clock;
use runtime::lifecycle::Lifecycle;
use tokio::sync::{mpsc, oneshot, watch};

use super::judge::{self, Refusal};
use super::{Logged, Snapshot, Submission, What, lock};
use crate::artifacts::documents::Documents;
use crate::metrics::Instruments;
use models::log::Log;

/// Entries that are brought to disk together.
const BATCH_MAX: usize = 64;

/// Appends what is submitted, one batch after the other.
pub struct Writer {
    pub(super) log: Arc<Mutex<Log>>,
    pub(super) documents: Documents,
    pub(super) instruments: Instruments,
    pub(super) submissions: mpsc::Receiver<Submission>,
    pub(super) publish: watch::Sender<Arc<Snapshot>>,
}

type Reply = oneshot::Sender<Result<Logged, Refusal>>;

impl Writer {
    /// Runs until the lifecycle drains; what was submitted before that is still answered.
    pub async fn run(mut self, lifecycle: Lifecycle) {
        loop {
            let first = tokio::select! {
                biased;
                first = self.submissions.recv() => first,
                () = lifecycle.drain().cancelled() => { self.submissions.close(); self.submissions.recv().await }
            };
            let Some(first) = first else { return };
            let mut batch = vec![first];
            while batch.len() < BATCH_MAX
                && let Ok(next) = self.submissions.try_recv()
            {
                batch.push(next);
            }
            // The disk is slow and must not be interrupted halfway: the whole batch runs on a blocking thread.
            let committed = tokio::task::spawn_blocking(move || {
                self.commit(batch);
                self
            });
            match committed.await {
                Ok(writer) => self = writer,
                Err(error) => {
                    tracing::error!(%error, "the log's writer failed; nothing is appended until a restart");
                    return;
                }
            }
        }
    }

    /// Judges and folds each entry on a copy, brings the good ones to disk, then shows the copy.
    fn commit(&self, batch: Vec<Submission>) {
        let before = Arc::clone(&self.publish.borrow());
        let (mut fleet, time) = (before.fleet.clone(), clock::now_ms().max(before.time));
        let mut leaves: Vec<Vec<u8>> = Vec::new();
        let mut accepted: Vec<(u64, Reply, Body)> = Vec::new();
        for Submission { what, reply } in batch {
            let index = fleet.epoch;
            match self.fold(&mut fleet, what, time) {
                Ok((leaf, body)) => {
                    leaves.push(leaf);
                    accepted.push((index, reply, body));
                }
                Err(refusal) => answer(reply, Err(refusal)),
            }
        }
        if leaves.is_empty() {
            return;
        }
        let began = clock::instant();
        let checkpoint = {
            let mut log = lock(&self.log);
            log.append(&leaves).map(|()| log.view().checkpoint().to_owned())
        };
        self.instruments.append_seconds.observe(began.elapsed().as_secs_f64());
        match checkpoint {
            Ok(checkpoint) => {
                self.instruments
                    .log_entries
                    .set(i64::try_from(fleet.epoch).unwrap_or(i64::MAX));
                self.publish.send_replace(Arc::new(Snapshot {
                    fleet,
                    checkpoint: checkpoint.clone(),
                    time,
                }));
                for (index, reply, body) in accepted {
                    tracing::info!(index, kind = body.kind(), "logged");
                    answer(
                        reply,
                        Ok(Logged {
                            index,
                            checkpoint: checkpoint.clone(),
                        }),
                    );
                }
            }
            Err(error) => {
                tracing::error!(
                    error = runtime::telemetry::chain(&error),
                    "the log could not be appended to"
                );
                let what = "the log could not be written: see the control plane's log".to_owned();
                for (_, reply, _) in accepted {
                    answer(
                        reply,
                        Err(Refusal {
                            code: ErrorCode::Internal,
                            what: what.clone(),
                        }),
                    );
                }
            }
        }
    }

    fn fold(&self, fleet: &mut Fleet, what: What, now: UnixMs) -> Result<(Vec<u8>, Body), Refusal> {
        let leaf = match what {
            What::Command { by, leaf } => {
                let (leaf, body) = judge::command(&by, &leaf, now)?;
                judge::check(fleet, &self.documents, &body, now)?;
                leaf
            }
            What::Own(body) => judge::own(&body, now),
        };
        let bytes = leaf.encode().map_err(|e| judge::refusal_of(&e))?;
        let body = fleet.apply(&bytes).map_err(|e| judge::refusal_of(&e))?;
        Ok((bytes, body))
    }
}

/// Whoever asked may have gone; the entry stands all the same.
fn answer(reply: Reply, result: Result<Logged, Refusal>) {
    drop(reply.send(result));
}
