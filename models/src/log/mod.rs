//! A log on disk: C2SP tlog-tiles in plain files, so that any web server serves it and any stock tool reads it. The release
//! log lies so, and each node's receipts.
//!
//! ```text
//!   checkpoint                     signed; renamed into place last: it alone says what belongs to the log
//!   tile/entries/000.p/42          the entries themselves, 256 a bundle
//!   tile/0/000.p/42  tile/1/..     their hashes
//!   lock                           held by the one process that may append
//! ```
//! One append: entry bundles, then hash tiles, then the checkpoint, each on disk before the next is begun. A kill at any
//! moment leaves the old checkpoint with files beyond it, which nothing reads and the next append overwrites, or the
//! new one with all it needs.
//!
//! Invariant: a checkpoint that was handed out once stays a prefix of every later one. So a log whose files do not fit its
//! checkpoint is not opened, and a log that failed to write takes no more until it has been opened and checked again.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::durable;
use proto::limits::LOG_ENTRY_BYTES_MAX;
use proto::merkle;
use proto::note::{Checkpoint, NoteError, Signer};
use proto::tile::{self, Edge, WIDTH, WalkError, resume, walk};

mod view;

pub use view::View;

const CHECKPOINT: &str = "checkpoint";

/// Why the log cannot be opened, read or appended to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The disk refuses.
    #[error("{path}: cannot be read or written")]
    Io {
        /// Which file or folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another process has it open.
    #[error("{dir} is in use by another process: two writers would fork the log")]
    InUse {
        /// The log's folder.
        dir: PathBuf,
    },
    /// Entries, but no checkpoint: somebody has removed it. Starting anew would fork the log.
    #[error("{dir} holds entries but no checkpoint: restore the folder from a copy; an empty folder begins a new log")]
    NoCheckpoint {
        /// The log's folder.
        dir: PathBuf,
    },
    /// The checkpoint is not signed by this log's key.
    #[error("{path} is not a checkpoint of this log: restore it, or the log's key, from a copy")]
    Checkpoint {
        /// The checkpoint's file.
        path: PathBuf,
        /// Why.
        #[source]
        source: NoteError,
    },
    /// The files are not what the checkpoint signs.
    #[error("{dir} does not fit its checkpoint and is not opened: restore it from a copy")]
    Unsound {
        /// The log's folder.
        dir: PathBuf,
        /// Which file, and how.
        #[source]
        source: Box<WalkError<io::Error>>,
    },
    /// An entry that no reader would take.
    #[error("an entry of {bytes} bytes, allowed is {LOG_ENTRY_BYTES_MAX}")]
    TooLong {
        /// Found.
        bytes: usize,
    },
    /// An earlier write failed, and how much of it is on disk is not known.
    #[error("the log takes no more entries since a write failed: restart, and it is checked anew")]
    Stopped,
    /// No such entry or tree size.
    #[error("{asked} is beyond the log, which has {size} entries")]
    Beyond {
        /// Index or size asked for.
        asked: u64,
        /// Entries there are.
        size: u64,
    },
    /// Its text was removed to make room; its hash is there.
    #[error("the text of entry {index} is kept no longer")]
    Forgotten {
        /// Which entry.
        index: u64,
    },
    /// A file is damaged that was sound when the log was opened.
    #[error("{path} is damaged: stop, and restore the log from a copy")]
    Damaged {
        /// Which file.
        path: PathBuf,
    },
}

/// An open log: the right to append. Its calls block: they go to the disk. Reading is done on a [`View`], which no append
/// holds up.
#[derive(Debug)]
pub struct Log {
    view: Arc<View>,
    signer: Signer,
    stopped: bool,
    /// Bundles that are gone, once somebody has asked for entries to be forgotten.
    forgotten: Option<u64>,
    _lock: Lock,
}

impl Log {
    /// Opens the log in `dir` and checks all of it, or begins one where there is nothing.
    ///
    /// # Errors
    /// [`LogError`]; nothing on disk is changed then.
    pub fn open(dir: &Path, signer: Signer) -> Result<Self, LogError> {
        Self::opened(dir, signer, false, |known| {
            let tail_from = known.size - known.size % WIDTH;
            let mut tail = Vec::new();
            let entry = |index: u64, bytes: &[u8]| {
                if index >= tail_from {
                    tail.push(bytes.to_vec());
                }
                Ok(())
            };
            let (edge, _) = walk(known, |path| fs::read(dir.join(path)), entry)?;
            Ok((edge, tail))
        })
    }

    /// As [`Log::open`], but checks only what appending needs: the unfinished tiles lead to the signed root, and the last
    /// entries are theirs. In the time of a few reads, however long the log is, and also where it has forgotten entries.
    ///
    /// # Errors
    /// As [`Log::open`].
    pub fn resume(dir: &Path, signer: Signer) -> Result<Self, LogError> {
        Self::opened(dir, signer, true, |known| {
            resume(known, |path| fs::read(dir.join(path)))
        })
    }

    fn opened(
        dir: &Path,
        signer: Signer,
        forgets: bool,
        check: impl FnOnce(&Checkpoint) -> Result<(Edge, Vec<Vec<u8>>), WalkError<io::Error>>,
    ) -> Result<Self, LogError> {
        fs::create_dir_all(dir).map_err(io_error(dir))?;
        let lock = lock(dir)?;
        let path = dir.join(CHECKPOINT);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => begin(dir, &signer)?,
            Err(source) => return Err(LogError::Io { path, source }),
        };
        let opened = signer.verifier().open_checkpoint(&text);
        let known = opened.map_err(|source| LogError::Checkpoint { path, source })?;
        let (edge, tail) = check(&known).map_err(|source| LogError::Unsound {
            dir: dir.to_owned(),
            source: Box::new(source),
        })?;
        let view = View {
            dir: dir.to_owned(),
            edge,
            tail,
            checkpoint: text,
            forgets,
        };
        Ok(Self {
            view: Arc::new(view),
            signer,
            stopped: false,
            forgotten: None,
            _lock: lock,
        })
    }

    /// The log as it is now, to be read.
    #[must_use]
    pub fn view(&self) -> &Arc<View> {
        &self.view
    }

    /// Appends all of `leaves` or none; when it returns, they and the checkpoint that holds them survive a power cut.
    ///
    /// # Errors
    /// [`LogError::TooLong`] with nothing changed; [`LogError::Io`], after which the log is [`LogError::Stopped`].
    pub fn append(&mut self, leaves: &[Vec<u8>]) -> Result<(), LogError> {
        if self.stopped {
            return Err(LogError::Stopped);
        }
        if let Some(long) = leaves.iter().find(|leaf| leaf.len() > LOG_ENTRY_BYTES_MAX) {
            return Err(LogError::TooLong { bytes: long.len() });
        }
        if leaves.is_empty() {
            return Ok(());
        }
        self.stopped = true;
        self.write(leaves)?;
        self.stopped = false;
        Ok(())
    }

    fn write(&mut self, leaves: &[Vec<u8>]) -> Result<(), LogError> {
        let before = &*self.view;
        let (mut edge, mut tail) = (before.edge.clone(), before.tail.clone());
        let (mut bundles, mut tiles, mut finished) = (Vec::new(), Vec::new(), Vec::new());
        let dir = &before.dir;
        for leaf in leaves {
            tail.push(leaf.clone());
            edge.push(merkle::leaf_hash(leaf), &mut |tile| {
                finished.push((tile.level, tile.index));
                tiles.push((tile.path, tile.bytes));
            });
            if edge.size().is_multiple_of(WIDTH) {
                bundles.push((tile::entry_path(edge.size() / WIDTH - 1, WIDTH), bundle(&tail)));
                tail.clear();
            }
        }
        if !tail.is_empty() {
            bundles.push((
                tile::entry_path(edge.size() / WIDTH, edge.size() % WIDTH),
                bundle(&tail),
            ));
        }
        // A higher tile that got no new hash is on disk already: writing it again would be harmless, but is an fsync.
        let old: Vec<String> = before.edge.unfinished().map(|tile| tile.path).collect();
        tiles.extend(
            edge.unfinished()
                .filter(|tile| !old.contains(&tile.path))
                .map(|tile| (tile.path, tile.bytes)),
        );
        for (path, bytes) in bundles.iter().chain(&tiles) {
            put(dir, path, bytes)?;
        }
        let checkpoint = self.signer.sign_checkpoint(edge.size(), &edge.root());
        put(dir, CHECKPOINT, checkpoint.as_bytes())?;
        finished.into_iter().for_each(|(level, index)| tidy(dir, level, index));
        self.view = Arc::new(View {
            dir: dir.clone(),
            edge,
            tail,
            checkpoint,
            forgets: before.forgets,
        });
        Ok(())
    }

    /// Removes the text of entries before `index`, a bundle of 256 at a time; their hashes stay, so every checkpoint, proof and
    /// root is as before.
    ///
    /// # Errors
    /// [`LogError::Io`]; what is left is removed the next time.
    pub fn forget_before(&mut self, index: u64) -> Result<(), LogError> {
        let until = index.min(self.view.size()) / WIDTH;
        let path = |bundle: u64| self.view.dir.join(tile::entry_path(bundle, WIDTH));
        // They go from the first on, so below the first that lies there is none.
        let first = || {
            (0..until)
                .rev()
                .take_while(|&bundle| path(bundle).exists())
                .last()
                .unwrap_or(until)
        };
        let from = self.forgotten.unwrap_or_else(first);
        for bundle in from..until {
            let path = path(bundle);
            match fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io_error(&path)(e)),
                _ => self.forgotten = Some(bundle + 1),
            }
        }
        self.forgotten = Some(until.max(from));
        Ok(())
    }
}

/// Removes the partial forms of the tile before `finished`, which has just become full at `level`, and of its bundle. Those of
/// `finished` itself stay for readers who hold a checkpoint from a moment ago. C2SP tlog-tiles, "Partial tiles", allows that.
fn tidy(dir: &Path, level: u32, finished: u64) {
    let Some(before) = finished.checked_sub(1) else { return };
    let bundle = (level == 0).then(|| tile::entry_path(before, WIDTH));
    for full in [tile::hash_path(level, before, WIDTH)].into_iter().chain(bundle) {
        // What cannot be removed now costs some disk and harms nobody.
        let _ = fs::remove_dir_all(dir.join(format!("{full}.p")));
    }
}

fn bundle(entries: &[Vec<u8>]) -> Vec<u8> {
    tile::write_entries(entries.iter().map(Vec::as_slice)).expect("entries were measured when they came in")
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> LogError + use<> {
    let path = path.to_owned();
    |source| LogError::Io { path, source }
}

/// The right to append, given back when dropped and when the process ends, however it ends.
#[derive(Debug)]
struct Lock(File);

impl Drop for Lock {
    /// Closing alone gives nothing back while a process that is just being started holds a copy of the descriptor.
    fn drop(&mut self) {
        let _ = self.0.unlock(); // what remains then goes with the last copy
    }
}

fn lock(dir: &Path) -> Result<Lock, LogError> {
    let path = dir.join("lock");
    let file = File::options()
        .create(true)
        .append(true)
        .open(&path)
        .map_err(io_error(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(Lock(file)),
        Err(TryLockError::WouldBlock) => Err(LogError::InUse { dir: dir.to_owned() }),
        Err(TryLockError::Error(source)) => Err(LogError::Io { path, source }),
    }
}

/// Signs the empty log, unless there are entries without a checkpoint.
fn begin(dir: &Path, signer: &Signer) -> Result<String, LogError> {
    if dir.join("tile").exists() {
        return Err(LogError::NoCheckpoint { dir: dir.to_owned() });
    }
    let checkpoint = signer.sign_checkpoint(0, &Edge::default().root());
    put(dir, CHECKPOINT, checkpoint.as_bytes())?;
    durable::sync_folder(dir).map_err(io_error(dir))?;
    Ok(checkpoint)
}

/// Makes `bytes` durable under `dir/path`, new folders included.
fn put(dir: &Path, path: &str, bytes: &[u8]) -> Result<(), LogError> {
    let path = dir.join(path);
    let missing: Vec<&Path> = path.ancestors().skip(1).take_while(|folder| !folder.exists()).collect();
    for folder in missing.into_iter().rev() {
        fs::create_dir(folder)
            .and_then(|()| durable::sync_folder(folder))
            .map_err(io_error(folder))?;
    }
    durable::write(&path, bytes).map_err(io_error(&path))
}

#[cfg(test)]
mod tests;
