use tract_onnx::pb::{ModelProto, NodeProto, TensorProto};

use super::super::fuse;
use super::*;
use crate::graph::Graph;
use crate::onnx::values::of_floats;
use crate::onnx::{decode, rows_coded};
use crate::quantize::weights_int8;
use crate::tensor::of_f32s;
use crate::testing::{self, floats, ramp, with_int, with_ints};

fn op(operator: &str, inputs: &[&str], output: &str) -> NodeProto {
    NodeProto {
        name: output.to_owned(),
        ..testing::node(operator, inputs, output)
    }
}

/// A convolution of `x [N, channels, 9, 7]`, windows of `side` x `side`, to `outputs` channels, and what follows it; `y` is what is asked for.
struct Case {
    channels: i64,
    outputs: i64,
    groups: i64,
    side: i64,
    attributes: Vec<(&'static str, Vec<i64>)>,
    after: Vec<NodeProto>,
    constants: Vec<TensorProto>,
    also_asked: Vec<&'static str>,
}

impl Case {
    fn of(channels: i64, outputs: i64, groups: i64) -> Self {
        Self {
            channels,
            outputs,
            groups,
            side: 3,
            attributes: vec![("pads", vec![1, 0, 2, 1]), ("strides", vec![2, 1])],
            after: vec![op("Relu", &["c"], "y")],
            constants: vec![],
            also_asked: vec![],
        }
    }

    fn int8(&self) -> ModelProto {
        decode(&weights_int8(&self.file()).unwrap()).unwrap()
    }

    fn f32(&self) -> ModelProto {
        decode(&self.file()).unwrap()
    }

    fn file(&self) -> Vec<u8> {
        let inputs = self.channels / self.groups;
        let count = usize::try_from(self.outputs * inputs * self.side * self.side).unwrap();
        let mut conv = with_int(op("Conv", &["x", "w", "b"], "c"), "group", self.groups);
        for (name, values) in &self.attributes {
            conv = with_ints(conv, name, values);
        }
        let mut nodes = vec![conv];
        nodes.extend(self.after.iter().cloned());
        let mut constants = vec![
            of_floats("w", vec![self.outputs, inputs, self.side, self.side], &ramp(count)),
            of_floats("b", vec![self.outputs], &ramp(usize::try_from(self.outputs).unwrap())),
        ];
        constants.extend(self.constants.iter().cloned());
        // One layer more, so that the file has something to code whatever the case is.
        nodes.push(op("MatMul", &["t", "square"], "z"));
        constants.push(of_floats("square", vec![16, 16], &ramp(256)));
        let mut outputs: Vec<(&str, &[i64])> = vec![("y", &[-1, -1, -1, -1]), ("z", &[-1, 16])];
        outputs.extend(self.also_asked.iter().map(|name| (*name, &[-1_i64, -1, -1, -1][..])));
        let inputs: [(&str, &[i64]); 2] = [("x", &[-1, self.channels, 9, 7]), ("t", &[-1, 16])];
        testing::model(&inputs, &outputs, nodes, constants)
    }

    fn operators(&self) -> Vec<String> {
        let model = self.int8();
        assert!(rows_coded(&model));
        found(model)
    }

    /// What a file of this case, or one made of it, answers.
    fn answers(&self, model: ModelProto) -> Vec<Vec<f32>> {
        let shape = [2, usize::try_from(self.channels).unwrap(), 9, 7];
        let x = of_f32s("x", shape.to_vec(), &ramp(shape.iter().product()));
        let t = of_f32s("t", vec![2, 16], &ramp(32));
        let answers = Graph::new(model).unwrap().run(&[x, t]).unwrap();
        answers.iter().map(floats).collect()
    }

    /// The largest difference from the file's own arithmetic with FP32 activations, as a share of its largest number.
    fn off_by(&self) -> f32 {
        let mut plain = self.int8();
        plain.metadata_props.clear();
        let [ours, plain] = [self.int8(), plain].map(|model| self.answers(model).remove(0));
        assert_eq!(ours.len(), plain.len());
        let largest = plain.iter().fold(0_f32, |most, x| most.max(x.abs()));
        assert!(largest > 0.1, "a test that shows nothing");
        let off = ours.iter().zip(&plain).map(|(a, b)| (a - b).abs());
        off.fold(0_f32, f32::max) / largest
    }
}

/// Operators of the graph after fusing, but for those of weights and of the layer beside the case.
fn found(model: ModelProto) -> Vec<String> {
    let codes = rows_coded(&model);
    let mut graph = model.graph.unwrap();
    fuse(&mut graph, codes);
    let names = graph.node.into_iter().map(|node| node.op_type);
    names
        .filter(|name| name != "DequantizeLinear" && name != "MeridianLinear")
        .collect()
}

#[test]
fn channels_that_mix_are_summed_in_integers_and_answer_almost_the_same() {
    let case = Case::of(8, 24, 1);
    assert_eq!(case.operators(), [CONV]);
    let off = case.off_by();
    assert!(off > 0.0 && off < 0.02, "{off}");
}

#[test]
fn channels_apart_are_summed_in_f32_and_answer_the_same() {
    // 9 weights a channel stay FP32 in the file.
    let case = Case::of(40, 40, 40);
    assert_eq!(case.operators(), [DEPTHWISE]);
    assert!(case.off_by() < 1e-6, "{}", case.off_by());
    // 25 are worth a scale.
    let coded = Case { side: 5, ..case };
    assert_eq!(coded.operators(), [CONV]);
    assert!(coded.off_by() < 1e-6, "{}", coded.off_by());
}

#[test]
fn a_file_of_f32_has_its_convolutions_from_us_by_the_definition() {
    for (case, operator) in [(Case::of(40, 40, 40), DEPTHWISE), (Case::of(8, 24, 1), EXACT_CONV)] {
        assert_eq!(found(case.f32()), [operator, "MatMul"]);
        let [channels, outputs, groups] =
            [case.channels, case.outputs, case.groups].map(|n| usize::try_from(n).unwrap());
        let each = channels / groups;
        // Pads 1 row above and 2 below, 1 column after; strides 2 and 1.
        let (x, weights, bias) = (ramp(channels * 63), ramp(outputs * each * 9), ramp(outputs));
        let mut exact = Vec::new();
        for (output, row, column) in
            (0..outputs).flat_map(|o| (0..5_usize).flat_map(move |r| (0..6_usize).map(move |c| (o, r, c))))
        {
            let taps = (0..each * 9).filter_map(|at| {
                let (channel, tap) = (output * groups / outputs * each + at / 9, at % 9);
                let (r, c) = ((2 * row + tap / 3).checked_sub(1)?, column + tap % 3);
                (r < 9 && c < 7).then(|| x[channel * 63 + r * 7 + c] * weights[output * each * 9 + at])
            });
            exact.push((bias[output] + taps.sum::<f32>()).max(0.0));
        }
        let given = [
            of_f32s("x", vec![1, channels, 9, 7], &x),
            of_f32s("t", vec![1, 16], &ramp(16)),
        ];
        let y = Graph::new(case.f32()).unwrap().run(&given).unwrap().remove(0);
        assert_eq!(y.shape, [1, outputs, 5, 6]);
        let near = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-5;
        assert!(floats(&y).iter().zip(&exact).all(near), "{operator}");
    }
}

#[test]
fn what_follows_is_done_on_the_way_out() {
    let bounds = || vec![of_floats("low", vec![], &[-1.0]), of_floats("high", vec![], &[2.0])];
    let cases = [
        (vec![op("Clip", &["c", "low", "high"], "y")], bounds()),
        (vec![op("Clip", &["c", "", "high"], "y")], bounds()),
        (vec![op("Sigmoid", &["c"], "s"), op("Mul", &["s", "c"], "y")], vec![]),
        (vec![op("Sigmoid", &["c"], "s"), op("Mul", &["c", "s"], "y")], vec![]),
    ];
    for (after, constants) in cases {
        let case = Case {
            after,
            constants,
            ..Case::of(8, 24, 1)
        };
        assert_eq!(case.operators(), [CONV], "{:?}", case.after);
        assert!(case.off_by() < 0.03, "{:?}: {}", case.after, case.off_by());
    }
}

#[test]
fn what_others_take_too_is_still_made() {
    let gated = || vec![op("Sigmoid", &["c"], "s"), op("Mul", &["c", "s"], "y")];
    let also = |also_asked: Vec<&'static str>, after: Vec<NodeProto>| Case {
        also_asked,
        after,
        ..Case::of(8, 24, 1)
    };
    let cases = [
        (also(vec!["c"], vec![op("Relu", &["c"], "y")]), vec![CONV, "Relu"]),
        (also(vec!["c"], gated()), vec![CONV, "Sigmoid", "Mul"]),
        (also(vec!["s"], gated()), vec![CONV, "Sigmoid", "Mul"]),
        (
            also(vec![], vec![op("Relu", &["c"], "r"), op("Add", &["c", "r"], "y")]),
            vec![CONV, "Relu", "Add"],
        ),
        (
            also(
                vec![],
                vec![
                    op("Sigmoid", &["c"], "s"),
                    op("Mul", &["s", "s"], "m"),
                    op("Add", &["c", "m"], "y"),
                ],
            ),
            vec![CONV, "Sigmoid", "Mul", "Add"],
        ),
    ];
    for (case, operators) in cases {
        assert_eq!(case.operators(), operators);
        assert!(case.off_by() < 0.03, "{operators:?}: {}", case.off_by());
    }
}

#[test]
fn what_the_kernels_do_not_do_stays_as_it_is() {
    let case = Case {
        attributes: vec![],
        ..Case::of(8, 24, 1)
    };
    let padded = |how: &str| {
        let mut model = case.int8();
        let nodes = &mut model.graph.as_mut().unwrap().node;
        let conv = nodes.iter_mut().find(|node| node.op_type == "Conv").unwrap();
        conv.attribute.push(AttributeProto {
            name: "auto_pad".to_owned(),
            r#type: AttributeType::String.into(),
            s: how.as_bytes().to_vec(),
            ..AttributeProto::default()
        });
        found(model)
    };
    assert_eq!(padded("SAME_UPPER"), ["Conv", "Relu"]);
    assert_eq!(padded("NOTSET"), [CONV]);
    // Groups of several channels.
    assert_eq!(Case::of(8, 32, 2).operators(), ["Conv", "Relu"]);
    assert!(Case::of(8, 32, 2).off_by() < 1e-6);
    // Padding that rows of lines would have to hold.
    let wide = |pad| Case {
        attributes: vec![("pads", vec![0, pad, 0, 0])],
        ..Case::of(8, 24, 1)
    };
    assert_eq!(wide(PADS_MAX).operators(), [CONV]);
    assert_eq!(wide(PADS_MAX + 1).operators(), ["Conv", "Relu"]);
    // Two channels made of each.
    assert_eq!(Case::of(20, 40, 20).operators(), ["Conv", "Relu"]);
}

#[test]
fn images_of_one_row_and_dilated_windows_answer_alike() {
    let dilated = Case {
        attributes: vec![("dilations", vec![2, 3]), ("pads", vec![2, 2, 2, 2])],
        ..Case::of(8, 24, 1)
    };
    assert!(dilated.off_by() < 0.02, "{}", dilated.off_by());
    let flat = |apart: bool| {
        let (channels, groups) = if apart { (1, 48) } else { (48, 1) };
        let conv = with_int(
            with_ints(op("Conv", &["x", "w"], "y"), "pads", &[2, 1]),
            "group",
            groups,
        );
        let count = usize::try_from(48 * channels * 5).unwrap();
        let weights = of_floats("w", vec![48, channels, 5], &ramp(count));
        let square = of_floats("square", vec![16, 16], &ramp(256));
        let outputs: [(&str, &[i64]); 2] = [("y", &[-1, 48, -1]), ("z", &[-1, 16])];
        let nodes = vec![conv, op("MatMul", &["t", "square"], "z")];
        let model = testing::model(
            &[("x", &[-1, 48, 11]), ("t", &[-1, 16])],
            &outputs,
            nodes,
            vec![weights, square],
        );
        decode(&weights_int8(&model).unwrap()).unwrap()
    };
    for apart in [false, true] {
        let answer = |model: ModelProto| {
            let (x, t) = (
                of_f32s("x", vec![1, 48, 11], &ramp(48 * 11)),
                of_f32s("t", vec![1, 16], &ramp(16)),
            );
            Graph::new(model).unwrap().run(&[x, t]).unwrap().remove(0)
        };
        let mut plain = flat(apart);
        plain.metadata_props.clear();
        let (ours, plain) = (answer(flat(apart)), answer(plain));
        assert_eq!(ours.shape, [1, 48, 10]);
        let (ours, plain) = (floats(&ours), floats(&plain));
        let largest = plain.iter().fold(0_f32, |most, x| most.max(x.abs()));
        assert!(
            ours.iter().zip(&plain).all(|(a, b)| (a - b).abs() < 0.02 * largest),
            "apart: {apart}"
        );
    }
}

#[test]
fn an_image_smaller_than_the_window_is_told_with_its_node() {
    let case = Case {
        attributes: vec![("dilations", vec![9, 9])],
        ..Case::of(8, 24, 1)
    };
    let (x, t) = (
        of_f32s("x", vec![1, 8, 9, 7], &ramp(504)),
        of_f32s("t", vec![1, 16], &ramp(16)),
    );
    let told = Graph::new(case.int8()).unwrap().run(&[x, t]).unwrap_err().to_string();
    assert!(told.contains("smaller than the window") && told.contains('y'), "{told}");
}

/// Batches run row by row, so a row's bits never depend on the rows beside it.
#[test]
fn a_row_among_strangers_has_the_bits_it_has_alone() {
    let case = Case::of(8, 24, 1);
    let graph = Graph::new(case.int8()).unwrap();
    let x = ramp(3 * 504);
    let answer = |rows: std::ops::Range<usize>| {
        let given = of_f32s("x", vec![rows.len(), 8, 9, 7], &x[rows.start * 504..rows.end * 504]);
        let t = of_f32s("t", vec![rows.len(), 16], &ramp(16 * rows.len()));
        floats(&graph.run(&[given, t]).unwrap()[0])
    };
    let (all, alone) = (answer(0..3), answer(1..2));
    assert_eq!(all[alone.len()..2 * alone.len()], alone);
}

#[test]
fn a_pool_behind_a_convolution_is_ours_and_answers_the_same() {
    let pool = |name: &'static str, values: &[i64]| {
        let pool = with_ints(op("MaxPool", &["r"], "y"), "kernel_shape", &[3, 3]);
        with_ints(pool, name, values)
    };
    let case = |pool: NodeProto| Case {
        after: vec![op("Relu", &["c"], "r"), pool],
        ..Case::of(8, 24, 1)
    };
    for (name, values) in [
        ("pads", [1, 0, 1, 2].as_slice()),
        ("strides", &[1, 2]),
        ("dilations", &[1, 2]),
    ] {
        let case = case(pool(name, values));
        assert_eq!(case.operators(), [CONV, MAX_POOL], "{name}");
        assert!(case.off_by() < 0.02, "{name}: {}", case.off_by());
    }
    // A window that sees nothing but padding, sizes rounded up, an image that no convolution of codes gave.
    assert_eq!(case(pool("pads", &[3, 0, 0, 0])).operators(), [CONV, "MaxPool"]);
    assert_eq!(
        case(with_int(pool("pads", &[0; 4]), "ceil_mode", 1)).operators(),
        [CONV, "MaxPool"]
    );
    let elsewhere = Case {
        after: vec![
            op("Relu", &["c"], "y"),
            NodeProto {
                input: vec!["x".to_owned()],
                output: vec!["p".to_owned()],
                ..pool("pads", &[0; 4])
            },
        ],
        also_asked: vec!["p"],
        ..Case::of(8, 24, 1)
    };
    assert_eq!(elsewhere.operators(), [CONV, "MaxPool"]);
}

#[test]
fn a_pool_behind_a_product_that_widens_an_image_answers_as_before() {
    // One channel says how much each of many others counts.
    let nodes = vec![op("Sigmoid", &["c"], "s"), op("Mul", &["s", "x"], "m")];
    let pool = with_ints(op("MaxPool", &["m"], "y"), "kernel_shape", &[2, 2]);
    let case = Case {
        attributes: vec![("pads", vec![1; 4])],
        after: [nodes, vec![pool]].concat(),
        ..Case::of(64, 1, 1)
    };
    assert_eq!(case.operators()[..], [CONV, "Sigmoid", "Mul", "MaxPool"]);
    assert!(case.off_by() < 0.02, "{}", case.off_by());
}

#[test]
fn attributes_that_only_our_operators_have_say_nothing_in_a_file() {
    let case = Case {
        after: vec![op("Neg", &["c"], "y")],
        ..Case::of(8, 24, 1)
    };
    let mut model = case.int8();
    let expected = case.answers(model.clone());
    for node in &mut model.graph.as_mut().unwrap().node {
        node.attribute.push(AttributeProto {
            name: ACTIVATION.to_owned(),
            r#type: AttributeType::String.into(),
            s: SILU.as_bytes().to_vec(),
            ..AttributeProto::default()
        });
        *node = with_int(node.clone(), super::super::TRANSPOSED, 1);
    }
    assert!(case.answers(model) == expected);
}
