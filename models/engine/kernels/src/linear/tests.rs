use proptest::prelude::*;

use super::*;
use crate::stored::tests::mapped;

/// Numbers that repeat for a seed, in -1..1.
pub(crate) fn noise(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / 8_388_608.0 - 1.0
    };
    (0..count).map(next).collect()
}

pub(crate) fn codes(seed: u64, count: usize) -> Vec<i8> {
    noise(seed, count).iter().map(|x| (x * 128.0) as i8).collect()
}

/// The answer by definition, from the codes that `x` has.
fn by_definition(weights: &[i8], scales: &[f32], bias: &[f32], x: &QuantizedRows) -> Vec<f32> {
    let outputs = scales.len();
    let mut y = Vec::new();
    for row in 0..x.rows() {
        let codes = &x.codes()[row * x.stride()..][..x.width()];
        for j in 0..outputs {
            let products = codes
                .iter()
                .enumerate()
                .map(|(i, code)| (i32::from(*code) - x.zeros[row]) * i32::from(weights[i * outputs + j]));
            let sum = products.sum::<i32>() as f32;
            y.push(sum.mul_add(x.scales[row] * scales[j], bias[j]));
        }
    }
    y
}

pub(crate) fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 3 } else { 200 }))]
    #[test]
    fn every_form_gives_the_bits_of_the_definition(
        rows in 0_usize..15, inputs in 1_usize..70, outputs in 1_usize..150, seed: u64, biased: bool,
    ) {
        let weights = codes(seed, inputs * outputs);
        let scales: Vec<f32> = noise(seed ^ 1, outputs).iter().map(|s| s.abs() * 0.01).collect();
        let bias = if biased { noise(seed ^ 2, outputs) } else { vec![0.0; outputs] };
        let layer = Linear::pack(&weights, inputs, &scales, biased.then_some(&bias[..])).unwrap();
        let mut section = Vec::new();
        layer.write(&mut section);
        let layers = [Linear::mapped(&mapped(&section), 0, inputs, outputs).unwrap(), layer];
        let values = noise(seed ^ 3, rows * inputs);
        for isa in Isa::available() {
            let mut x = QuantizedRows::default();
            x.quantize(isa, &values, inputs);
            for layer in &layers {
                let mut y = vec![f32::NAN; rows * outputs];
                layer.run(isa, &x, &mut y);
                prop_assert_eq!(bits(&y), bits(&by_definition(&weights, &scales, &bias, &x)), "{}", isa.name());
            }
        }
    }
}

#[test]
fn the_largest_codes_and_the_most_inputs_do_not_overflow() {
    let inputs = Linear::INPUTS_MAX;
    for (weight, value) in [(-128, -1.0), (127, 1.0), (-128, 1.0)] {
        let weights = vec![weight; inputs];
        let layer = Linear::pack(&weights, inputs, &[1.0], None).unwrap();
        for isa in Isa::available() {
            let mut x = QuantizedRows::default();
            x.quantize(isa, &vec![value; inputs], inputs);
            let mut y = [0.0];
            layer.run(isa, &x, &mut y);
            let exact = f64::from(value) * f64::from(weight) * f64::from(u32::try_from(inputs).unwrap());
            assert!(
                (f64::from(y[0]) / exact - 1.0).abs() < 1e-6,
                "{}: {} {exact}",
                isa.name(),
                y[0]
            );
        }
    }
}

#[test]
fn a_product_is_close_to_that_of_the_numbers_themselves() {
    let (inputs, outputs) = (384, 65);
    let weights = noise(5, inputs * outputs);
    let quantized: Vec<i8> = weights.iter().map(|w| (w * 127.0).round() as i8).collect();
    let layer = Linear::pack(&quantized, inputs, &vec![1.0 / 127.0; outputs], None).unwrap();
    let values = noise(6, inputs);
    let mut x = QuantizedRows::default();
    x.quantize(Isa::best(), &values, inputs);
    let mut y = vec![0.0; outputs];
    layer.run(Isa::best(), &x, &mut y);
    let (mut wrong, mut all) = (0.0, 0.0);
    for (j, y) in y.iter().enumerate() {
        let exact: f32 = (0..inputs).map(|i| values[i] * weights[i * outputs + j]).sum();
        wrong += (exact - y).powi(2);
        all += exact.powi(2);
    }
    assert!((wrong / all).sqrt() < 0.01, "{}", (wrong / all).sqrt());
}

#[test]
fn weights_that_do_not_fit_are_refused_with_their_sizes() {
    let told = |result: Result<Linear, ShapeError>| result.unwrap_err().to_string();
    assert!(told(Linear::pack(&[1; 5], 2, &[1.0, 1.0], None)).contains("5 codes are no weights of 2 x 2"));
    assert!(told(Linear::pack(&[], 0, &[], None)).contains("no weights of 0 x 0"));
    assert!(told(Linear::pack(&[1; 4], 2, &[1.0, 1.0], Some(&[1.0]))).contains("a bias of 1 for 2 outputs"));
    let many = Linear::INPUTS_MAX + 1;
    assert!(told(Linear::pack(&vec![1; many], many, &[1.0], None)).contains("at most"));
}

#[test]
#[should_panic(expected = "by a layer of 4 x 2")]
fn rows_of_another_width_are_refused_before_anything_is_read() {
    let layer = Linear::pack(&[1; 8], 4, &[1.0, 1.0], None).unwrap();
    let mut x = QuantizedRows::default();
    x.quantize(Isa::best(), &[1.0; 6], 3);
    layer.run(Isa::best(), &x, &mut [0.0; 4]);
}
