//! Receipts: signed promises with answers, kept in this node's own log.
//!
//! ```text
//!   answer --(commitments)--> queue --> sign: one tree, one signature for all that wait --> Meridian-Receipt
//!                                         |
//!                                         +--> book: log on disk, fsynced together --> tlog-proof
//! ```
//! Whoever waits is signed for together with everybody who came meanwhile: alone an answer pays for a signature, in a crowd
//! for a few hashes. The entry is on disk a moment after its promise is out; a promise that never gets there is
//! evidence against this node, so a log that cannot be written gives no more of them.
//!
//! Never here: an input, an output, a tenant's name. The log has commitments under keys that only clients hold.

mod book;
mod sign;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};

use ed25519_dalek::SigningKey;
use models::log::{Log, LogError};
use proto::ids::{NodeId, PrincipalName, hex};
use proto::limits::{RECEIPTS_ASKED_MAX, RECEIPTS_UNWRITTEN_MAX};
use proto::note::{NoteError, Signer};
use proto::proof::Proof;
use proto::receipt::{Answered, CommitmentKey, Promise, ReceiptId, origin, promises};
use proto::signed::PublicKey;
use tokio::sync::{mpsc, oneshot};

use crate::metrics::Metrics;
use book::{Book, Writing};
pub use sign::sign;
use sign::{Asked, Signing};

/// What an operator says of receipts, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceiptsConfig {
    /// Receipts whose text is kept.
    pub kept: u64,
    /// Whether they are given unasked.
    pub unasked: bool,
    /// Where their logs lie, one for each key this node has had.
    pub folder: PathBuf,
}

/// Why no receipts can be given.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The log cannot be opened.
    #[error("open the log of receipts")]
    Log(#[from] LogError),
    /// The log cannot have that name.
    #[error("name the log of receipts")]
    Name(#[from] NoteError),
    /// The system gives no thread.
    #[error("start a thread for receipts")]
    Thread(#[from] std::io::Error),
}

/// The log takes no more entries, or the node stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no receipts are given now")]
pub struct Closed;

/// Why there is no proof of a receipt.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Lacking {
    /// No such receipt.
    #[error("no such receipt")]
    Unknown,
    /// Promised, and not on disk yet.
    #[error("not written yet")]
    Unwritten,
    /// The disk.
    #[error("read the log of receipts")]
    Log(#[from] LogError),
}

/// The keys that receipts are verified by, as C2SP verifier keys.
#[derive(Clone, Debug)]
pub struct Keys {
    /// Of the log.
    pub log: String,
    /// Of promises.
    pub promises: String,
}

/// Promises receipts and finds them again. Clones share everything.
#[derive(Clone, Debug)]
pub struct Receipts(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    config: ReceiptsConfig,
    node: NodeId,
    keys: Keys,
    book: Arc<Book>,
    /// Gone once no more are given.
    asked: Mutex<Option<mpsc::Sender<Asked>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Receipts {
    /// Opens the log that `node` of `fleet` has under `key`, or begins it, and starts the two threads that sign and write.
    ///
    /// # Errors
    /// [`OpenError`]; nothing runs then.
    pub fn open(
        config: ReceiptsConfig,
        fleet: &PrincipalName,
        node: NodeId,
        key: &SigningKey,
        metrics: &Metrics,
    ) -> Result<Self, OpenError> {
        let public = PublicKey::of(key);
        let name = origin(fleet, &node, &public);
        let signers = [name.clone(), promises(&name)].map(|name| Signer::new(&name, key.to_bytes()));
        let [of_log, of_promises] = signers;
        let (of_log, of_promises) = (of_log?, of_promises?);
        let keys = Keys {
            log: of_log.vkey(),
            promises: of_promises.vkey(),
        };
        let log = Log::resume(&config.folder.join(hex(&public.0[..4])), of_log)?;
        let book = Arc::new(Book::of(&log, metrics.clone()));
        let (asked, questions) = mpsc::channel(RECEIPTS_ASKED_MAX);
        let (entries, written) = mpsc::channel(RECEIPTS_UNWRITTEN_MAX);
        let signing = Signing {
            node: node.clone(),
            signer: of_promises,
            next: log.view().size(),
            book: Arc::clone(&book),
            asked: questions,
            entries,
        };
        let writing = Writing {
            log,
            kept: config.kept,
            book: Arc::clone(&book),
            entries: written,
        };
        let thread = |name: &str| Builder::new().name(name.to_owned());
        let threads = vec![
            thread("receipts-sign").spawn(|| signing.run())?,
            thread("receipts-write").spawn(|| writing.run())?,
        ];
        Ok(Self(Arc::new(Shared {
            config,
            node,
            keys,
            book,
            asked: Mutex::new(Some(asked)),
            threads: Mutex::new(threads),
        })))
    }

    /// Whether they are given unasked.
    #[must_use]
    pub fn unasked(&self) -> bool {
        self.0.config.unasked
    }

    /// What they are verified by.
    #[must_use]
    pub fn keys(&self) -> &Keys {
        &self.0.keys
    }

    /// Whether one would be given now.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.0.book.has_room()
    }

    /// The signed promise of a receipt whose commitments open with `key`. Waits for a signature.
    ///
    /// # Errors
    /// [`Closed`].
    pub async fn promise(&self, key: CommitmentKey, answered: Answered) -> Result<Promise, Closed> {
        let asked = self.asked().clone().ok_or(Closed)?;
        if !self.0.book.enter() {
            return Err(Closed);
        }
        let (reply, promised) = oneshot::channel();
        let question = Asked { answered, key, reply };
        if asked.try_send(question).is_err() {
            self.0.book.leave(1);
            return Err(Closed);
        }
        promised.await.map_err(|_| Closed)
    }

    /// The receipt `id` and where it stands. Blocks: it goes to the disk.
    ///
    /// # Errors
    /// [`Lacking`].
    pub fn proof(&self, id: &ReceiptId) -> Result<Proof, Lacking> {
        if id.node == self.0.node {
            self.0.book.proof(id)
        } else {
            Err(Lacking::Unknown)
        }
    }

    /// A file of the log, `checkpoint` or `tile/..`; none where there is no such file. Blocks.
    ///
    /// # Errors
    /// [`Lacking::Log`].
    pub fn file(&self, path: &str) -> Result<Option<Vec<u8>>, Lacking> {
        Ok(self.0.book.view().file(path)?)
    }

    /// Gives no more, and returns when all that were promised are on disk. Blocks.
    pub fn close(&self) {
        self.0.book.stop();
        drop(self.asked().take());
        let threads = std::mem::take(&mut *self.0.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            let _ = thread.join(); // one that panicked has told so
        }
    }

    fn asked(&self) -> std::sync::MutexGuard<'_, Option<mpsc::Sender<Asked>>> {
        self.0.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
pub(crate) mod tests;
