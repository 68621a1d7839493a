//! What stands between linear layers: activations, normalisation, shares of attention. Each is written once and compiled for
//! every instruction set.

use crate::isa::per_isa;

/// `e^x` for `x <= 88`; what is under -87, about 1e-38, gives 0. Relative error under 2e-7.
///
/// `x = n ln 2 + r` with `n` whole and `|r| <= ln 2 / 2`, then Taylor's series to `r^7` and a shift of the exponent.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
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

/// Folds a row with an operation that goes in a fixed order vectors can follow: sixteen running values, then halves of those
/// against each other. A lane that the row does not reach holds `start`,
/// which `fold` must pass over.
#[inline(always)]
fn folded(row: &[f32], start: f32, map: impl Fn(f32) -> f32, fold: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [start; 16];
    let (whole, rest) = row.as_chunks::<16>();
    for chunk in whole {
        for lane in 0..16 {
            lanes[lane] = fold(lanes[lane], map(chunk[lane]));
        }
    }
    if !rest.is_empty() {
        let mut last = [start; 16];
        for (lane, x) in last.iter_mut().zip(rest) {
            *lane = map(*x);
        }
        for lane in 0..16 {
            lanes[lane] = fold(lanes[lane], last[lane]);
        }
    }
    for half in [8, 4, 2, 1] {
        for lane in 0..half {
            lanes[lane] = fold(lanes[lane], lanes[lane + half]);
        }
    }
    lanes[0]
}

/// Softmax of one row.
#[inline(always)]
pub(crate) fn softmax_row(row: &mut [f32]) {
    // What is no number is larger than nothing here, and makes the whole row NaN below.
    let most = folded(row, f32::NEG_INFINITY, |x| x, |a, b| if b > a { b } else { a });
    for x in row.iter_mut() {
        *x = exp(*x - most);
    }
    let by = 1.0 / folded(row, 0.0, |x| x, |a, b| a + b);
    for x in row.iter_mut() {
        *x *= by;
    }
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
    /// The same by the hyperbolic tangent, in place: `x / 2 * (1 + tanh u)` with `u = sqrt(2 / pi) (x + 0.044715 x^3)`, which is
    /// `x / (1 + e^-2u)`, to 1e-6 of `|x|`.
    pub fn gelu_tanh(values: &mut [f32]) {
        const TWICE: f32 = -2.0 * 0.797_884_6;
        for x in values {
            let power = TWICE * (*x + 0.044_715 * (*x * *x * *x));
            // Beyond 88 the power overflows and the answer is as good as 0.
            let power = if power > 88.0 { 88.0 } else { power };
            *x /= 1.0 + exp(power);
        }
    }
}

/// Mean 0, variance 1, then scaled and shifted.
#[inline(always)]
fn normalize_row(row: &mut [f32], scale: &[f32], shift: &[f32], epsilon: f32) {
    let width = row.len() as f32;
    let mean = folded(row, 0.0, |x| x, |a, b| a + b) / width;
    let spread = folded(row, 0.0, |x| (x - mean) * (x - mean), |a, b| a + b);
    let by = 1.0 / (spread / width + epsilon).sqrt();
    for ((x, scale), shift) in row.iter_mut().zip(scale).zip(shift) {
        *x = (*x - mean) * by * scale + shift;
    }
}

per_isa! {
    /// Layer normalisation in place of rows as long as `scale` and `shift`.
    pub fn normalize_rows(values: &mut [f32], scale: &[f32], shift: &[f32], epsilon: f32) {
        for row in values.chunks_exact_mut(scale.len().max(1)) {
            normalize_row(row, scale, shift, epsilon);
        }
    }
}

per_isa! {
    /// [`normalize_rows`] of the sum of `values` and `other`.
    pub fn add_and_normalize_rows(values: &mut [f32], other: &[f32], scale: &[f32], shift: &[f32], epsilon: f32) {
        let width = scale.len().max(1);
        for (row, other) in values.chunks_exact_mut(width).zip(other.chunks_exact(width)) {
            for (x, other) in row.iter_mut().zip(other) {
                *x += other;
            }
            normalize_row(row, scale, shift, epsilon);
        }
    }
}

per_isa! {
    /// Softmax in place of rows of `width` elements: shares that are positive and sum to 1.
    pub fn softmax_rows(values: &mut [f32], width: usize) {
        // A loop: handed to `for_each`, the row would be compiled for no instruction set in particular.
        for row in values.chunks_exact_mut(width.max(1)) {
            softmax_row(row);
        }
    }
}

#[cfg(test)]
mod tests;
