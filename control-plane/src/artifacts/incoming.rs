//! Loose chunks of uploads that are under way, one file each. A cache: a chunk that is torn or lost is sent again.
//!
//! Chunks are not fsynced one by one, so what is read back is hashed, and a wrong one is removed and counts as missing.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use proto::ids::{ContentHash, UnixMs};

/// Why a chunk cannot be kept or read.
#[derive(Debug, thiserror::Error)]
#[error("incoming chunk file {path}")]
pub struct IncomingError {
    path: PathBuf,
    #[source]
    source: std::io::Error,
}

/// How long a chunk waits for the rest of its upload.
const KEPT: Duration = Duration::from_secs(24 * 3600);

/// The folder of loose chunks.
#[derive(Debug)]
pub struct Incoming {
    dir: PathBuf,
    fresh: AtomicU64,
}

impl Incoming {
    /// Opens or makes the folder `dir`, and removes what an upload left there a day before `now`.
    ///
    /// # Errors
    /// [`IncomingError`].
    pub fn open(dir: &Path, now: UnixMs) -> Result<Self, IncomingError> {
        let failed = |source| IncomingError {
            path: dir.to_owned(),
            source,
        };
        std::fs::create_dir_all(dir).map_err(failed)?;
        for entry in std::fs::read_dir(dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let written = entry.metadata().and_then(|m| m.modified()).map_err(failed)?;
            let unfinished = entry.path().extension().is_some();
            if unfinished || UNIX_EPOCH + Duration::from_millis(now) > written + KEPT {
                std::fs::remove_file(entry.path()).map_err(failed)?;
            }
        }
        Ok(Self {
            dir: dir.to_owned(),
            fresh: AtomicU64::new(0),
        })
    }

    /// Whether a file for this chunk is there.
    #[must_use]
    pub fn has(&self, chunk: &ContentHash) -> bool {
        std::fs::metadata(self.path(chunk)).is_ok_and(|file| file.len() > 0)
    }

    /// Keeps `bytes` under what they hash to.
    ///
    /// # Errors
    /// [`IncomingError`].
    pub fn put(&self, bytes: &[u8]) -> Result<ContentHash, IncomingError> {
        let chunk = ContentHash::of(bytes);
        let path = self.path(&chunk);
        let fresh = path.with_extension(self.fresh.fetch_add(1, Ordering::Relaxed).to_string());
        let written = std::fs::write(&fresh, bytes).and_then(|()| std::fs::rename(&fresh, &path));
        written.map_err(|source| IncomingError { path, source })?;
        Ok(chunk)
    }

    /// The chunk's bytes, hashed; `None` when it is not here or was damaged, and then it is gone.
    ///
    /// # Errors
    /// [`IncomingError`].
    pub fn get(&self, chunk: &ContentHash) -> Result<Option<Vec<u8>>, IncomingError> {
        let path = self.path(chunk);
        match std::fs::read(&path) {
            Ok(bytes) if ContentHash::of(&bytes) == *chunk => Ok(Some(bytes)),
            Ok(_) => self.remove(chunk).map(|()| None),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(IncomingError { path, source }),
        }
    }

    /// Removes the chunk if it is here.
    ///
    /// # Errors
    /// [`IncomingError`].
    pub fn remove(&self, chunk: &ContentHash) -> Result<(), IncomingError> {
        let path = self.path(chunk);
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(IncomingError { path, source }),
            _ => Ok(()),
        }
    }

    fn path(&self, chunk: &ContentHash) -> PathBuf {
        self.dir.join(chunk.hex())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(dir: &Path, now: UnixMs) -> Incoming {
        Incoming::open(dir, now).unwrap()
    }

    #[test]
    fn a_damaged_chunk_counts_as_missing_and_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let incoming = open(dir.path(), 0);
        let chunk = incoming.put(b"weights").unwrap();
        assert_eq!(incoming.get(&chunk).unwrap().unwrap(), b"weights");
        std::fs::write(dir.path().join(chunk.hex()), b"weightz").unwrap();
        assert_eq!(incoming.get(&chunk).unwrap(), None);
        assert!(!incoming.has(&chunk));
    }

    #[test]
    fn what_an_upload_left_behind_a_day_ago_is_removed_at_start() {
        let dir = tempfile::tempdir().unwrap();
        let chunk = open(dir.path(), 0).put(b"weights").unwrap();
        let written = std::fs::metadata(dir.path().join(chunk.hex()))
            .unwrap()
            .modified()
            .unwrap();
        let written_ms = u64::try_from(written.duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap();
        assert!(open(dir.path(), written_ms + 23 * 3_600_000).has(&chunk));
        assert!(!open(dir.path(), written_ms + 25 * 3_600_000).has(&chunk));
    }
}
