//! The inner loop of layers in FP32: a few rows of numbers by up to 64 columns of weights, in each form's own registers.

/// Columns of a block.
pub(crate) const LANES: usize = 16;

/// Weights of an input for a block of columns: a line of the cache.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct Block(pub(crate) [f32; LANES]);

impl Block {
    pub(crate) const ZERO: Self = Self([0.0; LANES]);
}

/// Sums of `R` rows by `C` blocks.
pub(crate) type Sums<const R: usize, const C: usize> = [[[f32; LANES]; C]; R];

/// A form of the loop. Every form multiplies and adds in one rounding, input by input, so all give the same bits.
pub(crate) trait Products {
    /// `y[r] = start + sum over i of rows[r][i] * weights[i * C .. i * C + C]`.
    ///
    /// # Panics
    /// When rows differ in length, or there are not `C` blocks of weights for each of their elements.
    ///
    /// # Safety
    /// The processor has the form's instructions.
    unsafe fn products<const R: usize, const C: usize>(
        rows: [&[f32]; R],
        weights: &[Block],
        start: &[[f32; LANES]; C],
    ) -> Sums<R, C>;
}

/// Panics unless every element that the loop reads is there.
#[inline(always)]
fn check<const R: usize, const C: usize>(rows: &[&[f32]; R], weights: &[Block]) -> usize {
    let count = rows[0].len();
    assert!(rows.iter().all(|row| row.len() == count));
    assert!(count.checked_mul(C) == Some(weights.len()));
    count
}

/// Plain loops.
pub(crate) struct Portable;

impl Products for Portable {
    #[inline(always)]
    unsafe fn products<const R: usize, const C: usize>(
        rows: [&[f32]; R],
        weights: &[Block],
        start: &[[f32; LANES]; C],
    ) -> Sums<R, C> {
        check::<R, C>(&rows, weights);
        let mut sums = [*start; R];
        for (i, weights) in weights.chunks_exact(C).enumerate() {
            for (sums, row) in sums.iter_mut().zip(rows) {
                for (sums, weights) in sums.iter_mut().zip(weights) {
                    let lanes = sums.iter_mut().zip(&weights.0);
                    lanes.for_each(|(sum, weight)| *sum = row[i].mul_add(*weight, *sum));
                }
            }
        }
        sums
    }
}

#[cfg(target_arch = "x86_64")]
macro_rules! of_vectors {
    ($(#[$doc:meta])* $name:ident, $lanes:literal, $together:expr, $load:ident, $splat:ident, $fused:ident, $store:ident) => {
        $(#[$doc])*
        pub(crate) struct $name;

        impl Products for $name {
            #[inline(always)]
            unsafe fn products<const R: usize, const C: usize>(
                rows: [&[f32]; R],
                weights: &[Block],
                start: &[[f32; LANES]; C],
            ) -> Sums<R, C> {
                use std::arch::x86_64::*;
                const VECTORS: usize = LANES / $lanes;
                let count = check::<R, C>(&rows, weights);
                let mut y = [[[0.0_f32; LANES]; C]; R];
                let together: usize = if $together { C } else { 1 };
                // SAFETY: the caller has the instructions. `check` saw that every row has `count` elements and that there are
                // `count * C` blocks of weights, of 16 elements each as those of `start` and `y` are; `first` and what is
                // together with it are below `C`.
                unsafe {
                    for first in (0..C).step_by(together) {
                        let mut sums = [[[$splat(0.0); VECTORS]; C]; R];
                        for r in 0..R {
                            for c in 0..together {
                                for v in 0..VECTORS {
                                    sums[r][c][v] = $load(start[first + c].as_ptr().add(v * $lanes));
                                }
                            }
                        }
                        let mut blocks = weights.as_ptr().add(first).cast::<f32>();
                        for i in 0..count {
                            for c in 0..together {
                                for v in 0..VECTORS {
                                    let block = $load(blocks.add(c * LANES + v * $lanes));
                                    for r in 0..R {
                                        let x = $splat(*rows[r].get_unchecked(i));
                                        sums[r][c][v] = $fused(x, block, sums[r][c][v]);
                                    }
                                }
                            }
                            blocks = blocks.wrapping_add(C * LANES);
                        }
                        for r in 0..R {
                            for c in 0..together {
                                for v in 0..VECTORS {
                                    $store(y[r][first + c].as_mut_ptr().add(v * $lanes), sums[r][c][v]);
                                }
                            }
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
    /// All blocks at once: 24 sums of 16.
    Avx512, 16, true, _mm512_loadu_ps, _mm512_set1_ps, _mm512_fmadd_ps, _mm512_storeu_ps
);
#[cfg(target_arch = "x86_64")]
of_vectors!(
    /// Block by block: 12 sums of 8.
    Avx2, 8, false, _mm256_loadu_ps, _mm256_set1_ps, _mm256_fmadd_ps, _mm256_storeu_ps
);
