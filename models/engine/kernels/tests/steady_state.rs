//! Once a call has been made, calls like it allocate nothing: all they need is in the scratch that they are given.

use std::sync::Arc;

use kernels::{
    Activation, Attention, AttentionScratch, AttentionShape, Chain, ChainScratch, Conv, Depthwise, ExactConv, Isa,
    Layer, Linear, Matrix, MaxPool, Order, QuantizedRows, Stage, Window,
};

mod counting;

/// How often memory is asked for by the second and third of three calls.
fn asked_again(mut call: impl FnMut()) -> usize {
    call();
    counting::asked(|| {
        call();
        call();
    })
}

fn linear(inputs: usize, outputs: usize) -> Arc<Linear> {
    let codes: Vec<i8> = (0..inputs * outputs).map(|at| (at * 37 % 255) as i8).collect();
    Arc::new(Linear::pack(&codes, inputs, &vec![0.01; outputs], None).expect("lengths that fit"))
}

/// A convolution of windows, channels apart, a pool and a convolution of points; of codes, or in FP32.
fn chain(exact: bool) -> Chain {
    let window = Window {
        sides: [3, 3],
        strides: [1, 1],
        dilations: [1, 1],
        pads: [[1, 1]; 2],
    };
    let point = Window {
        sides: [1, 1],
        pads: [[0, 0]; 2],
        ..window
    };
    let conv = |window, channels, linear: Arc<Linear>| {
        if exact {
            let weights = vec![0.01; linear.inputs() * linear.outputs()];
            let matrix = Matrix::new(&weights, linear.outputs(), None).expect("lengths that fit");
            return Layer::Exact(ExactConv::new(window, channels, matrix).expect("inputs that fit"));
        }
        Layer::Mixed(Conv::new(window, channels, linear).expect("inputs that fit"))
    };
    let apart = Depthwise::new(window, &[0.1; 9 * 24], 24, None).expect("weights that fit");
    let layers = [
        conv(window, 3, linear(27, 24)),
        Layer::Apart(apart),
        Layer::Pooled(MaxPool::new(window, 24)),
        conv(point, 24, linear(24, 40)),
    ];
    let stages = layers.map(|layer| {
        let (layer, activation) = (Arc::new(layer), Activation::HardSwish);
        Chain::of(Stage { layer, activation })
    });
    let joined = stages
        .into_iter()
        .reduce(|chain, next| chain.then(&next).expect("channels that fit"));
    joined.expect("four stages")
}

#[test]
fn calls_that_were_made_before_allocate_nothing() {
    let (chains, layer) = ([chain(false), chain(true)], linear(30, 70));
    let (weights, mut matrix) = (vec![0.5; 30 * 70], Matrix::default());
    let (image, mut y) = (vec![0.5; 3 * 20 * 21], vec![0.0; 20 * 21 * 40]);
    let (rows, mut out) = (vec![0.5; 30 * 9], vec![0.0; 70 * 9]);
    let shape = AttentionShape {
        queries: 7,
        keys: 7,
        heads: 2,
        width: 8,
    };
    let (tokens, mut mixed) = (vec![0.5; 7 * 16], vec![0.0; 7 * 16]);
    for isa in Isa::available() {
        let (mut scratch, mut coded, mut scores) = (
            ChainScratch::default(),
            QuantizedRows::default(),
            AttentionScratch::default(),
        );
        for (chain, order) in chains
            .iter()
            .flat_map(|chain| [(chain, Order::Pixels), (chain, Order::Planes)])
        {
            let asked = asked_again(|| chain.run(isa, (&image, order), [20, 21], &mut scratch, &mut y));
            assert_eq!(asked, 0, "a chain, {}", isa.name());
        }
        let asked = asked_again(|| {
            matrix.fill(&weights, [30, 70], [1, 30]);
            matrix.run(isa, &rows, &mut out);
            matrix.fill(&weights, [9, 20], [20, 1]);
        });
        assert_eq!(asked, 0, "a matrix, {}", isa.name());
        let asked = asked_again(|| {
            coded.quantize(isa, &rows, 30);
            layer.run(isa, &coded, &mut out);
        });
        assert_eq!(asked, 0, "a layer, {}", isa.name());
        let (q, k, v, mask, scale) = (&tokens[..], &tokens[..], &tokens[..], None, 0.1);
        let asked = asked_again(|| {
            let call = Attention {
                shape,
                q,
                k,
                v,
                mask,
                scale,
            };
            call.run(isa, &mut scores, &mut mixed);
        });
        assert_eq!(asked, 0, "attention, {}", isa.name());
    }
}
