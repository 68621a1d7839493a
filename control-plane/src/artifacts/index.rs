//! Where each chunk lies: in which whole file, from which byte. In sled, and made again from manifests at any time.

use std::path::Path;

use proto::ids::ContentHash;
use proto::manifest::{FileEntry, Manifest};

/// Why the index cannot be used. Removing its folder makes it be built again.
#[derive(Debug, thiserror::Error)]
#[error("chunk index: remove its folder and start again")]
pub struct IndexError(#[from] sled::Error);

/// Bytes of one record: file digest, offset, length.
const RECORD_BYTES: usize = 32 + 8 + 4;

/// A stretch of a whole file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file's identity.
    pub file: ContentHash,
    /// First byte.
    pub offset: u64,
    /// Length.
    pub bytes: u32,
}

impl Place {
    fn encode(self) -> Vec<u8> {
        let mut record = Vec::with_capacity(RECORD_BYTES);
        record.extend_from_slice(self.file.as_bytes());
        record.extend_from_slice(&self.offset.to_le_bytes());
        record.extend_from_slice(&self.bytes.to_le_bytes());
        record
    }
    fn decode(record: &[u8]) -> Option<Self> {
        let (file, rest) = record.split_first_chunk::<32>()?;
        let (offset, rest) = rest.split_first_chunk::<8>()?;
        let bytes = u32::from_le_bytes(rest.try_into().ok()?);
        Some(Self {
            file: ContentHash::from_bytes(*file),
            offset: u64::from_le_bytes(*offset),
            bytes,
        })
    }
}

/// Chunk -> place. Clones share it.
#[derive(Clone, Debug)]
pub struct ChunkIndex {
    chunks: sled::Tree,
    manifests: sled::Tree,
}

impl ChunkIndex {
    /// Opens or makes the index in folder `dir`. Blocking.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn open(dir: &Path) -> Result<Self, IndexError> {
        let db = sled::Config::new().path(dir).cache_capacity(32 << 20).open()?;
        Ok(Self {
            chunks: db.open_tree("chunks")?,
            manifests: db.open_tree("manifests")?,
        })
    }

    /// Where `chunk` lies, if it lies in a whole file.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn place(&self, chunk: &ContentHash) -> Result<Option<Place>, IndexError> {
        Ok(self
            .chunks
            .get(chunk.as_bytes())?
            .and_then(|record| Place::decode(&record)))
    }

    /// Whether all files of this manifest were added.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn knows(&self, manifest: &ContentHash) -> Result<bool, IndexError> {
        Ok(self.manifests.contains_key(manifest.as_bytes())?)
    }

    /// Adds all chunks of a manifest whose files are all in the store. Blocking.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn add(&self, id: &ContentHash, manifest: &Manifest) -> Result<(), IndexError> {
        for file in &manifest.files {
            let mut batch = sled::Batch::default();
            for (chunk, place) in places(file) {
                batch.insert(&chunk.as_bytes()[..], place.encode());
            }
            self.chunks.apply_batch(batch)?;
        }
        self.manifests.insert(id.as_bytes(), &[])?;
        self.manifests.flush()?;
        Ok(())
    }
}

/// The chunks of `file` and where each lies in it.
fn places(file: &FileEntry) -> impl Iterator<Item = (ContentHash, Place)> {
    let mut offset = 0;
    file.chunks.iter().map(move |chunk| {
        let place = Place {
            file: file.blake3,
            offset,
            bytes: chunk.bytes,
        };
        offset += u64::from(chunk.bytes);
        (chunk.blake3, place)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_place_reads_back_as_itself(file: [u8; 32], offset: u64, bytes: u32) {
            let place = Place { file: ContentHash::from_bytes(file), offset, bytes };
            prop_assert_eq!(Place::decode(&place.encode()), Some(place));
        }
        #[test]
        fn no_record_makes_the_reader_panic(record in proptest::collection::vec(any::<u8>(), 0..64)) {
            let read = Place::decode(&record);
            prop_assert_eq!(read.is_some(), record.len() == RECORD_BYTES);
        }
    }
}
