//! The whole check of a log: every entry, every tile and the root against the checkpoint. Whoever audits a log does it by
//! this one function, and so means the same by "the log is sound". [`resume`] checks what appending needs and no more.

use super::{Edge, Finished, TileError, WIDTH, entry_path, read_entries, read_hashes};
use crate::ids::hex;
use crate::merkle::leaf_hash;
use crate::note::Checkpoint;

/// Why files are not the log of their checkpoint.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WalkError<E> {
    /// A file cannot be read.
    #[error("{path} cannot be read")]
    Read {
        /// Below the log's folder.
        path: String,
        /// Why.
        #[source]
        source: E,
    },
    /// A bundle is not one.
    #[error("{path} is no entry bundle")]
    Bundle {
        /// Below the log's folder.
        path: String,
        /// Why.
        #[source]
        source: TileError,
    },
    /// A bundle has more or fewer entries than its name says.
    #[error("{path} has {found} entries, {expected} belong there")]
    Count {
        /// Below the log's folder.
        path: String,
        /// Entries in it.
        found: usize,
        /// Entries that the checkpoint's size asks for.
        expected: u64,
    },
    /// A tile is not what its entries hash to.
    #[error("{path} does not hold the hashes of the entries below it")]
    Tile {
        /// Below the log's folder.
        path: String,
    },
    /// All tiles fit the entries, but not the checkpoint.
    #[error("the {size} entries have the root {found}, the signed checkpoint says {expected}")]
    Root {
        /// Of the checkpoint.
        size: u64,
        /// Of the entries, in hex.
        found: String,
        /// Of the checkpoint, in hex.
        expected: String,
    },
    /// An entry is not one that belongs into this log.
    #[error("entry {index} does not belong into this log")]
    Entry {
        /// From 0.
        index: u64,
        /// Why.
        #[source]
        source: E,
    },
}

/// Reads the log of `checkpoint` through `read`, which gives the bytes of a path, and shows each entry to `entry`, in
/// order. Nothing beyond the checkpoint's size is read. Gives the tree's edge and the number of tiles checked.
///
/// # Errors
/// [`WalkError`], the first thing that does not fit.
pub fn walk<E>(
    checkpoint: &Checkpoint,
    mut read: impl FnMut(&str) -> Result<Vec<u8>, E>,
    mut entry: impl FnMut(u64, &[u8]) -> Result<(), E>,
) -> Result<(Edge, u64), WalkError<E>> {
    let (mut edge, mut tiles) = (Edge::default(), 0);
    let mut get = |path: &str| got(path, read(path));
    for bundle in 0..checkpoint.size.div_ceil(WIDTH) {
        let expected = (checkpoint.size - bundle * WIDTH).min(WIDTH);
        let path = entry_path(bundle, expected);
        let bytes = get(&path)?;
        let mut full = Vec::new();
        for bytes in entries(&path, &bytes, expected)? {
            let index = edge.size();
            entry(index, bytes).map_err(|source| WalkError::Entry { index, source })?;
            edge.push(leaf_hash(bytes), &mut |tile| full.push(tile));
        }
        tiles += compare(full, &mut get)?;
    }
    tiles += compare(edge.unfinished(), &mut get)?;
    rooted(edge, checkpoint).map(|edge| (edge, tiles))
}

/// What appending to the log of `checkpoint` needs of it: its edge, and the entries of its last bundle where that is not full.
/// Reads no full tile or bundle: what is below them is not checked.
///
/// # Errors
/// [`WalkError`], the first thing that does not fit.
pub fn resume<E>(
    checkpoint: &Checkpoint,
    mut read: impl FnMut(&str) -> Result<Vec<u8>, E>,
) -> Result<(Edge, Vec<Vec<u8>>), WalkError<E>> {
    let mut get = |path: &str| got(path, read(path));
    let edge = Edge::of(checkpoint.size, |path| {
        read_hashes(&get(path)?).map_err(|_| WalkError::Tile { path: path.to_owned() })
    })?;
    let edge = rooted(edge, checkpoint)?;
    let width = checkpoint.size % WIDTH;
    if width == 0 {
        return Ok((edge, Vec::new()));
    }
    let path = entry_path(checkpoint.size / WIDTH, width);
    let bytes = get(&path)?;
    let tail: Vec<Vec<u8>> = entries(&path, &bytes, width)?.into_iter().map(<[u8]>::to_vec).collect();
    if tail
        .iter()
        .map(|entry| leaf_hash(entry))
        .ne(edge.hashes(0).iter().copied())
    {
        return Err(WalkError::Tile { path });
    }
    Ok((edge, tail))
}

fn got<E>(path: &str, read: Result<Vec<u8>, E>) -> Result<Vec<u8>, WalkError<E>> {
    read.map_err(|source| WalkError::Read {
        path: path.to_owned(),
        source,
    })
}

/// The `expected` entries of the bundle at `path`.
fn entries<'b, E>(path: &str, bundle: &'b [u8], expected: u64) -> Result<Vec<&'b [u8]>, WalkError<E>> {
    let path = || path.to_owned();
    let entries = read_entries(bundle).map_err(|source| WalkError::Bundle { path: path(), source })?;
    if u64::try_from(entries.len()) != Ok(expected) {
        return Err(WalkError::Count {
            path: path(),
            found: entries.len(),
            expected,
        });
    }
    Ok(entries)
}

/// `edge`, if it has the signed root.
fn rooted<E>(edge: Edge, checkpoint: &Checkpoint) -> Result<Edge, WalkError<E>> {
    if edge.root() == checkpoint.root {
        return Ok(edge);
    }
    Err(WalkError::Root {
        size: checkpoint.size,
        found: hex(&edge.root()),
        expected: hex(&checkpoint.root),
    })
}

fn compare<E>(
    tiles: impl IntoIterator<Item = Finished>,
    get: &mut impl FnMut(&str) -> Result<Vec<u8>, WalkError<E>>,
) -> Result<u64, WalkError<E>> {
    let mut compared = 0;
    for tile in tiles {
        if get(&tile.path)? != tile.bytes {
            return Err(WalkError::Tile { path: tile.path });
        }
        compared += 1;
    }
    Ok(compared)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::tile::write_entries;
    use proptest::prelude::*;

    #[derive(Debug, Clone, PartialEq)]
    struct Gone;

    fn log(size: u64) -> (Checkpoint, BTreeMap<String, Vec<u8>>) {
        let entries: Vec<Vec<u8>> = (0..size).map(|i| i.to_string().into_bytes()).collect();
        let (mut edge, mut files) = (Edge::default(), BTreeMap::new());
        for entry in &entries {
            edge.push(leaf_hash(entry), &mut |tile| {
                files.insert(tile.path, tile.bytes);
            });
        }
        files.extend(edge.unfinished().map(|tile| (tile.path, tile.bytes)));
        for (index, bundle) in (0..).zip(entries.chunks(256)) {
            let width = u64::try_from(bundle.len()).unwrap();
            files.insert(
                entry_path(index, width),
                write_entries(bundle.iter().map(Vec::as_slice)).unwrap(),
            );
        }
        (
            Checkpoint {
                origin: "log".to_owned(),
                size,
                root: edge.root(),
            },
            files,
        )
    }

    fn check(checkpoint: &Checkpoint, files: &BTreeMap<String, Vec<u8>>) -> Result<(Edge, u64), WalkError<Gone>> {
        walk(checkpoint, |path| files.get(path).cloned().ok_or(Gone), |_, _| Ok(()))
    }

    #[test]
    fn a_sound_log_is_walked_entry_by_entry() {
        for size in [0, 1, 255, 256, 257, 600] {
            let (checkpoint, files) = log(size);
            let mut seen = Vec::new();
            let entry = |index: u64, bytes: &[u8]| {
                assert_eq!(bytes, index.to_string().as_bytes());
                seen.push(index);
                Ok(())
            };
            let (edge, tiles) = walk(&checkpoint, |path| files.get(path).cloned().ok_or(Gone), entry).unwrap();
            assert_eq!((edge.size(), edge.root()), (size, checkpoint.root));
            let (resumed, tail) = resume(&checkpoint, |path| files.get(path).cloned().ok_or(Gone)).unwrap();
            assert_eq!(resumed, edge);
            let last: Vec<u64> = (size - size % WIDTH..size).collect();
            assert_eq!(
                tail,
                last.iter().map(|i| i.to_string().into_bytes()).collect::<Vec<_>>()
            );
            assert_eq!(seen, (0..size).collect::<Vec<_>>());
            assert_eq!(usize::try_from(tiles).unwrap(), crate::tile::hash_paths(size).len());
        }
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let (checkpoint, files) = log(300);
        let without = |path: &str| {
            let mut files = files.clone();
            files.remove(path).unwrap();
            files
        };
        assert!(matches!(
            check(&checkpoint, &without("tile/1/000.p/1")),
            Err(WalkError::Read { .. })
        ));
        let mut other = checkpoint.clone();
        other.root[0] ^= 1;
        assert!(matches!(check(&other, &files), Err(WalkError::Root { size: 300, .. })));
        let refuse = |index, _: &[u8]| if index == 7 { Err(Gone) } else { Ok(()) };
        let refused = walk(&checkpoint, |path| files.get(path).cloned().ok_or(Gone), refuse);
        assert!(matches!(refused, Err(WalkError::Entry { index: 7, .. })));
    }

    proptest! {
        #[test]
        fn no_flipped_bit_and_no_cut_goes_unseen(file in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), bit in 0..8_u8) {
            let (checkpoint, files) = log(300);
            let path = file.get(&files.keys().cloned().collect::<Vec<_>>()).clone();
            let mut flipped = files.clone();
            let bytes = flipped.get_mut(&path).unwrap();
            let place = at.index(bytes.len());
            bytes[place] ^= 1 << bit;
            prop_assert!(check(&checkpoint, &flipped).is_err());
            // What appending starts from is not believed either; the rest it does not look at.
            let looked_at = files.iter().filter(|(path, _)| path.contains(".p/")).count();
            prop_assert!(looked_at == 3);
            prop_assert_eq!(resume(&checkpoint, |path| flipped.get(path).cloned().ok_or(Gone)).is_err(), path.contains(".p/"));
            let mut cut = files.clone();
            cut.get_mut(&path).unwrap().truncate(place);
            prop_assert!(check(&checkpoint, &cut).is_err());
        }
    }
}
