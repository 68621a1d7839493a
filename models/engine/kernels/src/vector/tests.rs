use proptest::prelude::*;

use super::*;
use crate::Isa;

/// The error function by its series, for |x| < 4.
fn exact_erf(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        let n = f64::from(n);
        term *= -x * x / n;
        sum += term / (2.0 * n + 1.0);
    }
    sum * std::f64::consts::FRAC_2_SQRT_PI
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

fn each_form(values: &[f32], run: impl Fn(Isa, &mut [f32])) -> Vec<Vec<f32>> {
    let form = |isa| {
        let mut values = values.to_vec();
        run(isa, &mut values);
        values
    };
    Isa::available().into_iter().map(form).collect()
}

proptest! {
    #[test]
    fn every_form_gives_the_same_bits(
        values in prop::collection::vec(-90.0_f32..90.0, 0..100), width in 1_usize..40, scale in -2.0_f32..2.0,
    ) {
        let (scales, shifts) = (vec![scale; width], vec![0.1; width]);
        for forms in [
            each_form(&values, gelu),
            each_form(&values, gelu_tanh),
            each_form(&values, |isa, v| add_and_normalize_rows(isa, v, &values, &scales, &shifts, 1e-12)),
            each_form(&values, |isa, v| softmax_rows(isa, v, width)),
            each_form(&values, |isa, v| normalize_rows(isa, v, &scales, &shifts, 1e-12)),
        ] {
            for form in &forms {
                prop_assert_eq!(bits(form), bits(&forms[0]));
            }
        }
    }

    #[test]
    fn shares_are_positive_and_sum_to_one(values in prop::collection::vec(-1e4_f32..1e4, 1..70)) {
        let mut shares = values.clone();
        softmax_rows(Isa::best(), &mut shares, values.len());
        prop_assert!(shares.iter().all(|s| (0.0..=1.0).contains(s)));
        prop_assert!((shares.iter().sum::<f32>() - 1.0).abs() < 1e-5);
    }
}

#[test]
fn exp_and_erf_are_as_exact_as_they_say() {
    let steps = |from: f64, to: f64| (0..=20_000).map(move |i| (from + (to - from) * f64::from(i) / 20_000.0) as f32);
    for x in steps(-86.9, 88.0) {
        let exact = f64::from(x).exp();
        assert!(
            ((f64::from(exp(x)) - exact) / exact).abs() < 2e-7,
            "{x}: {} {exact}",
            exp(x)
        );
    }
    for x in steps(-3.9, 3.9) {
        assert!((f64::from(erf(x)) - exact_erf(f64::from(x))).abs() < 6e-7, "{x}");
    }
    assert_eq!((exp(-88.0), exp(f32::NEG_INFINITY), exp(0.0)), (0.0, 0.0, 1.0));
    assert_eq!((erf(9.0), erf(-9.0), erf(0.0)), (1.0, -1.0, 0.0));
    assert!(exp(f32::NAN).is_nan() && erf(f32::NAN).is_nan());
}

#[test]
fn rows_are_normalised_each_by_itself() {
    let mut values = [1.0, 3.0, 10.0, 30.0];
    normalize_rows(Isa::best(), &mut values, &[2.0, 2.0], &[0.5, 0.5], 0.0);
    assert_eq!(values, [-1.5, 2.5, -1.5, 2.5]);
}

#[test]
fn a_sum_is_normalised_as_if_it_had_been_made_before() {
    let (mut at_once, mut summed) = ([1.0, 3.0, 10.0, 30.0], [2.0, 5.0, 13.0, 34.0]);
    add_and_normalize_rows(
        Isa::best(),
        &mut at_once,
        &[1.0, 2.0, 3.0, 4.0],
        &[2.0, 2.0],
        &[0.5, 0.5],
        0.1,
    );
    normalize_rows(Isa::best(), &mut summed, &[2.0, 2.0], &[0.5, 0.5], 0.1);
    assert_eq!(at_once, summed);
}

#[test]
fn what_is_masked_has_no_share_at_all() {
    let mut values = [0.0, -10_000.0, f32::NEG_INFINITY, 0.0];
    softmax_rows(Isa::best(), &mut values, 4);
    assert_eq!(values, [0.5, 0.0, 0.0, 0.5]);
}

#[test]
fn gelu_by_the_tangent_is_as_exact_as_it_says_and_ends_where_it_should() {
    for step in -4000..4000 {
        let x = f64::from(step) / 200.0;
        let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
        let exact = 0.5 * x * (1.0 + u.tanh());
        let mut y = [x as f32];
        gelu_tanh(Isa::best(), &mut y);
        assert!(
            (f64::from(y[0]) - exact).abs() <= 1e-6 * x.abs(),
            "{x}: {} {exact}",
            y[0]
        );
    }
    let mut ends = [1e30, -1e30, f32::NAN, 0.0];
    gelu_tanh(Isa::best(), &mut ends);
    assert_eq!((ends[0], ends[3]), (1e30, 0.0));
    assert!(ends[1].abs() < 1e-7 && ends[2].is_nan());
}
