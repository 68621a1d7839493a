//! Rows of activations as 8-bit codes, each row with a scale of its own.

use crate::Isa;
use crate::isa::per_isa;

/// Rows of a smaller spread are taken for zeros: their scale would not be a normal number.
const SPREAD_MIN: f32 = 1e-30;

/// `rows` x `width` activations as codes. Reuse one for many calls: it keeps its memory.
///
/// For a row that reaches from `low <= 0` to `high >= 0`: scale `(high - low) / 255`, zero `round(-low / scale)`,
/// `code = round(x / scale) + zero` within 0..=255, halves to even. So 0 has a code of its own, and a row that is all positive
/// loses no bit. A row of zeros has scale 0; one that holds something not finite has scale NaN, so all that is computed
/// from it is NaN.
#[derive(Debug, Default)]
pub struct QuantizedRows {
    /// Rows of [`QuantizedRows::stride`] codes; what pads a row counts nothing, as weights are 0 there.
    pub(crate) codes: Vec<u8>,
    pub(crate) zeros: Vec<i32>,
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
        self.reset(x.len() / width, width, 0, 0.0);
        quantize_rows(isa, x, width, &mut self.codes, &mut self.zeros, &mut self.scales);
    }

    /// Makes room for `rows` of `width` codes of any content, all with one zero and scale.
    pub(crate) fn reset(&mut self, rows: usize, width: usize, zero: i32, scale: f32) {
        self.width = width;
        self.scales.clear();
        self.scales.resize(rows, scale);
        self.zeros.clear();
        self.zeros.resize(rows, zero);
        self.codes.resize(rows * self.stride(), 0);
    }
}

per_isa! {
    /// `codes` holds a row of the next multiple of 4 for each row of `width` elements of `x`.
    fn quantize_rows(x: &[f32], width: usize, codes: &mut [u8], zeros: &mut [i32], scales: &mut [f32]) {
        let rows = x.chunks_exact(width).zip(codes.chunks_exact_mut(width.next_multiple_of(4)));
        for ((row, codes), (zero, scale)) in rows.zip(zeros.iter_mut().zip(scales)) {
            let (low, high) = reach(row);
            let spread = high - low;
            let codes = &mut codes[..width];
            if !(SPREAD_MIN..=f32::MAX).contains(&spread) {
                (*zero, *scale) = (0, if spread < SPREAD_MIN { 0.0 } else { f32::NAN });
                codes.fill(0);
                continue;
            }
            let by = 255.0 / spread;
            *scale = spread / 255.0;
            *zero = rounded(-low * by);
            for (code, x) in codes.iter_mut().zip(row) {
                *code = (rounded(x * by) + *zero).clamp(0, 255) as u8;
            }
        }
    }
}

/// From what to what a row goes, 0 included; infinite or no numbers if anything in it is.
#[inline(always)]
fn reach(row: &[f32]) -> (f32, f32) {
    // As signed integers, positive numbers sort like numbers and negative ones, as unsigned, by their size; what is not finite
    // lies beyond all that is.
    let (mut high, mut low) = ([0_i32; 16], [0_u32; 16]);
    let (whole, rest) = row.as_chunks::<16>();
    let mut last = [0.0; 16];
    last[..rest.len()].copy_from_slice(rest);
    for chunk in whole.iter().chain([&last]) {
        for lane in 0..16 {
            high[lane] = high[lane].max(chunk[lane].to_bits().cast_signed());
            low[lane] = low[lane].max(chunk[lane].to_bits());
        }
    }
    let high = high.into_iter().fold(0, i32::max);
    let low = low.into_iter().fold(0, u32::max);
    let negative = if low >> 31 == 1 { f32::from_bits(low) } else { 0.0 };
    (negative, f32::from_bits(high.cast_unsigned()))
}

/// The nearest integer, halves to even, for magnitudes under 2^22: adding 1.5 * 2^23 rounds, and the sum's low bits are it.
#[inline(always)]
fn rounded(x: f32) -> i32 {
    const SHIFT: f32 = 12_582_912.0;
    ((x + SHIFT).to_bits() as i32).wrapping_sub(SHIFT.to_bits() as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes_of(rows: &QuantizedRows, row: usize) -> Vec<i32> {
        let stride = rows.stride();
        let codes = &rows.codes[row * stride..][..rows.width];
        codes.iter().map(|c| i32::from(*c) - rows.zeros[row]).collect()
    }

    #[test]
    fn a_row_is_coded_by_its_own_reach_and_halves_go_to_even() {
        for isa in Isa::available() {
            let mut rows = QuantizedRows::default();
            rows.quantize(isa, &[205.0, -50.0, 0.5, 1.5, 2.5, 0.0, 0.0, 0.0, 0.0, 0.0], 5);
            assert_eq!(codes_of(&rows, 0), [205, -50, 0, 2, 2], "{isa:?}");
            assert_eq!(codes_of(&rows, 1), [0; 5]);
            assert_eq!(rows.scales, [1.0, 0.0]);
            assert_eq!(rows.zeros, [50, 0]);
        }
    }

    #[test]
    fn a_row_that_is_all_positive_or_all_negative_loses_no_bit() {
        for isa in Isa::available() {
            let mut rows = QuantizedRows::default();
            rows.quantize(isa, &[255.0, 1.0, -255.0, -1.0], 2);
            assert_eq!((codes_of(&rows, 0), codes_of(&rows, 1)), (vec![255, 1], vec![-255, -1]));
        }
    }

    #[test]
    fn what_is_not_finite_makes_the_row_nan_and_no_other() {
        for isa in Isa::available() {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut rows = QuantizedRows::default();
                rows.quantize(isa, &[1.0, bad, 1.0, 255.0], 2);
                assert!(rows.scales[0].is_nan() && rows.scales[1].is_finite());
                assert_eq!(codes_of(&rows, 1), [1, 255]);
            }
            let mut rows = QuantizedRows::default();
            rows.quantize(isa, &[f32::MAX, -f32::MAX], 2);
            assert!(rows.scales[0].is_nan(), "a reach that is no number has no scale");
        }
    }

    #[test]
    fn no_number_however_small_or_large_is_off_by_more_than_half_a_step() {
        for isa in Isa::available() {
            for x in [f32::MAX / 2.0, f32::MIN_POSITIVE, 1e-30, 1.1e-30, 1e-45, 1e30] {
                let mut rows = QuantizedRows::default();
                let row = [x, -x, x / 2.0, 0.0, x / 7.0];
                rows.quantize(isa, &row, 5);
                for (code, x) in codes_of(&rows, 0).iter().zip(row) {
                    let back = *code as f32 * rows.scales[0];
                    assert!(
                        (back - x).abs() <= rows.scales[0] * 0.5001 || rows.scales[0] == 0.0,
                        "{x}: {back}"
                    );
                }
            }
        }
    }
}
