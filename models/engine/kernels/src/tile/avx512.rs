//! AVX-512 VNNI: six rows by 64 channels, 24 sums of 16 lanes; one instruction makes 64 products.

use std::arch::x86_64::*;

use crate::linear::{Block, GROUP, LANES, Linear};
use crate::lines::PlacesMut;
use crate::{Activation, Isa, QuantizedRows};

/// Rows of a tile: with 4 blocks of weights and one broadcast group of codes, 29 of 32 registers.
const ROWS: usize = 6;

pub(crate) fn run(layer: &Linear, x: &QuantizedRows, activation: Activation, y: &mut PlacesMut<'_>, proof: Isa) {
    assert_eq!(proof.0, crate::isa::Kind::Avx512Vnni);
    // SAFETY: an `Isa` of this kind exists only where the processor has these instructions.
    unsafe { panels(layer, x, activation, y) }
}

/// Some rows of a product, as a tile sees them.
struct Rows<'a> {
    codes: &'a [u8],
    stride: usize,
    zeros: &'a [i32],
    scales: &'a [f32],
    /// Where each one's pixel lies; those past the last row say nothing.
    places: [usize; ROWS],
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn panels(layer: &Linear, x: &QuantizedRows, activation: Activation, y: &mut PlacesMut<'_>) {
    let (stride, mut place) = (x.stride(), y.next());
    let then = &Then::of(activation);
    for (first, wide, blocks) in layer.panels() {
        let reaches = x.zeros.chunks(ROWS).zip(x.scales.chunks(ROWS));
        place = y.next();
        for (codes, (zeros, scales)) in x.codes().chunks(ROWS * stride).zip(reaches) {
            let mut rows = Rows {
                codes,
                stride,
                zeros,
                scales,
                places: [0; ROWS],
            };
            for at in &mut rows.places[..scales.len()] {
                *at = y.step(&mut place);
            }
            let rows = &rows;
            match wide {
                4 => by_rows::<4>(layer, rows, then, (first, blocks), y),
                3 => by_rows::<3>(layer, rows, then, (first, blocks), y),
                2 => by_rows::<2>(layer, rows, then, (first, blocks), y),
                _ => by_rows::<1>(layer, rows, then, (first, blocks), y),
            }
        }
    }
    y.go_on(place);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn by_rows<const C: usize>(
    layer: &Linear,
    rows: &Rows<'_>,
    then: &Then,
    panel: (usize, &[Block]),
    y: &mut PlacesMut<'_>,
) {
    match rows.scales.len() {
        6 => tile::<6, C>(layer, rows, then, panel, y),
        5 => tile::<5, C>(layer, rows, then, panel, y),
        4 => tile::<4, C>(layer, rows, then, panel, y),
        3 => tile::<3, C>(layer, rows, then, panel, y),
        2 => tile::<2, C>(layer, rows, then, panel, y),
        _ => tile::<1, C>(layer, rows, then, panel, y),
    }
}

/// `R` rows by `C` blocks.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn tile<const R: usize, const C: usize>(
    layer: &Linear,
    rows: &Rows<'_>,
    then: &Then,
    (first, blocks): (usize, &[Block]),
    y: &mut PlacesMut<'_>,
) {
    let groups = layer.groups();
    assert!(blocks.len() == groups * C && rows.stride == groups * GROUP && rows.codes.len() == R * rows.stride);
    let mut codes = [&[][..]; R];
    for (codes, row) in codes.iter_mut().zip(rows.codes.chunks_exact(rows.stride)) {
        *codes = row.as_chunks::<GROUP>().0;
    }
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
    let mut made = [[_mm512_setzero_ps(); C]; R];
    for c in 0..C {
        let channel = first + c * LANES;
        // SAFETY: scales and bias hold a whole block of channels from each block's first: they are padded to it.
        let (scales, bias) = unsafe {
            (
                _mm512_loadu_ps(layer.scales[channel..][..LANES].as_ptr()),
                _mm512_loadu_ps(layer.bias[channel..][..LANES].as_ptr()),
            )
        };
        for r in 0..R {
            let scale = _mm512_mul_ps(_mm512_set1_ps(rows.scales[r]), scales);
            made[r][c] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[r][c]), scale, bias);
        }
    }
    if let Then::Curve(activation) = then {
        curve(made.as_flattened_mut(), *activation);
    }
    let last = LANES.min(layer.outputs() - (first + (C - 1) * LANES));
    for r in 0..R {
        let (to, step) = y.blocks(rows.places[r], first, (C - 1, last));
        for c in 0..C {
            let mask = if c + 1 < C {
                u16::MAX
            } else {
                u16::MAX >> (LANES - last)
            };
            // SAFETY: `to` ends with the `last` elements of the last block, and the mask names no more there. Blocks begin `step`
            // elements apart, which is sixteen at least, so the sixteen of the others end before the last one begins.
            unsafe { _mm512_mask_storeu_ps(to.as_mut_ptr().add(c * step), mask, then.gate().apply(made[r][c])) }
        }
    }
}

/// What is done to the numbers of a tile while they are in registers. Most activations are one formula with other constants: branches
/// between them would keep the compiler from unrolling a tile's end.
enum Then {
    Gate(Gate),
    Curve(Activation),
}

/// `x` or 1, times a bounded line.
struct Gate {
    line: [f32; 2],
    bounds: [f32; 2],
    /// All ones where the bounded line is multiplied by `x`.
    of_x: u16,
}

impl Then {
    const fn of(activation: Activation) -> Self {
        match activation {
            Activation::None => Self::Gate(Gate::OPEN),
            Activation::Clip { low, high } => Self::Gate(Gate {
                bounds: [low, high],
                ..Gate::OPEN
            }),
            Activation::HardSwish => Self::Gate(Gate {
                line: [1.0 / 6.0, 0.5],
                bounds: [0.0, 1.0],
                of_x: u16::MAX,
            }),
            Activation::Silu => Self::Curve(activation),
        }
    }

    const fn gate(&self) -> &Gate {
        match self {
            Self::Gate(gate) => gate,
            Self::Curve(_) => &Gate::OPEN,
        }
    }
}

impl Gate {
    /// Changes nothing: even a zero keeps its sign when -0 is added.
    const OPEN: Self = Self {
        line: [1.0, -0.0],
        bounds: [f32::NEG_INFINITY, f32::INFINITY],
        of_x: 0,
    };

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    fn apply(&self, x: __m512) -> __m512 {
        let [by, plus, low, high] = [
            _mm512_set1_ps(self.line[0]),
            _mm512_set1_ps(self.line[1]),
            _mm512_set1_ps(self.bounds[0]),
            _mm512_set1_ps(self.bounds[1]),
        ];
        let line = _mm512_add_ps(_mm512_mul_ps(x, by), plus);
        // Of two numbers of which one is none, the second is taken.
        let bounded = _mm512_min_ps(high, _mm512_max_ps(low, line));
        _mm512_mask_mul_ps(bounded, self.of_x, bounded, x)
    }
}

/// Activates numbers in memory, by a call of its own: inlined it would be in every size of tile.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn curve(values: &mut [__m512], activation: Activation) {
    // SAFETY: a vector is sixteen numbers, and any bits are numbers.
    let numbers = unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), values.len() * LANES) };
    activation.apply_here(numbers);
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
