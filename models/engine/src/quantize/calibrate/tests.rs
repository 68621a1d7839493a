use super::*;
use crate::onnx;
use crate::quantize::{weights_int8, weights_int8_but};
use crate::tensor::of_f32s;
use crate::testing::{self, floats, node, ramp, with_int, with_ints};

/// A convolution, one that keeps channels apart, a mean over the picture, and a linear layer.
fn pictures() -> Vec<u8> {
    let wide = |node| with_ints(node, "pads", &[2, 2, 2, 2]);
    let nodes = vec![
        wide(node("Conv", &["x", "stem"], "c")),
        node("Relu", &["c"], "r"),
        wide(with_int(node("Conv", &["r", "apart"], "d"), "group", 32)),
        node("GlobalAveragePool", &["d"], "p"),
        node("Flatten", &["p"], "f"),
        node("Gemm", &["f", "last"], "y"),
    ];
    let constants = vec![
        values::of_floats("stem", vec![32, 3, 5, 5], &ramp(2400)),
        values::of_floats("apart", vec![32, 1, 5, 5], &ramp(800)),
        values::of_floats("last", vec![32, 16], &ramp(512)),
    ];
    testing::model(&[("x", &[-1, 3, 12, 12])], &[("y", &[-1, 16])], nodes, constants)
}

/// Pictures of slow waves: neighbours are alike, as in photographs.
fn picture(seed: u8) -> Vec<Tensor> {
    let at = |i: usize| {
        let (plane, row, column) = (i / 144, i / 12 % 12, i % 12);
        let place = f32::from(u8::try_from(plane * 5 + row * 2 + column).unwrap());
        1.0 + (place * (0.1 + 0.03 * f32::from(seed))).sin()
    };
    vec![of_f32s("x", vec![1, 3, 12, 12], &(0..432).map(at).collect::<Vec<_>>())]
}

fn error(file: &[u8], exact: &Graph, seeds: std::ops::Range<u8>) -> f32 {
    let coded = Graph::new(onnx::decode(file).unwrap()).unwrap();
    let far = |seed| {
        let answer = |graph: &Graph| floats(&graph.run(&picture(seed)).unwrap()[0]);
        let (a, b) = (answer(exact), answer(&coded));
        a.iter().zip(&b).map(|(a, b)| (a - b).powi(2)).sum::<f32>()
    };
    seeds.map(far).sum()
}

#[test]
fn layers_that_were_watched_answer_closer_also_on_other_inputs() {
    let file = pictures();
    let inputs: Vec<_> = (0..8).map(picture).collect();
    let calibration = Calibration::gather(&file, &inputs).unwrap();
    assert_eq!(calibration.weights(), 3);
    let exact = Graph::new(onnx::decode(&file).unwrap()).unwrap();
    let with = weights_int8_but(&file, &BTreeSet::new(), &calibration).unwrap();
    let (with, without) = (
        error(&with, &exact, 8..20),
        error(&weights_int8(&file).unwrap(), &exact, 8..20),
    );
    assert!(with < without, "{with} {without}");
}

#[test]
fn equal_inputs_give_equal_files_in_any_number_of_runs() {
    let file = pictures();
    let made = || {
        let calibration = Calibration::gather(&file, &[picture(1), picture(2)]).unwrap();
        weights_int8_but(&file, &BTreeSet::new(), &calibration).unwrap()
    };
    assert_eq!(made(), made());
}

#[test]
fn an_input_that_the_model_does_not_take_is_named() {
    let wrong = vec![of_f32s("x", vec![1, 2, 12, 12], &[0.0; 288])];
    let error = Calibration::gather(&pictures(), &[picture(1), wrong]).unwrap_err();
    assert!(matches!(error, CalibrateError::Run { input: 2, .. }), "{error}");
}

#[test]
fn what_knows_nothing_rounds_each_weight_by_itself() {
    let file = pictures();
    let nothing = Calibration::gather(&file, &[]).unwrap();
    assert_eq!(nothing.weights(), 0);
    assert_eq!(weights_int8_but(&file, &BTreeSet::new(), &nothing), weights_int8(&file));
}
