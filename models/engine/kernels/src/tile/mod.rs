//! Tiles of a product: a few rows of codes times one panel of packed weights, kept in registers until every input is summed.

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
pub(crate) mod portable;

use crate::Activation;
use crate::linear::{LANES, Linear};

/// The sums of a row and a block of channels from `first` on, as every form finishes them.
#[inline(always)]
fn finish(
    layer: &Linear,
    first: usize,
    sums: &[i32; LANES],
    (zero, row_scale): (i32, f32),
    activation: Activation,
) -> [f32; LANES] {
    let mut y = [0.0; LANES];
    let (totals, scales, bias) = (&layer.totals[first..], &layer.scales[first..], &layer.bias[first..]);
    let channels = totals.iter().zip(scales.iter().zip(bias));
    for ((y, sum), (total, (scale, bias))) in y.iter_mut().zip(sums).zip(channels) {
        let sum = (sum - zero * total) as f32;
        *y = sum.mul_add(row_scale * scale, *bias);
    }
    activation.apply_here(&mut y);
    y
}
