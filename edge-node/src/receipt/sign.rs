//! Signs for all who wait, at once.

use std::sync::Arc;

use proto::ids::{NodeId, UnixMs};
use proto::limits::RECEIPTS_SIGNED_TOGETHER_MAX;
use proto::merkle::{Tree, leaf_hash};
use proto::note::Signer;
use proto::proof::Proof;
use proto::receipt::{Answered, CommitmentKey, Promise, Receipt, ReceiptId};
use runtime::clock;
use tokio::sync::{mpsc, oneshot};

use super::Closed;
use super::book::{Book, Stops};

/// An answer whose client waits for the promise.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) answered: Answered,
    pub(super) key: CommitmentKey,
    pub(super) reply: oneshot::Sender<Promise>,
}

/// The thread that signs.
pub(super) struct Signing {
    pub(super) node: NodeId,
    /// Of batches, not of the log.
    pub(super) signer: Signer,
    /// Index of the next entry.
    pub(super) next: u64,
    pub(super) book: Arc<Book>,
    pub(super) asked: mpsc::Receiver<Asked>,
    /// To the thread that writes: there is a batch's place for each receipt that may be unwritten.
    pub(super) entries: mpsc::Sender<Vec<Vec<u8>>>,
}

impl Signing {
    /// Signs until nobody can ask any more, or nothing can be written.
    pub(super) fn run(mut self) {
        let _stops = Stops(Arc::clone(&self.book));
        let mut batch = Vec::new();
        while let Some(first) = self.asked.blocking_recv() {
            batch.push(first);
            while batch.len() < RECEIPTS_SIGNED_TOGETHER_MAX
                && let Ok(next) = self.asked.try_recv()
            {
                batch.push(next);
            }
            if self.sign(&mut batch).is_err() {
                return;
            }
        }
    }

    /// Signs for those of `batch` who still wait.
    fn sign(&mut self, batch: &mut Vec<Asked>) -> Result<(), Closed> {
        let came = batch.len();
        batch.retain(|asked| !asked.reply.is_closed());
        self.book.leave(came - batch.len());
        if batch.is_empty() {
            return Ok(());
        }
        let waiting = batch.drain(..).map(|asked| ((asked.answered, asked.key), asked.reply));
        let (answers, replies): (Vec<_>, Vec<_>) = waiting.unzip();
        let (entries, promises) = sign(&self.node, &self.signer, self.next, clock::now_ms(), answers);
        self.next += u64::try_from(entries.len()).unwrap_or(u64::MAX);
        self.book.promised(entries.len());
        // What is promised is on its way to the disk before anybody hears of it.
        self.entries.blocking_send(entries).map_err(|_| Closed)?;
        for (reply, promise) in replies.into_iter().zip(promises) {
            let _ = reply.send(promise); // a client that left wants none
        }
        Ok(())
    }
}

/// Entries of the log from index `next` on, and the promises of them: one signature over their tree.
#[must_use]
pub fn sign(
    node: &NodeId,
    signer: &Signer,
    next: u64,
    time: UnixMs,
    answers: Vec<(Answered, CommitmentKey)>,
) -> (Vec<Vec<u8>>, Vec<Promise>) {
    let (entries, keys): (Vec<Vec<u8>>, Vec<CommitmentKey>) = (next..)
        .zip(answers)
        .map(|(index, (answered, key))| (Receipt::of(node.clone(), index, time, answered).encode(), key))
        .unzip();
    let leaves: Vec<_> = entries.iter().map(|entry| leaf_hash(entry)).collect();
    let tree = Tree::of(leaves.clone());
    let checkpoint = signer.sign_checkpoint(tree.size(), &tree.root());
    let promises = (0..).zip(&entries).zip(leaves).zip(keys);
    let promises = promises.map(|(((place, entry), leaf), key)| Promise {
        id: ReceiptId {
            node: node.clone(),
            index: next + place,
            leaf,
        },
        key,
        proof: Proof {
            entry: entry.clone(),
            index: place,
            hashes: tree.inclusion(place),
            checkpoint: checkpoint.clone(),
        },
    });
    let promises = promises.collect();
    (entries, promises)
}
