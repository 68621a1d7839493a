//! Offline proofs from a copy of the release log. It needs the log's public key and a folder; no network, no other trust.
//!
//! ```text
//!   folder --walk--> checkpoint signature, every entry, every tile, the root     proto::tile::walk
//!                         every entry folds: operators' signatures, no contradiction, time never back
//!                    --> Report (verify_log)      --> Answer with a proof that others can check (model_at)
//!                                                 --> Verified: what a node signed for (receipt)
//! ```
//! All questions read the whole log: an answer from a part of it could leave out what came after.

use std::path::{Path, PathBuf};

use proto::entry::EntryError;
use proto::note::NoteError;
use proto::tile::WalkError;

mod history;
mod model_at;
mod moment;
mod receipt;
pub mod run;
mod verify;

pub use model_at::{Active, Answer, model_at};
pub use receipt::{Held, Named, ReceiptFault, Verified, receipt};
pub use verify::{Report, verify_log};

/// Why a log proves nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuditError {
    /// No checkpoint to start from.
    #[error("{path} cannot be read: name a folder that `fleet log export` made")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A checkpoint that the trusted key did not sign.
    #[error("the {which} checkpoint is not this log's")]
    Checkpoint {
        /// Which of the two.
        which: &'static str,
        /// Why.
        #[source]
        source: NoteError,
    },
    /// Entries, tiles and checkpoint do not fit together, or an entry breaks the fleet's rules.
    #[error("the log is not sound")]
    Unsound(#[source] Box<WalkError<Fault>>),
    /// The log does not extend the earlier checkpoint.
    #[error("the log has forked: it does not extend the earlier checkpoint of {size} entries; keep both as evidence")]
    Forked {
        /// Size of the earlier checkpoint.
        size: u64,
    },
    /// The log is older than the earlier checkpoint.
    #[error("the log has {size} entries, the earlier checkpoint has {earlier}: entries are missing")]
    Shorter {
        /// Of the log.
        size: u64,
        /// Of the earlier checkpoint.
        earlier: u64,
    },
    /// The log is sound, and the receipt is not.
    #[error("the receipt shows nothing")]
    Receipt(#[from] ReceiptFault),
    /// Not a moment.
    #[error("`{text}` is not a moment: write RFC 3339, such as 2026-11-14T09:00:00Z")]
    Moment {
        /// As typed.
        text: String,
    },
    /// The log knows no such region.
    #[error("the log knows no region `{name}`: it has {known}")]
    Region {
        /// Asked for.
        name: String,
        /// Those it has.
        known: String,
    },
}

/// Why a file or an entry of the log is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The file cannot be read.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The entry breaks a rule of the fleet.
    #[error(transparent)]
    Entry(#[from] EntryError),
    /// The entry is older than the one before it.
    #[error("it is dated {time}, the entry before it {before}: times in a log never go back")]
    Time {
        /// Of the entry.
        time: String,
        /// Of the one before.
        before: String,
    },
}

fn read_text(path: &Path) -> Result<String, AuditError> {
    std::fs::read_to_string(path).map_err(|source| AuditError::Read {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests;
