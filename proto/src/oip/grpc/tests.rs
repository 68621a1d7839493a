//! The protocol's own messages, as `prost` writes and reads them, against what is read and written by hand.

use std::collections::BTreeMap;

use proptest::prelude::*;
use prost::{Message, Oneof};

use super::super::{Answered, InferAnswer, OipError, RequestedOutput, Tensor};
use super::*;
use crate::limits::{INFER_BODY_BYTES_MAX, TENSORS_MAX};
use crate::manifest::DataType;

#[derive(Clone, PartialEq, Message)]
struct Request {
    #[prost(string, tag = "1")]
    model_name: String,
    #[prost(string, tag = "2")]
    model_version: String,
    #[prost(string, tag = "3")]
    id: String,
    #[prost(btree_map = "string, message", tag = "4")]
    parameters: BTreeMap<String, Parameter>,
    #[prost(message, repeated, tag = "5")]
    inputs: Vec<Input>,
    #[prost(message, repeated, tag = "6")]
    outputs: Vec<Output>,
    #[prost(bytes = "vec", repeated, tag = "7")]
    raw_input_contents: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
struct Input {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    datatype: String,
    #[prost(int64, repeated, tag = "3")]
    shape: Vec<i64>,
    #[prost(btree_map = "string, message", tag = "4")]
    parameters: BTreeMap<String, Parameter>,
    #[prost(message, optional, tag = "5")]
    contents: Option<Contents>,
}

#[derive(Clone, PartialEq, Message)]
struct Output {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(btree_map = "string, message", tag = "2")]
    parameters: BTreeMap<String, Parameter>,
}

#[derive(Clone, PartialEq, Message)]
struct Parameter {
    #[prost(oneof = "Choice", tags = "1, 2, 3, 4, 5")]
    choice: Option<Choice>,
}

#[derive(Clone, PartialEq, Oneof)]
enum Choice {
    #[prost(bool, tag = "1")]
    Bool(bool),
    #[prost(int64, tag = "2")]
    Int64(i64),
    #[prost(string, tag = "3")]
    String(String),
    #[prost(double, tag = "4")]
    Double(f64),
    #[prost(uint64, tag = "5")]
    Uint64(u64),
}

#[derive(Clone, PartialEq, Message)]
struct Contents {
    #[prost(bool, repeated, tag = "1")]
    bools: Vec<bool>,
    #[prost(int32, repeated, tag = "2")]
    ints: Vec<i32>,
    #[prost(int64, repeated, tag = "3")]
    int64s: Vec<i64>,
    #[prost(uint32, repeated, tag = "4")]
    uints: Vec<u32>,
    #[prost(uint64, repeated, tag = "5")]
    uint64s: Vec<u64>,
    #[prost(float, repeated, packed = "false", tag = "6")]
    fp32s: Vec<f32>,
    #[prost(double, repeated, tag = "7")]
    fp64s: Vec<f64>,
    #[prost(bytes = "vec", repeated, tag = "8")]
    bytes: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
struct Response {
    #[prost(string, tag = "1")]
    model_name: String,
    #[prost(string, tag = "2")]
    model_version: String,
    #[prost(string, tag = "3")]
    id: String,
    #[prost(btree_map = "string, message", tag = "4")]
    parameters: BTreeMap<String, Parameter>,
    #[prost(message, repeated, tag = "5")]
    outputs: Vec<Input>,
    #[prost(bytes = "vec", repeated, tag = "6")]
    raw_output_contents: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
struct StreamResponse {
    #[prost(string, tag = "1")]
    error_message: String,
    #[prost(message, optional, tag = "2")]
    infer_response: Option<Response>,
}

fn input(name: &str, datatype: DataType, shape: &[i64], contents: Contents) -> Input {
    Input {
        name: name.to_owned(),
        datatype: datatype.as_str().to_owned(),
        shape: shape.to_vec(),
        contents: Some(contents).filter(|contents| *contents != Contents::default()),
        ..Input::default()
    }
}

fn request(inputs: Vec<Input>) -> Request {
    Request {
        model_name: "m".to_owned(),
        inputs,
        ..Request::default()
    }
}

fn named(choices: &[(&str, Choice)]) -> BTreeMap<String, Parameter> {
    let parameter = |choice: &Choice| Parameter {
        choice: Some(choice.clone()),
    };
    choices
        .iter()
        .map(|(key, choice)| ((*key).to_owned(), parameter(choice)))
        .collect()
}

fn read(request: &Request) -> Result<Addressed, OipError> {
    read_infer(&request.encode_to_vec())
}

fn refusal(request: &Request) -> String {
    read(request).unwrap_err().to_string()
}

#[test]
fn what_a_client_asks_is_read_from_its_message() {
    let mut asked = request(vec![input("x", DataType::Fp32, &[1, 2], Contents::default())]);
    asked.raw_input_contents = vec![[1.0_f32.to_le_bytes(), 2.0_f32.to_le_bytes()].concat()];
    (asked.model_version, asked.id) = ("3".to_owned(), "r".to_owned());
    asked.parameters = named(&[
        ("timeout", Choice::Int64(250)),
        ("priority", Choice::Uint64(2)),
        ("who", Choice::String("a\"b".to_owned())),
        ("share", Choice::Double(0.5)),
        ("on", Choice::Bool(true)),
    ]);
    let parameters = named(&[("classification", Choice::Int64(3))]);
    let name = "y".to_owned();
    asked.outputs = vec![
        Output { name, parameters },
        Output {
            name: "z".to_owned(),
            ..Output::default()
        },
    ];
    let Addressed {
        model,
        version,
        request,
    } = read(&asked).unwrap();
    assert_eq!(
        (model.as_str(), version.as_str(), request.id.as_deref()),
        ("m", "3", Some("r"))
    );
    assert_eq!(request.timeout_us, Some(250));
    let told: Vec<_> = request
        .parameters
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    assert_eq!(
        told,
        ["on=true", "priority=2", "share=0.5", r#"who="a\"b""#],
        "as REST has them"
    );
    let output = |name: &str, classification| RequestedOutput {
        name: name.to_owned(),
        binary: None,
        classification,
    };
    assert_eq!(request.outputs, [output("y", Some(3)), output("z", None)]);
    assert_eq!(request.inputs[0].shape, [1, 2]);
    assert_eq!(request.inputs[0].data, asked.raw_input_contents[0]);
}

#[test]
fn each_datatype_is_read_from_the_contents_that_the_protocol_gives_it() {
    let ints = || Contents {
        ints: vec![-1, 7],
        ..Contents::default()
    };
    let uints = || Contents {
        uints: vec![200, 7],
        ..Contents::default()
    };
    let cases = [
        (
            DataType::Bool,
            Contents {
                bools: vec![true, false],
                ..Contents::default()
            },
            vec![1, 0],
        ),
        (DataType::Int8, ints(), vec![255, 7]),
        (DataType::Int16, ints(), vec![255, 255, 7, 0]),
        (
            DataType::Int32,
            ints(),
            [(-1_i32).to_le_bytes(), 7_i32.to_le_bytes()].concat(),
        ),
        (
            DataType::Int64,
            Contents {
                int64s: vec![i64::MIN, 7],
                ..Contents::default()
            },
            [i64::MIN.to_le_bytes(), 7_i64.to_le_bytes()].concat(),
        ),
        (DataType::Uint8, uints(), vec![200, 7]),
        (DataType::Uint16, uints(), vec![200, 0, 7, 0]),
        (DataType::Uint32, uints(), vec![200, 0, 0, 0, 7, 0, 0, 0]),
        (
            DataType::Uint64,
            Contents {
                uint64s: vec![u64::MAX, 0],
                ..Contents::default()
            },
            [u64::MAX.to_le_bytes(), [0; 8]].concat(),
        ),
        (
            DataType::Fp32,
            Contents {
                fp32s: vec![1.5, f32::NAN],
                ..Contents::default()
            },
            [1.5_f32.to_le_bytes(), f32::NAN.to_le_bytes()].concat(),
        ),
        (
            DataType::Fp64,
            Contents {
                fp64s: vec![1.5, 2.5],
                ..Contents::default()
            },
            [1.5_f64.to_le_bytes(), 2.5_f64.to_le_bytes()].concat(),
        ),
        (
            DataType::Bytes,
            Contents {
                bytes: vec![b"ab".to_vec(), Vec::new()],
                ..Contents::default()
            },
            b"\x02\0\0\0ab\0\0\0\0".to_vec(),
        ),
    ];
    for (datatype, contents, data) in cases {
        let read = read(&request(vec![input("x", datatype, &[2], contents.clone())])).unwrap();
        assert_eq!(read.request.inputs[0].data, data, "{datatype:?}");
        let short = refusal(&request(vec![input("x", datatype, &[3], contents)]));
        assert_eq!(short, "tensor `x`: 2 elements, its shape [3] has 3");
    }
}

#[test]
fn what_breaks_a_rule_is_refused_in_a_sentence() {
    let one = |datatype, shape: &[i64], contents| request(vec![input("x", datatype, shape, contents)]);
    let ints = |ints: &[i32]| Contents {
        ints: ints.to_vec(),
        ..Contents::default()
    };
    let mut both = one(DataType::Int32, &[1], ints(&[1]));
    both.raw_input_contents = vec![vec![0; 4]];
    let mut fewer = request(vec![Input::default(), Input::default()]);
    fewer.raw_input_contents = vec![vec![0; 4]];
    let mut shared = one(DataType::Int32, &[1], Contents::default());
    shared.inputs[0].parameters = named(&[("shared_memory_region", Choice::String("r".to_owned()))]);
    let mut timed = one(DataType::Int32, &[1], ints(&[1]));
    timed.parameters = named(&[("timeout", Choice::Int64(-1))]);
    let mut unknown = one(DataType::Int32, &[1], ints(&[1]));
    unknown.inputs[0].datatype = "BF16".to_owned();
    for (asked, says) in [
        (Request::default(), "0 inputs and 0 outputs, allowed are 1 to 64"),
        (
            one(DataType::Int8, &[1], ints(&[128])),
            "tensor `x`: 128 does not fit INT8",
        ),
        (
            one(DataType::Int64, &[1], ints(&[1])),
            "tensor `x`: INT64 is read from `int64_contents` alone",
        ),
        (one(DataType::Fp16, &[1], ints(&[1])), "FP16 has no typed contents"),
        (one(DataType::Int32, &[-1], ints(&[1])), "tensor `x`: a size below 0"),
        (
            one(DataType::Int32, &[1; 9], ints(&[1])),
            "tensor `x`: more than 8 dimensions",
        ),
        (
            one(DataType::Int32, &[i64::MAX; 3], ints(&[1])),
            "a shape of too many elements",
        ),
        (both, "tensor `x`: both `contents` and `raw_input_contents`"),
        (fewer, "1 raw_input_contents for 2 inputs"),
        (shared, "this node shares no memory with its clients"),
        (timed, "parameter `timeout` is not a whole number of microseconds"),
        (unknown, "tensor `x`: `BF16` is no datatype of the protocol"),
    ] {
        let said = refusal(&asked);
        assert!(said.contains(says), "{said} where {says} was expected");
    }
}

/// Each of these is two bytes on the wire and hundreds in memory.
#[test]
fn a_megabyte_of_empty_parts_is_refused_before_it_becomes_a_hundred() {
    for tag in [0x2a_u8, 0x32, 0x3a] {
        let message = [tag, 0].repeat(1 << 19);
        let said = read_infer(&message).unwrap_err().to_string();
        assert!(said.contains(&format!("more than {TENSORS_MAX}")), "{said}");
    }
    let ones = Contents {
        int64s: vec![1; INFER_BODY_BYTES_MAX / 8 + 1],
        ..Contents::default()
    };
    let size = i64::try_from(ones.int64s.len()).unwrap();
    let said = refusal(&request(vec![input("x", DataType::Int64, &[size], ones)]));
    assert!(said.contains("more bytes than a request may have"), "{said}");
}

fn tensor(name: &str, datatype: DataType, shape: &[usize], data: &[u8]) -> Tensor {
    Tensor {
        name: name.to_owned(),
        datatype,
        shape: shape.to_vec(),
        data: data.to_vec(),
    }
}

#[test]
fn answers_are_the_protocols_messages() {
    let release = "m@7".parse().unwrap();
    let y = tensor("y", DataType::Fp32, &[1, 300], &[7; 1200]);
    let z = tensor("z", DataType::Bytes, &[1], b"\x01\0\0\0a");
    let outputs = [&y, &z].map(|tensor| Answered { tensor, binary: false }).to_vec();
    let answer = InferAnswer {
        release: &release,
        id: Some("r"),
        outputs,
    };
    let mut bytes = Vec::new();
    write_infer(&mut bytes, &answer);
    let read = Response::decode(bytes.as_slice()).unwrap();
    assert_eq!(
        (read.model_name.as_str(), read.model_version.as_str(), read.id.as_str()),
        ("m", "7", "r")
    );
    let heads: Vec<_> = read
        .outputs
        .iter()
        .map(|o| (o.name.as_str(), o.datatype.as_str(), o.shape.clone()))
        .collect();
    assert_eq!(heads, [("y", "FP32", vec![1, 300]), ("z", "BYTES", vec![1])]);
    assert_eq!(read.raw_output_contents, [y.data.clone(), z.data.clone()]);

    let mut streamed = Vec::new();
    write_stream_answer(&mut streamed, &answer);
    let streamed = StreamResponse::decode(streamed.as_slice()).unwrap();
    let last = named(&[("triton_final_response", Choice::Bool(true))]);
    assert_eq!(
        streamed.infer_response,
        Some(Response {
            parameters: last.clone(),
            ..read
        })
    );
    let mut refused = Vec::new();
    write_stream_error(&mut refused, Some("r"), "no");
    let refused = StreamResponse::decode(refused.as_slice()).unwrap();
    let response = Response {
        id: "r".to_owned(),
        parameters: last,
        ..Response::default()
    };
    assert_eq!(
        (refused.error_message.as_str(), refused.infer_response),
        ("no", Some(response))
    );
}

#[test]
fn a_prefix_is_read_when_it_is_whole() {
    let written = Prefix {
        compressed: true,
        bytes: 258,
    }
    .encode()
    .unwrap();
    assert_eq!(written, [1, 0, 0, 1, 2]);
    assert_eq!(
        prefix(&written),
        Ok(Some(Prefix {
            compressed: true,
            bytes: 258
        }))
    );
    assert_eq!((prefix(&written[..4]), prefix(&[2, 0, 0, 0, 0])), (Ok(None), Err(2)));
}

proptest! {
    #[test]
    fn no_bytes_make_reading_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = read_infer(&bytes);
        let _ = prefix(&bytes);
    }
    #[test]
    fn a_spoilt_message_is_read_or_refused(at in any::<prop::sample::Index>(), byte in any::<u8>(), values in prop::collection::vec(any::<i32>(), 1..9)) {
        let size = i64::try_from(values.len()).unwrap();
        let contents = Contents { ints: values, ..Contents::default() };
        let mut asked = request(vec![input("x", DataType::Int32, &[size], contents)]);
        asked.parameters = named(&[("a", Choice::Double(1.0)), ("timeout", Choice::Int64(1))]);
        let mut bytes = asked.encode_to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let _ = read_infer(&bytes);
    }
    #[test]
    fn typed_and_raw_contents_carry_the_same_numbers(values in prop::collection::vec(any::<i64>(), 1..40)) {
        let size = i64::try_from(values.len()).unwrap();
        let data: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let typed = request(vec![input("x", DataType::Int64, &[size], Contents { int64s: values, ..Contents::default() })]);
        let mut raw = request(vec![input("x", DataType::Int64, &[size], Contents::default())]);
        raw.raw_input_contents = vec![data];
        prop_assert_eq!(read(&typed).unwrap(), read(&raw).unwrap());
    }
}
