//! Putting one file together from chunks that come in any order, from any source.
//!
//! There is no bitmap on disk: which chunks a part holds is found by hashing it when it is opened. That costs 0.6 s
//! a GB once after a crash, and nothing can be claimed that is not there (`docs/decisions/0005-assembly-without-bitmap.md`).

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use proto::ids::ContentHash;
use proto::manifest::{ChunkEntry, FileEntry};

use super::{Claim, Store, StoreError, io_at};
use crate::chunk::{ChunkIndex, placed};
use crate::durable;
use crate::verify::hash_file;

/// A file on its way into the store. Dropping it keeps what came so far.
#[derive(Debug)]
pub struct Assembly {
    store: Store,
    entry: FileEntry,
    path: PathBuf,
    file: File,
    /// Offsets at which each chunk that is still missing belongs, and its length.
    missing: HashMap<ContentHash, (Vec<u64>, u32)>,
    _claim: Claim,
}

impl Assembly {
    pub(super) fn open(store: Store, entry: FileEntry) -> Result<Self, StoreError> {
        let claim = store.claim(entry.blake3)?;
        let path = store.part_path(&entry.blake3);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(io_at("open", &path))?;
        let resumed = file.metadata().map_err(io_at("look at", &path))?.len() > 0;
        file.set_len(entry.bytes).map_err(io_at("make room for", &path))?;
        let mut missing: HashMap<ContentHash, (Vec<u64>, u32)> = HashMap::new();
        let mut buffer = Vec::new();
        for (offset, chunk) in placed(&entry) {
            if resumed {
                buffer.resize(usize::try_from(chunk.bytes).expect("32 bits fit"), 0);
                file.read_exact_at(&mut buffer, offset).map_err(io_at("read", &path))?;
                if ContentHash::of(&buffer) == chunk.blake3 {
                    continue;
                }
            }
            missing
                .entry(chunk.blake3)
                .or_insert_with(|| (Vec::new(), chunk.bytes))
                .0
                .push(offset);
        }
        Ok(Self {
            store,
            entry,
            path,
            file,
            missing,
            _claim: claim,
        })
    }

    /// The file being assembled.
    #[must_use]
    pub fn entry(&self) -> &FileEntry {
        &self.entry
    }

    /// The chunks still to come, each once, in file order.
    #[must_use]
    pub fn missing(&self) -> Vec<ChunkEntry> {
        let first = |(offset, chunk): &(u64, ChunkEntry)| {
            self.missing
                .get(&chunk.blake3)
                .is_some_and(|(places, _)| places.first() == Some(offset))
        };
        placed(&self.entry).filter(first).map(|(_, chunk)| chunk).collect()
    }

    /// Bytes still to be written.
    #[must_use]
    pub fn missing_bytes(&self) -> u64 {
        let places = |n: usize| u64::try_from(n).expect("a file has fewer than 2^64 chunks");
        self.missing
            .values()
            .map(|(offsets, bytes)| places(offsets.len()) * u64::from(*bytes))
            .sum()
    }

    /// Writes a chunk wherever it belongs, after hashing it. A chunk that is there already is not written again.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when `bytes` are not what `chunk` names (nothing is written), [`StoreError::Foreign`]
    /// when it is no part of this file, [`StoreError::Io`].
    pub fn put(&mut self, chunk: &ContentHash, bytes: &[u8]) -> Result<(), StoreError> {
        let got = ContentHash::of(bytes);
        if got != *chunk {
            return Err(StoreError::Corrupt { want: *chunk, got });
        }
        let Some((offsets, _)) = self.missing.get(chunk) else {
            let known = self.entry.chunks.iter().any(|c| c.blake3 == *chunk);
            let foreign = || StoreError::Foreign {
                chunk: *chunk,
                file: self.entry.path.clone(),
            };
            return if known { Ok(()) } else { Err(foreign()) };
        };
        for offset in offsets {
            self.file
                .write_all_at(bytes, *offset)
                .map_err(io_at("write", &self.path))?;
        }
        self.missing.remove(chunk);
        Ok(())
    }

    /// Takes chunks from what the store holds: single chunks stored under their own name, and pieces of the whole
    /// files in `known`. What does not hash right is left out. Gives the bytes that need not come over the network.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn fill_from(&mut self, known: &ChunkIndex) -> Result<u64, StoreError> {
        let before = self.missing_bytes();
        for chunk in self.missing() {
            let place = known.find(&chunk.blake3);
            let (file, offset) = place.map_or((chunk.blake3, 0), |p| (p.file, p.offset));
            let bytes = usize::try_from(chunk.bytes).expect("32 bits fit");
            let put = self
                .store
                .read_range(&file, offset, bytes)
                .and_then(|found| self.put(&chunk.blake3, &found));
            // Absent, cut short or changed on disk: it comes over the network. A failing disk is told.
            if let Err(e @ StoreError::Io { .. }) = put {
                return Err(e);
            }
        }
        Ok(before - self.missing_bytes())
    }

    /// Hashes the whole file and gives it its name in the store; it is durable when this returns.
    ///
    /// # Errors
    /// [`StoreError::Incomplete`] while chunks are missing; [`StoreError::Corrupt`] when right chunks make a wrong file,
    /// which only a wrong manifest does (the part is removed); [`StoreError::Io`].
    pub fn finish(self) -> Result<(), StoreError> {
        if !self.missing.is_empty() {
            return Err(StoreError::Incomplete {
                file: self.entry.path,
                chunks: self.missing.len(),
            });
        }
        let to = self.store.path(&self.entry.blake3);
        let got = hash_file(&self.path).map_err(io_at("read", &self.path))?;
        if got != self.entry.blake3 {
            fs::remove_file(&self.path).map_err(io_at("remove", &self.path))?;
            return Err(StoreError::Corrupt {
                want: self.entry.blake3,
                got,
            });
        }
        durable::settle(&self.file, &self.path, &to).map_err(io_at("rename to", &to))
    }
}
