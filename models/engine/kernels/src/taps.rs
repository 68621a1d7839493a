//! The inner loop of convolutions that keep channels apart: a few places by sixteen channels, in each form's own registers.

use std::ops::Range;

/// Channels of one call.
pub(crate) const LANES: usize = 16;

/// The pixels of one row of an image, under one row of a window's taps.
pub(crate) struct TapRow<'a> {
    /// Which row of taps.
    pub(crate) tap: usize,
    pub(crate) pixels: &'a [f32],
}

/// What one call sums.
pub(crate) struct Taps<'a> {
    pub(crate) rows: &'a [TapRow<'a>],
    /// For each tap of a window `side` wide, sixteen channels.
    pub(crate) weights: &'a [[f32; LANES]],
    pub(crate) side: usize,
    /// Columns of taps to sum.
    pub(crate) columns: Range<usize>,
    /// Where the first of these columns' first channel lies in a row's pixels, for the first place; anywhere on them if there is none.
    pub(crate) at: usize,
    /// Elements from tap to tap, and from place to place.
    pub(crate) steps: [usize; 2],
}

impl Taps<'_> {
    /// Panics unless everything that the loop reads is there.
    #[inline(always)]
    fn check(&self, places: usize) {
        let columns = self.columns.len();
        let last = self.at + columns.saturating_sub(1) * self.steps[0] + (places - 1) * self.steps[1] + LANES;
        for row in self.rows {
            assert!(last <= row.pixels.len());
            assert!(row.tap * self.side + self.columns.end <= self.weights.len());
        }
    }
}

/// A form of the loop. Every form multiplies, rounds, adds and rounds, tap by tap, so all give the same bits.
pub(crate) trait Sums {
    /// `P` places, each `start` plus the sum of its taps.
    ///
    /// # Panics
    /// When a tap lies beyond its row's pixels or the weights.
    ///
    /// # Safety
    /// The processor has the form's instructions.
    unsafe fn sums<const P: usize>(taps: &Taps<'_>, start: &[f32; LANES]) -> [[f32; LANES]; P];
}

/// Plain loops.
pub(crate) struct Portable;

impl Sums for Portable {
    #[inline(always)]
    unsafe fn sums<const P: usize>(taps: &Taps<'_>, start: &[f32; LANES]) -> [[f32; LANES]; P] {
        taps.check(P);
        let mut sums = [*start; P];
        for row in taps.rows {
            let weights = &taps.weights[row.tap * taps.side..][taps.columns.clone()];
            for (tap, weights) in weights.iter().enumerate() {
                for (place, sums) in sums.iter_mut().enumerate() {
                    let seen = &row.pixels[taps.at + tap * taps.steps[0] + place * taps.steps[1]..][..LANES];
                    for (sum, (x, w)) in sums.iter_mut().zip(seen.iter().zip(weights)) {
                        *sum += x * w;
                    }
                }
            }
        }
        sums
    }
}

#[cfg(target_arch = "x86_64")]
macro_rules! of_vectors {
    ($(#[$doc:meta])* $name:ident, $lanes:literal, $load:ident, $mul:ident, $add:ident, $store:ident) => {
        $(#[$doc])*
        pub(crate) struct $name;

        impl Sums for $name {
            #[inline(always)]
            unsafe fn sums<const P: usize>(taps: &Taps<'_>, start: &[f32; LANES]) -> [[f32; LANES]; P] {
                use std::arch::x86_64::*;
                const VECTORS: usize = LANES / $lanes;
                taps.check(P);
                let mut y = [[0.0_f32; LANES]; P];
                // SAFETY: the caller has the instructions. `check` saw that the last tap of the last place ends within every
                // row's pixels, and that every row of taps has its weights; `start` and a row of `y` have 16 elements.
                unsafe {
                    let start: [_; VECTORS] = std::array::from_fn(|v| $load(start.as_ptr().add(v * $lanes)));
                    let mut sums = [start; P];
                    for row in taps.rows {
                        let weights = taps.weights.as_ptr().add(row.tap * taps.side + taps.columns.start);
                        let pixels = row.pixels.as_ptr().add(taps.at);
                        for tap in 0..taps.columns.len() {
                            let weights = weights.add(tap).cast::<f32>();
                            let weights: [_; VECTORS] = std::array::from_fn(|v| $load(weights.add(v * $lanes)));
                            for place in 0..P {
                                let seen = pixels.add(tap * taps.steps[0] + place * taps.steps[1]);
                                for v in 0..VECTORS {
                                    sums[place][v] = $add(sums[place][v], $mul($load(seen.add(v * $lanes)), weights[v]));
                                }
                            }
                        }
                    }
                    for place in 0..P {
                        for v in 0..VECTORS {
                            $store(y[place].as_mut_ptr().add(v * $lanes), sums[place][v]);
                        }
                    }
                }
                y
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
of_vectors!(
    /// A vector of 16.
    Avx512, 16, _mm512_loadu_ps, _mm512_mul_ps, _mm512_add_ps, _mm512_storeu_ps
);
#[cfg(target_arch = "x86_64")]
of_vectors!(
    /// Two vectors of 8.
    Avx2, 8, _mm256_loadu_ps, _mm256_mul_ps, _mm256_add_ps, _mm256_storeu_ps
);
