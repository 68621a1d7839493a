//! A hash for keys that nobody outside chooses: digests, counters, digests of names, and names that a signed state gives.
//!
//! The standard one withstands clients who choose keys to collide; an order passes some twenty look-ups, and it was a
//! tenth of what they cost. Multiplied and rotated as in Firefox and rustc.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A map by such keys.
pub type PlainMap<K, V> = HashMap<K, V, BuildHasherDefault<Plain>>;

/// The state of one hash.
#[derive(Debug, Default)]
pub struct Plain(u64);

impl Hasher for Plain {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        words.iter().for_each(|word| self.write_u64(u64::from_le_bytes(*word)));
        rest.iter().for_each(|&byte| self.write_u64(u64::from(byte)));
    }
    fn write_u64(&mut self, word: u64) {
        self.0 = self.0.wrapping_add(word).wrapping_mul(0xf135_7aea_2e62_a9c5);
    }
    fn write_usize(&mut self, word: usize) {
        self.write_u64(u64::try_from(word).unwrap_or(u64::MAX));
    }
    fn finish(&self) -> u64 {
        self.0.rotate_left(26)
    }
}

#[cfg(test)]
mod tests {
    use std::hash::BuildHasher;

    use super::*;

    #[test]
    fn counters_and_digests_fall_into_different_places() {
        let build = BuildHasherDefault::<Plain>::default();
        let spread = |hashes: Vec<u64>| {
            let low: std::collections::BTreeSet<u64> = hashes.iter().map(|hash| hash % 1024).collect();
            low.len()
        };
        // 1,024 balls in as many places fill 647 of them by chance.
        assert!(spread((0..1024_u64).map(|n| build.hash_one(n)).collect()) > 600);
        let digests = (0..1024_u32).map(|n| build.hash_one(proto::ids::ContentHash::of(&n.to_le_bytes())));
        assert!(spread(digests.collect()) > 600);
    }
}
