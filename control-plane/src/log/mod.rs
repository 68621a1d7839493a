//! The release log on disk: C2SP tlog-tiles as plain files, so that it can be served, copied and checked with any tool.
//!
//! ```text
//!   append:  entry bundle -> hash tiles -> checkpoint          each: temporary file, fsync, rename, fsync of the folder
//! ```
//! The checkpoint alone says what the log holds. What a cut append left beyond it is overwritten by the next and never
//! read, so a kill at any byte leaves the log as it was before or as it is after. Opening reads all of it: a log whose
//! entries or tiles do not match its signed checkpoint is not started.

use std::path::{Path, PathBuf};

use proto::merkle::{self, Hash};
use proto::note::{NoteError, Signer};
use proto::tile::{self, TileError, WIDTH};

mod file;
#[cfg(test)]
mod tests;

use file::{read, write_durably};

/// Why the log cannot be opened, read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The disk failed.
    #[error("{action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The checkpoint is not one that this log signed.
    #[error("{path}: restore the log from a copy, or use the key that signed it")]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: NoteError,
    },
    /// A tile or bundle is damaged.
    #[error("{path} is damaged: restore the log from a copy")]
    Tile {
        /// The file.
        path: PathBuf,
        /// How.
        #[source]
        source: TileError,
    },
    /// Files and checkpoint tell different histories.
    #[error("{path} does not match the signed checkpoint of {size} entries: restore the log from a copy")]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// Entries by the checkpoint.
        size: u64,
    },
    /// An entry is longer than an entry may be.
    #[error("append: {0}")]
    Entry(TileError),
    /// Asked for what the log does not hold.
    #[error("entry or tree size {asked}: the log holds {size} entries")]
    Beyond {
        /// Asked for.
        asked: u64,
        /// Held.
        size: u64,
    },
}

/// An append-only log in one folder. One process opens it at a time.
#[derive(Debug)]
pub struct Log {
    dir: PathBuf,
    signer: Signer,
    /// Hashes by tile level; level 0 are the leaves.
    levels: Vec<Vec<Hash>>,
    /// Entries of the last bundle, while it is not full.
    tail: Vec<Vec<u8>>,
    checkpoint: String,
}

impl Log {
    /// Opens the log in `dir`, or begins an empty one there. Reads and checks all of it: about 1 s for a million entries.
    ///
    /// # Errors
    /// [`LogError`]: not readable, not signed by `signer`, or damaged.
    pub fn open(dir: &Path, signer: Signer) -> Result<Self, LogError> {
        let io = |action, path: &Path| {
            let path = path.to_owned();
            move |source| LogError::Io { action, path, source }
        };
        std::fs::create_dir_all(dir).map_err(io("make", dir))?;
        let mut log = Self {
            dir: dir.to_owned(),
            signer,
            levels: vec![Vec::new()],
            tail: Vec::new(),
            checkpoint: String::new(),
        };
        let path = dir.join("checkpoint");
        if !path.try_exists().map_err(io("look for", &path))? {
            log.checkpoint = log.signer.sign_checkpoint(0, &merkle::root_of(&[]));
            write_durably(&path, log.checkpoint.as_bytes())?;
            return Ok(log);
        }
        let text = String::from_utf8_lossy(&read(&path)?).into_owned();
        let checkpoint = log.signer.verifier().open_checkpoint(&text);
        let checkpoint = checkpoint.map_err(|source| LogError::Checkpoint {
            path: path.clone(),
            source,
        })?;
        log.checkpoint = text;
        log.load(checkpoint.size)?;
        if log.root(checkpoint.size)? != checkpoint.root {
            return Err(LogError::Mismatch {
                path,
                size: checkpoint.size,
            });
        }
        Ok(log)
    }

    fn load(&mut self, size: u64) -> Result<(), LogError> {
        for name in tile::entry_paths(size) {
            let path = self.dir.join(name);
            let bundle = read(&path)?;
            let entries = tile::read_entries(&bundle).map_err(|source| LogError::Tile {
                path: path.clone(),
                source,
            })?;
            let expected = (size - self.size()).min(WIDTH);
            if u64::try_from(entries.len()) != Ok(expected) {
                return Err(LogError::Mismatch { path, size });
            }
            entries
                .iter()
                .for_each(|entry| self.push_hash(0, merkle::leaf_hash(entry)));
            self.tail = if expected < WIDTH {
                entries.iter().map(|e| e.to_vec()).collect()
            } else {
                Vec::new()
            };
        }
        for (level, index, width) in tile::hash_tiles(size) {
            let path = self.dir.join(tile::hash_path(level, index, width));
            if read(&path)? != tile::write_hashes(self.tile(level, index, width)) {
                return Err(LogError::Mismatch { path, size });
            }
        }
        Ok(())
    }

    /// Adds a hash at a tile level, and its parent where that completes a tile.
    fn push_hash(&mut self, level: usize, hash: Hash) {
        if self.levels.len() == level {
            self.levels.push(Vec::new());
        }
        self.levels[level].push(hash);
        let full = usize::try_from(WIDTH).expect("256 is a usize");
        if self.levels[level].len().is_multiple_of(full) {
            let from = self.levels[level].len() - full;
            let parent = tile::subtree(&self.levels[level][from..]);
            self.push_hash(level + 1, parent);
        }
    }

    fn tile(&self, level: u32, index: u64, width: u64) -> &[Hash] {
        let place = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        let hashes = &self.levels[place(u64::from(level))];
        &hashes[place(index * WIDTH)..place(index * WIDTH + width)]
    }

    /// Number of entries.
    #[must_use]
    pub fn size(&self) -> u64 {
        u64::try_from(self.levels[0].len()).unwrap_or(u64::MAX)
    }
    /// The signed checkpoint, C2SP signed-note text.
    #[must_use]
    pub fn checkpoint(&self) -> &str {
        &self.checkpoint
    }

    /// Appends `leaves`. When it returns they are on disk under a signed checkpoint.
    ///
    /// # Errors
    /// [`LogError::Entry`] before anything is written; [`LogError::Io`] after which the log is as it was: nothing was
    /// appended as far as the checkpoint says, and the next append writes over what was left.
    pub fn append(&mut self, leaves: &[Vec<u8>]) -> Result<(), LogError> {
        if leaves.is_empty() {
            return Ok(());
        }
        for leaf in leaves {
            tile::write_entries([leaf.as_slice()]).map_err(LogError::Entry)?;
        }
        let before = (self.levels.clone(), self.tail.clone(), self.size());
        match self.try_append(leaves) {
            Ok(checkpoint) => {
                self.checkpoint = checkpoint;
                self.drop_partials(before.2);
                Ok(())
            }
            Err(e) => {
                (self.levels, self.tail) = (before.0, before.1);
                Err(e)
            }
        }
    }

    fn try_append(&mut self, leaves: &[Vec<u8>]) -> Result<String, LogError> {
        let old = self.size();
        for leaf in leaves {
            self.tail.push(leaf.clone());
            self.push_hash(0, merkle::leaf_hash(leaf));
            if self.size().is_multiple_of(WIDTH) {
                self.write_bundle(self.size() / WIDTH - 1, WIDTH)?;
                self.tail.clear();
            }
        }
        let size = self.size();
        if !size.is_multiple_of(WIDTH) {
            self.write_bundle(size / WIDTH, size % WIDTH)?;
        }
        for (level, index, width) in tile::hash_tiles(size) {
            let known = old >> (tile::HEIGHT * level);
            if index * WIDTH + width > known {
                let bytes = tile::write_hashes(self.tile(level, index, width));
                write_durably(&self.dir.join(tile::hash_path(level, index, width)), &bytes)?;
            }
        }
        let checkpoint = self.signer.sign_checkpoint(size, &self.root(size)?);
        write_durably(&self.dir.join("checkpoint"), checkpoint.as_bytes())?;
        Ok(checkpoint)
    }

    fn write_bundle(&self, index: u64, width: u64) -> Result<(), LogError> {
        let bundle = tile::write_entries(self.tail.iter().map(Vec::as_slice)).map_err(LogError::Entry)?;
        write_durably(&self.dir.join(tile::entry_path(index, width)), &bundle)
    }

    /// Partial files of bundles and tiles that are full by now: the specification lets them go.
    fn drop_partials(&self, old: u64) {
        for (level, index, width) in tile::hash_tiles(self.size()) {
            if width == WIDTH && index * WIDTH + width > old >> (tile::HEIGHT * level) {
                let full = tile::hash_path(level, index, WIDTH);
                std::fs::remove_dir_all(self.dir.join(format!("{full}.p"))).ok(); // what stays costs room only
            }
        }
        for index in old / WIDTH..self.size() / WIDTH {
            let full = tile::entry_path(index, WIDTH);
            std::fs::remove_dir_all(self.dir.join(format!("{full}.p"))).ok();
        }
    }

    /// The bytes of entry `index`, from 0.
    ///
    /// # Errors
    /// [`LogError::Beyond`], or the disk failed.
    pub fn entry(&self, index: u64) -> Result<Vec<u8>, LogError> {
        let size = self.size();
        if index >= size {
            return Err(LogError::Beyond { asked: index, size });
        }
        let bundle = index / WIDTH;
        let path = self
            .dir
            .join(tile::entry_path(bundle, (size - bundle * WIDTH).min(WIDTH)));
        let bytes = read(&path)?;
        let entries = tile::read_entries(&bytes).map_err(|source| LogError::Tile {
            path: path.clone(),
            source,
        })?;
        let place = usize::try_from(index % WIDTH).unwrap_or(usize::MAX);
        entries
            .get(place)
            .map(|e| e.to_vec())
            .ok_or(LogError::Mismatch { path, size })
    }

    /// Root of the tree over the first `size` entries.
    ///
    /// # Errors
    /// [`LogError::Beyond`].
    pub fn root(&self, size: u64) -> Result<Hash, LogError> {
        self.within(size)?;
        merkle::range_hash(0, size, &|level, index| Ok(self.subtree(level, index)))
    }

    /// Proof that the tree of `to` entries extends the one of `from`.
    ///
    /// # Errors
    /// [`LogError::Beyond`].
    pub fn consistency(&self, from: u64, to: u64) -> Result<Vec<Hash>, LogError> {
        self.within(from.max(to))?;
        merkle::consistency_proof(from, to, &|level, index| Ok(self.subtree(level, index)))
    }

    fn within(&self, asked: u64) -> Result<(), LogError> {
        let size = self.size();
        if asked > size {
            Err(LogError::Beyond { asked, size })
        } else {
            Ok(())
        }
    }

    fn subtree(&self, level: u32, index: u64) -> Hash {
        let (tile_level, tile_index, range) = tile::locate(level, index);
        let from = usize::try_from(tile_index * WIDTH).unwrap_or(usize::MAX);
        let hashes = &self.levels[usize::try_from(tile_level).unwrap_or(usize::MAX)];
        tile::subtree(&hashes[from + range.start..from + range.end])
    }
}
