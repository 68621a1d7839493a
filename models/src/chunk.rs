//! How a file is cut into chunks, so that a new version moves only the pieces that changed.
//!
//! Cuts follow the content (FastCDC): an edit moves the cuts beside it and no others. The same bytes give the same
//! chunks on every machine; the figures below are therefore part of the release format and never change.
//!
//! # Source
//! Xia et al. 2020, "The Design of Fast Content-Defined Chunking", IEEE TPDS 31(9).

use std::collections::HashMap;

use fastcdc::v2020::FastCDC;
use proto::ids::ContentHash;
use proto::manifest::{ChunkEntry, FileEntry};
use sha2::{Digest, Sha256};

/// Files below this many bytes are cut finer: an edit of a small file's header then moves 0.7 % of it instead of 4.3 %.
const FINE_BELOW_BYTES: usize = 8 << 20;
const FINE_AVERAGE_BYTES: usize = 16 << 10;
const COARSE_AVERAGE_BYTES: usize = 64 << 10;

const _: () = assert!(4 * COARSE_AVERAGE_BYTES <= proto::limits::CHUNK_BYTES_MAX);

/// Cuts `bytes` into chunks, in order. Empty bytes have none. Cost: about 1 s a GB and thread.
#[must_use]
pub fn split(bytes: &[u8]) -> Vec<ChunkEntry> {
    let average = if bytes.len() < FINE_BELOW_BYTES {
        FINE_AVERAGE_BYTES
    } else {
        COARSE_AVERAGE_BYTES
    };
    FastCDC::new(bytes, average / 4, average, average * 4)
        .map(|cut| {
            let piece = &bytes[cut.offset..cut.offset + cut.length];
            let bytes = u32::try_from(cut.length).expect("a chunk is at most four averages long");
            ChunkEntry {
                blake3: ContentHash::of(piece),
                bytes,
            }
        })
        .collect()
}

/// Describes the package file `path` that holds `bytes`.
#[must_use]
pub fn describe(path: &str, bytes: &[u8]) -> FileEntry {
    FileEntry {
        path: path.to_owned(),
        bytes: u64::try_from(bytes.len()).expect("memory is smaller than 2^64"),
        blake3: ContentHash::of(bytes),
        sha256: Sha256::digest(bytes).into(),
        chunks: split(bytes),
    }
}

/// The chunks of `file` with the offset at which each begins.
pub fn placed(file: &FileEntry) -> impl Iterator<Item = (u64, ChunkEntry)> {
    file.chunks.iter().scan(0, |offset, chunk| {
        let at = *offset;
        *offset += u64::from(chunk.bytes);
        Some((at, *chunk))
    })
}

/// Where a chunk's bytes stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The whole file that holds it.
    pub file: ContentHash,
    /// From here.
    pub offset: u64,
    /// This many.
    pub bytes: u32,
}

/// Finds chunks inside whole files, so that no chunk is stored or moved twice.
#[derive(Clone, Debug, Default)]
pub struct ChunkIndex {
    places: HashMap<ContentHash, Place>,
}

impl ChunkIndex {
    /// Learns the chunks of a whole file. The first place seen of a chunk stays.
    pub fn add(&mut self, file: &FileEntry) {
        for (offset, chunk) in placed(file) {
            let place = Place {
                file: file.blake3,
                offset,
                bytes: chunk.bytes,
            };
            self.places.entry(chunk.blake3).or_insert(place);
        }
    }
    /// Forgets a file that is gone; chunks that other files hold too are learnt again by adding those.
    pub fn forget(&mut self, file: &ContentHash) {
        self.places.retain(|_, place| &place.file != file);
    }
    /// Where `chunk` stands.
    #[must_use]
    pub fn find(&self, chunk: &ContentHash) -> Option<Place> {
        self.places.get(chunk).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn noise(seed: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new()
            .update(&seed.to_le_bytes())
            .finalize_xof()
            .fill(&mut bytes);
        bytes
    }

    #[test]
    fn cuts_never_change_because_every_release_depends_on_them() {
        let entry = describe("noise", &noise(1, 300_000));
        let lengths: Vec<u32> = entry.chunks.iter().map(|c| c.bytes).collect();
        assert_eq!(lengths, GOLDEN_LENGTHS);
        let coarse = split(&noise(2, 9 << 20));
        assert_eq!(coarse.len(), GOLDEN_COARSE_CHUNKS);
    }
    const GOLDEN_LENGTHS: &[u32] = &[
        27178, 7652, 41830, 6744, 43377, 24969, 39685, 22285, 20071, 40534, 21689, 3986,
    ];
    const GOLDEN_COARSE_CHUNKS: usize = 123;

    #[test]
    fn an_edit_in_the_middle_moves_few_chunks() {
        let old = noise(3, 2 << 20);
        let mut new = old.clone();
        new.splice(1_000_000..1_000_000, *b"an inserted sentence");
        let mut known = ChunkIndex::default();
        known.add(&describe("old", &old));
        let moved = split(&new).iter().filter(|c| known.find(&c.blake3).is_none()).count();
        assert!((1..=3).contains(&moved), "{moved} chunks moved");
    }

    #[test]
    fn a_forgotten_file_is_no_place_to_find_a_chunk() {
        let file = describe("a", &noise(4, 50_000));
        let mut index = ChunkIndex::default();
        index.add(&file);
        assert_eq!(index.find(&file.chunks[0].blake3).unwrap().offset, 0);
        index.forget(&file.blake3);
        assert!(index.find(&file.chunks[0].blake3).is_none());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn chunks_join_to_the_file_again(seed in any::<u64>(), len in 0_usize..400_000) {
            let bytes = noise(seed, len);
            let entry = describe("f", &bytes);
            let mut joined = Vec::new();
            for (offset, chunk) in placed(&entry) {
                let from = usize::try_from(offset).unwrap();
                let piece = &bytes[from..from + usize::try_from(chunk.bytes).unwrap()];
                prop_assert_eq!(ContentHash::of(piece), chunk.blake3);
                joined.extend_from_slice(piece);
            }
            prop_assert_eq!(joined, bytes);
        }
    }
}
