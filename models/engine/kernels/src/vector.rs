//! What stands between linear layers: activations, normalisation, shares of attention. Each is written once and compiled for
//! every instruction set.

use crate::isa::per_isa;

/// `e^x` for `x <= 88`; what is under -87, about 1e-38, gives 0. Relative error under 2e-7.
///
/// `x = n ln 2 + r` with `n` whole and `|r| <= ln 2 / 2`, then Taylor's series to `r^7` and a shift of the exponent.
#[inline(always)]
fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0;
    // ln 2 in two parts: the first has so few bits that its product with n is exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let whole = shifted - ROUND;
    let r = x - whole * LN2_HIGH - whole * LN2_LOW;
    let mut series = 1.0 / 5040.0;
    for term in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        series = series * r + term;
    }
    let power = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    if x < -87.0 { 0.0 } else { series * power }
}

/// The error function, to 6e-7 (the formula to 1.5e-7, the rest is rounding; Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26).
#[inline(always)]
fn erf(x: f32) -> f32 {
    let size = x.abs();
    let t = 1.0 / (1.0 + 0.327_591_1 * size);
    let mut series = 1.061_405_4;
    for term in [-1.453_152, 1.421_413_7, -0.284_496_72, 0.254_829_6] {
        series = series * t + term;
    }
    let value = 1.0 - series * t * exp(-(size * size));
    value.copysign(x)
}

/// Sums in a fixed order that vectors can follow: sixteen running sums, then those one after another.
#[inline(always)]
fn sum_of(values: impl Iterator<Item = [f32; 16]>) -> f32 {
    let mut sums = [0.0; 16];
    for chunk in values {
        for (sum, value) in sums.iter_mut().zip(chunk) {
            *sum += value;
        }
    }
    sums.iter().sum()
}

/// The largest value; what is no number counts nothing.
#[inline(always)]
fn most_of(values: impl Iterator<Item = [f32; 16]>) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut most = [f32::NEG_INFINITY; 16];
    for chunk in values {
        for (most, value) in most.iter_mut().zip(chunk) {
            *most = larger(*most, value);
        }
    }
    most.into_iter().fold(f32::NEG_INFINITY, larger)
}

/// Chunks of sixteen, the last one filled up with `fill`.
#[inline(always)]
fn sixteens(row: &[f32], fill: f32) -> impl Iterator<Item = [f32; 16]> {
    let (whole, rest) = row.as_chunks::<16>();
    let mut last = [fill; 16];
    last[..rest.len()].copy_from_slice(rest);
    whole.iter().copied().chain((!rest.is_empty()).then_some(last))
}

per_isa! {
    /// Gaussian error linear unit in place: `x / 2 * (1 + erf(x / sqrt 2))`, to 6e-7 of `|x|`.
    pub fn gelu(values: &mut [f32]) {
        for x in values {
            *x = *x * 0.5 * (1.0 + erf(*x * std::f32::consts::FRAC_1_SQRT_2));
        }
    }
}

per_isa! {
    /// Adds `other` to `values`, element by element, as far as both go.
    pub fn add_to(values: &mut [f32], other: &[f32]) {
        for (value, other) in values.iter_mut().zip(other) {
            *value += other;
        }
    }
}

per_isa! {
    /// Layer normalisation in place of rows as long as `scale` and `shift`: mean 0, variance 1, then scaled and shifted.
    pub fn normalize_rows(values: &mut [f32], scale: &[f32], shift: &[f32], epsilon: f32) {
        let width = scale.len().max(1);
        for row in values.chunks_exact_mut(width) {
            let mean = sum_of(sixteens(row, 0.0)) / width as f32;
            let spread = sum_of(sixteens(row, mean).map(|c| c.map(|x| (x - mean) * (x - mean))));
            let by = 1.0 / (spread / width as f32 + epsilon).sqrt();
            for ((x, scale), shift) in row.iter_mut().zip(scale).zip(shift) {
                *x = (*x - mean) * by * scale + shift;
            }
        }
    }
}

per_isa! {
    /// Softmax in place of rows of `width` elements: shares that are positive and sum to 1.
    pub fn softmax_rows(values: &mut [f32], width: usize) {
        for row in values.chunks_exact_mut(width.max(1)) {
            let most = most_of(sixteens(row, f32::NEG_INFINITY));
            for x in row.iter_mut() {
                *x = exp(*x - most);
            }
            let by = 1.0 / sum_of(sixteens(row, 0.0));
            for x in row.iter_mut() {
                *x *= by;
            }
        }
    }
}

#[cfg(test)]
mod tests;
