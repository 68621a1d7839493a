//! `fleet log verify`: the whole log, from its first entry to its signed root.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use proto::note::open_checkpoint;
use serde::Serialize;

use super::history::History;
use super::{AuditError, moment};

/// What was checked and found good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Name of the log.
    pub origin: String,
    /// Entries, all of which were read, hashed and folded.
    pub size: u64,
    /// Root that the log's key signed, in hex.
    pub root: String,
    /// Hash tiles compared.
    pub tiles: u64,
    /// Entries by kind.
    pub entries: BTreeMap<String, u64>,
    /// When the first entry was written, RFC 3339.
    pub first: Option<String>,
    /// When the last entry was written, RFC 3339.
    pub last: Option<String>,
    /// Size of the earlier checkpoint that the log extends, if one was given.
    pub extends: Option<u64>,
}

/// Checks the log in `folder`: the checkpoint's signature by `vkey`, every entry (operators' signatures too), every tile,
/// and that it extends `earlier`, where somebody kept one.
///
/// # Errors
/// [`AuditError`]: the first thing that does not hold.
pub fn verify_log(folder: &Path, vkey: &str, earlier: Option<&str>) -> Result<Report, AuditError> {
    let earlier = earlier.map(|note| open_checkpoint(note, vkey)).transpose();
    let earlier = earlier.map_err(|source| AuditError::Checkpoint {
        which: "earlier",
        source,
    })?;
    let history = History::read(folder, vkey)?;
    earlier.iter().try_for_each(|earlier| history.extends(earlier))?;
    Ok(Report {
        origin: history.checkpoint.origin,
        size: history.checkpoint.size,
        root: proto::ids::hex(&history.checkpoint.root),
        tiles: history.tiles,
        entries: history
            .kinds
            .into_iter()
            .map(|(kind, count)| (kind.to_owned(), count))
            .collect(),
        first: history.span.map(|(first, _)| moment::write(first)),
        last: history.span.map(|(_, last)| moment::write(last)),
        extends: earlier.map(|earlier| earlier.size),
    })
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} entries under root {}", self.origin, self.size, self.root)?;
        if let (Some(first), Some(last)) = (&self.first, &self.last) {
            write!(f, "\n  written     {first} to {last}")?;
        }
        let kinds: Vec<String> = self
            .entries
            .iter()
            .map(|(kind, count)| format!("{count} {kind}"))
            .collect();
        write!(
            f,
            "\n  entries     {}",
            if kinds.is_empty() {
                "none".to_owned()
            } else {
                kinds.join(", ")
            }
        )?;
        write!(
            f,
            "\n  checked     checkpoint signature, {} entries and {} tiles",
            self.size, self.tiles
        )?;
        match self.extends {
            Some(size) => write!(f, "\n  extends     the earlier checkpoint of {size} entries"),
            None => write!(
                f,
                "\n  extends     not asked: keep this checkpoint, and give it to the next check as earlier"
            ),
        }
    }
}
