//! AVX-512: the reaches of sixteen rows are found together, so that narrow rows cost little more than their numbers.

use std::arch::x86_64::*;

use super::{SHIFT, SPREAD_MIN};

/// Rows of one step, and elements of a vector.
const ROWS: usize = 16;

/// The mask of the first `count` elements of a vector, 16 at most.
const fn lanes(count: usize) -> u16 {
    !(u16::MAX << 1 << (count - 1))
}

/// As [`super::quantize_rows`]. Panics when lengths do not fit each other.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) fn quantize_rows(x: &[f32], width: usize, codes: &mut [u8], zeros: &mut [i32], scales: &mut [f32]) {
    let stride = width.next_multiple_of(4);
    let steps = x.chunks(ROWS * width).zip(codes.chunks_mut(ROWS * stride));
    for ((x, codes), (zeros, scales)) in steps.zip(zeros.chunks_mut(ROWS).zip(scales.chunks_mut(ROWS))) {
        let reaches = reaches(x, width);
        let mut factors = [0.0; ROWS];
        spread(reaches, &mut factors, zeros, scales);
        let rows = x.chunks_exact(width).zip(codes.chunks_exact_mut(stride));
        for ((row, codes), (by, (zero, scale))) in rows.zip(factors.iter().zip(zeros.iter().zip(scales))) {
            let codes = &mut codes[..width];
            if scale.is_nan() {
                codes.fill(0);
                continue;
            }
            let (by, shift) = (_mm512_set1_ps(*by), _mm512_set1_ps(SHIFT));
            let zero = _mm512_set1_epi32(zero.wrapping_sub(SHIFT.to_bits().cast_signed()));
            let code = |x: __m512| {
                let rounded = _mm512_castps_si512(_mm512_add_ps(_mm512_mul_ps(x, by), shift));
                _mm512_cvtusepi32_epi8(_mm512_max_epi32(
                    _mm512_add_epi32(rounded, zero),
                    _mm512_setzero_si512(),
                ))
            };
            let (vectors, rest) = row.as_chunks::<ROWS>();
            let (made, last) = codes.as_chunks_mut::<ROWS>();
            for (x, codes) in vectors.iter().zip(made) {
                // SAFETY: both have sixteen elements.
                unsafe { _mm_storeu_si128(codes.as_mut_ptr().cast(), code(_mm512_loadu_ps(x.as_ptr()))) }
            }
            if !rest.is_empty() {
                let lanes = lanes(rest.len());
                // SAFETY: the mask names as many elements as `rest` has, and `last` has as many.
                unsafe {
                    let codes = code(_mm512_maskz_loadu_ps(lanes, rest.as_ptr()));
                    _mm_mask_storeu_epi8(last.as_mut_ptr().cast(), lanes, codes);
                }
            }
        }
    }
}

/// For up to sixteen rows, the bits of the highest number of each, 0 included, and of the lowest; see [`super::reach`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn reaches(x: &[f32], width: usize) -> (__m512i, __m512i) {
    let mut highs = [_mm512_setzero_si512(); ROWS];
    let mut lows = [_mm512_setzero_si512(); ROWS];
    for ((row, high), low) in x.chunks_exact(width).zip(&mut highs).zip(&mut lows) {
        let (vectors, rest) = row.as_chunks::<ROWS>();
        let (mut highest, mut lowest) = (_mm512_setzero_si512(), _mm512_setzero_si512());
        for x in vectors {
            // SAFETY: it has sixteen elements.
            let bits = unsafe { _mm512_loadu_si512(x.as_ptr().cast()) };
            highest = _mm512_max_epi32(highest, bits);
            lowest = _mm512_max_epu32(lowest, bits);
        }
        if !rest.is_empty() {
            // SAFETY: the mask names as many elements as it has.
            let bits = unsafe { _mm512_maskz_loadu_epi32(lanes(rest.len()), rest.as_ptr().cast()) };
            highest = _mm512_max_epi32(highest, bits);
            lowest = _mm512_max_epu32(lowest, bits);
        }
        (*high, *low) = (highest, lowest);
    }
    (fold::<true>(highs), fold::<false>(lows))
}

/// The largest element of each of sixteen vectors.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn fold<const SIGNED: bool>(v: [__m512i; ROWS]) -> __m512i {
    let max = |a, b| {
        if SIGNED {
            _mm512_max_epi32(a, b)
        } else {
            _mm512_max_epu32(a, b)
        }
    };
    let pairs = |a, b| max(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    let fours = |a, b| max(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
    let blocks = |a, b| max(_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0xdd>(a, b));
    // Each block of four lanes then holds, of four rows, what is largest in that block.
    let four = |at: usize| fours(pairs(v[at], v[at + 1]), pairs(v[at + 2], v[at + 3]));
    blocks(blocks(four(0), four(4)), blocks(four(8), four(12)))
}

/// What rows are multiplied by, their zeros and scales, from the bits of their reaches.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn spread((high, low): (__m512i, __m512i), factors: &mut [f32; ROWS], zeros: &mut [i32], scales: &mut [f32]) {
    let low = _mm512_maskz_mov_epi32(_mm512_cmplt_epi32_mask(low, _mm512_setzero_si512()), low);
    let (high, low) = (_mm512_castsi512_ps(high), _mm512_castsi512_ps(low));
    let spread = _mm512_sub_ps(high, low);
    let least = _mm512_set1_ps(SPREAD_MIN);
    let fits = _mm512_cmp_ps_mask::<_CMP_GE_OQ>(spread, least)
        & _mm512_cmp_ps_mask::<_CMP_LE_OQ>(spread, _mm512_set1_ps(f32::MAX));
    let none = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(spread, least);
    let steps = _mm512_set1_ps(255.0);
    let by = _mm512_maskz_div_ps(fits, steps, spread);
    let scale = _mm512_mask_div_ps(_mm512_set1_ps(f32::NAN), fits, spread, steps);
    let scale = _mm512_mask_mov_ps(scale, none, _mm512_setzero_ps());
    let shift = _mm512_set1_ps(SHIFT);
    let below = _mm512_sub_ps(_mm512_setzero_ps(), low);
    let rounded = _mm512_castps_si512(_mm512_add_ps(_mm512_mul_ps(below, by), shift));
    let zero = _mm512_maskz_sub_epi32(fits, rounded, _mm512_castps_si512(shift));
    let lanes = lanes(zeros.len());
    assert_eq!(zeros.len(), scales.len());
    // SAFETY: `factors` has sixteen elements, and the mask names as many of the others as there are.
    unsafe {
        _mm512_storeu_ps(factors.as_mut_ptr(), by);
        _mm512_mask_storeu_epi32(zeros.as_mut_ptr(), lanes, zero);
        _mm512_mask_storeu_ps(scales.as_mut_ptr(), lanes, scale);
    }
}
