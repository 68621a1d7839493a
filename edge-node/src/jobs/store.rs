//! Jobs on disk: records in sled, bodies and answers in files beside it.
//!
//! ```text
//!   accept:  body file, fsync -> record, flush -> 202          a kill in between leaves a file that nobody names: removed at open
//!   answer:  answer file, fsync -> record `done`, flush -> body file removed       .. leaves a job that runs again
//! ```
//! Sled never gives large values' pages back, so large bytes are files; [`Store::write`] is the one place that writes them.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use proto::jobs::JobKey;

use super::record::Record;

/// Sled's own page cache: all records are in memory besides.
const SLED_CACHE_BYTES: u64 = 4 << 20;
/// Records on disk that this version does not read are left alone, and so are their files.
const TREE: &str = "jobs-1";

/// Why jobs cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The records.
    #[error("the job records in {folder}")]
    Records {
        /// Where they lie.
        folder: PathBuf,
        /// Why.
        #[source]
        source: sled::Error,
    },
    /// A body or an answer.
    #[error("{what} {path}")]
    File {
        /// What was done.
        what: &'static str,
        /// Which file or folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Which of a job's two files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// What was asked.
    Body,
    /// What was answered.
    Answer,
}

impl Part {
    fn extension(self) -> &'static str {
        match self {
            Self::Body => "body",
            Self::Answer => "answer",
        }
    }
}

/// The folder of a node's jobs. All of it blocks.
pub struct Store {
    db: sled::Db,
    records: sled::Tree,
    folder: PathBuf,
    files: PathBuf,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Store({})", self.folder.display())
    }
}

impl Store {
    /// Opens or makes `folder` and gives what lies there. Files that no record names are removed.
    ///
    /// # Errors
    /// [`StoreError`]; nothing is emptied then, since what was accepted is owed.
    pub fn open(folder: &Path) -> Result<(Self, Vec<(JobKey, Record)>), StoreError> {
        let broken = |source| StoreError::Records {
            folder: folder.to_owned(),
            source,
        };
        let files = folder.join("files");
        let failed = |what, path: &Path| {
            let path = path.to_owned();
            move |source| StoreError::File { what, path, source }
        };
        std::fs::create_dir_all(&files).map_err(failed("make", &files))?;
        let db = sled::Config::new()
            .path(folder.join("records"))
            .cache_capacity(SLED_CACHE_BYTES)
            .mode(sled::Mode::LowSpace)
            .flush_every_ms(Some(1_000))
            .open()
            .map_err(broken)?;
        let records = db.open_tree(TREE).map_err(broken)?;
        let (mut found, mut named) = (Vec::new(), HashSet::new());
        for item in records.iter() {
            let (key, value) = item.map_err(broken)?;
            let Ok(key) = key.as_ref().try_into().map(JobKey) else {
                continue;
            };
            named.insert(key.hex());
            match Record::read(&value) {
                Some(record) => found.push((key, record)),
                None => tracing::warn!("a job record of another version is left alone"),
            }
        }
        for item in std::fs::read_dir(&files).map_err(failed("list", &files))?.flatten() {
            let path = item.path();
            if !path
                .file_stem()
                .and_then(OsStr::to_str)
                .is_some_and(|stem| named.contains(stem))
            {
                std::fs::remove_file(&path).map_err(failed("remove", &path))?;
            }
        }
        let folder = folder.to_owned();
        Ok((
            Self {
                db,
                records,
                folder,
                files,
            },
            found,
        ))
    }

    /// Notes a job; durable after [`Store::flush`].
    ///
    /// # Errors
    /// [`StoreError::Records`].
    pub fn put(&self, key: JobKey, record: &Record) -> Result<(), StoreError> {
        self.records
            .insert(key.0, record.write())
            .map(drop)
            .map_err(|e| self.broken(e))
    }

    /// Forgets a job and removes its files. What cannot be removed is removed at the next start.
    ///
    /// # Errors
    /// [`StoreError::Records`].
    pub fn remove(&self, key: JobKey) -> Result<(), StoreError> {
        self.records.remove(key.0).map_err(|e| self.broken(e))?;
        self.flush()?;
        self.drop_file(key, Part::Body);
        self.drop_file(key, Part::Answer);
        Ok(())
    }

    /// Makes all that was put durable.
    ///
    /// # Errors
    /// [`StoreError::Records`].
    pub fn flush(&self) -> Result<(), StoreError> {
        self.db.flush().map(drop).map_err(|e| self.broken(e))
    }

    /// Writes a file, durable when this returns.
    ///
    /// # Errors
    /// [`StoreError::File`].
    pub fn write(&self, key: JobKey, part: Part, bytes: &[u8]) -> Result<(), StoreError> {
        let path = self.path(key, part);
        let new = path.with_extension("new");
        let failed = |source| StoreError::File {
            what: "write",
            path: path.clone(),
            source,
        };
        let write = || {
            let mut file = File::create(&new)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            std::fs::rename(&new, &path)?;
            File::open(&self.files)?.sync_all()
        };
        write().map_err(failed)
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`StoreError::File`].
    pub fn read(&self, key: JobKey, part: Part) -> Result<Vec<u8>, StoreError> {
        let path = self.path(key, part);
        let mut bytes = Vec::new();
        let read = File::open(&path).and_then(|mut file| file.read_to_end(&mut bytes));
        read.map_err(|source| StoreError::File {
            what: "read",
            path,
            source,
        })?;
        Ok(bytes)
    }

    /// Removes a file, if it is there.
    pub fn drop_file(&self, key: JobKey, part: Part) {
        let path = self.path(key, part);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(%error, "a job's file is not removed before the next start");
            }
            _ => {}
        }
    }

    fn path(&self, key: JobKey, part: Part) -> PathBuf {
        self.files.join(format!("{}.{}", key.hex(), part.extension()))
    }
    fn broken(&self, source: sled::Error) -> StoreError {
        StoreError::Records {
            folder: self.folder.clone(),
            source,
        }
    }
}
