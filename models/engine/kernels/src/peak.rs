//! What the multipliers of a core can do at most, for figures that say how much of it is used.
//!
//! Loops that touch no memory: as many sums in registers as hide how long one product takes. A kernel also has to load, to convert and to
//! write.

use crate::Isa;
use crate::isa::Kind;

/// Sums that are under way at once.
const SUMS: usize = 12;

/// Defines a function that runs a form's loop and tells its products: lanes of each form, and the loop over them.
macro_rules! most {
    ($(#[$doc:meta])* $name:ident: $lanes256:literal $avx2:ident, $lanes512:literal $avx512:ident) => {
        $(#[$doc])*
        #[must_use]
        pub fn $name(isa: Isa, passes: u32) -> Option<u64> {
            let lanes: Option<u64> = match isa.0 {
                Kind::Portable => None,
                #[cfg(target_arch = "x86_64")]
                Kind::Avx2 => {
                    // SAFETY: an `Isa` of this kind exists only where the processor has these instructions.
                    unsafe { x86::$avx2(passes) };
                    Some($lanes256)
                }
                #[cfg(target_arch = "x86_64")]
                Kind::Avx512Vnni => {
                    // SAFETY: as above.
                    unsafe { x86::$avx512(passes) };
                    Some($lanes512)
                }
            };
            lanes.map(|lanes| u64::from(passes) * SUMS as u64 * lanes)
        }
    };
}

most! {
    /// Multiplies 8-bit codes and adds, `passes` times a few hundred; gives how many products that were. `None` where the compiler chooses the
    /// instructions: there is no such limit to tell.
    codes: 16 codes_avx2, 64 codes_avx512
}
most! {
    /// As [`codes`], of FP32 numbers; a product and its sum are rounded once here, which is faster than our kernels are allowed to be.
    floats: 8 floats_avx2, 16 floats_avx512
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::hint::black_box;

    use super::SUMS;

    macro_rules! loops {
        ($($name:ident, $features:literal: $zero:expr, $one:expr, |$sum:ident, $a:ident, $b:ident| $step:expr;)*) => {
            $(
                #[target_feature(enable = $features)]
                pub(super) fn $name(passes: u32) {
                    let ($a, $b) = (black_box($one), black_box($one));
                    let mut sums = black_box([$zero; SUMS]);
                    for _ in 0..passes {
                        for $sum in &mut sums {
                            *$sum = $step;
                        }
                    }
                    black_box(sums);
                }
            )*
        };
    }

    loops! {
        codes_avx512, "avx512f,avx512bw,avx512vl,avx512vnni":
            _mm512_setzero_si512(), _mm512_set1_epi8(1), |sum, a, b| _mm512_dpbusd_epi32(*sum, a, b);
        floats_avx512, "avx512f":
            _mm512_setzero_ps(), _mm512_set1_ps(1.0), |sum, a, b| _mm512_fmadd_ps(a, b, *sum);
        // Without saturation codes are widened to 16 bits first. Of the sum, so that it has to be done anew each time.
        codes_avx2, "avx2":
            _mm256_set1_epi16(3), _mm256_set1_epi16(1), |sum, a, b| _mm256_add_epi32(a, _mm256_madd_epi16(*sum, b));
        floats_avx2, "avx2,fma":
            _mm256_setzero_ps(), _mm256_set1_ps(1.0), |sum, a, b| _mm256_fmadd_ps(a, b, *sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_products_are_told_as_are_made() {
        for isa in Isa::available() {
            let told = [codes(isa, 3), floats(isa, 3)];
            match isa.name() {
                "portable" => assert_eq!(told, [None, None]),
                "avx2" => assert_eq!(told, [Some(3 * 12 * 16), Some(3 * 12 * 8)]),
                _ => assert_eq!(told, [Some(3 * 12 * 64), Some(3 * 12 * 16)]),
            }
        }
    }
}
