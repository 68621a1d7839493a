use proptest::prelude::*;

use super::*;
use crate::activation::activate;
use crate::chain::tests::{run, stage};
pub(crate) use crate::linear::tests::{bits, codes, noise};
use crate::{Activation, Chain, Layer};

pub(crate) fn windows() -> impl Strategy<Value = Window> {
    let pair = |range: std::ops::Range<usize>| (range.clone(), range).prop_map(|(a, b)| [a, b]);
    let parts = (pair(1..5), pair(1..4), pair(1..3), pair(0..4), pair(0..4));
    parts.prop_map(|(sides, strides, dilations, before, after)| Window {
        sides,
        strides,
        dilations,
        pads: [[before[0], after[0]], [before[1], after[1]]],
    })
}

/// The answer by definition: codes of what lies under the window, one reach for all or one a pixel.
fn by_definition(
    layer: &Conv,
    weights: &[i8],
    scales: &[f32],
    bias: &[f32],
    image: &[f32],
    size: [usize; 2],
) -> Vec<f32> {
    let (window, channels, outputs) = (layer.window(), layer.channels(), scales.len());
    let coded = if window.is_point() { channels } else { image.len() };
    let mut x = QuantizedRows::default();
    x.quantize(Isa::PORTABLE, image, coded);
    let places = window.places(size).unwrap_or([0, 0]);
    let mut y = Vec::new();
    for place in 0..places[0] * places[1] {
        let (row, column) = (place / places[1], place % places[1]);
        let reach = if window.is_point() { place } else { 0 };
        for output in 0..outputs {
            let mut sum = 0;
            for tap in 0..window.taps() {
                let pixel_row = window.pixel(0, row, tap / window.sides[1], size[0]);
                let pixel_column = window.pixel(1, column, tap % window.sides[1], size[1]);
                let Some((pixel_row, pixel_column)) = pixel_row.zip(pixel_column) else {
                    continue;
                };
                for channel in 0..channels {
                    let at = (pixel_row * size[1] + pixel_column) * channels + channel;
                    let code = i32::from(x.codes()[at / coded * x.stride() + at % coded]) - x.zeros[reach];
                    sum += code * i32::from(weights[(tap * channels + channel) * outputs + output]);
                }
            }
            y.push((sum as f32).mul_add(x.scales[reach] * scales[output], bias[output]));
        }
    }
    y
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn every_form_gives_the_bits_of_the_definition(
        window in windows(), point: bool, size in (1_usize..12, 1_usize..12), channels in 1_usize..9, outputs in 1_usize..40, seed: u64,
    ) {
        let one = Window { sides: [1, 1], strides: [1, 1], dilations: [1, 1], pads: [[0, 0]; 2] };
        let window = if point { one } else { window };
        let size = [size.0, size.1];
        let inputs = window.taps() * channels;
        let weights = codes(seed, inputs * outputs);
        let scales: Vec<f32> = noise(seed ^ 1, outputs).iter().map(|s| s.abs() * 0.01).collect();
        let bias = noise(seed ^ 2, outputs);
        let linear = Linear::pack(&weights, inputs, &scales, Some(&bias)).unwrap();
        let layer = Conv::new(window, channels, linear.into()).unwrap();
        let image = noise(seed ^ 3, size[0] * size[1] * channels);
        let exact = by_definition(&layer, &weights, &scales, &bias, &image, size);
        let layer = Layer::Mixed(layer);
        let chain = Chain::of(stage(layer, Activation::None));
        for isa in Isa::available() {
            let y = run(&chain, isa, &image, size);
            prop_assert_eq!(bits(&y), bits(&exact), "{}", isa.name());
        }
    }
}

proptest! {
    #[test]
    fn numbers_are_activated_alike_on_their_way_out_of_every_form(
        bounds in (any::<f32>(), any::<f32>()), outputs in 1_usize..150, seed: u64,
        odd in proptest::collection::vec((any::<prop::sample::Index>(), any::<f32>()), 0..4),
    ) {
        let (size, channels) = ([3, 5], 7);
        let mut image = noise(seed, 15 * channels);
        for (at, value) in odd {
            *at.get_mut(&mut image) = value;
        }
        // Negative scales and a row of zeros make zeros of either sign.
        image[..channels].fill(0.0);
        let scales: Vec<f32> = noise(seed ^ 1, outputs).iter().map(|s| s * 0.1).collect();
        let (weights, bias) = (codes(seed ^ 2, channels * outputs), vec![-0.0; outputs]);
        let linear = Arc::new(Linear::pack(&weights, channels, &scales, Some(&bias)).unwrap());
        let one = Window { sides: [1, 1], strides: [1, 1], dilations: [1, 1], pads: [[0, 0]; 2] };
        let chain = |activation| {
            let layer = Conv::new(one, channels, Arc::clone(&linear)).unwrap();
            Chain::of(stage(Layer::Mixed(layer), activation))
        };
        let plain = run(&chain(Activation::None), Isa::PORTABLE, &image, size);
        let (low, high) = bounds;
        for activation in [Activation::None, Activation::Clip { low, high }, Activation::HardSwish, Activation::Silu] {
            let mut exact = plain.clone();
            activate(Isa::PORTABLE, activation, &mut exact);
            for isa in Isa::available() {
                let y = run(&chain(activation), isa, &image, size);
                prop_assert_eq!(bits(&y), bits(&exact), "{:?} {}", activation, isa.name());
            }
        }
    }
}

#[test]
fn an_image_of_more_than_one_strip_is_whole_and_activated() {
    let (size, channels, outputs) = ([40, 41], 8, 16);
    let weights = codes(7, channels * outputs);
    let linear = Linear::pack(&weights, channels, &[0.01; 16], None).unwrap();
    let window = Window {
        sides: [1, 1],
        strides: [1, 1],
        dilations: [1, 1],
        pads: [[0, 0]; 2],
    };
    let layer = Conv::new(window, channels, linear.into()).unwrap();
    let image = noise(8, size[0] * size[1] * channels);
    let mut exact = by_definition(&layer, &weights, &[0.01; 16], &[0.0; 16], &image, size);
    activate(Isa::PORTABLE, Activation::HardSwish, &mut exact);
    let chain = Chain::of(stage(Layer::Mixed(layer), Activation::HardSwish));
    let y = run(&chain, Isa::best(), &image, size);
    assert!(exact.len() > STRIP_BYTES / 4, "one strip would do");
    assert_eq!(bits(&y), bits(&exact));
}

#[test]
fn one_pixel_that_is_not_finite_makes_every_place_nan_and_none_wrong() {
    let linear = Linear::pack(&[1; 9], 9, &[1.0], None).unwrap();
    let window = Window {
        sides: [3, 3],
        strides: [1, 1],
        dilations: [1, 1],
        pads: [[1, 1]; 2],
    };
    let layer = Conv::new(window, 1, linear.into()).unwrap();
    let mut image = [1.0; 16];
    image[5] = f32::INFINITY;
    let chain = Chain::of(stage(Layer::Mixed(layer), Activation::Clip { low: 0.0, high: 6.0 }));
    let y = run(&chain, Isa::best(), &image, [4, 4]);
    assert!(y.len() == 16 && y.iter().all(|y| y.is_nan()));
}

#[test]
fn a_layer_of_other_inputs_is_refused() {
    let linear = Linear::pack(&[1; 9], 9, &[1.0], None).unwrap();
    let window = Window {
        sides: [3, 3],
        strides: [1, 1],
        dilations: [1, 1],
        pads: [[0, 0]; 2],
    };
    assert!(Conv::new(window, 2, linear.into()).is_err());
}
