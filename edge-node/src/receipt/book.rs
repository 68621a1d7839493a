//! The log of receipts on disk, and the one thread that writes it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use models::log::{Log, LogError, View};
use proto::limits::{RECEIPTS_SIGNED_TOGETHER_MAX, RECEIPTS_UNWRITTEN_MAX};
use proto::proof::Proof;
use proto::receipt::ReceiptId;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::Receiver;

use super::Lacking;
use crate::jobs::chain;
use crate::metrics::Metrics;

/// How long an entry waits for others to be brought to disk with. A write is six or more fsyncs, however many it takes.
const GATHER: Duration = Duration::from_millis(15);
/// Entries that are brought to disk together.
const TOGETHER_MAX: usize = 8 * RECEIPTS_SIGNED_TOGETHER_MAX;

/// What is on disk, and how much more may be promised.
#[derive(Debug)]
pub(super) struct Book {
    /// Readers wait for no write.
    view: ArcSwap<View>,
    /// A place for each receipt that is promised and not on disk.
    places: Semaphore,
    /// The node goes, or the log could not be written once: nobody knows what is on disk until it is opened again.
    stopped: AtomicBool,
    metrics: Metrics,
}

impl Book {
    pub(super) fn of(log: &Log, metrics: Metrics) -> Self {
        metrics.receipts_open.set(1);
        Self {
            view: ArcSwap::new(Arc::clone(log.view())),
            places: Semaphore::new(RECEIPTS_UNWRITTEN_MAX),
            stopped: AtomicBool::new(false),
            metrics,
        }
    }

    pub(super) fn view(&self) -> Arc<View> {
        self.view.load_full()
    }

    /// Whether more may be promised.
    pub(super) fn has_room(&self) -> bool {
        !self.is_stopped() && self.places.available_permits() > 0
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// Promises no more.
    pub(super) fn stop(&self) {
        self.metrics.receipts_open.set(0);
        self.stopped.store(true, Ordering::Release);
    }

    /// Takes a place for one more; false where there is none.
    pub(super) fn enter(&self) -> bool {
        let place = self.places.try_acquire().ok().filter(|_| !self.is_stopped());
        place.map(tokio::sync::SemaphorePermit::forget).is_some()
    }

    /// So many places are free again: of who left without a promise, or whose receipt is on disk.
    pub(super) fn leave(&self, count: usize) {
        self.places.add_permits(count);
    }

    /// So many are promised.
    pub(super) fn promised(&self, count: usize) {
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        self.metrics.receipts_promised.inc_by(count);
    }

    fn written(&self, log: &Log, count: usize) {
        self.view.store(Arc::clone(log.view()));
        self.metrics
            .receipts_written
            .inc_by(u64::try_from(count).unwrap_or(u64::MAX));
        // Last: who sees that nothing is unwritten sees all of it written.
        self.leave(count);
    }

    /// Places that are taken.
    pub(super) fn unwritten(&self) -> usize {
        RECEIPTS_UNWRITTEN_MAX.saturating_sub(self.places.available_permits())
    }

    /// The receipt `id` and where it stands.
    pub(super) fn proof(&self, id: &ReceiptId) -> Result<Proof, Lacking> {
        // Asked before the view is taken: what is written meanwhile is found, not lost.
        let unwritten = u64::try_from(self.unwritten()).unwrap_or(u64::MAX);
        let view = self.view();
        if id.index >= view.size() {
            let comes = !self.is_stopped() && id.index - view.size() < unwritten;
            return Err(if comes { Lacking::Unwritten } else { Lacking::Unknown });
        }
        if view.leaf(id.index)? != id.leaf {
            return Err(Lacking::Unknown);
        }
        let entry = match view.entry(id.index) {
            // Whoever has the promise has the text.
            Err(LogError::Forgotten { .. }) => Vec::new(),
            read => read?,
        };
        Ok(Proof {
            entry,
            index: id.index,
            hashes: view.inclusion(id.index)?,
            checkpoint: view.checkpoint().to_owned(),
        })
    }
}

/// The thread that writes.
pub(super) struct Writing {
    pub(super) log: Log,
    /// Entries whose text is kept.
    pub(super) kept: u64,
    pub(super) book: Arc<Book>,
    pub(super) entries: Receiver<Vec<Vec<u8>>>,
}

impl Writing {
    /// Writes what comes until nothing can come any more, or the disk refuses.
    pub(super) fn run(mut self) {
        let _stops = Stops(Arc::clone(&self.book));
        let mut forgets = true;
        while let Some(mut batch) = self.entries.blocking_recv() {
            std::thread::sleep(GATHER);
            while batch.len() < TOGETHER_MAX
                && let Ok(more) = self.entries.try_recv()
            {
                batch.extend(more);
            }
            if let Err(error) = self.log.append(&batch) {
                tracing::error!(
                    error = chain(&error),
                    "the log of receipts cannot be written: none are given until a restart"
                );
                return;
            }
            self.book.written(&self.log, batch.len());
            let before = self.log.view().size().saturating_sub(self.kept);
            let forgotten = self.log.forget_before(before);
            // What cannot be removed now costs some disk, is tried again, and told once.
            if let (Err(error), true) = (&forgotten, forgets) {
                tracing::warn!(error = chain(error), "old receipts stay on disk");
            }
            forgets = forgotten.is_ok();
        }
    }
}

/// However a thread ends: without it nothing more can be promised.
pub(super) struct Stops(pub(super) Arc<Book>);

impl Drop for Stops {
    fn drop(&mut self) {
        self.0.stop();
    }
}
