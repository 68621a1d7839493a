use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::{AttributeProto, ModelProto, NodeProto, TensorProto};

use super::*;
use crate::graph::Graph;
use crate::onnx::values::of_floats;
use crate::tensor::of_f32s;
use crate::testing::{self, floats, int64s, ramp, with_int, with_ints};

const WIDTH: usize = 8;

fn op(operator: &str, inputs: &[&str], output: &str) -> NodeProto {
    NodeProto {
        name: output.to_owned(),
        ..testing::node(operator, inputs, output)
    }
}

fn with_float(mut node: NodeProto, name: &str, value: f32) -> NodeProto {
    node.attribute.push(AttributeProto {
        name: name.to_owned(),
        r#type: AttributeType::Float.into(),
        f: value,
        ..AttributeProto::default()
    });
    node
}

/// Attention of 2 heads of 4 over `x [N, S, 8]` with a score to add for each key, then a normalisation of the sum with `x`,
/// as exporters write it.
fn block() -> (Vec<NodeProto>, Vec<TensorProto>) {
    let turn = |x: &str, y: &str, order: &[i64]| with_ints(op("Transpose", &[x], y), "perm", order);
    let nodes = vec![
        op("MatMul", &["x", "wq"], "xq"),
        op("MatMul", &["x", "wk"], "xk"),
        op("MatMul", &["x", "wv"], "xv"),
        op("Reshape", &["xq", "split"], "q"),
        op("Reshape", &["xk", "split"], "k"),
        op("Reshape", &["xv", "split"], "v"),
        turn("q", "q.turned", &[0, 2, 1, 3]),
        turn("k", "k.turned", &[0, 2, 3, 1]),
        turn("v", "v.turned", &[0, 2, 1, 3]),
        op("MatMul", &["q.turned", "k.turned"], "products"),
        op("Div", &["products", "two"], "scores"),
        op("Add", &["scores", "mask"], "masked"),
        with_int(op("Softmax", &["masked"], "shares"), "axis", -1),
        op("MatMul", &["shares", "v.turned"], "mixed"),
        turn("mixed", "back", &[0, 2, 1, 3]),
        op("Reshape", &["back", "join"], "joined"),
        op("Add", &["joined", "x"], "sum"),
        with_float(
            op("LayerNormalization", &["sum", "scale", "shift"], "y"),
            "epsilon",
            1e-6,
        ),
    ];
    let weight = |name: &str, seed: usize| of_floats(name, vec![8, 8], &ramp(seed + 64)[seed..]);
    let constants = vec![
        weight("wq", 3),
        weight("wk", 71),
        weight("wv", 150),
        int64s("split", &[4], &[0, 0, 2, 4]),
        int64s("join", &[3], &[0, 0, 8]),
        of_floats("two", vec![], &[2.0]),
        of_floats("mask", vec![1, 1, 1, 5], &[0.0, -1e4, 0.5, 0.0, 0.25]),
        of_floats("scale", vec![8], &ramp(8)),
        of_floats("shift", vec![8], &ramp(16)[8..]),
    ];
    (nodes, constants)
}

fn model(nodes: Vec<NodeProto>, constants: Vec<TensorProto>) -> ModelProto {
    testing::model_proto(&[("x", &[-1, 5, 8])], &[("y", &[-1, 5, 8])], nodes, constants)
}

fn operators(model: &ModelProto, linears: bool) -> Vec<String> {
    let mut graph = model.graph.clone().unwrap();
    fuse(&mut graph, linears);
    graph.node.into_iter().map(|node| node.op_type).collect()
}

fn answer(model: ModelProto, rows: usize) -> Vec<f32> {
    let x = of_f32s("x", vec![rows, 5, WIDTH], &ramp(rows * 5 * WIDTH));
    floats(&Graph::new(model).unwrap().run(&[x]).unwrap()[0])
}

fn close(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 2e-5)
}

/// The same graph, which nothing is found in: every tensor passes an `Identity` on its way.
fn in_pieces(nodes: &[NodeProto]) -> Vec<NodeProto> {
    let apart = |node: &NodeProto| {
        let made = format!("{}.made", node.output[0]);
        let first = NodeProto {
            output: vec![made.clone()],
            ..node.clone()
        };
        let pass = NodeProto {
            name: format!("{}.pass", node.name),
            ..op("Identity", &[made.as_str()], &node.output[0])
        };
        [first, pass]
    };
    nodes.iter().flat_map(apart).collect()
}

#[test]
fn attention_is_found_and_answers_as_the_operators_it_stands_for() {
    let (nodes, constants) = block();
    let whole = model(nodes.clone(), constants.clone());
    let found = operators(&whole, false);
    assert_eq!(found.iter().filter(|op| *op == ATTENTION).count(), 1, "{found:?}");
    assert!(found.contains(&LAYER_NORM.to_owned()));
    let pieces = model(in_pieces(&nodes), constants);
    assert!(!operators(&pieces, false).contains(&ATTENTION.to_owned()));
    for rows in [1, 3, 40] {
        assert!(
            close(&answer(whole.clone(), rows), &answer(pieces.clone(), rows)),
            "{rows} rows"
        );
    }
}

#[test]
fn attention_is_found_in_other_spellings_too() {
    let (mut nodes, constants) = block();
    // Keys turned twice, the scale multiplied from the left, the mask first.
    let turn = |x: &str, y: &str, order: &[i64]| with_ints(op("Transpose", &[x], y), "perm", order);
    nodes[7] = turn("k.heads", "k.turned", &[0, 1, 3, 2]);
    nodes.insert(7, turn("k", "k.heads", &[0, 2, 1, 3]));
    nodes[11] = op("Mul", &["two", "products"], "scores");
    nodes[12] = op("Add", &["mask", "scores"], "masked");
    let whole = model(nodes.clone(), constants.clone());
    assert!(operators(&whole, false).contains(&ATTENTION.to_owned()));
    assert!(close(
        &answer(whole, 2),
        &answer(model(in_pieces(&nodes), constants), 2)
    ));
}

/// Something done to nodes and constants.
type Change = fn(&mut Vec<NodeProto>, &mut Vec<TensorProto>);

#[test]
fn what_only_looks_like_attention_stays_as_it_is() {
    let changes: [(&str, Change); 6] = [
        ("queries that were learnt", |nodes, constants| {
            nodes[0].input[0] = "learnt".to_owned();
            constants.push(of_floats("learnt", vec![1, 5, 8], &ramp(40)));
        }),
        ("softmax of another axis", |nodes, _| nodes[12].attribute[0].i = 2),
        ("shares that someone else takes too", |nodes, _| {
            nodes.push(op("Identity", &["shares"], "spare"));
        }),
        ("heads of another size", |nodes, constants| {
            nodes[4].input[1] = "other".to_owned();
            constants.push(int64s("other", &[4], &[0, 0, 4, 2]));
        }),
        ("another way back", |nodes, _| {
            nodes[14].attribute[0].ints = vec![0, 1, 2, 3]
        }),
        ("a scale that is computed", |nodes, _| {
            nodes[10].input[1] = "x".to_owned()
        }),
    ];
    for (what, change) in changes {
        let (mut nodes, mut constants) = block();
        change(&mut nodes, &mut constants);
        assert!(
            !operators(&model(nodes, constants), false).contains(&ATTENTION.to_owned()),
            "{what}"
        );
    }
}

/// `y = Gemm(x W) ..` by `Gather` and `MatMul`, with weights of codes.
fn coded(marked: bool) -> ModelProto {
    let dequantize = |of: &str, axis: i64| {
        let (codes, scales) = (format!("{of}.codes"), format!("{of}.scales"));
        with_int(
            op("DequantizeLinear", &[codes.as_str(), scales.as_str()], of),
            "axis",
            axis,
        )
    };
    let codes = |count: usize, seed: usize| -> Vec<i8> {
        (0..count)
            .map(|i| i8::try_from((i * 37 + seed) % 255).unwrap_or(-90))
            .collect()
    };
    let constants = vec![
        values::of_bytes("w.codes", vec![8, 24], &codes(192, 5)),
        of_floats(
            "w.scales",
            vec![24],
            &ramp(24).iter().map(|s| s.abs() * 0.01 + 0.001).collect::<Vec<_>>(),
        ),
        of_floats("b", vec![24], &ramp(24)),
        values::of_bytes("v.codes", vec![8, 24], &codes(192, 50)),
        of_floats("v.scales", vec![8], &[0.01; 8]),
    ];
    let nodes = vec![
        dequantize("w", 1),
        dequantize("v", 0),
        op("MatMul", &["x", "w"], "product"),
        op("Add", &["b", "product"], "h"),
        with_int(op("Gemm", &["h", "v"], "y"), "transB", 1),
    ];
    let mut model = testing::model_proto(&[("x", &[-1, 8])], &[("y", &[-1, 8])], nodes, constants);
    if marked {
        mark_rows_coded(&mut model);
    }
    model
}

#[test]
fn layers_compute_in_integers_only_where_the_file_says_so() {
    let all = |linears| operators(&coded(false), linears);
    assert_eq!(all(true), [LINEAR, LINEAR]);
    assert!(all(false).iter().all(|op| op != LINEAR));
    assert!(rows_coded(&coded(true)) && !rows_coded(&coded(false)));
    let run = |model, rows: usize| {
        let x = of_f32s("x", vec![rows, WIDTH], &ramp(rows * WIDTH));
        floats(&Graph::new(model).unwrap().run(&[x]).unwrap()[0])
    };
    let (integers, plain) = (run(coded(true), 3), run(coded(false), 3));
    let (mut wrong, mut size) = (0.0, 0.0);
    for (a, b) in integers.iter().zip(&plain) {
        wrong += (a - b).powi(2);
        size += b.powi(2);
    }
    assert!(wrong > 0.0 && (wrong / size).sqrt() < 0.02, "{}", (wrong / size).sqrt());
}

#[test]
fn a_row_has_the_same_bits_alone_and_among_strangers() {
    let graph = Graph::new(coded(true)).unwrap();
    let rows = 70;
    let all = ramp(rows * WIDTH);
    let run = |x: &[f32]| floats(&graph.run(&[of_f32s("x", vec![x.len() / WIDTH, WIDTH], x)]).unwrap()[0]);
    let together = run(&all);
    for (row, alone) in all.chunks_exact(WIDTH).enumerate() {
        let same = run(alone)
            .iter()
            .zip(&together[row * 8..])
            .all(|(a, b)| a.to_bits() == b.to_bits());
        assert!(same, "row {row}");
    }
}

#[test]
fn rows_of_a_coded_table_are_those_of_the_table() {
    let codes: Vec<i8> = (0..40_i8).map(|i| i * 3 - 60).collect();
    let nodes = vec![
        with_int(op("DequantizeLinear", &["codes", "scales"], "table"), "axis", 0),
        with_int(op("Cast", &["x"], "ids"), "to", 7),
        op("Gather", &["table", "ids"], "y"),
    ];
    let constants = vec![
        values::of_bytes("codes", vec![10, 4], &codes),
        of_floats("scales", vec![10], &ramp(10)),
    ];
    let model = testing::model_proto(&[("x", &[-1])], &[("y", &[-1, 4])], nodes, constants);
    assert!(operators(&model, false).contains(&EMBEDDING.to_owned()));
    let graph = Graph::new(model).unwrap();
    let run = |ids: &[f32]| graph.run(&[of_f32s("x", vec![ids.len()], ids)]);
    let scales = ramp(10);
    let rows = floats(&run(&[9.0, 0.0, -1.0]).unwrap()[0]);
    for (at, row) in [9_usize, 0, 9].into_iter().enumerate() {
        for d in 0..4 {
            assert_eq!(rows[at * 4 + d], f32::from(codes[row * 4 + d]) * scales[row]);
        }
    }
    let told = run(&[3.0, 123_457.0]).unwrap_err().to_string();
    assert!(told.contains("an id is not among the 10 rows of the table"), "{told}");
    assert!(
        !told.contains("123457") && !told.contains("123_457"),
        "the request is told: {told}"
    );
}
