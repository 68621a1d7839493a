//! Merkle trees as in RFC 6962 section 2: SHA-256, `0x00` before leaves, `0x01` before nodes.
//!
//! Proofs are made from a reader of complete subtrees, so that the same code serves a list in memory and tiles on disk.

use sha2::{Digest, Sha256};

use crate::limits::PROOF_HASHES_MAX;

/// A node of the tree.
pub type Hash = [u8; 32];

/// Hash of one leaf's bytes.
#[must_use]
pub fn leaf_hash(leaf: &[u8]) -> Hash {
    let mut hasher = Sha256::new();
    hasher.update([0]);
    hasher.update(leaf);
    hasher.finalize().into()
}

/// Hash of a node from its two children.
#[must_use]
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    let mut hasher = Sha256::new();
    hasher.update([1]);
    hasher.update(left);
    hasher.update(right);
    hasher.finalize().into()
}

/// Root of the tree over `leaves`, given their hashes. The empty tree's root is the hash of nothing.
#[must_use]
pub fn root_of(leaves: &[Hash]) -> Hash {
    let read = |level: u32, index: u64| -> Result<Hash, std::convert::Infallible> {
        let width = 1_usize << level;
        let from = usize::try_from(index).unwrap_or(usize::MAX) * width;
        Ok(full(&leaves[from..from + width]))
    };
    match range_hash(0, u64::try_from(leaves.len()).unwrap_or(u64::MAX), &read) {
        Ok(root) => root,
    }
}

fn full(leaves: &[Hash]) -> Hash {
    match leaves {
        [one] => *one,
        more => {
            let (left, right) = more.split_at(more.len() / 2);
            node_hash(&full(left), &full(right))
        }
    }
}

/// The largest power of two below `n`, for `n` of at least 2.
fn split(n: u64) -> u64 {
    1 << (63 - (n - 1).leading_zeros())
}

/// Hash of the leaves `from..to`, where `from` is a multiple of every complete subtree inside.
///
/// `read(level, index)` gives the complete subtree that covers leaves `index << level .. (index + 1) << level`.
///
/// # Errors
/// Whatever `read` fails with.
pub fn range_hash<E>(from: u64, to: u64, read: &impl Fn(u32, u64) -> Result<Hash, E>) -> Result<Hash, E> {
    match to - from {
        0 => Ok(Sha256::digest([]).into()),
        n if n.is_power_of_two() => read(n.trailing_zeros(), from >> n.trailing_zeros()),
        n => {
            let middle = from + split(n);
            Ok(node_hash(
                &range_hash(from, middle, read)?,
                &range_hash(middle, to, read)?,
            ))
        }
    }
}

/// A tree in memory, with its complete subtrees: as many hashes as there are leaves make all of its proofs.
#[derive(Clone, Debug)]
pub struct Tree {
    /// Leaves first; each further level has the complete pairs of the one before.
    levels: Vec<Vec<Hash>>,
}

impl Tree {
    /// The tree over leaves of these hashes.
    #[must_use]
    pub fn of(leaves: Vec<Hash>) -> Self {
        let mut levels = vec![leaves];
        while let Some(below) = levels.last().filter(|level| level.len() > 1) {
            let pairs = below.as_chunks::<2>().0;
            levels.push(pairs.iter().map(|[left, right]| node_hash(left, right)).collect());
        }
        Self { levels }
    }
    /// Leaves.
    #[must_use]
    pub fn size(&self) -> u64 {
        u64::try_from(self.levels[0].len()).unwrap_or(u64::MAX)
    }
    /// The root over all of them.
    #[must_use]
    pub fn root(&self) -> Hash {
        let Ok(root) = range_hash(0, self.size(), &|level, index| self.subtree(level, index));
        root
    }
    /// Proof that leaf `index` stands in it, as [`inclusion_proof`].
    ///
    /// # Panics
    /// When there is no such leaf.
    #[must_use]
    pub fn inclusion(&self, index: u64) -> Vec<Hash> {
        assert!(index < self.size(), "leaf {index} of {}", self.size());
        let Ok(proof) = inclusion_proof(index, self.size(), &|level, index| self.subtree(level, index));
        proof
    }
    fn subtree(&self, level: u32, index: u64) -> Result<Hash, std::convert::Infallible> {
        let place = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        Ok(self.levels[place(u64::from(level))][place(index)])
    }
}

/// Proof that leaf `index` stands in the tree of `size`. RFC 6962 section 2.1.1.
///
/// # Errors
/// Whatever `read` fails with.
pub fn inclusion_proof<E>(index: u64, size: u64, read: &impl Fn(u32, u64) -> Result<Hash, E>) -> Result<Vec<Hash>, E> {
    let mut proof = Vec::new();
    let (mut from, mut to) = (0, size);
    while to - from > 1 {
        let middle = from + split(to - from);
        if index < middle {
            proof.push(range_hash(middle, to, read)?);
            to = middle;
        } else {
            proof.push(range_hash(from, middle, read)?);
            from = middle;
        }
    }
    proof.reverse();
    Ok(proof)
}

/// Whether `proof` shows that `leaf` is leaf `index` of the tree of `size` with `root`. RFC 9162 section 2.1.3.2.
#[must_use]
pub fn verify_inclusion(leaf: &Hash, index: u64, size: u64, proof: &[Hash], root: &Hash) -> bool {
    if index >= size || proof.len() > PROOF_HASHES_MAX {
        return false;
    }
    let (mut node, mut last, mut hash) = (index, size - 1, *leaf);
    for sibling in proof {
        if last == 0 {
            return false;
        }
        if node & 1 == 1 || node == last {
            hash = node_hash(sibling, &hash);
            if node & 1 == 0 {
                let zeros = node.trailing_zeros().min(63);
                (node, last) = (node >> zeros, last >> zeros);
            }
        } else {
            hash = node_hash(&hash, sibling);
        }
        (node, last) = (node >> 1, last >> 1);
    }
    last == 0 && hash == *root
}

/// Proof that the tree of `new` leaves extends the one of `old`. RFC 6962 section 2.1.2. Empty where nothing needs proof.
///
/// # Errors
/// Whatever `read` fails with.
pub fn consistency_proof<E>(old: u64, new: u64, read: &impl Fn(u32, u64) -> Result<Hash, E>) -> Result<Vec<Hash>, E> {
    let mut proof = Vec::new();
    if old == 0 || old >= new {
        return Ok(proof);
    }
    let (mut from, mut to, mut known) = (0, new, true);
    while old != to {
        let middle = from + split(to - from);
        if old <= middle {
            proof.push(range_hash(middle, to, read)?);
            to = middle;
        } else {
            proof.push(range_hash(from, middle, read)?);
            (from, known) = (middle, false);
        }
    }
    if !known {
        proof.push(range_hash(from, to, read)?);
    }
    proof.reverse();
    Ok(proof)
}

/// Whether `proof` shows that the tree `(new, new_root)` extends `(old, old_root)`. RFC 9162 section 2.1.4.2.
#[must_use]
pub fn verify_consistency(old: u64, old_root: &Hash, new: u64, new_root: &Hash, proof: &[Hash]) -> bool {
    if old > new || proof.len() > PROOF_HASHES_MAX {
        return false;
    }
    if old == new {
        return proof.is_empty() && old_root == new_root;
    }
    if old == 0 {
        return proof.is_empty();
    }
    // A tree of a power of two is a node of the new one: the proof need not name it.
    let mut path = proof.iter();
    let first = if old.is_power_of_two() {
        Some(old_root)
    } else {
        path.next()
    };
    let Some(first) = first else { return false };
    let (mut node, mut last) = (old - 1, new - 1);
    while node & 1 == 1 {
        (node, last) = (node >> 1, last >> 1);
    }
    let (mut of_old, mut of_new) = (*first, *first);
    for hash in path {
        if last == 0 {
            return false;
        }
        if node & 1 == 1 || node == last {
            of_old = node_hash(hash, &of_old);
            of_new = node_hash(hash, &of_new);
            while node & 1 == 0 && node != 0 {
                (node, last) = (node >> 1, last >> 1);
            }
        } else {
            of_new = node_hash(&of_new, hash);
        }
        (node, last) = (node >> 1, last >> 1);
    }
    last == 0 && of_old == *old_root && of_new == *new_root
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::convert::Infallible;

    fn leaves(n: u64) -> Vec<Hash> {
        (0..n).map(|i| leaf_hash(&i.to_be_bytes())).collect()
    }
    fn reader(leaves: &[Hash]) -> impl Fn(u32, u64) -> Result<Hash, Infallible> {
        move |level, index| {
            let from = usize::try_from(index << level).unwrap();
            Ok(full(&leaves[from..from + (1 << level)]))
        }
    }

    /// Goal: our roots are RFC 6962's. Source: the reference leaves and roots of Certificate Transparency's own tests.
    #[test]
    fn the_known_roots_of_certificate_transparency_come_out() {
        let data: [&[u8]; 4] = [b"", &[0], &[0x10], &[0x20, 0x21]];
        let hashes: Vec<Hash> = data.iter().map(|d| leaf_hash(d)).collect();
        let root = |n: usize| crate::ids::hex(&root_of(&hashes[..n]));
        assert_eq!(
            root(0),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        assert_eq!(
            root(1),
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
        );
        assert_eq!(
            root(2),
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"
        );
        assert_eq!(
            root(3),
            "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77"
        );
        assert_eq!(
            root(4),
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7"
        );
    }

    /// Goal: every proof between any two sizes holds, and no changed one does. Method: all sizes to 40.
    #[test]
    fn every_proof_holds_and_no_mutated_one_does() {
        let all = leaves(40);
        for new in 1..=40_u64 {
            let tree = &all[..usize::try_from(new).unwrap()];
            let (read, root) = (reader(tree), root_of(tree));
            for index in 0..new {
                let leaf = tree[usize::try_from(index).unwrap()];
                let proof = inclusion_proof(index, new, &read).unwrap();
                let whole = Tree::of(tree.to_vec());
                assert_eq!((whole.root(), whole.inclusion(index)), (root, proof.clone()));
                assert!(verify_inclusion(&leaf, index, new, &proof, &root), "{index} of {new}");
                assert!(!verify_inclusion(&leaf, index + 1, new, &proof, &root) || new == 1);
                for i in 0..proof.len() {
                    let mut bad = proof.clone();
                    bad[i][0] ^= 1;
                    assert!(!verify_inclusion(&leaf, index, new, &bad, &root));
                }
            }
            for old in 0..=new {
                let old_root = root_of(&tree[..usize::try_from(old).unwrap()]);
                let proof = consistency_proof(old, new, &read).unwrap();
                assert!(verify_consistency(old, &old_root, new, &root, &proof), "{old} to {new}");
                if old > 0 {
                    assert!(!verify_consistency(old, &leaf_hash(b"other"), new, &root, &proof));
                }
                for i in 0..proof.len() {
                    let mut bad = proof.clone();
                    bad[i][31] ^= 1;
                    assert!(
                        !verify_consistency(old, &old_root, new, &root, &bad),
                        "{old} to {new}, hash {i}"
                    );
                }
            }
        }
    }

    proptest! {
        #[test]
        fn no_proof_makes_a_verifier_panic(
            a in any::<u64>(), b in any::<u64>(), proof in proptest::collection::vec(any::<Hash>(), 0..130)
        ) {
            let _ = verify_inclusion(&[0; 32], a, b, &proof, &[1; 32]);
            let _ = verify_consistency(a, &[0; 32], b, &[1; 32], &proof);
        }
    }
}
