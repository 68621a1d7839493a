//! The inner loop of attention: a few rows of numbers times a matrix 32 columns wide, in each form's own registers.

/// Columns of one call.
pub(crate) const COLUMNS: usize = 32;

/// A form of the loop. Every form multiplies, rounds, adds and rounds, row by row of `b`, so all give the same bits.
pub(crate) trait Outer {
    /// `y[r] = sum over i of a[r][i] * b[i * step .. i * step + 32]`, for as many rows of `b` as `a[0]` has elements.
    ///
    /// # Panics
    /// When rows of `a` differ in length, or `b` ends before the last row's columns.
    ///
    /// # Safety
    /// The processor has the form's instructions.
    unsafe fn outer<const R: usize>(a: [&[f32]; R], b: &[f32], step: usize) -> [[f32; COLUMNS]; R];
}

/// Panics unless every element that the loop reads is there.
#[inline(always)]
fn check<const R: usize>(a: &[&[f32]; R], b: &[f32], step: usize) -> usize {
    let count = a[0].len();
    assert!(a.iter().all(|row| row.len() == count));
    assert!(count == 0 || (count - 1) * step + COLUMNS <= b.len());
    count
}

/// Plain loops.
pub(crate) struct Portable;

impl Outer for Portable {
    #[inline(always)]
    unsafe fn outer<const R: usize>(a: [&[f32]; R], b: &[f32], step: usize) -> [[f32; COLUMNS]; R] {
        let count = check(&a, b, step);
        let mut sums = [[0.0; COLUMNS]; R];
        for i in 0..count {
            let columns = &b[i * step..][..COLUMNS];
            for (sums, a) in sums.iter_mut().zip(a) {
                for (sum, b) in sums.iter_mut().zip(columns) {
                    *sum += a[i] * b;
                }
            }
        }
        sums
    }
}

#[cfg(target_arch = "x86_64")]
macro_rules! of_vectors {
    ($(#[$doc:meta])* $name:ident, $lanes:literal, $zero:ident, $load:ident, $splat:ident, $mul:ident, $add:ident, $store:ident) => {
        $(#[$doc])*
        pub(crate) struct $name;

        impl Outer for $name {
            #[inline(always)]
            unsafe fn outer<const R: usize>(a: [&[f32]; R], b: &[f32], step: usize) -> [[f32; COLUMNS]; R] {
                use std::arch::x86_64::*;
                const VECTORS: usize = COLUMNS / $lanes;
                let count = check(&a, b, step);
                let mut y = [[0.0_f32; COLUMNS]; R];
                // SAFETY: the caller has the instructions. `check` saw that `i * step + 32 <= b.len()` and
                // `i < a[r].len()` for every `i < count` and `r < R`; a row of `y` has 32 elements.
                unsafe {
                    let mut sums = [[$zero(); VECTORS]; R];
                    for i in 0..count {
                        let columns: [_; VECTORS] = std::array::from_fn(|v| $load(b.as_ptr().add(i * step + v * $lanes)));
                        for r in 0..R {
                            let x = $splat(*a[r].get_unchecked(i));
                            for v in 0..VECTORS {
                                sums[r][v] = $add(sums[r][v], $mul(x, columns[v]));
                            }
                        }
                    }
                    for r in 0..R {
                        for v in 0..VECTORS {
                            $store(y[r].as_mut_ptr().add(v * $lanes), sums[r][v]);
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
    /// Two vectors of 16.
    Avx512, 16, _mm512_setzero_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_mul_ps, _mm512_add_ps, _mm512_storeu_ps
);
#[cfg(target_arch = "x86_64")]
of_vectors!(
    /// Four vectors of 8.
    Avx2, 8, _mm256_setzero_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_mul_ps, _mm256_add_ps, _mm256_storeu_ps
);
