//! Reading a log: entries, roots of earlier sizes, proofs. A view is the log at one moment; finished tiles never change.

use std::path::PathBuf;
use std::{fs, io};

use proto::merkle::{self, Hash};
use proto::tile::{self, Edge, HEIGHT, Place, WIDTH};

use super::{CHECKPOINT, LogError, bundle, io_error};

/// A log at one moment. Its calls block: they go to the disk.
#[derive(Debug)]
pub struct View {
    pub(super) dir: PathBuf,
    pub(super) edge: Edge,
    /// The entries of the last bundle, while it is not full.
    pub(super) tail: Vec<Vec<u8>>,
    pub(super) checkpoint: String,
    /// Whether the text of old entries may be gone.
    pub(super) forgets: bool,
}

impl View {
    /// Entries in the log.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.edge.size()
    }

    /// The checkpoint, signed-note text.
    #[must_use]
    pub fn checkpoint(&self) -> &str {
        &self.checkpoint
    }

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
            Err(e) if e.kind() == io::ErrorKind::NotFound && self.forgets => {
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
        let Some(Place { level, index, width }) = Place::of_path(path) else {
            return Ok(None);
        };
        let count = self.size().checked_shr(HEIGHT * level.unwrap_or(0)).unwrap_or(0);
        let end = index.checked_mul(WIDTH).and_then(|from| from.checked_add(width));
        if end.is_none_or(|end| end > count) {
            return Ok(None);
        }
        // A narrower tile is the beginning of what is there: files of it may be left of an append that was cut short.
        let width = usize::try_from(width).unwrap_or(usize::MAX);
        let read = match level {
            None => self
                .bundle(index)
                .map(|entries| bundle(&entries[..width.min(entries.len())])),
            Some(level) => self
                .tile(level, index)
                .map(|hashes| tile::write_hashes(&hashes[..width.min(hashes.len())])),
        };
        match read {
            Err(LogError::Forgotten { .. }) => Ok(None),
            read => read.map(Some),
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
        let hashes = self.tile(tile_level, tile_index)?;
        let path = || self.dir.join(tile::hash_path(tile_level, tile_index, WIDTH));
        let inside = hashes.get(range).map(tile::subtree);
        inside.ok_or_else(|| LogError::Damaged { path: path() })
    }

    /// The hashes of a tile that is begun.
    fn tile(&self, level: u32, index: u64) -> Result<Vec<Hash>, LogError> {
        if index >= (self.size() >> (HEIGHT * level)) / WIDTH {
            return Ok(self.edge.hashes(level).to_vec());
        }
        let path = self.dir.join(tile::hash_path(level, index, WIDTH));
        let bytes = fs::read(&path).map_err(io_error(&path))?;
        match tile::read_hashes(&bytes) {
            Ok(hashes) if hashes.len() == 256 => Ok(hashes),
            _ => Err(LogError::Damaged { path }),
        }
    }
}
