//! Chance that can be repeated: `MERIDIAN_SEED` chooses the run, and every failure should print it.

/// A small generator: SplitMix64 (Steele, Lea and Flood 2014). For choices in tests, never for keys.
#[derive(Clone, Debug)]
pub struct Chance(u64);

/// The seed that `MERIDIAN_SEED` names, else `fallback`.
#[must_use]
pub fn from_env(fallback: u64) -> u64 {
    std::env::var("MERIDIAN_SEED")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(fallback)
}

impl Chance {
    /// A generator with its own sequence for each seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }
    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    /// A number from 0 to `below`, `below` excluded; the bias is under 2^-32 for what tests need.
    pub fn below(&mut self, below: u64) -> u64 {
        self.bits() % below.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_gives_one_sequence() {
        let mut a = Chance::new(7);
        let mut b = Chance::new(7);
        assert!((0..100).all(|_| a.bits() == b.bits()));
        assert_ne!(Chance::new(7).bits(), Chance::new(8).bits());
    }
}
