//! Tiles of a product: a few rows of codes times one panel of packed weights, kept in registers until every input is summed.

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
pub(crate) mod portable;

use crate::linear::{LANES, Linear};
use crate::places::Places;

/// A block of sums as every form finishes it, written to the row that starts at `start`.
#[inline(always)]
fn finish(
    layer: &Linear,
    block: usize,
    sums: &[i32; LANES],
    (zero, row_scale): (i32, f32),
    start: usize,
    y: &mut Places<'_>,
) {
    let first = block * LANES;
    let values = std::array::from_fn(|lane| {
        let channel = first + lane;
        let sum = (sums[lane] - zero * layer.totals[channel]) as f32;
        sum.mul_add(row_scale * layer.scales[channel], layer.bias[channel])
    });
    y.put(start, block, values, LANES.min(layer.outputs() - first));
}
