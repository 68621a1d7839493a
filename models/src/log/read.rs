//! Reading an open log: entries, roots of earlier sizes, proofs.

use std::{fs, io};

use proto::merkle::{self, Hash};
use proto::tile::{self, HEIGHT, WIDTH};

use super::{CHECKPOINT, Log, LogError, io_error};

impl Log {
    /// Entry `index`, from 0.
    ///
    /// # Errors
    /// [`LogError::Beyond`], or the disk.
    pub fn entry(&self, index: u64) -> Result<Vec<u8>, LogError> {
        self.within(index.saturating_add(1))?;
        self.from(index)?.into_iter().next().ok_or(LogError::Beyond {
            asked: index,
            size: self.size(),
        })
    }

    /// All entries from `index` on, read a bundle at a time.
    pub fn entries(&self, index: u64) -> impl Iterator<Item = Result<Vec<u8>, LogError>> {
        let bundles = index / WIDTH..self.size().div_ceil(WIDTH);
        bundles.flat_map(move |bundle| match self.from(index.max(bundle * WIDTH)) {
            Ok(entries) => entries.into_iter().map(Ok).collect(),
            Err(e) => vec![Err(e)],
        })
    }

    /// Entry `index` and those after it in its bundle.
    fn from(&self, index: u64) -> Result<Vec<Vec<u8>>, LogError> {
        let mut entries = self.bundle(index / WIDTH)?;
        let skip = usize::try_from(index % WIDTH).unwrap_or(usize::MAX);
        Ok(entries.split_off(skip.min(entries.len())))
    }

    fn bundle(&self, index: u64) -> Result<Vec<Vec<u8>>, LogError> {
        if index == self.size() / WIDTH {
            return Ok(self.tail.clone());
        }
        let path = self.dir.join(tile::entry_path(index, WIDTH));
        let bytes = match fs::read(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound && self.forgotten.is_some() => {
                return Err(LogError::Forgotten { index: index * WIDTH });
            }
            read => read.map_err(io_error(&path))?,
        };
        match tile::read_entries(&bytes) {
            Ok(entries) if entries.len() == 256 => Ok(entries.into_iter().map(<[u8]>::to_vec).collect()),
            _ => Err(LogError::Damaged { path }),
        }
    }

    /// A file of the log as readers ask for it: `checkpoint`, or a tile or bundle by its path. `None` where there is none.
    ///
    /// # Errors
    /// The disk.
    pub fn file(&self, path: &str) -> Result<Option<Vec<u8>>, LogError> {
        if path == CHECKPOINT {
            return Ok(Some(self.checkpoint.clone().into_bytes()));
        }
        if !tile::is_path(path) {
            return Ok(None);
        }
        let path = self.dir.join(path);
        match fs::read(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            read => read.map(Some).map_err(io_error(&path)),
        }
    }

    /// Root of the first `size` entries.
    ///
    /// # Errors
    /// [`LogError::Beyond`], or the disk.
    pub fn root(&self, size: u64) -> Result<Hash, LogError> {
        self.within(size)?;
        merkle::range_hash(0, size, &|level, index| self.subtree(level, index))
    }

    /// That entry `index` stands in the log as it is now. RFC 6962 order.
    ///
    /// # Errors
    /// [`LogError::Beyond`], or the disk.
    pub fn inclusion(&self, index: u64) -> Result<Vec<Hash>, LogError> {
        self.within(index.saturating_add(1))?;
        merkle::inclusion_proof(index, self.size(), &|level, index| self.subtree(level, index))
    }

    /// The hash of entry `index`, also of one that was forgotten.
    ///
    /// # Errors
    /// [`LogError::Beyond`], or the disk.
    pub fn leaf(&self, index: u64) -> Result<Hash, LogError> {
        self.within(index.saturating_add(1))?;
        self.subtree(0, index)
    }

    /// That the first `to` entries extend the first `from`. RFC 6962 order.
    ///
    /// # Errors
    /// [`LogError::Beyond`], or the disk.
    pub fn consistency(&self, from: u64, to: u64) -> Result<Vec<Hash>, LogError> {
        self.within(to)?;
        merkle::consistency_proof(from, to, &|level, index| self.subtree(level, index))
    }

    fn within(&self, size: u64) -> Result<(), LogError> {
        if size > self.size() {
            Err(LogError::Beyond {
                asked: size,
                size: self.size(),
            })
        } else {
            Ok(())
        }
    }

    /// The complete subtree `index` at `level` of the tree, which must lie inside the log.
    fn subtree(&self, level: u32, index: u64) -> Result<Hash, LogError> {
        let (tile_level, tile_index, range) = tile::locate(level, index);
        let full = tile_index < (self.size() >> (HEIGHT * tile_level)) / WIDTH;
        let path = self.dir.join(tile::hash_path(tile_level, tile_index, WIDTH));
        let damaged = || LogError::Damaged { path: path.clone() };
        if !full {
            return self
                .edge
                .hashes(tile_level)
                .get(range)
                .map(tile::subtree)
                .ok_or_else(damaged);
        }
        let bytes = fs::read(&path).map_err(io_error(&path))?;
        let hashes = tile::read_hashes(&bytes).map_err(|_| damaged())?;
        hashes.get(range).map(tile::subtree).ok_or_else(damaged)
    }
}
