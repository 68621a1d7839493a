use proptest::prelude::*;

use super::*;
use crate::linear::tests::{bits, noise};

proptest! {
    #[test]
    fn every_form_gives_the_codes_of_the_portable_one(
        rows in 0_usize..40, width in 1_usize..70, seed: u64, odd in proptest::collection::vec((any::<prop::sample::Index>(), any::<f32>()), 0..4),
    ) {
        let mut x = noise(seed, rows * width);
        for (at, value) in odd {
            if let Some(x) = Some(&mut x).filter(|x| !x.is_empty()).map(|x| at.get_mut(&mut x[..])) {
                *x = value;
            }
        }
        let mut portable = QuantizedRows::default();
        portable.quantize(Isa::PORTABLE, &x, width);
        for isa in Isa::available() {
            let mut ours = QuantizedRows::default();
            ours.quantize(isa, &x, width);
            prop_assert_eq!(ours.codes(), portable.codes(), "{}", isa.name());
            prop_assert_eq!(&ours.zeros, &portable.zeros);
            prop_assert_eq!(bits(&ours.scales), bits(&portable.scales));
        }
    }
}

fn codes_of(rows: &QuantizedRows, row: usize) -> Vec<i32> {
    let stride = rows.stride();
    let codes = &rows.codes()[row * stride..][..rows.width];
    codes.iter().map(|c| i32::from(*c) - rows.zeros[row]).collect()
}

#[test]
fn a_row_is_coded_by_its_own_reach_and_halves_go_to_even() {
    for isa in Isa::available() {
        let mut rows = QuantizedRows::default();
        rows.quantize(isa, &[205.0, -50.0, 0.5, 1.5, 2.5, 0.0, 0.0, 0.0, 0.0, 0.0], 5);
        assert_eq!(codes_of(&rows, 0), [205, -50, 0, 2, 2], "{isa:?}");
        assert_eq!(codes_of(&rows, 1), [0; 5]);
        assert_eq!(rows.scales, [1.0, 0.0]);
        assert_eq!(rows.zeros, [50, 0]);
    }
}

#[test]
fn a_row_that_is_all_positive_or_all_negative_loses_no_bit() {
    for isa in Isa::available() {
        let mut rows = QuantizedRows::default();
        rows.quantize(isa, &[255.0, 1.0, -255.0, -1.0], 2);
        assert_eq!((codes_of(&rows, 0), codes_of(&rows, 1)), (vec![255, 1], vec![-255, -1]));
    }
}

#[test]
fn what_is_not_finite_makes_the_row_nan_and_no_other() {
    for isa in Isa::available() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut rows = QuantizedRows::default();
            rows.quantize(isa, &[1.0, bad, 1.0, 255.0], 2);
            assert!(rows.scales[0].is_nan() && rows.scales[1].is_finite());
            assert_eq!(codes_of(&rows, 1), [1, 255]);
        }
        let mut rows = QuantizedRows::default();
        rows.quantize(isa, &[f32::MAX, -f32::MAX], 2);
        assert!(rows.scales[0].is_nan(), "a reach that is no number has no scale");
    }
}

#[test]
fn no_number_however_small_or_large_is_off_by_more_than_half_a_step() {
    for isa in Isa::available() {
        for x in [f32::MAX / 2.0, f32::MIN_POSITIVE, 1e-30, 1.1e-30, 1e-45, 1e30] {
            let mut rows = QuantizedRows::default();
            let row = [x, -x, x / 2.0, 0.0, x / 7.0];
            rows.quantize(isa, &row, 5);
            for (code, x) in codes_of(&rows, 0).iter().zip(row) {
                let back = *code as f32 * rows.scales[0];
                assert!(
                    (back - x).abs() <= rows.scales[0] * 0.5001 || rows.scales[0] == 0.0,
                    "{x}: {back}"
                );
            }
        }
    }
}
