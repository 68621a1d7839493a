//! The log of receipts on disk, and the one thread that writes it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use models::log::{Log, LogError};
use proto::limits::{RECEIPTS_SIGNED_TOGETHER_MAX, RECEIPTS_UNWRITTEN_MAX};
use proto::proof::Proof;
use proto::receipt::ReceiptId;
use runtime::clock;

use super::Lacking;
use crate::jobs::chain;
use crate::metrics::Metrics;

/// How long an entry waits for others to be brought to disk with. A write is three or more fsyncs, however many it takes.
const GATHER: Duration = Duration::from_millis(10);
/// Entries that are brought to disk together.
const TOGETHER_MAX: usize = 8 * RECEIPTS_SIGNED_TOGETHER_MAX;

/// The log, and what is promised beyond it.
#[derive(Debug)]
pub(super) struct Book {
    log: Mutex<Log>,
    /// Entries whose text is kept.
    kept: u64,
    /// Promised and not on disk.
    unwritten: AtomicU64,
    /// The node goes, or it could not be written once: nobody knows what is on disk until it is opened again.
    stopped: AtomicBool,
    metrics: Metrics,
}

impl Book {
    /// Takes an open log and forgets what is beyond `kept` entries.
    pub(super) fn of(mut log: Log, kept: u64, metrics: Metrics) -> Result<Self, LogError> {
        log.forget_before(log.size().saturating_sub(kept))?;
        Ok(Self {
            log: Mutex::new(log),
            kept,
            unwritten: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
            metrics,
        })
    }

    pub(super) fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether more may be promised.
    pub(super) fn has_room(&self) -> bool {
        let most = u64::try_from(RECEIPTS_UNWRITTEN_MAX).unwrap_or(u64::MAX);
        !self.stopped.load(Ordering::Acquire) && self.unwritten.load(Ordering::Relaxed) < most
    }

    /// Promises no more.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
    }

    /// So many more are promised.
    pub(super) fn promised(&self, count: u64) {
        self.unwritten.fetch_add(count, Ordering::Relaxed);
        self.metrics.receipts_promised.inc_by(count);
    }

    /// Writes what comes until nothing can come any more, or the disk refuses.
    pub(super) fn write(&self, entries: &Receiver<Vec<Vec<u8>>>) {
        while let Ok(mut batch) = entries.recv() {
            let end = clock::instant() + GATHER;
            while batch.len() < TOGETHER_MAX {
                match entries.recv_timeout(end.saturating_duration_since(clock::instant())) {
                    Ok(more) => batch.extend(more),
                    Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
                }
            }
            if let Err(error) = self.append(&batch) {
                tracing::error!(
                    error = chain(&error),
                    "the log of receipts cannot be written: none are given until a restart"
                );
                return self.stop();
            }
        }
    }

    fn append(&self, batch: &[Vec<u8>]) -> Result<(), LogError> {
        let mut log = self.log();
        log.append(batch)?;
        let count = u64::try_from(batch.len()).unwrap_or(u64::MAX);
        self.unwritten.fetch_sub(count, Ordering::Relaxed);
        self.metrics.receipts_written.inc_by(count);
        let before = log.size().saturating_sub(self.kept);
        // What cannot be removed now costs some disk, and is removed with the next.
        if let Err(error) = log.forget_before(before) {
            tracing::warn!(error = chain(&error), "old receipts stay on disk");
        }
        Ok(())
    }

    /// The receipt `id` and where it stands.
    pub(super) fn proof(&self, id: &ReceiptId) -> Result<Proof, Lacking> {
        let unwritten = self.unwritten.load(Ordering::Relaxed);
        let log = self.log();
        if id.index >= log.size() {
            let promised = id.index - log.size() < unwritten;
            return Err(if promised { Lacking::Unwritten } else { Lacking::Unknown });
        }
        if log.leaf(id.index)? != id.leaf {
            return Err(Lacking::Unknown);
        }
        let entry = match log.entry(id.index) {
            // Whoever has the promise has the text.
            Err(LogError::Forgotten { .. }) => Vec::new(),
            read => read?,
        };
        Ok(Proof {
            entry,
            index: id.index,
            hashes: log.inclusion(id.index)?,
            checkpoint: log.checkpoint().to_owned(),
        })
    }
}
