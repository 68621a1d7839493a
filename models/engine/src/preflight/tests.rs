use super::*;
use crate::onnx::{decode, encode};
use crate::testing::{int64s, model_proto, node, ramp, with_int, with_ints};
use proptest::prelude::*;

const X: (&str, &[i64]) = ("x", &[-1, 4]);
const Y: (&str, &[i64]) = ("y", &[-1, 4]);

fn judged(nodes: Vec<NodeProto>, constants: Vec<TensorProto>) -> Result<GraphReport, PreflightError> {
    check(&model_proto(&[X], &[Y], nodes, constants))
}

/// The node at fault and why; panics when the graph passed.
fn fault(nodes: Vec<NodeProto>, constants: Vec<TensorProto>) -> (String, String) {
    match judged(nodes, constants) {
        Err(PreflightError::Node { node, why, .. }) => (node, why),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_honest_graph_passes_with_its_size() {
    let weight = values::of_floats("w", vec![4, 4], &ramp(16));
    let report = judged(
        vec![node("MatMul", &["x", "w"], "h"), node("Relu", &["h"], "y")],
        vec![weight],
    )
    .unwrap();
    assert_eq!((report.nodes, report.constant_bytes), (2, 64));
    assert_eq!(report.operators.keys().collect::<Vec<_>>(), ["MatMul", "Relu"]);
    let typed = int64s("w", &[4], &[1, 2, 3, 4]);
    let report = judged(vec![node("Identity", &["w"], "y")], vec![typed]).unwrap();
    assert_eq!(
        report.constant_bytes, 32,
        "elements of eight bytes each, in a field of their own"
    );
}

#[test]
fn operators_that_the_engine_lacks_are_all_named_with_their_nodes() {
    let nodes = vec![
        node("QLinearAdd", &["x"], "h"),
        node("DynamicQuantizeLSTM", &["h"], "y"),
    ];
    let text = judged(nodes, vec![]).unwrap_err().to_string();
    for part in ["QLinearAdd", "the-qlinearadd", "DynamicQuantizeLSTM"] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn forty_bytes_cannot_ask_for_terabytes() {
    let terabytes = || int64s("shape", &[2], &[1 << 20, 1 << 21]);
    let add = |what: NodeProto| vec![what, node("Add", &["x", "big"], "y")];
    assert_eq!(
        fault(add(node("ConstantOfShape", &["shape"], "big")), vec![terabytes()]).0,
        "the-constantofshape"
    );
    assert_eq!(
        fault(add(node("Expand", &["x", "shape"], "big")), vec![terabytes()]).0,
        "the-expand"
    );
    assert_eq!(
        fault(add(node("Tile", &["x", "shape"], "big")), vec![terabytes()]).0,
        "the-tile"
    );
    let range = [
        int64s("a", &[], &[0]),
        int64s("b", &[], &[4_000_000_000]),
        int64s("c", &[], &[1]),
    ];
    assert_eq!(
        fault(add(node("Range", &["a", "b", "c"], "big")), range.to_vec()).0,
        "the-range"
    );
    let pads = with_ints(node("Pad", &["x"], "big"), "pads", &[0, 1 << 40]);
    assert_eq!(fault(add(pads), vec![]).0, "the-pad");
    let bins = [int64s("bins", &[], &[1 << 40]), int64s("length", &[], &[16])];
    let mel = node("MelWeightMatrix", &["bins", "length", "length", "x", "x"], "big");
    assert_eq!(fault(add(mel), bins.to_vec()).0, "the-melweightmatrix");
}

#[test]
fn sizes_are_whole_numbers() {
    let half = || values::of_floats("half", vec![1], &[0.5]);
    for operator in ["Expand", "Reshape", "Tile"] {
        for sizes in ["x", "half", "made"] {
            let nodes = vec![
                node("Mul", &["half", "half"], "made"),
                node(operator, &["x", sizes], "y"),
            ];
            let (_, why) = fault(nodes, vec![half()]);
            assert!(
                why.contains(&format!("`{sizes}`, which holds floats")),
                "{operator}: {why}"
            );
        }
    }
    let nodes = vec![
        node("ConstantOfShape", &["half"], "big"),
        node("Add", &["x", "big"], "y"),
    ];
    assert!(fault(nodes, vec![half()]).1.contains("`half`, which holds floats"));

    // What floats were made into counts: exporters scale sizes so.
    let nodes = vec![
        node("Mul", &["half", "half"], "made"),
        with_int(node("Cast", &["made"], "whole"), "to", 7),
        node("Reshape", &["x", "whole"], "y"),
    ];
    assert!(judged(nodes, vec![half()]).is_ok());
}

#[test]
fn an_order_of_axes_names_each_once() {
    let turned = |perm: &[i64]| vec![with_ints(node("Transpose", &["x"], "y"), "perm", perm)];
    for perm in [&[0, 2, 1, 2][..], &[1, 2], &[-1, 0], &[0, i64::MAX]] {
        assert_eq!(fault(turned(perm), vec![]).0, "the-transpose", "{perm:?}");
    }
    let file = crate::testing::model_proto(&[("x", &[-1, 4])], &[("y", &[-1, 4])], turned(&[1, 0]), vec![]);
    assert!(check(&file).is_ok());
}

#[test]
fn an_input_that_nothing_could_be_sent_to_is_refused() {
    let taken = |dims: &[i64]| {
        let file = crate::testing::model_proto(&[("x", dims)], &[("y", dims)], vec![node("Relu", &["x"], "y")], vec![]);
        check(&file).map(drop).map_err(|e| e.to_string())
    };
    assert_eq!(taken(&[-1, 3, 1024, 1024]), Ok(()));
    for dims in [&[-1, 1 << 31][..], &[1 << 13, 1 << 13], &[i64::MAX, i64::MAX]] {
        assert!(taken(dims).unwrap_err().contains("input `x`"), "{dims:?}");
    }
}

#[test]
fn a_size_cannot_hide_behind_arithmetic_on_constants() {
    let nodes = vec![
        node("Mul", &["a", "a"], "product"),
        node("Concat", &["product", "product"], "shape"),
        node("ConstantOfShape", &["shape"], "big"),
        node("Add", &["x", "big"], "y"),
    ];
    assert_eq!(
        fault(nodes, vec![int64s("a", &[1], &[1 << 16])]).0,
        "the-constantofshape"
    );
}

#[test]
fn two_small_constants_cannot_make_an_enormous_product() {
    let side = |name: &str, dims: [i64; 2]| values::of_floats(name, dims.to_vec(), &ramp(1 << 15));
    let sides = || vec![side("a", [1 << 15, 1]), side("b", [1, 1 << 15])];
    for operator in ["Mul", "MatMul"] {
        let nodes = vec![
            node("Neg", &["a"], "n"),
            node(operator, &["n", "b"], "c"),
            node("Add", &["x", "c"], "y"),
        ];
        assert!(fault(nodes, sides()).1.contains("spreads"));
    }
}

#[test]
fn windows_that_never_move_and_divisions_by_nothing_are_refused() {
    let weight = values::of_floats("w", vec![1, 1, 3], &ramp(3));
    let conv = with_ints(node("Conv", &["x", "w"], "y"), "strides", &[0]);
    assert!(fault(vec![conv], vec![weight]).1.contains("strides 0"));
    let grouped = with_int(node("MaxPool", &["x"], "y"), "group", 0);
    assert!(fault(vec![grouped], vec![]).1.contains("groups"));
    assert!(
        fault(vec![node("Div", &["x", "zero"], "y")], vec![int64s("zero", &[1], &[0])])
            .1
            .contains("constant 0")
    );
    let range = [int64s("a", &[], &[0]), int64s("b", &[], &[9])];
    let stuck = vec![node("Range", &["a", "b", "a"], "big"), node("Add", &["x", "big"], "y")];
    assert!(fault(stuck, range.to_vec()).1.contains("steps of nothing"));
}

#[test]
fn an_index_outside_a_constant_table_is_refused() {
    let table = values::of_floats("table", vec![4, 4], &ramp(16));
    let nodes = vec![node("Gather", &["table", "at"], "h"), node("Add", &["x", "h"], "y")];
    assert!(
        fault(nodes, vec![table, int64s("at", &[1], &[4])])
            .1
            .contains("element 4 of 4")
    );
}

#[test]
fn constants_must_hold_what_their_shapes_promise() {
    let short = int64s("c", &[3], &[1, 2]);
    let refused = judged(vec![node("Relu", &["x"], "y")], vec![short]);
    assert!(
        matches!(refused, Err(PreflightError::Constant { ref name, .. }) if name == "c"),
        "{refused:?}"
    );
    let impossible = int64s("c", &[i64::MAX, i64::MAX], &[]);
    assert!(matches!(
        judged(vec![node("Relu", &["x"], "y")], vec![impossible]),
        Err(PreflightError::Constant { .. })
    ));
}

#[test]
fn weights_outside_the_file_are_refused_because_no_digest_covers_them() {
    let mut outside = values::of_floats("w", vec![2], &[1.0, 2.0]);
    outside.data_location = Some(1);
    assert_eq!(
        judged(vec![node("Relu", &["x"], "y")], vec![outside]),
        Err(PreflightError::External { name: "w".into() })
    );
}

#[test]
fn random_operators_are_refused_because_equal_input_must_give_equal_output() {
    let refused = judged(vec![node("RandomNormalLike", &["x"], "y")], vec![]);
    assert!(matches!(refused, Err(PreflightError::Random { .. })));
}

#[test]
fn a_chain_too_long_for_the_optimiser_is_refused() {
    let name = |i: usize| if i == 0 { "x".to_owned() } else { format!("h{i}") };
    let mut nodes: Vec<_> = (0..20_000).map(|i| node("Neg", &[&name(i)], &name(i + 1))).collect();
    nodes.push(node("Neg", &["h20000"], "y"));
    assert_eq!(judged(nodes, vec![]), Err(PreflightError::TooManyNodes));
}

#[test]
fn a_graph_that_reads_what_nothing_makes_is_refused() {
    assert!(
        fault(vec![node("Neg", &["y"], "y")], vec![])
            .1
            .contains("nothing before it makes")
    );
    assert!(matches!(
        judged(vec![node("Neg", &["x"], "z")], vec![]),
        Err(PreflightError::Structure(_))
    ));
}

proptest! {
    /// Goal: no altered file makes the judge panic, and what it passes can be described.
    #[test]
    fn no_flipped_byte_or_cut_makes_the_judge_panic(at in any::<proptest::sample::Index>(), byte in any::<u8>(), cut in any::<bool>()) {
        let weight = values::of_floats("w", vec![4, 4], &ramp(16));
        let conv = with_ints(node("Relu", &["h"], "y"), "pads", &[1, 2]);
        let mut file = encode(&model_proto(&[X], &[Y], vec![node("MatMul", &["x", "w"], "h"), conv], vec![weight]));
        let at = at.index(file.len());
        if cut { file.truncate(at) } else { file[at] = byte }
        if let Ok(model) = decode(&file) {
            let _ = check(&model);
            let _ = crate::onnx::describe(&file);
        }
    }
}

#[test]
fn a_tree_that_points_outside_of_itself_is_refused_by_name_before_anything_runs() {
    let mut trees = node("TreeEnsembleRegressor", &["x"], "y");
    for (name, ints) in [
        ("nodes_treeids", [0, 0]),
        ("nodes_nodeids", [0, 0]),
        ("nodes_featureids", [0, 0]),
    ] {
        trees = with_ints(trees, name, &ints);
    }
    let (at, why) = fault(vec![trees], vec![]);
    assert_eq!(at, "the-treeensembleregressor");
    assert!(why.contains("node 0 twice"), "{why}");
}
