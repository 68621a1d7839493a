use super::*;
use proptest::prelude::*;
use proto::manifest::Check;

fn fp32(name: &str, shape: &[usize], values: &[f32]) -> Tensor {
    let data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    Tensor {
        name: name.to_owned(),
        datatype: DataType::Fp32,
        shape: shape.to_vec(),
        data,
    }
}

fn text(name: &str, shape: &[usize], values: &[&str]) -> Tensor {
    let mut data = Vec::new();
    for v in values {
        elements::push_bytes(v.as_bytes(), &mut data).unwrap();
    }
    Tensor {
        name: name.to_owned(),
        datatype: DataType::Bytes,
        shape: shape.to_vec(),
        data,
    }
}

const ALL: [Check; 3] = [
    Check::Close { abs: 0.01, rel: 0.0 },
    Check::Cosine { min: 0.99 },
    Check::SameTop1 { share_min: 1.0 },
];

#[test]
fn a_golden_line_reads_as_little_endian_tensors() {
    let line = br#"{"inputs":[{"name":"x","datatype":"INT32","shape":[1,2],"data":[[1,-2]]}],
        "outputs":[{"name":"label","datatype":"BYTES","shape":[2],"data":["cat",{"b64":"/9g="}]}]}"#;
    let line: Vec<u8> = line.iter().copied().filter(|b| *b != b'\n').collect();
    let vectors = read(&line).unwrap();
    assert_eq!(vectors[0].inputs[0].data, [1, 0, 0, 0, 0xfe, 0xff, 0xff, 0xff]);
    assert_eq!(
        vectors[0].outputs[0].data,
        [3, 0, 0, 0, b'c', b'a', b't', 2, 0, 0, 0, 0xff, 0xd8]
    );
    assert_eq!(read(&write(&vectors).unwrap()).unwrap(), vectors);
}

#[test]
fn a_wrong_line_is_named_with_what_is_wrong() {
    let good = r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":[1]}],"outputs":[{"name":"y","datatype":"FP32","shape":[1],"data":[1]}]}"#;
    for (bad, says) in [
        (good.replace("\"shape\":[1]", "\"shape\":[2]"), "needs 2"),
        (good.replace("[1]}]}", "[1e300]}]}"), "not FP32"),
        (
            good.replace("FP32", "UINT8").replace("\"data\":[1]", "\"data\":[256]"),
            "256 is not UINT8",
        ),
        (good.replace("FP32", "FP16"), "FP16 has no JSON"),
        (
            good.replace("\"shape\":[1]", "\"shape\":[9999999999,9999999999]"),
            "impossible shape",
        ),
        ("{\"inputs\":[],\"outputs\":[]}".to_owned(), "needs inputs"),
        ("{".to_owned(), "EOF"),
    ] {
        let error = read(format!("{good}\n\n{bad}\n").as_bytes()).unwrap_err().to_string();
        assert!(error.contains("line 3") && error.contains(says), "{error}");
    }
    assert!(matches!(read(b"\n \n"), Err(GoldenError::Empty)));
}

#[test]
fn equal_answers_pass_every_check() {
    let want = [fp32("y", &[2, 2], &[1.0, 2.0, 4.0, 3.0])];
    let found = compare(&ALL, &want, &want).unwrap();
    assert!(found.passed());
    assert_eq!((found.cosine_min, found.top1_share, found.abs_max), (1.0, 1.0, 0.0));
    assert_eq!(found.verdicts[2].judged, 2);
}

#[test]
fn a_swapped_winner_fails_top1_and_a_turned_vector_fails_cosine() {
    let want = [fp32("y", &[2, 2], &[1.0, 1.005, 4.0, 0.0])];
    let got = [fp32("y", &[2, 2], &[1.005, 1.0, 0.0, 4.0])];
    let found = compare(&ALL, &got, &want).unwrap();
    assert_eq!((found.cosine_min, found.top1_share, found.abs_max), (0.0, 0.0, 4.0));
    assert!(found.verdicts.iter().all(|v| !v.passed));
}

#[test]
fn a_check_that_judged_nothing_fails() {
    let single = [fp32("p", &[3, 1], &[0.1, 0.2, 0.3])];
    let found = compare(&ALL, &single, &single).unwrap();
    assert_eq!(
        found.verdicts.iter().map(|v| v.passed).collect::<Vec<_>>(),
        [true, false, false]
    );
    assert!(!compare(&ALL[..1], &[], &[]).unwrap().passed());
}

#[test]
fn nan_is_never_close_and_never_first() {
    let want = [fp32("y", &[1, 2], &[1.0, 2.0])];
    let got = [fp32("y", &[1, 2], &[1.0, f32::NAN])];
    let found = compare(&ALL, &got, &want).unwrap();
    assert!(found.verdicts.iter().all(|v| !v.passed) && found.abs_max.is_infinite());
}

#[test]
fn the_best_label_counts_as_top1_and_must_be_equal_under_close() {
    let want = [
        text("label", &[2, 2], &["cat", "dog", "car", "bus"]),
        fp32("score", &[2, 2], &[0.6, 0.4, 0.7, 0.3]),
    ];
    let swapped = [text("label", &[2, 2], &["cat", "bus", "bus", "car"]), want[1].clone()];
    assert!(compare(&ALL, &want, &want).unwrap().passed());
    let found = compare(&ALL, &swapped, &want).unwrap();
    assert_eq!(found.top1_share, 0.75);
    assert_eq!(
        found.verdicts.iter().map(|v| v.passed).collect::<Vec<_>>(),
        [false, true, false]
    );
}

#[test]
fn an_absent_output_or_another_shape_is_an_error_not_a_low_figure() {
    let want = [fp32("y", &[1, 2], &[1.0, 2.0])];
    assert!(matches!(compare(&ALL, &[], &want), Err(CompareError::Absent { .. })));
    let other = [fp32("y", &[2, 1], &[1.0, 2.0])];
    assert!(matches!(compare(&ALL, &other, &want), Err(CompareError::Form { .. })));
    let cut = [Tensor {
        data: vec![0; 5],
        ..want[0].clone()
    }];
    assert!(matches!(compare(&ALL, &cut, &want), Err(CompareError::Data { .. })));
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = read(&bytes);
    }
    #[test]
    fn every_finite_float_reads_back_bit_for_bit(bits in proptest::collection::vec(any::<u32>(), 1..20)) {
        let values: Vec<f32> = bits.into_iter().map(f32::from_bits).filter(|v| v.is_finite()).collect();
        prop_assume!(!values.is_empty());
        let tensor = fp32("x", &[values.len()], &values);
        let vectors = vec![Vector { inputs: vec![tensor.clone()], outputs: vec![tensor] }];
        prop_assert_eq!(read(&write(&vectors).unwrap()).unwrap(), vectors);
    }
    #[test]
    fn figures_stay_in_their_ranges(a in proptest::collection::vec(any::<f32>(), 6), b in proptest::collection::vec(-1e6_f32..1e6, 6)) {
        let found = compare(&ALL, &[fp32("y", &[2, 3], &a)], &[fp32("y", &[2, 3], &b)]).unwrap();
        prop_assert!((-1.0..=1.0).contains(&found.cosine_min));
        prop_assert!((0.0..=1.0).contains(&found.top1_share));
        prop_assert!(found.abs_max >= 0.0);
    }
}
