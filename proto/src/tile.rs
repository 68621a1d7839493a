//! How a log lies in files, as C2SP `tlog-tiles` says: tiles of 256 hashes and bundles of 256 entries, named by place.

use crate::limits::LOG_ENTRY_BYTES_MAX;
use crate::merkle::{Hash, node_hash};

mod edge;
mod walk;

pub use edge::{Edge, Finished};
pub use walk::{WalkError, resume, walk};

/// Hashes in a full tile, and entries in a full bundle.
pub const WIDTH: u64 = 256;
/// Tree levels that one tile spans.
pub const HEIGHT: u32 = 8;
/// Bytes of one hash in a tile.
const HASH_BYTES: usize = 32;

/// Why bytes are not a tile or bundle.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TileError {
    /// A bundle ends inside an entry.
    #[error("an entry bundle that ends inside an entry, after {entries} entries")]
    Cut {
        /// Complete ones before.
        entries: usize,
    },
    /// More entries than a bundle has, or a longer one than the log allows.
    #[error("an entry of {bytes} bytes at place {entries} of a bundle")]
    TooLong {
        /// Length of the entry.
        bytes: usize,
        /// Entries before it.
        entries: usize,
    },
    /// A tile's length is not a whole number of hashes, or too long.
    #[error("a tile of {bytes} bytes")]
    Length {
        /// Found.
        bytes: usize,
    },
}

/// `000`, `x001/234`, ..: three digits a part, all but the last marked.
fn index_path(index: u64) -> String {
    let mut path = format!("{:03}", index % 1000);
    let mut rest = index / 1000;
    while rest > 0 {
        path = format!("x{:03}/{path}", rest % 1000);
        rest /= 1000;
    }
    path
}

fn with_width(path: String, width: u64) -> String {
    if width < WIDTH {
        format!("{path}.p/{width}")
    } else {
        path
    }
}

/// Path of the hash tile `index` at tile level `level`, holding `width` hashes.
#[must_use]
pub fn hash_path(level: u32, index: u64, width: u64) -> String {
    with_width(format!("tile/{level}/{}", index_path(index)), width)
}

/// Path of the entry bundle `index`, holding `width` entries.
#[must_use]
pub fn entry_path(index: u64, width: u64) -> String {
    with_width(format!("tile/entries/{}", index_path(index)), width)
}

/// What a path of a log's file stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Of a hash tile; `None` for a bundle of entries.
    pub level: Option<u32>,
    /// In its level.
    pub index: u64,
    /// Hashes or entries in it, to [`WIDTH`].
    pub width: u64,
}

impl Place {
    /// Reads what [`hash_path`] and [`entry_path`] write, and nothing else.
    #[must_use]
    pub fn of_path(path: &str) -> Option<Self> {
        let (level, place) = path.strip_prefix("tile/")?.split_once('/')?;
        let (place, width) = match place.split_once(".p/") {
            None => (place, WIDTH),
            Some((place, width)) => (place, width.parse().ok().filter(|width| (1..WIDTH).contains(width))?),
        };
        let digits: String = place
            .split('/')
            .map(|part| part.strip_prefix('x').unwrap_or(part))
            .collect();
        let index = digits.parse().ok()?;
        let (level, spelled) = match level {
            "entries" => (None, entry_path(index, width)),
            level => {
                let level = level.parse().ok().filter(|&level| level < 8)?;
                (Some(level), hash_path(level, index, width))
            }
        };
        (spelled == path).then_some(Self { level, index, width })
    }
}

/// `(index, width)` of the tiles over `count` items.
fn tiles(count: u64) -> impl Iterator<Item = (u64, u64)> {
    (0..count.div_ceil(WIDTH)).map(move |i| (i, (count - i * WIDTH).min(WIDTH)))
}

/// Paths of all entry bundles of a log of `size`, in order.
#[must_use]
pub fn entry_paths(size: u64) -> Vec<String> {
    tiles(size).map(|(index, width)| entry_path(index, width)).collect()
}

/// `(level, index, width)` of all hash tiles of a log of `size`, lowest level first.
pub fn hash_tiles(size: u64) -> impl Iterator<Item = (u32, u64, u64)> {
    (0..8_u32).flat_map(move |level| tiles(size >> (HEIGHT * level)).map(move |(index, width)| (level, index, width)))
}

/// Paths of all hash tiles of a log of `size`, lowest level first.
#[must_use]
pub fn hash_paths(size: u64) -> Vec<String> {
    hash_tiles(size)
        .map(|(level, index, width)| hash_path(level, index, width))
        .collect()
}

/// Bytes of an entry bundle: each entry with its length in two big-endian bytes before it.
///
/// # Errors
/// [`TileError::TooLong`].
pub fn write_entries<'a>(entries: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<u8>, TileError> {
    let mut bundle = Vec::new();
    for (count, entry) in entries.into_iter().enumerate() {
        let too_long = TileError::TooLong {
            bytes: entry.len(),
            entries: count,
        };
        match u16::try_from(entry.len()) {
            Ok(len) if entry.len() <= LOG_ENTRY_BYTES_MAX => bundle.extend_from_slice(&len.to_be_bytes()),
            _ => return Err(too_long),
        }
        bundle.extend_from_slice(entry);
    }
    Ok(bundle)
}

/// The entries of a bundle.
///
/// # Errors
/// [`TileError::Cut`] or [`TileError::TooLong`].
pub fn read_entries(bundle: &[u8]) -> Result<Vec<&[u8]>, TileError> {
    let (mut entries, mut rest) = (Vec::new(), bundle);
    while let Some((len, after)) = rest.split_first_chunk::<2>() {
        let bytes = usize::from(u16::from_be_bytes(*len));
        if bytes > LOG_ENTRY_BYTES_MAX || entries.len() >= 256 {
            return Err(TileError::TooLong {
                bytes,
                entries: entries.len(),
            });
        }
        let (entry, after) = after
            .split_at_checked(bytes)
            .ok_or(TileError::Cut { entries: entries.len() })?;
        entries.push(entry);
        rest = after;
    }
    if rest.is_empty() {
        Ok(entries)
    } else {
        Err(TileError::Cut { entries: entries.len() })
    }
}

/// Bytes of a hash tile.
#[must_use]
pub fn write_hashes(hashes: &[Hash]) -> Vec<u8> {
    hashes.concat()
}

/// The hashes of a tile.
///
/// # Errors
/// [`TileError::Length`].
pub fn read_hashes(tile: &[u8]) -> Result<Vec<Hash>, TileError> {
    let (hashes, rest) = tile.as_chunks::<HASH_BYTES>();
    if !rest.is_empty() || hashes.len() > 256 {
        return Err(TileError::Length { bytes: tile.len() });
    }
    Ok(hashes.to_vec())
}

/// Hash over a power-of-two run of a tile's hashes: a complete subtree inside the tile.
///
/// # Panics
/// When `hashes` is empty or not a power of two long: the caller picks whole subtrees.
#[must_use]
pub fn subtree(hashes: &[Hash]) -> Hash {
    assert!(hashes.len().is_power_of_two(), "a subtree is a power of two wide");
    match hashes {
        [one] => *one,
        more => {
            let (left, right) = more.split_at(more.len() / 2);
            node_hash(&subtree(left), &subtree(right))
        }
    }
}

/// Where the complete subtree `(level, index)` of the tree lies: tile level, tile index, and the range of that tile's
/// hashes below it.
#[must_use]
pub fn locate(level: u32, index: u64) -> (u32, u64, std::ops::Range<usize>) {
    let tile_level = level / HEIGHT;
    let run = 1_u64 << (level % HEIGHT);
    let first = index * run;
    let from = usize::try_from(first % WIDTH).unwrap_or(usize::MAX);
    (
        tile_level,
        first / WIDTH,
        from..from + usize::try_from(run).unwrap_or(usize::MAX),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merkle;
    use proptest::prelude::*;

    #[test]
    fn paths_are_those_of_the_specification() {
        assert_eq!(hash_path(0, 1_234_067, 256), "tile/0/x001/x234/067");
        assert_eq!(hash_path(1, 0, 5), "tile/1/000.p/5");
        assert_eq!(entry_path(999, 256), "tile/entries/999");
        assert_eq!(entry_paths(257), ["tile/entries/000", "tile/entries/001.p/1"]);
        assert_eq!(hash_paths(257), ["tile/0/000", "tile/0/001.p/1", "tile/1/000.p/1"]);
        assert!(hash_paths(0).is_empty());
    }

    #[test]
    fn subtrees_read_from_tiles_give_the_root() {
        let leaves: Vec<Hash> = (0..700_u32).map(|i| merkle::leaf_hash(&i.to_be_bytes())).collect();
        let level1: Vec<Hash> = leaves.chunks_exact(256).map(subtree).collect();
        let read = |level: u32, index: u64| -> Result<Hash, std::convert::Infallible> {
            let (tile_level, tile, range) = locate(level, index);
            let from = usize::try_from(tile * WIDTH).unwrap();
            let all = if tile_level == 0 { &leaves } else { &level1 };
            Ok(subtree(&all[from..][range]))
        };
        assert_eq!(merkle::range_hash(0, 700, &read).unwrap(), merkle::root_of(&leaves));
    }

    #[test]
    fn golden_bundle_bytes_do_not_change() {
        assert_eq!(write_entries([&b"ab"[..], b""]).unwrap(), [0, 2, b'a', b'b', 0, 0]);
        assert_eq!(read_entries(&[0, 2, b'a']), Err(TileError::Cut { entries: 0 }));
    }

    proptest! {
        #[test]
        fn bundles_read_back_as_themselves(entries in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..50), 0..256)) {
            let bundle = write_entries(entries.iter().map(Vec::as_slice)).unwrap();
            prop_assert_eq!(read_entries(&bundle).unwrap(), entries.iter().map(Vec::as_slice).collect::<Vec<_>>());
        }
        #[test]
        fn the_paths_of_a_log_are_told_from_all_others(level in 0..8_u32, index in 0..1_u64 << 40, width in 1..=WIDTH, text in "(tile/)?[0-9x./entris]{0,24}") {
            let (hashes, entries) = (hash_path(level, index, width), entry_path(index, width));
            prop_assert_eq!(Place::of_path(&hashes), Some(Place { level: Some(level), index, width }));
            prop_assert_eq!(Place::of_path(&entries), Some(Place { level: None, index, width }));
            for other in [format!("{hashes}/"), format!("/{hashes}"), hashes.replacen("tile/", "tile/../", 1), entries.replacen("entries/", "entries/x000/", 1)] {
                prop_assert_eq!(Place::of_path(&other), None, "{}", other);
            }
            prop_assert!(Place::of_path(&text).is_none() || !text.contains(".."));
        }
        #[test]
        fn no_bytes_make_a_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = read_entries(&bytes);
            let _ = read_hashes(&bytes);
        }
    }
}
