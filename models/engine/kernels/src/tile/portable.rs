//! The reference: plain loops over the packed weights.

use crate::linear::{Block, GROUP, LANES, Linear};
use crate::lines::PlacesMut;
use crate::{Activation, QuantizedRows, tile};

pub(crate) fn run(layer: &Linear, x: &QuantizedRows, activation: Activation, y: &mut PlacesMut<'_>) {
    let (stride, mut place) = (x.stride(), y.next());
    for (first, wide, blocks) in layer.panels() {
        let reaches = x.zeros.iter().zip(&x.scales);
        place = y.next();
        for (codes, (zero, scale)) in x.codes().chunks_exact(stride).zip(reaches) {
            let at = y.step(&mut place);
            for block in 0..wide {
                let first = first + block * LANES;
                let sums = sums(codes, blocks.iter().skip(block).step_by(wide));
                let made = tile::finish(layer, first, &sums, (*zero, *scale), activation);
                y.put(at, first, &made);
            }
        }
    }
    y.go_on(place);
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
