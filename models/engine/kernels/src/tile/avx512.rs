//! AVX-512 VNNI: six rows by 64 channels, 24 sums of 16 lanes; one instruction makes 64 products.

use std::arch::x86_64::*;

use crate::linear::{Block, GROUP, LANES, Linear};
use crate::places::Places;
use crate::{Activation, Isa, QuantizedRows};

/// Rows of a tile: with 4 blocks of weights and one broadcast group of codes, 29 of 32 registers.
const ROWS: usize = 6;

pub(crate) fn run(layer: &Linear, x: &QuantizedRows, y: &mut Places<'_>, proof: Isa) {
    assert_eq!(proof.0, crate::isa::Kind::Avx512Vnni);
    // SAFETY: an `Isa` of this kind exists only where the processor has these instructions.
    unsafe { panels(layer, x, y) }
}

/// Some rows of a product, as a tile sees them.
#[derive(Clone, Copy)]
struct Rows<'a> {
    /// The first of them.
    row: usize,
    codes: &'a [u8],
    stride: usize,
    zeros: &'a [i32],
    scales: &'a [f32],
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn panels(layer: &Linear, x: &QuantizedRows, y: &mut Places<'_>) {
    let stride = x.stride();
    for (first, wide, blocks) in layer.panels() {
        let reaches = x.zeros.chunks(ROWS).zip(x.scales.chunks(ROWS));
        let parts = x.codes().chunks(ROWS * stride).zip(reaches);
        for (part, (codes, (zeros, scales))) in parts.enumerate() {
            let rows = Rows {
                row: part * ROWS,
                codes,
                stride,
                zeros,
                scales,
            };
            match wide {
                4 => by_rows::<4>(layer, rows, first, blocks, y),
                3 => by_rows::<3>(layer, rows, first, blocks, y),
                2 => by_rows::<2>(layer, rows, first, blocks, y),
                _ => by_rows::<1>(layer, rows, first, blocks, y),
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn by_rows<const C: usize>(layer: &Linear, rows: Rows<'_>, first: usize, blocks: &[Block], y: &mut Places<'_>) {
    match rows.scales.len() {
        6 => tile::<6, C>(layer, rows, first, blocks, y),
        5 => tile::<5, C>(layer, rows, first, blocks, y),
        4 => tile::<4, C>(layer, rows, first, blocks, y),
        3 => tile::<3, C>(layer, rows, first, blocks, y),
        2 => tile::<2, C>(layer, rows, first, blocks, y),
        _ => tile::<1, C>(layer, rows, first, blocks, y),
    }
}

/// `R` rows by `C` blocks.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn tile<const R: usize, const C: usize>(
    layer: &Linear,
    rows: Rows<'_>,
    first: usize,
    blocks: &[Block],
    y: &mut Places<'_>,
) {
    let groups = layer.groups();
    assert!(blocks.len() == groups * C && rows.stride == groups * GROUP && rows.codes.len() == R * rows.stride);
    let codes: [&[[u8; GROUP]]; R] =
        std::array::from_fn(|r| rows.codes[r * rows.stride..][..rows.stride].as_chunks().0);
    let mut sums = starts::<R, C>(layer, rows.zeros, first);
    for (group, weights) in blocks.chunks_exact(C).enumerate() {
        // SAFETY: `weights` holds C blocks of 64 bytes, each aligned to 64.
        let weights: [__m512i; C] = std::array::from_fn(|c| unsafe { _mm512_load_si512(weights[c].0.as_ptr().cast()) });
        for r in 0..R {
            // SAFETY: there are as many groups of codes in a row as chunks of C blocks: both are `groups` by the assertion above.
            let four = unsafe { *codes[r].get_unchecked(group) };
            let four = _mm512_set1_epi32(i32::from_le_bytes(four));
            for c in 0..C {
                sums[r][c] = _mm512_dpbusd_epi32(sums[r][c], four, weights[c]);
            }
        }
    }
    let starts: [usize; R] = std::array::from_fn(|r| y.start(rows.row + r));
    for c in 0..C {
        let channel = first + c * LANES;
        let lanes = LANES.min(layer.outputs() - channel);
        let mask = u16::MAX >> (LANES - lanes);
        // SAFETY: scales and bias hold a whole block of channels from each block's first: they are padded to it.
        let (scales, bias) = unsafe {
            (
                _mm512_loadu_ps(layer.scales[channel..][..LANES].as_ptr()),
                _mm512_loadu_ps(layer.bias[channel..][..LANES].as_ptr()),
            )
        };
        for r in 0..R {
            let scale = _mm512_mul_ps(_mm512_set1_ps(rows.scales[r]), scales);
            let value = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[r][c]), scale, bias);
            let value = activated(y.activation, value);
            let to = y.block(starts[r], channel / LANES, lanes);
            // SAFETY: the mask names the `lanes` first elements, and `to` has so many.
            unsafe { _mm512_mask_storeu_ps(to.as_mut_ptr(), mask, value) }
        }
    }
}

/// What [`Activation::apply_here`] does to each number, in registers. Of two numbers one of which is none, the processor takes
/// the second as the larger and as the smaller.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn activated(activation: Activation, x: __m512) -> __m512 {
    let all = |value: f32| _mm512_set1_ps(value);
    let bounded = |x, low: f32, high: f32| _mm512_min_ps(all(high), _mm512_max_ps(all(low), x));
    match activation {
        Activation::None => x,
        Activation::Clip { low, high } => bounded(x, low, high),
        Activation::HardSwish => {
            let sixth = _mm512_add_ps(_mm512_mul_ps(x, all(1.0 / 6.0)), all(0.5));
            _mm512_mul_ps(x, bounded(sixth, 0.0, 1.0))
        }
        Activation::Silu => {
            let mut values = [0.0; LANES];
            // SAFETY: sixteen numbers are 512 bits.
            unsafe { _mm512_storeu_ps(values.as_mut_ptr(), x) };
            activation.apply_here(&mut values);
            // SAFETY: as above.
            unsafe { _mm512_loadu_ps(values.as_ptr()) }
        }
    }
}

/// What each sum starts from: less its row's zero times the total of its channel's weights.
///
/// One instruction makes it of 16-bit parts: `-zero * (total mod 128) - 128 zero * (total / 128)`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn starts<const R: usize, const C: usize>(layer: &Linear, zeros: &[i32], first: usize) -> [[__m512i; C]; R] {
    let totals: [__m512i; C] = std::array::from_fn(|c| {
        // SAFETY: totals hold a whole block of channels from each block's first: they are padded to it.
        let totals = unsafe { _mm512_loadu_si512(layer.totals[first + c * LANES..][..LANES].as_ptr().cast()) };
        let low = _mm512_and_si512(totals, _mm512_set1_epi32(127));
        _mm512_or_si512(low, _mm512_slli_epi32::<16>(_mm512_srai_epi32::<7>(totals)))
    });
    std::array::from_fn(|r| {
        let pair = (-zeros[r] & 0xffff) | (-zeros[r] << 7 << 16);
        let pair = _mm512_set1_epi32(pair);
        std::array::from_fn(|c| _mm512_dpwssd_epi32(_mm512_setzero_si512(), pair, totals[c]))
    })
}
