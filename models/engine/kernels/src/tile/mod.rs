//! Tiles of a product: a few rows of codes times one panel of packed weights, kept in registers until every input is summed.

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
pub(crate) mod portable;

use crate::linear::Linear;

/// `sum` as every form finishes it.
#[inline(always)]
fn finish(layer: &Linear, channel: usize, sum: i32, (zero, row_scale): (i32, f32)) -> f32 {
    let sum = (sum - zero * layer.totals[channel]) as f32;
    sum.mul_add(row_scale * layer.scales[channel], layer.bias[channel])
}
