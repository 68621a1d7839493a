use proptest::prelude::*;

use super::*;
use crate::ids::Release;
use crate::manifest::{Dim, TensorSpec};

fn read(json: &str) -> Result<InferRequest, OipError> {
    read_infer(json.as_bytes(), None)
}
fn tensor(name: &str, datatype: DataType, shape: &[usize], data: &[u8]) -> Tensor {
    Tensor {
        name: name.to_owned(),
        datatype,
        shape: shape.to_vec(),
        data: data.to_vec(),
    }
}
fn write(outputs: &[(&Tensor, bool)], id: Option<&str>) -> Result<(Vec<u8>, Option<usize>), OipError> {
    let release: Release = "m@3".parse().unwrap();
    let outputs = outputs
        .iter()
        .map(|&(tensor, binary)| Answered { tensor, binary })
        .collect();
    write_infer(&InferAnswer {
        release: &release,
        id,
        outputs,
    })
}

#[test]
fn nested_and_flat_json_give_the_same_little_endian_bytes() {
    let flat = read(r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[2,1],"data":[1,2.5]}]}"#).unwrap();
    let nested = read(r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[2,1],"data":[[1.0],[2.5]]}]}"#).unwrap();
    assert_eq!(flat, nested);
    assert_eq!(
        flat.inputs[0].data,
        [1.0_f32.to_le_bytes(), 2.5_f32.to_le_bytes()].concat()
    );
}

#[test]
fn binary_tensors_follow_the_json_in_order() {
    let json = br#"{"id":"7","inputs":[
        {"name":"a","datatype":"INT16","shape":[2],"parameters":{"binary_data_size":4}},
        {"name":"b","datatype":"BYTES","shape":[1],"parameters":{"binary_data_size":6}}],
        "parameters":{"binary_data_output":true,"timeout":250,"priority":1},
        "outputs":[{"name":"y","parameters":{"binary_data":false,"classification":3}}]}"#;
    let body = [json.as_slice(), &[1, 0, 2, 0], &[2, 0, 0, 0, b'h', b'i']].concat();
    let request = read_infer(&body, Some(json.len())).unwrap();
    assert_eq!(request.inputs[0], tensor("a", DataType::Int16, &[2], &[1, 0, 2, 0]));
    assert_eq!(bytes_elements(&request.inputs[1].data).unwrap(), [b"hi"]);
    assert_eq!((request.binary_output, request.timeout_us), (true, Some(250)));
    let output = RequestedOutput {
        name: "y".to_owned(),
        binary: Some(false),
        classification: Some(3),
    };
    assert_eq!((request.outputs, request.id.as_deref()), (vec![output], Some("7")));
    assert_eq!(request.parameters["priority"], "1");
}

#[test]
fn a_request_that_breaks_a_rule_is_told_which() {
    let input = |rest: &str| format!(r#"{{"inputs":[{{"name":"x",{rest}}}]}}"#);
    for (json, says) in [
        ("{".to_owned(), "EOF"),
        ("{}".to_owned(), "inputs"),
        (r#"{"inputs":[]}"#.to_owned(), "0 inputs"),
        (
            input(r#""datatype":"FP32","shape":[2],"data":[1]"#),
            "1 elements, its shape [2] has 2",
        ),
        (input(r#""datatype":"FP31","shape":[1],"data":[1]"#), "FP31"),
        (input(r#""datatype":"FP32","shape":[-1],"data":[1]"#), "-1"),
        (input(r#""datatype":"FP32","shape":[1],"data":1"#), "not an array"),
        (
            input(r#""datatype":"FP32","shape":[1],"data":["1"]"#),
            "a text is not an element of FP32",
        ),
        (
            input(r#""datatype":"FP32","shape":[1],"data":[1e39]"#),
            "does not fit FP32",
        ),
        (
            input(r#""datatype":"UINT8","shape":[1],"data":[256]"#),
            "256 does not fit UINT8",
        ),
        (
            input(r#""datatype":"INT8","shape":[1],"data":[1.5]"#),
            "a fraction is not an element of INT8",
        ),
        (
            input(r#""datatype":"FP16","shape":[1],"data":[1]"#),
            "FP16 has no JSON form",
        ),
        (
            input(r#""datatype":"BYTES","shape":[1],"data":[1]"#),
            "a number is not an element of BYTES",
        ),
        (input(r#""datatype":"FP32","shape":[1]"#), "neither"),
        (
            input(r#""datatype":"FP32","shape":[4294967296,4294967296,2],"data":[1]"#),
            "too many elements",
        ),
        (
            input(r#""datatype":"FP32","shape":[1,1,1,1,1,1,1,1,1],"data":[1]"#),
            "9 dimensions",
        ),
        (
            input(r#""datatype":"FP32","shape":[1],"data":[[[[[[[[[1]]]]]]]]]"#),
            "levels",
        ),
        (
            input(r#""datatype":"FP32","shape":[1],"parameters":{"binary_data_size":4}"#),
            "0 bytes that are left",
        ),
        (
            r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":[1]}],"parameters":{"timeout":"1"}}"#
                .to_owned(),
            "timeout",
        ),
    ] {
        let error = read(&json).unwrap_err().to_string();
        assert!(error.contains(says), "{json}: {error}");
    }
    assert!(
        read_infer(b"{}", Some(3))
            .unwrap_err()
            .to_string()
            .contains("Content-Length is 3")
    );
    let extra = br#"{"inputs":[{"name":"x","datatype":"INT8","shape":[1],"data":[1]}]}!"#;
    assert!(
        read_infer(extra, Some(extra.len() - 1))
            .unwrap_err()
            .to_string()
            .contains("after the last")
    );
}

#[test]
fn a_raw_body_is_the_models_one_input_with_the_batch_its_length_says() {
    let spec = |datatype, shape: Vec<Dim>| TensorSpec {
        name: "x".to_owned(),
        datatype,
        shape,
    };
    let batch = || Dim::Named("batch".to_owned());
    let request = read_raw(&[0; 24], &spec(DataType::Fp32, vec![batch(), Dim::Fixed(3)])).unwrap();
    assert_eq!(
        (request.inputs[0].shape.as_slice(), request.binary_output),
        ([2, 3].as_slice(), true)
    );
    assert!(read_raw(&[0; 23], &spec(DataType::Fp32, vec![batch(), Dim::Fixed(3)])).is_err());
    assert!(read_raw(&[], &spec(DataType::Fp32, vec![batch()])).is_err());
    assert!(read_raw(&[0; 8], &spec(DataType::Fp32, vec![batch(), batch()])).is_err());
    let text = read_raw(b"hello", &spec(DataType::Bytes, vec![batch()])).unwrap();
    assert_eq!(bytes_elements(&text.inputs[0].data).unwrap(), [b"hello"]);
}

#[test]
fn an_answer_is_these_bytes() {
    let y = tensor(
        "y",
        DataType::Fp32,
        &[2],
        &[0.1_f32.to_le_bytes(), (-2.0_f32).to_le_bytes()].concat(),
    );
    let label = tensor("l", DataType::Bytes, &[1], b"\x03\0\0\0\"a\"");
    let (body, json_bytes) = write(&[(&y, false), (&label, false)], Some("q\"")).unwrap();
    let want = r#"{"model_name":"m","model_version":"3","id":"q\"","outputs":[{"name":"y","datatype":"FP32","shape":[2],"data":[0.1,-2.0]},{"name":"l","datatype":"BYTES","shape":[1],"data":["\"a\""]}]}"#;
    assert_eq!((String::from_utf8(body).unwrap().as_str(), json_bytes), (want, None));
    let (body, json_bytes) = write(&[(&y, true)], None).unwrap();
    let want = r#"{"model_name":"m","model_version":"3","outputs":[{"name":"y","datatype":"FP32","shape":[2],"parameters":{"binary_data_size":8}}]}"#;
    assert_eq!(json_bytes, Some(want.len()));
    assert_eq!(body, [want.as_bytes(), &y.data].concat());
}

#[test]
fn what_json_cannot_hold_is_refused_with_the_way_out() {
    let nan = tensor("y", DataType::Fp32, &[1], &f32::NAN.to_le_bytes());
    let picture = tensor("p", DataType::Bytes, &[1], b"\x01\0\0\0\xff");
    for tensor in [nan, picture] {
        assert!(
            write(&[(&tensor, false)], None)
                .unwrap_err()
                .to_string()
                .contains("ask for binary data")
        );
        assert!(write(&[(&tensor, true)], None).is_ok());
    }
}

proptest! {
    #[test]
    fn no_body_makes_the_reader_panic(body in prop::collection::vec(any::<u8>(), 0..200), split in prop::option::of(0_usize..220)) {
        let _ = read_infer(&body, split);
    }
    #[test]
    fn no_json_of_the_right_words_makes_the_reader_panic(
        text in r#"(\{|\}|\[|\]|:|,|"inputs"|"name"|"x"|"datatype"|"FP32"|"BYTES"|"shape"|"data"|"parameters"|"binary_data_size"|1|-1|1e400|null|true){0,40}"#,
    ) {
        let _ = read(&text);
    }
    #[test]
    fn json_and_binary_carry_the_same_numbers(values in prop::collection::vec(any::<f32>().prop_filter("finite", |v| v.is_finite()), 1..20)) {
        let data: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let x = tensor("x", DataType::Fp32, &[values.len()], &data);
        let (body, _) = write(&[(&x, false)], None).unwrap();
        let request = String::from_utf8(body).unwrap().replace("\"outputs\"", "\"inputs\"");
        prop_assert_eq!(&read(&request).unwrap().inputs[0], &x);
        let (body, json_bytes) = write(&[(&x, true)], None).unwrap();
        let text = String::from_utf8(body[..json_bytes.unwrap()].to_vec()).unwrap().replace("\"outputs\"", "\"inputs\"");
        let request = [text.as_bytes(), &data].concat();
        prop_assert_eq!(&read_infer(&request, Some(text.len())).unwrap().inputs[0], &x);
    }
}
