//! The right edge of a tiled log: all that appending needs to know of the tree.
//!
//! ```text
//!   level 1   [h0 .. h2]                 the unfinished tile of each level, from the root's side ..
//!   level 0   [h0 .. .. .. h188]         .. to the leaves': size = 3 * 256 + 189
//! ```

use sha2::{Digest, Sha256};

use super::{HEIGHT, WIDTH, hash_path, subtree, write_hashes};
use crate::merkle::{Hash, node_hash};

/// Unfinished tiles of every level, and how many leaves they stand for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edge {
    size: u64,
    levels: Vec<Vec<Hash>>,
}

/// A tile as it lies on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// Level of the tile.
    pub level: u32,
    /// Index in its level.
    pub index: u64,
    /// Where it lies, below the log's folder.
    pub path: String,
    /// Its hashes.
    pub bytes: Vec<u8>,
}

impl Edge {
    /// The edge of a log of `size`, from its unfinished tiles: `read` gives the hashes of the one at a path. Whether they are
    /// those of the log its root says.
    ///
    /// # Errors
    /// What `read` fails with.
    pub(super) fn of<E>(size: u64, mut read: impl FnMut(&str) -> Result<Vec<Hash>, E>) -> Result<Self, E> {
        let mut levels = Vec::new();
        for level in 0.. {
            let count = size.checked_shr(HEIGHT * level).unwrap_or(0);
            if count == 0 {
                break;
            }
            levels.push(match count % WIDTH {
                0 => Vec::new(),
                width => read(&hash_path(level, count / WIDTH, width))?,
            });
        }
        Ok(Self { size, levels })
    }

    /// Leaves so far.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Takes the next leaf's hash. Tiles that it completes are handed to `full`, lowest first.
    pub fn push(&mut self, leaf: Hash, full: &mut impl FnMut(Finished)) {
        self.size += 1;
        let mut hash = leaf;
        for level in 0.. {
            if self.levels.len() == level {
                self.levels.push(Vec::new());
            }
            let tile = &mut self.levels[level];
            tile.push(hash);
            if tile.len() < 256 {
                return;
            }
            hash = subtree(tile);
            let level = u32::try_from(level).unwrap_or(u32::MAX);
            let index = (self.size >> (HEIGHT * (level + 1))) - 1;
            full(Finished {
                level,
                index,
                path: hash_path(level, index, WIDTH),
                bytes: write_hashes(tile),
            });
            tile.clear();
        }
    }

    /// The unfinished tiles, lowest first.
    pub fn unfinished(&self) -> impl Iterator<Item = Finished> {
        let all = (0_u32..).zip(&self.levels).filter(|(_, tile)| !tile.is_empty());
        all.map(|(level, tile)| {
            let count = self.size >> (HEIGHT * level);
            let index = count / WIDTH;
            Finished {
                level,
                index,
                path: hash_path(level, index, count % WIDTH),
                bytes: write_hashes(tile),
            }
        })
    }

    /// The hashes of the unfinished tile at `level`.
    #[must_use]
    pub fn hashes(&self, level: u32) -> &[Hash] {
        usize::try_from(level)
            .ok()
            .and_then(|level| self.levels.get(level))
            .map_or(&[], Vec::as_slice)
    }

    /// Root of the tree over all leaves so far.
    #[must_use]
    pub fn root(&self) -> Hash {
        let mut root: Option<Hash> = None;
        for tile in &self.levels {
            let mut rest = tile.as_slice();
            // The complete subtrees from right to left: their widths are the binary digits of the tile's length.
            while !rest.is_empty() {
                let (left, peak) = rest.split_at(rest.len() - (1 << rest.len().trailing_zeros()));
                root = Some(root.map_or_else(|| subtree(peak), |right| node_hash(&subtree(peak), &right)));
                rest = left;
            }
        }
        root.unwrap_or_else(|| Sha256::digest([]).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merkle::{leaf_hash, root_of};
    use crate::tile::{hash_paths, read_hashes};

    #[test]
    fn the_edge_has_the_root_of_all_leaves_and_writes_every_tile_of_its_size_once() {
        let (mut edge, mut leaves, mut full) = (Edge::default(), Vec::new(), Vec::new());
        for i in 0..66_000_u32 {
            let check = i < 600 || i % 9_973 == 0 || (65_530..65_540).contains(&i);
            if check {
                assert_eq!(edge.root(), root_of(&leaves), "{i}");
                let mut paths: Vec<String> = full.iter().map(|t: &Finished| t.path.clone()).collect();
                paths.extend(edge.unfinished().map(|t| t.path));
                let mut expected = hash_paths(u64::from(i));
                paths.sort();
                expected.sort();
                assert_eq!(paths, expected, "{i}");
                let at = |path: &str| edge.unfinished().find(|tile| tile.path == path).map(|tile| tile.bytes);
                let again = Edge::of(edge.size(), |path| read_hashes(&at(path).ok_or(())?).map_err(|_| ()));
                assert_eq!(again.as_ref(), Ok(&edge), "{i}");
            }
            leaves.push(leaf_hash(&i.to_be_bytes()));
            edge.push(*leaves.last().unwrap(), &mut |tile| full.push(tile));
        }
    }
}
