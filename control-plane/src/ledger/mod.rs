//! The one writer of the log, and the fleet folded from it.
//!
//! ```text
//!   command, say --> bounded queue --> writer: judge, fold a copy --> Log::append (fsync) --> publish the snapshot
//! ```
//! Invariant: a snapshot never shows an entry that is not on disk, and an entry on disk always folds. So a kill at any
//! moment loses only what nobody was told of.

pub mod judge;
mod writer;

use std::sync::{Arc, Mutex, PoisonError};

use proto::entry::{Body, EntryError, Fleet, Leaf};
use proto::ids::{PrincipalName, UnixMs};
use proto::message::ErrorCode;
use tokio::sync::{mpsc, oneshot, watch};

use judge::Refusal;
use models::log::{Log, LogError, View};
pub use writer::Writer;

/// Entries that wait for the writer before more are refused.
const QUEUE_MAX: usize = 256;

/// The fleet at one size of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The log, folded.
    pub fleet: Fleet,
    /// The signed checkpoint at `fleet.epoch`.
    pub checkpoint: String,
    /// When the last entry was written: times in the log never go back.
    pub time: UnixMs,
}

/// Where an entry stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logged {
    /// Its index, from 0.
    pub index: u64,
    /// The signed checkpoint that holds it.
    pub checkpoint: String,
}

/// Why the log on disk is not a fleet's log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// It cannot be read.
    #[error("the release log cannot be read")]
    Log(#[from] LogError),
    /// An entry does not follow from those before it: this software did not write it.
    #[error("entry {index} of the release log does not fold")]
    Fold {
        /// Which entry.
        index: u64,
        /// Why.
        #[source]
        source: EntryError,
    },
}

struct Submission {
    what: What,
    reply: oneshot::Sender<Result<Logged, Refusal>>,
}

enum What {
    Command { by: PrincipalName, leaf: String },
    Own(Body),
}

/// Asks the writer, and reads. Cheap to clone.
#[derive(Clone)]
pub struct Ledger {
    queue: mpsc::Sender<Submission>,
    snapshot: watch::Receiver<Arc<Snapshot>>,
    log: Arc<Mutex<Log>>,
}

impl Ledger {
    /// Folds `log` and gives the handle, and the writer that has to run. Blocking.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(
        log: Log,
        documents: crate::artifacts::documents::Documents,
        instruments: crate::metrics::Instruments,
    ) -> Result<(Self, Writer), OpenError> {
        let (mut fleet, mut time) = (Fleet::default(), 0);
        for leaf in log.view().entries(0) {
            let (leaf, index) = (leaf?, fleet.epoch);
            let fold = |source| OpenError::Fold { index, source };
            fleet.apply(&leaf).map_err(fold)?;
            time = Leaf::decode(&leaf).map_err(fold)?.0.time;
        }
        instruments
            .log_entries
            .set(i64::try_from(fleet.epoch).unwrap_or(i64::MAX));
        let snapshot = Arc::new(Snapshot {
            fleet,
            checkpoint: log.view().checkpoint().to_owned(),
            time,
        });
        let (publish, snapshot) = watch::channel(snapshot);
        let (queue, submissions) = mpsc::channel(QUEUE_MAX);
        let log = Arc::new(Mutex::new(log));
        let writer = Writer {
            log: Arc::clone(&log),
            documents,
            instruments,
            submissions,
            publish,
        };
        Ok((Self { queue, snapshot, log }, writer))
    }

    /// The newest snapshot.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.borrow())
    }

    /// Word of each new snapshot.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshot.clone()
    }

    /// Appends an operator's entry; on disk when it returns.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn command(&self, by: PrincipalName, leaf: String) -> Result<Logged, Refusal> {
        self.submit(What::Command { by, leaf }).await
    }

    /// Appends the control plane's own entry; on disk when it returns.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn say(&self, body: Body) -> Result<Logged, Refusal> {
        self.submit(What::Own(body)).await
    }

    async fn submit(&self, what: What) -> Result<Logged, Refusal> {
        let (reply, answer) = oneshot::channel();
        let busy = |_| Refusal {
            code: ErrorCode::Busy,
            what: "the log's queue is full or closing: try again".to_owned(),
        };
        self.queue.try_send(Submission { what, reply }).map_err(busy)?;
        let gone = |_| Refusal {
            code: ErrorCode::Internal,
            what: "the log's writer has stopped: see its log".to_owned(),
        };
        answer.await.map_err(gone)?
    }

    /// That the log at `to` extends the log at `from`. Blocking.
    ///
    /// # Errors
    /// What the log says: a size it does not have, or a tile it cannot read.
    pub fn consistency(&self, from: u64, to: u64) -> Result<Vec<[u8; 32]>, LogError> {
        self.view().consistency(from, to)
    }

    /// Entries that are on disk: at times more than the snapshot shows yet. Blocking while a batch is written.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.view().size()
    }

    /// The root of the log when it had `size` entries. Blocking.
    ///
    /// # Errors
    /// As [`Ledger::consistency`].
    pub fn root_at(&self, size: u64) -> Result<[u8; 32], LogError> {
        self.view().root(size)
    }

    fn view(&self) -> Arc<View> {
        Arc::clone(lock(&self.log).view())
    }
}

fn lock(log: &Mutex<Log>) -> std::sync::MutexGuard<'_, Log> {
    log.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
