//! An int8 answer is a function of its row alone: not of the run, of other threads, or of the rows that it is batched with.

use std::path::Path;
use std::thread;

use proto::oip::Tensor;
use tract_onnx::pb::NodeProto;

use super::*;
use crate::onnx::values::of_floats;
use crate::quantize::weights_int8;
use crate::tensor::{of_i32s, rows};

/// Rows of other content, more than are joined in one go.
const STRANGERS: usize = 40;

/// Half of them on one thread, half of them beside another.
fn runs() -> usize {
    let full = std::env::var("MERIDIAN_SCALE").is_ok_and(|scale| scale == "full");
    if full { 1000 } else { 50 }
}

fn op(operator: &str, inputs: &[&str], output: &str) -> NodeProto {
    NodeProto {
        name: output.to_owned(),
        ..node(operator, inputs, output)
    }
}

/// Our row, the first of `all`, with `at` strangers before it and `behind` after it.
fn batch(all: &Tensor, at: usize, behind: usize) -> Tensor {
    let ours = rows(all, 0..1);
    let (before, after) = (rows(all, 1..at + 1), rows(all, at + 1..at + 1 + behind));
    crate::tensor::join_rows(vec![before, ours, after]).unwrap()
}

/// How many nodes run as each of these operators of ours.
fn ours<const N: usize>(int8: &[u8], operators: [&str; N]) -> [usize; N] {
    let mut proto = onnx::decode(int8).unwrap();
    let coded = onnx::rows_coded(&proto);
    onnx::fuse(proto.graph.as_mut().unwrap(), coded);
    let nodes = proto.graph.unwrap().node;
    operators.map(|operator| nodes.iter().filter(|node| node.op_type == operator).count())
}

/// `all` holds our row and then the strangers. What another load of the same file says is what every run is held to.
fn every_run_gives_the_same_bits(int8: &[u8], all: &Tensor) {
    let alone = rows(all, 0..1);
    let expected = graph(int8).run(std::slice::from_ref(&alone)).unwrap();
    let stranger = rows(all, 1..2);
    assert_ne!(
        expected,
        graph(int8).run(&[stranger]).unwrap(),
        "strangers have other content"
    );
    let graph = graph(int8);
    let run = |time: usize| {
        let again = graph.run(std::slice::from_ref(&alone)).unwrap();
        assert!(again == expected, "run {time}, alone");
        // Mostly a few rows; at times so many that they are cut.
        let (at, behind) = (
            time % 3,
            if time.is_multiple_of(50) {
                STRANGERS - 2
            } else {
                time % 2
            },
        );
        let together = graph.run(&[batch(all, at, behind)]).unwrap();
        for (expected, together) in expected.iter().zip(together) {
            assert!(
                rows(&together, at..at + 1) == *expected,
                "run {time}, row {at} of {}",
                at + behind + 1
            );
        }
    };
    let half = runs() / 2;
    (0..half).for_each(run);
    thread::scope(|scope| {
        scope.spawn(|| (0..half).for_each(run));
        (half..runs()).for_each(run);
    });
}

fn floats_of(shape: &[usize]) -> Tensor {
    let shape = [&[1 + STRANGERS], shape].concat();
    of_f32s("x", shape.clone(), &ramp(shape.iter().product()))
}

#[test]
fn the_bundled_model_gives_a_row_the_same_bits_in_every_run_thread_and_batch() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../zoo/magika/model.onnx");
    let Ok(file) = std::fs::read(&file) else {
        eprintln!("skipped: {} is absent", file.display());
        return;
    };
    let width = 2048;
    let bytes: Vec<i32> = (0..(1 + STRANGERS) * width)
        .map(|i| i32::try_from(i * 7919 % 2003 % 257).unwrap())
        .collect();
    let int8 = weights_int8(&file).unwrap();
    assert!(ours(&int8, ["MeridianLinear"]) > [0]);
    every_run_gives_the_same_bits(&int8, &of_i32s("bytes", vec![1 + STRANGERS, width], &bytes));
}

/// A stem, a pool, channels apart, channels of a pixel, and a sum with what the pool gave.
#[test]
fn convolutions_give_a_row_the_same_bits_in_every_run_thread_and_batch() {
    let wide = |node| with_ints(node, "pads", &[1, 1, 1, 1]);
    let nodes = vec![
        wide(op("Conv", &["x", "stem"], "c")),
        op("Relu", &["c"], "r"),
        wide(with_ints(op("MaxPool", &["r"], "p"), "kernel_shape", &[3, 3])),
        wide(with_int(op("Conv", &["p", "apart"], "d"), "group", 16)),
        op("Conv", &["d", "point"], "q"),
        op("Add", &["q", "p"], "s"),
        op("Relu", &["s"], "y"),
    ];
    let weights = vec![
        of_floats("stem", vec![16, 3, 3, 3], &ramp(432)),
        of_floats("apart", vec![16, 1, 3, 3], &ramp(144)),
        of_floats("point", vec![16, 16, 1, 1], &ramp(256)),
    ];
    let file = model(&[("x", &[-1, 3, 9, 8])], &[("y", &[-1, 16, 9, 8])], nodes, weights);
    let int8 = weights_int8(&file).unwrap();
    assert_eq!(
        ours(&int8, ["MeridianConv", "MeridianDepthwiseConv", "MeridianMaxPool"]),
        [2, 1, 1]
    );
    every_run_gives_the_same_bits(&int8, &floats_of(&[3, 9, 8]));
}

/// 2 heads of 8 over 5 places, and a normalisation of the sum with what came in.
#[test]
fn attention_gives_a_row_the_same_bits_in_every_run_thread_and_batch() {
    let turn = |x: &str, y: &str, order: &[i64]| with_ints(op("Transpose", &[x], y), "perm", order);
    let mut nodes = Vec::new();
    for of in ["q", "k", "v"] {
        let [weight, product, heads] = ["weight", "product", "heads"].map(|name| format!("{of}.{name}"));
        nodes.push(op("MatMul", &["x", &weight], &product));
        nodes.push(op("Reshape", &[&product, "split"], &heads));
        let order = if of == "k" { [0, 2, 3, 1] } else { [0, 2, 1, 3] };
        nodes.push(turn(&heads, of, &order));
    }
    nodes.extend([
        op("MatMul", &["q", "k"], "products"),
        op("Mul", &["products", "scale"], "scores"),
        with_int(op("Softmax", &["scores"], "shares"), "axis", -1),
        op("MatMul", &["shares", "v"], "mixed"),
        turn("mixed", "back", &[0, 2, 1, 3]),
        op("Reshape", &["back", "join"], "joined"),
        op("Add", &["joined", "x"], "sum"),
        op("LayerNormalization", &["sum", "gain", "shift"], "y"),
    ]);
    let weight = |name: &str, seed: usize| of_floats(name, vec![16, 16], &ramp(seed + 256)[seed..]);
    let constants = vec![
        weight("q.weight", 3),
        weight("k.weight", 271),
        weight("v.weight", 550),
        int64s("split", &[4], &[0, 0, 2, 8]),
        int64s("join", &[3], &[0, 0, 16]),
        of_floats("scale", vec![], &[0.35]),
        of_floats("gain", vec![16], &ramp(16)),
        of_floats("shift", vec![16], &ramp(32)[16..]),
    ];
    let file = model(&[("x", &[-1, 5, 16])], &[("y", &[-1, 5, 16])], nodes, constants);
    let int8 = weights_int8(&file).unwrap();
    assert_eq!(
        ours(&int8, ["MeridianLinear", "MeridianAttention", "MeridianLayerNorm"]),
        [3, 1, 1]
    );
    every_run_gives_the_same_bits(&int8, &floats_of(&[5, 16]));
}

#[test]
fn linear_layers_give_a_row_the_same_bits_in_every_run_thread_and_batch() {
    let nodes = vec![
        op("MatMul", &["x", "wide"], "h"),
        op("Add", &["h", "bias"], "b"),
        op("Relu", &["b"], "r"),
        op("Gemm", &["r", "narrow"], "y"),
    ];
    let weights = vec![
        of_floats("wide", vec![24, 40], &ramp(960)),
        of_floats("bias", vec![40], &ramp(40)),
        of_floats("narrow", vec![40, 10], &ramp(400)),
    ];
    let file = model(&[("x", &[-1, 24])], &[("y", &[-1, 10])], nodes, weights);
    let int8 = weights_int8(&file).unwrap();
    assert_eq!(ours(&int8, ["MeridianLinear"]), [2]);
    every_run_gives_the_same_bits(&int8, &floats_of(&[24]));
}
