use proto::limits::RUN_ROWS_MAX;

use super::*;
use crate::onnx::values;
use crate::tensor::of_f32s;
use crate::testing::{floats, info, int64s, model, model_proto, node, ramp, with_int, with_ints};
use tract_onnx::pb::tensor_proto::DataType as OnnxType;
use tract_onnx::pb::{NodeProto, TensorProto};

mod same_bits;
mod zoo;

/// Every run of every test of this package comes here: what our executor answers is what tract's does, bit for bit.
pub(super) fn agrees_with_tract(
    ready: &plan::Ready,
    io: &Described,
    call: &Call<'_>,
    ours: &Result<Vec<oip::Tensor>, RunError>,
) {
    match (ours, ready.run_in_tract(io, call)) {
        (Ok(ours), Ok(tracts)) => assert!(*ours == tracts, "{ours:?} and from tract {tracts:?}"),
        (Err(_), Err(_)) => {}
        (ours, tracts) => panic!("{ours:?} and from tract {tracts:?}"),
    }
}

fn graph(file: &[u8]) -> Graph {
    Graph::new(onnx::decode(file).unwrap()).unwrap()
}

/// `[N, 2, 4, 4] -> [N, 3, 4, 4]`
fn convolution() -> Vec<u8> {
    let conv = with_ints(
        with_ints(node("Conv", &["x", "w"], "y"), "kernel_shape", &[3, 3]),
        "pads",
        &[1, 1, 1, 1],
    );
    let weight = values::of_floats("w", vec![3, 2, 3, 3], &ramp(54));
    model(
        &[("x", &[-1, 2, 4, 4])],
        &[("y", &[-1, 3, 4, 4])],
        vec![conv],
        vec![weight],
    )
}

#[test]
fn joined_rows_come_back_in_order_however_they_were_cut() {
    let graph = graph(&convolution());
    assert!(graph.batched() && !graph.any_shape());
    let (rows, row) = (RUN_ROWS_MAX + 5, 32);
    let input = ramp(rows * row);
    let all = graph.run(&[of_f32s("x", vec![rows, 2, 4, 4], &input)]).unwrap();
    assert_eq!(all[0].shape, [rows, 3, 4, 4]);
    for at in [0, 1, 6, RUN_ROWS_MAX - 1, RUN_ROWS_MAX, rows - 1] {
        let alone = graph
            .run(&[of_f32s("x", vec![1, 2, 4, 4], &input[at * row..(at + 1) * row])])
            .unwrap();
        let together = &floats(&all[0])[at * 48..(at + 1) * 48];
        for (a, b) in floats(&alone[0]).iter().zip(together) {
            assert!((a - b).abs() < 1e-5, "row {at}: {a} {b}");
        }
    }
}

#[test]
fn a_graph_without_convolutions_runs_every_shape_with_one_plan() {
    let weight = values::of_floats("w", vec![4, 3], &ramp(12));
    let file = model(
        &[("x", &[-1, -1, 4])],
        &[("y", &[-1, -1, 3])],
        vec![node("MatMul", &["x", "w"], "y")],
        vec![weight],
    );
    let graph = graph(&file);
    assert!(graph.any_shape());
    for (rows, seq) in [(1, 1), (2, 7), (40, 3)] {
        let out = graph
            .run(&[of_f32s("x", vec![rows, seq, 4], &ramp(rows * seq * 4))])
            .unwrap();
        assert_eq!(out[0].shape, [rows, seq, 3]);
    }
}

#[test]
fn a_model_fixed_to_one_row_answers_many_rows_one_by_one() {
    let file = model(
        &[("x", &[1, 3])],
        &[("y", &[1, 3])],
        vec![node("Relu", &["x"], "y")],
        vec![],
    );
    let graph = graph(&file);
    assert!(!graph.batched());
    let out = graph
        .run(&[of_f32s("x", vec![2, 3], &[-1., 2., 3., 4., -5., 6.])])
        .unwrap();
    assert_eq!(floats(&out[0]), [0., 2., 3., 4., 0., 6.]);
}

#[test]
fn shapes_that_an_exporter_noted_for_its_own_batch_do_not_matter() {
    let nodes = vec![node("Relu", &["x"], "h"), node("Neg", &["h"], "y")];
    let mut proto = model_proto(&[("x", &[-1, 3])], &[("y", &[-1, 3])], nodes, vec![]);
    proto
        .graph
        .as_mut()
        .unwrap()
        .value_info
        .push(info(&("h", &[1, 3]), OnnxType::Float));
    let out = graph(&onnx::encode(&proto))
        .run(&[of_f32s("x", vec![2, 3], &[-1., 2., 3., 4., -5., 6.])])
        .unwrap();
    assert_eq!(floats(&out[0]), [0., -2., -3., -4., 0., -6.]);
}

#[test]
fn an_index_outside_a_table_is_an_error_and_not_the_end_of_the_process() {
    let table = values::of_floats("table", vec![4, 2], &ramp(8));
    let mut proto = model_proto(
        &[],
        &[("y", &[-1, 2])],
        vec![node("Gather", &["table", "ids"], "y")],
        vec![table],
    );
    proto
        .graph
        .as_mut()
        .unwrap()
        .input
        .push(info(&("ids", &[-1]), OnnxType::Int64));
    let graph = graph(&onnx::encode(&proto));
    let ids = |id: i64| crate::tensor::of_i64s("ids", vec![1], &[id]);
    assert_eq!(floats(&graph.run(&[ids(1)]).unwrap()[0]), ramp(8)[2..4]);
    for id in [4, i64::MAX, i64::MIN, -5] {
        assert!(matches!(graph.run(&[ids(id)]), Err(RunError::Engine { .. })), "{id}");
        // A run that failed or panicked leaves nothing behind.
        assert_eq!(floats(&graph.run(&[ids(2)]).unwrap()[0]), ramp(8)[4..6]);
    }
}

#[test]
fn a_file_that_blows_up_when_run_is_refused_by_its_inferred_shapes() {
    let nodes = vec![node("Mul", &["x", "a"], "c"), node("Mul", &["c", "b"], "y")];
    let (a, b) = (
        values::of_floats("a", vec![1 << 17, 1], &ramp(1 << 17)),
        values::of_floats("b", vec![1, 1 << 20], &ramp(1 << 20)),
    );
    let file = model(&[("x", &[1, 1])], &[("y", &[1 << 17, 1 << 20])], nodes, vec![a, b]);
    let tried = Graph::new(onnx::decode(&file).unwrap()).map(|graph| graph.try_zeros().unwrap_err().to_string());
    let text = tried.unwrap_or_else(|e| e.to_string());
    assert!(text.contains("the-mul"), "{text}");
}

#[test]
fn a_row_so_long_that_it_would_take_all_memory_is_the_clients_fault() {
    let turn = with_ints(node("Transpose", &["x"], "t"), "perm", &[0, 2, 1]);
    let nodes = vec![turn, node("MatMul", &["x", "t"], "y")];
    let file = model(&[("x", &[-1, -1, 1])], &[("y", &[-1, -1, -1])], nodes, vec![]);
    let graph = graph(&file);
    assert!(graph.any_shape());
    assert!(graph.run(&[of_f32s("x", vec![1, 9, 1], &ramp(9))]).is_ok());
    let long = 1 << 16;
    let error = graph.run(&[of_f32s("x", vec![1, long, 1], &ramp(long))]).unwrap_err();
    assert!(error.is_clients(), "{error}");
}

#[test]
fn an_input_that_nothing_uses_is_an_input_all_the_same() {
    let weight = values::of_floats("w", vec![32, 64], &ramp(32 * 64));
    let inputs: [(&str, &[i64]); 2] = [("x", &[-1, 32]), ("unused", &[-1, 1])];
    let file = model(
        &inputs,
        &[("y", &[-1, 64])],
        vec![node("MatMul", &["x", "w"], "y")],
        vec![weight],
    );
    for file in [crate::quantize::weights_int8(&file).unwrap(), file] {
        let graph = graph(&file);
        let names: Vec<&str> = graph.inputs().iter().map(|spec| spec.name.as_str()).collect();
        assert_eq!(names, ["x", "unused"]);
        let given = [
            of_f32s("x", vec![2, 32], &ramp(64)),
            of_f32s("unused", vec![2, 1], &ramp(2)),
        ];
        assert_eq!(graph.run(&given).unwrap()[0].shape, [2, 64]);
    }
}

#[test]
fn weights_stored_as_int8_are_expanded_per_channel() {
    let mut dequantize = node("DequantizeLinear", &["q", "s", "z"], "w");
    dequantize = crate::testing::with_int(dequantize, "axis", 1);
    let codes = values::of_bytes("q", vec![2, 2], &[1, 2, 3, -4]);
    let scales = values::of_floats("s", vec![2], &[0.5, 2.0]);
    let zeros = values::of_bytes("z", vec![2], &[0, 1]);
    let nodes = vec![dequantize, node("MatMul", &["x", "w"], "y")];
    let mut proto = model_proto(
        &[("x", &[-1, 2])],
        &[("y", &[-1, 2])],
        nodes,
        vec![codes, scales, zeros, int64s("unused", &[1], &[1])],
    );
    onnx::expand_weights(proto.graph.as_mut().unwrap());
    let graph = proto.graph.as_ref().unwrap();
    assert_eq!((graph.node.len(), graph.initializer.len()), (1, 1));
    assert_eq!(values::floats(&graph.initializer[0]).unwrap(), [0.5, 2.0, 1.5, -10.0]);
}

#[test]
fn shares_of_an_axis_in_the_middle_are_those_of_the_last_axis_turned() {
    let nodes = vec![with_int(node("Softmax", &["x"], "y"), "axis", 1)];
    let graph = graph(&model(&[("x", &[-1, 5, 7])], &[("y", &[-1, 5, 7])], nodes, vec![]));
    let answer = floats(&graph.run(&[of_f32s("x", vec![2, 5, 7], &ramp(70))]).unwrap()[0]);
    for (image, column) in (0..2).flat_map(|image| (0..7).map(move |column| (image, column))) {
        let shares: f32 = (0..5).map(|row| answer[image * 35 + row * 7 + column]).sum();
        assert!((shares - 1.0).abs() < 1e-5, "{shares}");
        let x = |row: usize| ramp(70)[image * 35 + row * 7 + column];
        let (first, second) = (answer[image * 35 + column], answer[image * 35 + 7 + column]);
        assert!((first / second / (x(0) - x(1)).exp() - 1.0).abs() < 1e-4);
    }
}

/// `[N, 3, 9, 8]`, a stem of 3 x 3 windows, channels apart, channels of a pixel, a sum with what the stem gave; every tensor that
/// `asked` names is an output.
fn convolutions(asked: &[&str]) -> Vec<u8> {
    let wide = |node| with_ints(node, "pads", &[1, 1, 1, 1]);
    let apart = with_int(node("Conv", &["r", "apart"], "d"), "group", 16);
    let mut nodes = vec![
        wide(node("Conv", &["x", "stem"], "c")),
        node("Relu", &["c"], "r"),
        wide(apart),
        node("Conv", &["d", "point"], "p"),
        node("Add", &["p", "r"], "s"),
        node("Relu", &["s"], "y"),
    ];
    for node in &mut nodes {
        node.name.push_str(&node.output[0]);
    }
    let weights = vec![
        values::of_floats("stem", vec![16, 3, 3, 3], &ramp(432)),
        values::of_floats("apart", vec![16, 1, 3, 3], &ramp(144)),
        values::of_floats("point", vec![16, 16, 1, 1], &ramp(256)),
    ];
    let outputs: Vec<(&str, &[i64])> = asked.iter().map(|name| (*name, &[-1_i64, -1, 9, 8][..])).collect();
    let file = model(&[("x", &[-1, 3, 9, 8])], &outputs, nodes, weights);
    crate::quantize::weights_int8(&file).unwrap()
}

#[test]
fn convolutions_run_as_one_where_nothing_sees_what_lies_between_and_answer_the_same_bits() {
    let shapes = vec![vec![1, 3, 9, 8]];
    let operators = |file: &[u8]| {
        let Prepared { model, weights } = Prepared::of(crate::onnx::decode(file).unwrap()).unwrap();
        let inputs = onnx::describe_model(&model).unwrap().inputs;
        let parsed = crate::ops::with_weights(weights, || plan::parse(&model, &inputs)).unwrap();
        let plan = plan::for_shapes(&parsed, &inputs, &shapes).unwrap();
        let names = plan
            .plan
            .model()
            .nodes()
            .iter()
            .map(|node| node.op().name().to_string());
        names.filter(|name| name != "Source").collect::<Vec<_>>()
    };
    let (stem, whole) = (convolutions(&["d"]), convolutions(&["y"]));
    assert_eq!(operators(&stem), ["MeridianConv", "MoveAxis"]);
    // The stem's result is taken twice.
    assert_eq!(operators(&whole), ["MeridianConv", "MeridianConv", "MoveAxis"]);
    let apart = convolutions(&["y", "r", "d", "p", "s"]);
    assert!(operators(&apart).len() > 6);
    let x = || of_f32s("x", shapes[0].clone(), &ramp(216));
    let (whole, apart) = (graph(&whole).run(&[x()]).unwrap(), graph(&apart).run(&[x()]).unwrap());
    assert_eq!(whole[0].data, apart[0].data);
    assert!(floats(&whole[0]).iter().any(|y| *y != 0.0));
}

/// The operators that tract evaluates in a graph whose inputs have these sizes.
fn left_to_tract(file: &[u8], shapes: &[Vec<usize>]) -> Vec<String> {
    let Prepared { model, weights } = Prepared::of(onnx::decode(file).unwrap()).unwrap();
    let inputs = onnx::describe_model(&model).unwrap().inputs;
    let parsed = crate::ops::with_weights(weights, || plan::parse(&model, &inputs)).unwrap();
    let ready = plan::for_shapes(&parsed, &inputs, shapes).unwrap();
    let program = ready.program.unwrap();
    let steps = program
        .steps
        .iter()
        .filter(|step| matches!(step.work, program::Work::Tract));
    steps
        .map(|step| ready.plan.model().node(step.node).op.name().to_string())
        .collect()
}

/// [`agrees_with_tract`] judges each run.
#[test]
fn windows_look_ups_and_convolutions_of_f32_are_written_where_they_are_told() {
    let window = |of: NodeProto| with_ints(with_ints(of, "kernel_shape", &[3, 2]), "strides", &[2, 1]);
    let conv = with_ints(node("Conv", &["x", "w"], "c"), "pads", &[1, 1, 1, 1]);
    let ids = || vec![int64s("ids", &[2, 3], &[0, 3, -1, 2, -4, 1])];
    let weight = || vec![values::of_floats("w", vec![6, 4, 3, 3], &ramp(216))];
    let cases: [(Vec<NodeProto>, Vec<TensorProto>, &[usize]); 4] = [
        // Behind a convolution sizes are known when the plan is made.
        (
            vec![conv.clone(), window(node("AveragePool", &["c"], "y"))],
            weight(),
            &[2, 6, 3, 4],
        ),
        (
            vec![with_int(node("Gather", &["x", "ids"], "y"), "axis", 1)],
            ids(),
            &[2, 2, 3, 7, 5],
        ),
        (
            vec![conv.clone(), window(node("MaxPool", &["c"], "y"))],
            weight(),
            &[2, 6, 3, 4],
        ),
        (
            vec![conv, node("Add", &["c", "c"], "d"), node("Relu", &["d"], "y")],
            weight(),
            &[2, 6, 7, 5],
        ),
    ];
    for (nodes, constants, made) in cases {
        let file = model(
            &[("x", &[-1, 4, 7, 5])],
            &[("y", &vec![-1; made.len()])],
            nodes,
            constants,
        );
        assert_eq!(left_to_tract(&file, &[vec![2, 4, 7, 5]]), Vec::<String>::new());
        let graph = graph(&file);
        for rows in [1, 2] {
            let given = [of_f32s("x", vec![rows, 4, 7, 5], &ramp(rows * 140))];
            let answer = graph.run(&given).unwrap().remove(0);
            assert_eq!(answer.shape[1..], made[1..]);
        }
    }
}
