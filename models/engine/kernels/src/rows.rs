//! Rows of activations as 8-bit codes, each row with a scale of its own.

use crate::Isa;
use crate::isa::{Kind, per_isa};

#[cfg(target_arch = "x86_64")]
mod avx512;

/// Rows of a smaller spread are taken for zeros: their scale would not be a normal number.
const SPREAD_MIN: f32 = 1e-30;
/// Adding it rounds a number under 2^22 to the nearest integer, halves to even, which the sum's low bits then are.
const SHIFT: f32 = 12_582_912.0;
/// Bytes behind the last code, so that copies of a few codes may take a vector.
pub(crate) const SLACK: usize = 64;

/// `rows` x `width` activations as codes. Reuse one for many calls: it keeps its memory.
///
/// For a row that reaches from `low <= 0` to `high >= 0`: scale `(high - low) / 255`, zero `round(-low / scale)`,
/// `code = round(x / scale) + zero` within 0..=255, halves to even. So 0 has a code of its own, and a row that is all positive
/// loses no bit. A row of zeros has scale 0; one that holds something not finite has scale NaN, so all that is computed
/// from it is NaN.
#[derive(Debug, Default)]
pub struct QuantizedRows {
    /// Never shorter than it was: what is not in use costs nothing, and what grew again would be cleared for nothing.
    codes: Vec<u8>,
    pub(crate) zeros: Vec<i32>,
    pub(crate) scales: Vec<f32>,
    width: usize,
}

impl QuantizedRows {
    /// Bytes that it keeps.
    pub(crate) const fn bytes(&self) -> usize {
        let sides = self.zeros.capacity() * size_of::<i32>() + self.scales.capacity() * size_of::<f32>();
        self.codes.capacity() + sides
    }
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
        let bytes = self.rows() * self.stride();
        let (codes, zeros, scales) = (&mut self.codes[..bytes], &mut self.zeros[..], &mut self.scales[..]);
        match isa.0 {
            // SAFETY: an `Isa` of this kind exists only where the processor has these instructions.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512Vnni => unsafe { avx512::quantize_rows(x, width, codes, zeros, scales) },
            _ => quantize_rows(isa, x, width, codes, zeros, scales),
        }
    }

    /// Rows of [`QuantizedRows::stride`] codes; what pads a row counts nothing, as weights are 0 there.
    pub(crate) fn codes(&self) -> &[u8] {
        &self.codes[..self.rows() * self.stride()]
    }
    /// The same and [`SLACK`] bytes of any content.
    pub(crate) fn codes_and_slack(&self) -> &[u8] {
        &self.codes[..self.rows() * self.stride() + SLACK]
    }
    /// The same, to be written.
    pub(crate) fn codes_and_slack_mut(&mut self) -> &mut [u8] {
        let end = self.rows() * self.stride() + SLACK;
        &mut self.codes[..end]
    }

    /// Replaces the content by one row of the codes of an image given channel by channel; the codes lie pixel by pixel.
    ///
    /// # Panics
    /// When the image has no elements, or not as many for each channel.
    pub(crate) fn quantize_planes(&mut self, isa: Isa, image: &[f32], channels: usize, spare: &mut Self) {
        assert!(image.len().is_multiple_of(channels));
        spare.quantize(isa, image, image.len());
        self.reset(1, image.len(), spare.zeros[0], spare.scales[0]);
        let (planes, pixels) = (&spare.codes[..image.len()], &mut self.codes[..image.len()]);
        match channels {
            3 => interleave(isa, planes, pixels),
            _ => {
                for (channel, plane) in planes.chunks_exact(image.len() / channels).enumerate() {
                    for (pixel, code) in pixels.chunks_exact_mut(channels).zip(plane) {
                        pixel[channel] = *code;
                    }
                }
            }
        }
    }

    /// Makes room for `rows` of `width` codes of any content, all with one zero and scale.
    pub(crate) fn reset(&mut self, rows: usize, width: usize, zero: i32, scale: f32) {
        self.width = width;
        self.scales.clear();
        self.scales.resize(rows, scale);
        self.zeros.clear();
        self.zeros.resize(rows, zero);
        let needs = rows * self.stride() + SLACK;
        if self.codes.len() < needs {
            self.codes.resize(needs, 0);
        }
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

per_isa! {
    /// The codes of three planes, pixel by pixel. In one pass, which the compiler turns into shuffles.
    fn interleave(planes: &[u8], pixels: &mut [u8]) {
        let (red, rest) = planes.split_at(planes.len() / 3);
        let (green, blue) = rest.split_at(rest.len() / 2);
        for (pixel, ((red, green), blue)) in pixels.as_chunks_mut::<3>().0.iter_mut().zip(red.iter().zip(green).zip(blue)) {
            *pixel = [*red, *green, *blue];
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

/// The nearest integer, halves to even, for magnitudes under 2^22.
#[inline(always)]
fn rounded(x: f32) -> i32 {
    ((x + SHIFT).to_bits() as i32).wrapping_sub(SHIFT.to_bits() as i32)
}

#[cfg(test)]
mod tests;
