//! AVX2: two rows by 16 channels. Codes and weights are widened to 16 bits, so no product is ever cut off.

use std::arch::x86_64::*;

use crate::linear::{Block, GROUP, LANES, Linear};
use crate::lines::{Place, PlacesMut};
use crate::{Activation, Isa, QuantizedRows, tile};

/// Rows of a tile: 8 sums, 4 widened quarters of a block and two broadcast groups are 14 of 16 registers.
const ROWS: usize = 2;
/// 256-bit vectors of widened weights in a block.
const QUARTERS: usize = 4;

pub(crate) fn run(layer: &Linear, x: &QuantizedRows, activation: Activation, y: &mut PlacesMut<'_>, proof: Isa) {
    assert_eq!(proof.0, crate::isa::Kind::Avx2);
    // SAFETY: an `Isa` of this kind exists only where the processor has these instructions.
    unsafe { panels(layer, x, activation, y) }
}

#[target_feature(enable = "avx2,fma")]
fn panels(layer: &Linear, x: &QuantizedRows, activation: Activation, y: &mut PlacesMut<'_>) {
    let (stride, mut place) = (x.stride(), y.next());
    for (first, wide, blocks) in layer.panels() {
        let reaches = x.zeros.chunks(ROWS).zip(x.scales.chunks(ROWS));
        place = y.next();
        for (codes, (zeros, scales)) in x.codes().chunks(ROWS * stride).zip(reaches) {
            let at = place;
            for block in 0..wide {
                place = at;
                let weights = blocks.iter().skip(block).step_by(wide);
                let mut to = Finish {
                    layer,
                    first: first + block * LANES,
                    reaches: (zeros, scales),
                    activation,
                    y,
                };
                match zeros {
                    [_, _] => to.store(&block_of_rows::<2>(codes, stride, weights), &mut place),
                    _ => to.store(&block_of_rows::<1>(codes, stride, weights), &mut place),
                }
            }
        }
    }
    y.go_on(place);
}

/// Sums of `R` rows by one block of channels.
#[target_feature(enable = "avx2,fma")]
fn block_of_rows<'a, const R: usize>(
    codes: &[u8],
    stride: usize,
    blocks: impl Iterator<Item = &'a Block>,
) -> [[i32; LANES]; R] {
    let codes: [&[[u8; GROUP]]; R] = std::array::from_fn(|r| codes[r * stride..][..stride].as_chunks().0);
    // Each 64-bit lane is one channel: the sums of its even and of its odd pairs of codes.
    let mut sums = [[_mm256_setzero_si256(); QUARTERS]; R];
    for (group, Block(bytes)) in blocks.enumerate() {
        let weights: [__m256i; QUARTERS] = std::array::from_fn(|q| {
            // SAFETY: a quarter of a block is 16 bytes.
            let bytes = unsafe { _mm_loadu_si128(bytes[q * 16..][..16].as_ptr().cast()) };
            _mm256_cvtepi8_epi16(bytes)
        });
        for r in 0..R {
            let four = _mm_cvtsi32_si128(i32::from_le_bytes(codes[r][group]));
            let four = _mm256_broadcastq_epi64(_mm_cvtepu8_epi16(four));
            for q in 0..QUARTERS {
                sums[r][q] = _mm256_add_epi32(sums[r][q], _mm256_madd_epi16(weights[q], four));
            }
        }
    }
    std::array::from_fn(|r| {
        let mut channels = [0; LANES];
        for (q, four) in channels.chunks_exact_mut(4).enumerate() {
            let mut pairs = [0_i32; 8];
            // SAFETY: eight i32 are 256 bits.
            unsafe { _mm256_storeu_si256(pairs.as_mut_ptr().cast(), sums[r][q]) };
            for (sum, pair) in four.iter_mut().zip(pairs.chunks_exact(2)) {
                *sum = pair[0] + pair[1];
            }
        }
        channels
    })
}

/// Where sums of a block go, and what becomes of them.
struct Finish<'a, 'y> {
    layer: &'a Linear,
    first: usize,
    reaches: (&'a [i32], &'a [f32]),
    activation: Activation,
    y: &'a mut PlacesMut<'y>,
}

impl Finish<'_, '_> {
    #[target_feature(enable = "avx2,fma")]
    fn store<const R: usize>(&mut self, sums: &[[i32; LANES]; R], place: &mut Place) {
        for (sums, (zero, scale)) in sums.iter().zip(self.reaches.0.iter().zip(self.reaches.1)) {
            let made = tile::finish(self.layer, self.first, sums, (*zero, *scale), self.activation);
            let at = self.y.step(place);
            self.y.put(at, self.first, &made);
        }
    }
}
