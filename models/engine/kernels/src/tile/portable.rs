//! The reference: plain loops over the packed weights.

use crate::linear::{Block, GROUP, LANES, Linear};
use crate::places::Places;
use crate::{QuantizedRows, tile};

pub(crate) fn run(layer: &Linear, x: &QuantizedRows, y: &mut Places<'_>) {
    let stride = x.stride();
    for (first, wide, blocks) in layer.panels() {
        let reaches = x.zeros.iter().zip(&x.scales);
        for (row, (codes, (zero, scale))) in x.codes().chunks_exact(stride).zip(reaches).enumerate() {
            for block in 0..wide {
                let sums = sums(codes, blocks.iter().skip(block).step_by(wide));
                tile::finish(layer, first / LANES + block, &sums, (*zero, *scale), y.start(row), y);
            }
        }
    }
}

/// Sums of one block's channels over all inputs.
fn sums<'a>(codes: &[u8], blocks: impl Iterator<Item = &'a Block>) -> [i32; LANES] {
    let mut sums = [0; LANES];
    for (codes, Block(weights)) in codes.chunks_exact(GROUP).zip(blocks) {
        for (sum, weights) in sums.iter_mut().zip(weights.chunks_exact(GROUP)) {
            for (code, weight) in codes.iter().zip(weights) {
                *sum += i32::from(*code) * i32::from(*weight);
            }
        }
    }
    sums
}
