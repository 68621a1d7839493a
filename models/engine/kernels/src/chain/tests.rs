use proptest::prelude::*;

use super::*;
use crate::conv::tests::windows;
use crate::linear::tests::{bits, codes, noise};
use crate::{Isa, Linear, Matrix};

const POINT: Window = Window {
    sides: [1, 1],
    strides: [1, 1],
    dilations: [1, 1],
    pads: [[0, 0]; 2],
};

pub(crate) fn stage(layer: Layer, activation: Activation) -> Stage {
    Stage {
        layer: Arc::new(layer),
        activation,
    }
}

pub(crate) fn run(chain: &Chain, isa: Isa, image: &[f32], size: [usize; 2]) -> Vec<f32> {
    thread_local! {
        static SCRATCH: std::cell::RefCell<ChainScratch> = std::cell::RefCell::default();
    }
    let places = chain.places(size).unwrap_or([0, 0]);
    let mut y = vec![f32::NAN; places[0] * places[1] * chain.channels()[1]];
    // What other chains left behind must not matter.
    SCRATCH.with_borrow_mut(|scratch| chain.run(isa, (image, Order::Pixels), size, scratch, &mut y));
    if chain.sees_all() {
        let (channels, mut planes) = (chain.channels()[0], Vec::new());
        for channel in 0..channels {
            planes.extend(image.chunks_exact(channels).map(|pixel| pixel[channel]));
        }
        let mut same = vec![f32::NAN; y.len()];
        SCRATCH.with_borrow_mut(|scratch| chain.run(isa, (&planes, Order::Planes), size, scratch, &mut same));
        assert_eq!(bits(&same), bits(&y));
    }
    y
}

fn mixed(window: Window, channels: usize, outputs: usize, seed: u64) -> Layer {
    let inputs = window.taps() * channels;
    let scales: Vec<f32> = noise(seed, outputs).iter().map(|s| s.abs() * 0.01).collect();
    let linear = Linear::pack(
        &codes(seed ^ 1, inputs * outputs),
        inputs,
        &scales,
        Some(&noise(seed ^ 2, outputs)),
    );
    Layer::Mixed(Conv::new(window, channels, linear.unwrap().into()).unwrap())
}

fn apart(window: Window, channels: usize, seed: u64) -> Layer {
    let weights = noise(seed, window.taps() * channels);
    Layer::Apart(Depthwise::new(window, &weights, channels, Some(&noise(seed ^ 1, channels))).unwrap())
}

fn in_f32(window: Window, channels: usize, outputs: usize, seed: u64) -> Layer {
    let weights = noise(seed, window.taps() * channels * outputs);
    let matrix = Matrix::new(&weights, outputs, Some(&noise(seed ^ 1, outputs))).unwrap();
    Layer::Exact(ExactConv::new(window, channels, matrix).unwrap())
}

/// What a stage is made of: its kind, its window if it keeps channels apart, and its outputs if it does not.
fn stages() -> impl Strategy<Value = Vec<(usize, Window, usize)>> {
    proptest::collection::vec((0_usize..4, windows(), 1_usize..40), 1..5)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn a_chain_gives_the_bits_of_its_stages_one_by_one(
        stages in stages(), size in (1_usize..40, 1_usize..20), channels in 1_usize..40, windowed: bool, seed: u64,
    ) {
        let size = [size.0, size.1];
        let image = noise(seed, size[0] * size[1] * channels);
        let mut chain: Option<Chain> = None;
        let (mut exact, mut size_now, mut channels_now) = (image.clone(), size, channels);
        for (at, (kind, window, outputs)) in stages.into_iter().enumerate() {
            let seed = seed ^ (at as u64 + 1) << 32;
            let layer = match (kind, windowed && at == 0) {
                (0, _) => apart(window, channels_now, seed),
                (1, _) => Layer::Pooled(MaxPool::new(window, channels_now)),
                (2, true) => in_f32(window, channels_now, outputs, seed),
                (2, false) => in_f32(POINT, channels_now, outputs, seed),
                (_, true) => mixed(window, channels_now, outputs, seed),
                (_, false) => mixed(POINT, channels_now, outputs, seed),
            };
            if layer.window().places(size_now).is_none() {
                break;
            }
            let one = Chain::of(stage(layer, Activation::Clip { low: -2.0, high: 2.0 }));
            exact = run(&one, Isa::PORTABLE, &exact, size_now);
            size_now = one.places(size_now).unwrap();
            channels_now = one.channels()[1];
            chain = Some(match chain {
                Some(chain) => chain.then(&one).unwrap(),
                None => one,
            });
        }
        if let Some(chain) = chain {
            prop_assert_eq!(chain.channels(), [channels, channels_now]);
            for isa in Isa::available() {
                prop_assert_eq!(bits(&run(&chain, isa, &image, size)), bits(&exact), "{}", isa.name());
            }
        }
    }
}

#[test]
fn only_what_sees_a_row_at_a_time_follows_another_stage() {
    let window = Window {
        sides: [3, 3],
        pads: [[1, 1]; 2],
        ..POINT
    };
    let first = Chain::of(stage(mixed(window, 3, 16, 1), Activation::None));
    assert!(first.then(&first).is_err(), "16 channels are no 3");
    let whole = Chain::of(stage(mixed(window, 16, 16, 2), Activation::None));
    assert!(first.then(&whole).is_err());
    let rows = Chain::of(stage(apart(window, 16, 3), Activation::None));
    assert_eq!(first.then(&rows).unwrap().channels(), [3, 16]);
    assert_eq!(first.then(&rows).unwrap().places([5, 7]), Some([5, 7]));
}

#[test]
fn a_sum_with_what_is_there_is_that_of_both_and_activated_after() {
    let size = [19, 23];
    let image = noise(1, size[0] * size[1] * 24);
    let chain = Chain::of(stage(
        apart(
            Window {
                sides: [3, 3],
                pads: [[1, 1]; 2],
                ..POINT
            },
            24,
            2,
        ),
        Activation::None,
    ));
    let chain = chain
        .then(&Chain::of(stage(mixed(POINT, 24, 40, 3), Activation::None)))
        .unwrap();
    let there = noise(4, size[0] * size[1] * 40);
    let then = Activation::Clip {
        low: 0.0,
        high: f32::INFINITY,
    };
    let plain = run(&chain, Isa::PORTABLE, &image, size);
    let exact: Vec<f32> = plain.iter().zip(&there).map(|(a, b)| (a + b).max(0.0)).collect();
    assert!(exact.contains(&0.0) && exact.iter().any(|x| *x > 0.0));
    let summed = chain.onto(then).unwrap();
    for isa in Isa::available() {
        let mut y = there.clone();
        summed.run(isa, (&image, Order::Pixels), size, &mut ChainScratch::default(), &mut y);
        assert_eq!(y, exact, "{}", isa.name());
    }
    assert!(
        summed
            .then(&Chain::of(stage(mixed(POINT, 40, 8, 5), Activation::None)))
            .is_err()
    );
    assert!(
        Chain::of(stage(apart(POINT, 24, 2), Activation::None))
            .onto(then)
            .is_err()
    );
}
