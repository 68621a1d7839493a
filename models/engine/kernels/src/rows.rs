//! Rows of activations as 8-bit codes, each row with a scale of its own.

use crate::Isa;
use crate::isa::per_isa;

/// Smaller largest values are taken for zero: their scale would not be a normal number.
const LARGEST_MIN: f32 = 1e-30;
/// What a code of zero is stored as: dot products multiply unsigned activations by signed weights.
pub(crate) const ZERO: u8 = 128;

/// `rows` x `width` activations as codes. Reuse one for many calls: it keeps its memory.
///
/// For a row with largest magnitude `a`: scale `a / 127`, `code = round(x * (127 / a))`, halves to even, in -127..=127. A row of
/// zeros has scale 0. A row that holds something not finite has scale NaN, so all that is computed from it is NaN.
#[derive(Debug, Default)]
pub struct QuantizedRows {
    /// `code + 128`, rows of [`QuantizedRows::stride`] bytes; what pads a row is 128.
    pub(crate) codes: Vec<u8>,
    pub(crate) scales: Vec<f32>,
    width: usize,
}

impl QuantizedRows {
    /// Bytes from row to row: `width` up to the next multiple of 4.
    pub(crate) const fn stride(&self) -> usize {
        self.width.next_multiple_of(4)
    }
    /// How many rows.
    #[must_use]
    pub const fn rows(&self) -> usize {
        self.scales.len()
    }
    /// Elements of a row.
    #[must_use]
    pub const fn width(&self) -> usize {
        self.width
    }

    /// Replaces the content by the codes of `x`, whose rows have `width` elements.
    ///
    /// # Panics
    /// When `width` is 0 or does not divide the length of `x`.
    pub fn quantize(&mut self, isa: Isa, x: &[f32], width: usize) {
        assert!(
            width > 0 && x.len().is_multiple_of(width),
            "{} elements are no rows of {width}",
            x.len()
        );
        let rows = x.len() / width;
        self.width = width;
        self.scales.resize(rows, 0.0);
        let stride = self.stride();
        self.codes.resize(rows * stride, ZERO);
        quantize_rows(isa, x, width, &mut self.codes, stride, &mut self.scales);
    }
}

per_isa! {
    /// `codes` holds rows of `stride` bytes for the rows of `width` elements of `x`.
    fn quantize_rows(x: &[f32], width: usize, codes: &mut [u8], stride: usize, scales: &mut [f32]) {
        for ((row, codes), scale) in x.chunks_exact(width).zip(codes.chunks_exact_mut(stride)).zip(scales) {
            // As integers, magnitudes sort like numbers, and what is not finite is the largest.
            let magnitude = row.iter().fold(0, |most, x| most.max(x.to_bits() & 0x7fff_ffff));
            let largest = f32::from_bits(magnitude);
            let (codes, padding) = codes.split_at_mut(width);
            padding.fill(ZERO);
            if !largest.is_finite() || largest < LARGEST_MIN {
                *scale = if largest.is_finite() { 0.0 } else { f32::NAN };
                codes.fill(ZERO);
                continue;
            }
            *scale = largest / 127.0;
            let by = 127.0 / largest;
            for (code, x) in codes.iter_mut().zip(row) {
                // Adding and taking away 1.5 * 2^23 rounds to an integer, halves to even; the sum's low bits are it.
                let sum = x * by + 12_582_912.0;
                *code = (sum.to_bits() as u8).wrapping_add(ZERO);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes_of(rows: &QuantizedRows, row: usize) -> Vec<i32> {
        let stride = rows.stride();
        let codes = &rows.codes[row * stride..row * stride + rows.width];
        codes.iter().map(|c| i32::from(*c) - 128).collect()
    }

    #[test]
    fn a_row_is_coded_by_its_own_largest_value_and_halves_go_to_even() {
        for isa in Isa::available() {
            let mut rows = QuantizedRows::default();
            rows.quantize(isa, &[127.0, -127.0, 0.5, 1.5, 2.5, 0.0, 0.0, 0.0, 0.0, 0.0], 5);
            assert_eq!(codes_of(&rows, 0), [127, -127, 0, 2, 2], "{isa:?}");
            assert_eq!(codes_of(&rows, 1), [0; 5]);
            assert_eq!(rows.scales, [1.0, 0.0]);
            assert_eq!(rows.codes[5..8], [ZERO; 3], "padding counts nothing");
        }
    }

    #[test]
    fn what_is_not_finite_makes_the_row_nan_and_no_other() {
        for isa in Isa::available() {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut rows = QuantizedRows::default();
                rows.quantize(isa, &[1.0, bad, 1.0, 2.0], 2);
                assert!(rows.scales[0].is_nan() && rows.scales[1].is_finite());
                assert_eq!(codes_of(&rows, 1), [64, 127]);
            }
        }
    }

    #[test]
    fn no_number_however_small_or_large_leaves_the_codes() {
        for isa in Isa::available() {
            for x in [f32::MAX, f32::MIN_POSITIVE, 1e-30, 1.1e-30, 1e-45, 3.4e38] {
                let mut rows = QuantizedRows::default();
                rows.quantize(isa, &[x, -x, x / 2.0], 3);
                assert!(
                    codes_of(&rows, 0).iter().all(|c| (-127..=127).contains(c)),
                    "{x} {rows:?}"
                );
            }
        }
    }
}
