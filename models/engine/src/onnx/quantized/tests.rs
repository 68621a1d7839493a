use tract_onnx::pb::tensor_proto::DataType as OnnxType;

use super::*;
use crate::onnx::values;
use proto::oip;

use crate::graph::Graph;
use crate::pack::{Prepared, Weights};
use crate::tensor::of_f32s;
use crate::testing::{self, floats, ramp, with_ints};

fn named(operator: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    let mut made = node(operator, inputs, outputs[0]);
    made.output = outputs.iter().map(|&name| name.to_owned()).collect();
    made
}

fn typed(name: &str, dims: &[i64], kind: OnnxType, codes: &[i32]) -> TensorProto {
    TensorProto {
        name: name.to_owned(),
        dims: dims.to_vec(),
        data_type: values::onnx(kind),
        int32_data: codes.to_vec(),
        ..TensorProto::default()
    }
}

fn number(name: &str, value: f32) -> TensorProto {
    values::of_floats(name, vec![], &[value])
}

fn codes(count: usize) -> Vec<i32> {
    (0..count)
        .map(|at| i32::try_from(at * 37 % 255).unwrap() - 127)
        .collect()
}

fn file(x: &[i64], y: &[i64], nodes: Vec<NodeProto>, constants: Vec<TensorProto>) -> GraphProto {
    let model = testing::model_proto(&[("x", x)], &[("y", y)], nodes, constants);
    model.graph.unwrap()
}

/// What a graph answers as the standard says, and as it is prepared here; and how many weights were packed.
fn answers(graph: &GraphProto, x: &oip::Tensor) -> (Vec<f32>, Vec<f32>, usize) {
    let model = || {
        let mut model = testing::model_proto(&[], &[], vec![], vec![]);
        model.graph = Some(graph.clone());
        model
    };
    let exact = Prepared {
        model: model(),
        weights: vec![],
    };
    let ours = Prepared::of(model()).unwrap();
    let packed = ours.weights.iter().filter(|w| matches!(w, Weights::Linear(_))).count();
    let run = |prepared| floats(&Graph::of(prepared).unwrap().run(std::slice::from_ref(x)).unwrap()[0]);
    (run(exact), run(ours), packed)
}

/// Holds that both answers point the same way and that the second was made by packed weights.
fn alike(graph: &GraphProto, x: &oip::Tensor, packed: usize, cosine: f32) -> Vec<f32> {
    let (exact, ours, found) = answers(graph, x);
    assert_eq!((ours.len(), found), (exact.len(), packed));
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    let found = dot(&exact, &ours) / (dot(&exact, &exact) * dot(&ours, &ours)).sqrt();
    assert!(found > cosine, "cosine {found}");
    let ratio = dot(&ours, &ours) / dot(&exact, &exact);
    assert!((0.97..1.03).contains(&ratio), "lengths {ratio}");
    ours
}

fn picture() -> oip::Tensor {
    of_f32s("x", vec![1, 4, 6, 5], &ramp(120))
}

#[test]
fn layers_that_code_activations_as_they_come_are_ours() {
    let nodes = |kind: &[&str]| {
        vec![
            named("DynamicQuantizeLinear", &["x"], &["q", "s", "z"]),
            named("Mul", &["s", "ws"], &["scales"]),
            named("MatMulInteger", kind, &["sum"]),
            named("Cast", &["sum"], &["float"]),
            named("Mul", &["float", "scales"], &["product"]),
            named("Add", &["product", "b"], &["y"]),
        ]
    };
    let cast = |mut nodes: Vec<NodeProto>| {
        nodes[3] = testing::with_int(nodes[3].clone(), "to", values::onnx(OnnxType::Float).into());
        nodes
    };
    let x = of_f32s("x", vec![3, 32], &ramp(96));
    let constants = vec![
        typed("w", &[32, 24], OnnxType::Int8, &codes(32 * 24)),
        typed("wz", &[], OnnxType::Int8, &[0]),
        number("ws", 0.01),
        values::of_floats("b", vec![24], &ramp(24)),
    ];
    for kind in [&["q", "w", "z", "wz"][..], &["q", "w", "z"]] {
        let graph = file(&[-1, 32], &[-1, 24], cast(nodes(kind)), constants.clone());
        alike(&graph, &x, 1, 0.999);
    }
    // Weights whose zero is not the middle are FP32 then, and answer the better.
    let mut odd = constants;
    odd[0] = typed(
        "w",
        &[32, 24],
        OnnxType::Uint8,
        &codes(32 * 24).iter().map(|c| c + 127).collect::<Vec<_>>(),
    );
    odd[1] = typed("wz", &[], OnnxType::Uint8, &[100]);
    let graph = file(&[-1, 32], &[-1, 24], cast(nodes(&["q", "w", "z", "wz"])), odd);
    alike(&graph, &x, 0, 0.999);
}

#[test]
fn convolutions_that_code_activations_as_they_come_are_ours_with_their_bias() {
    let nodes = vec![
        named("DynamicQuantizeLinear", &["x"], &["q", "s", "z"]),
        named("Reshape", &["b", "shape"], &["shaped"]),
        named("Mul", &["s", "ws"], &["scales"]),
        with_ints(
            named("ConvInteger", &["q", "w", "z", "wz"], &["sum"]),
            "pads",
            &[1, 1, 1, 1],
        ),
        testing::with_int(
            named("Cast", &["sum"], &["float"]),
            "to",
            values::onnx(OnnxType::Float).into(),
        ),
        named("Mul", &["float", "scales"], &["product"]),
        named("Add", &["product", "shaped"], &["sums"]),
        named("Relu", &["sums"], &["y"]),
    ];
    let constants = vec![
        typed("w", &[16, 4, 3, 3], OnnxType::Int8, &codes(16 * 36)),
        typed("wz", &[], OnnxType::Int8, &[0]),
        number("ws", 0.01),
        values::of_floats("b", vec![16], &ramp(16)),
        testing::int64s("shape", &[4], &[1, -1, 1, 1]),
    ];
    let graph = file(&[1, 4, 6, 5], &[1, 16, 6, 5], nodes, constants);
    alike(&graph, &picture(), 1, 0.999);
}

/// A convolution between codes, its Relu left to the codes of its result, and taken twice.
fn between_codes() -> (Vec<NodeProto>, Vec<TensorProto>) {
    let nodes = vec![
        named("QuantizeLinear", &["x", "xs", "xz"], &["xq"]),
        named("DequantizeLinear", &["xq", "xs", "xz"], &["xd"]),
        named("DequantizeLinear", &["w", "ws", "wz"], &["wd"]),
        named("DequantizeLinear", &["b", "bs", "bz"], &["bd"]),
        named("Conv", &["xd", "wd", "bd"], &["c"]),
        named("QuantizeLinear", &["c", "ys", "yz"], &["cq"]),
        named("DequantizeLinear", &["cq", "ys", "yz"], &["cd"]),
        named("DequantizeLinear", &["cq", "ys", "yz"], &["ce"]),
        named("Add", &["cd", "ce"], &["y"]),
    ];
    let constants = vec![
        number("xs", 0.008),
        typed("xz", &[], OnnxType::Int8, &[0]),
        typed("w", &[16, 4, 3, 3], OnnxType::Int8, &codes(16 * 36)),
        number("ws", 0.01),
        typed("wz", &[], OnnxType::Int8, &[0]),
        typed(
            "b",
            &[16],
            OnnxType::Int32,
            &[-1000, 900, 3, 0, 5, 7, -900, 0, 1, 2, 3, 4, 5, 6, 7, 8],
        ),
        number("bs", 0.008 * 0.01),
        typed("bz", &[], OnnxType::Int32, &[0]),
        number("ys", 0.05),
        typed("yz", &[], OnnxType::Uint8, &[0]),
    ];
    (nodes, constants)
}

#[test]
fn codes_and_back_are_the_bounds_that_a_relu_left_to_them() {
    let (nodes, constants) = between_codes();
    let graph = file(&[1, 4, 6, 5], &[1, 16, 4, 3], nodes, constants);
    let ours = alike(&graph, &picture(), 1, 0.998);
    assert!(ours.iter().all(|y| *y >= 0.0) && ours.contains(&0.0), "{ours:?}");
    let mut relaxed = graph;
    assert!(relax(&mut relaxed));
    let operators: Vec<&str> = relaxed.node.iter().map(|n| n.op_type.as_str()).collect();
    assert_eq!(operators, ["DequantizeLinear", "Conv", "Clip", "Add"]);
}

#[test]
fn operators_between_codes_are_what_the_standard_says() {
    let conv = with_ints(
        named(
            "QLinearConv",
            &["xq", "xs", "xz", "w", "ws", "wz", "ys", "yz", "b"],
            &["cq"],
        ),
        "kernel_shape",
        &[3, 3],
    );
    let (mut nodes, constants) = between_codes();
    nodes.splice(1..6, [conv]);
    let graph = file(&[1, 4, 6, 5], &[1, 16, 4, 3], nodes, constants);
    alike(&graph, &picture(), 1, 0.998);

    let nodes = vec![
        named("QuantizeLinear", &["x", "xs", "xz"], &["xq"]),
        named(
            "QLinearMatMul",
            &["xq", "xs", "xz", "w", "ws", "wz", "ys", "yz"],
            &["yq"],
        ),
        named("DequantizeLinear", &["yq", "ys", "yz"], &["y"]),
    ];
    let constants = vec![
        number("xs", 0.008),
        typed("xz", &[], OnnxType::Uint8, &[128]),
        typed(
            "w",
            &[32, 24],
            OnnxType::Uint8,
            &codes(32 * 24).iter().map(|c| c + 128).collect::<Vec<_>>(),
        ),
        number("ws", 0.01),
        typed("wz", &[], OnnxType::Uint8, &[128]),
        number("ys", 0.1),
        typed("yz", &[], OnnxType::Uint8, &[128]),
    ];
    let graph = file(&[-1, 32], &[-1, 24], nodes, constants);
    alike(&graph, &of_f32s("x", vec![3, 32], &ramp(96)), 1, 0.998);
}

#[test]
fn what_does_not_fit_stays_as_it_is() {
    let (nodes, constants) = between_codes();
    let whole = file(&[1, 4, 6, 5], &[1, 16, 4, 3], nodes, constants);
    let stays = |change: fn(&mut GraphProto)| {
        let mut graph = whole.clone();
        change(&mut graph);
        alike(&graph, &picture(), 1, 0.995);
    };
    // Back by another scale: no bounds, but other numbers.
    stays(|graph| {
        "bs".clone_into(&mut graph.node[6].input[1]);
        "bs".clone_into(&mut graph.node[7].input[1]);
    });
    // What comes back is itself asked for.
    stays(|graph| {
        "y".clone_into(&mut graph.node[6].output[0]);
        graph.node.truncate(7);
    });
}

#[test]
fn codes_of_shapes_and_zeros_that_no_weight_has_cost_no_more_than_they_hold() {
    let node = |operator, inputs: &[&str], output| named(operator, inputs, &[output]);
    let nodes = vec![
        node("QuantizeLinear", &["x", "s", "z"], "c"),
        node("DequantizeLinear", &["c", "s", "z"], "d"),
        // No elements, but as many rows as an address has bytes.
        node("DequantizeLinear", &["none", "s"], "table"),
        node("Gather", &["table", "ids"], "rows"),
        testing::with_int(node("DequantizeLinear", &["empty", "nothing"], "e"), "axis", 0),
        testing::with_int(node("DequantizeLinear", &["wide", "s", "far"], "f"), "axis", 0),
    ];
    let constants = vec![
        number("s", 0.5),
        typed("z", &[], OnnxType::Int8, &[0]),
        testing::int64s("ids", &[1], &[0]),
        typed("none", &[1 << 62, 0], OnnxType::Int8, &[]),
        typed("empty", &[0, 1 << 40, 1 << 40], OnnxType::Int8, &[]),
        values::of_floats("nothing", vec![0], &[]),
        testing::int64s("wide", &[1, 1], &[i64::MIN]),
        testing::int64s("far", &[], &[1]),
    ];
    let mut graph = file(&[-1, 4], &[-1, 4], nodes, constants);
    graph.output = ["d", "rows", "e", "f"]
        .map(|name| testing::info(&(name, &[-1]), OnnxType::Float))
        .into();
    relax(&mut graph);
    crate::onnx::expand_weights(&mut graph);
    let kept: Vec<_> = graph.node.iter().map(|node| node.op_type.as_str()).collect();
    assert_eq!(kept, ["Clip", "DequantizeLinear", "Gather", "DequantizeLinear"]);
}
