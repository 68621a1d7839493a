//! The child process: honest models pass, and whatever a hostile one does is an error here. A binary of its own, because the
//! child re-executes it.
#![allow(missing_docs)]
#![allow(clippy::unwrap_used, reason = "a test without the test harness is still a test")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use engine::child::{CheckError, CheckJob, CheckLimits, CheckReport, main_if_asked, run_check};
use engine::onnx::{Described, describe, encode};
use proto::manifest::Manifest;
use serde_json::json;
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension};
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto, TypeProto,
    ValueInfoProto, type_proto,
};

/// What an honest tiny model needs, and no more.
const LIMITS: CheckLimits = CheckLimits {
    memory_bytes: 512 << 20,
    time: Duration::from_secs(20),
};

fn main() {
    main_if_asked();
    type Test = (&'static str, fn(&Path));
    let tests: &[Test] = &[
        (
            "an_honest_file_passes_and_is_described",
            an_honest_file_passes_and_is_described,
        ),
        (
            "hostile_files_become_errors_and_nothing_else",
            hostile_files_become_errors_and_nothing_else,
        ),
        ("a_child_without_memory_says_so", a_child_without_memory_says_so),
        (
            "a_child_that_takes_too_long_is_ended",
            a_child_that_takes_too_long_is_ended,
        ),
        (
            "a_package_passes_only_with_its_golden_vectors",
            a_package_passes_only_with_its_golden_vectors,
        ),
    ];
    for (name, test) in tests {
        let folder = tempfile::tempdir().unwrap();
        test(folder.path());
        eprintln!("test {name} ... ok");
    }
}

fn tried(folder: &Path, file: &[u8], limits: CheckLimits) -> Result<CheckReport, CheckError> {
    let path = folder.join("model.onnx");
    std::fs::write(&path, file).unwrap();
    run_check(
        &std::env::current_exe().unwrap(),
        &CheckJob::Onnx {
            path,
            onnxruntime: None,
        },
        limits,
    )
}

fn an_honest_file_passes_and_is_described(folder: &Path) {
    let file = model(vec![node("Relu", &["x"], "y")], vec![]);
    let report = tried(folder, &file, LIMITS).unwrap();
    let Described { inputs, outputs, opset } = describe(&file).unwrap();
    assert_eq!((report.inputs, report.outputs, report.opset), (inputs, outputs, opset));
    assert_eq!((report.graph.nodes, report.trial), (1, None));
}

fn hostile_files_become_errors_and_nothing_else(folder: &Path) {
    let add = |mut nodes: Vec<NodeProto>| {
        nodes.push(node("Add", &["x", "big"], "y"));
        nodes
    };
    let huge = || int64s("shape", &[2], &[1 << 20, 1 << 21]);
    let pow = || vec![node("Pow", &["base", "two"], "shape")];
    let base = || vec![int64s("base", &[1], &[1 << 15]), int64s("two", &[1], &[2])];
    let hidden = |operator: NodeProto| add([pow(), vec![operator]].concat());
    let wide = |name: &str, dims: [i64; 2]| floats(name, &dims, usize::try_from(dims[0] * dims[1]).unwrap());
    let chain = |length: usize| {
        let name = |i: usize| {
            if i == 0 {
                "x".to_owned()
            } else if i == length {
                "y".to_owned()
            } else {
                format!("h{i}")
            }
        };
        (0..length)
            .map(|i| node("Neg", &[&name(i)], &name(i + 1)))
            .collect::<Vec<_>>()
    };
    let strided = {
        let mut conv = node("Conv", &["x", "w"], "y");
        conv.attribute.push(AttributeProto {
            name: "strides".into(),
            r#type: 7,
            ints: vec![0],
            ..AttributeProto::default()
        });
        conv
    };
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        (
            "eight terabytes of zeros",
            model(add(vec![node("ConstantOfShape", &["shape"], "big")]), vec![huge()]),
            "the-ConstantOfShape-big",
        ),
        (
            "terabytes behind a power",
            model(hidden(node("ConstantOfShape", &["shape"], "big")), base()),
            "failed to allocate",
        ),
        (
            "an expansion behind a power",
            model(hidden(node("Expand", &["x", "shape"], "big")), base()),
            "the-Expand-big",
        ),
        (
            "a tile behind a power",
            model(hidden(node("Tile", &["x", "shape"], "big")), base()),
            "the-Tile-big",
        ),
        (
            "an outer product",
            model(
                vec![node("Mul", &["a", "b"], "c"), node("Mul", &["x", "c"], "y")],
                vec![wide("a", [1 << 17, 1]), wide("b", [1, 1 << 17])],
            ),
            "the-Mul-c",
        ),
        (
            "a stride of nothing",
            model(vec![strided], vec![floats("w", &[1, 1, 1], 1)]),
            "the-Conv-y",
        ),
        (
            "a division by nothing",
            model(
                vec![node("Cast", &["x"], "i"), node("Div", &["i", "zero"], "y")],
                vec![int64s("zero", &[1], &[0])],
            ),
            "the-Div-y",
        ),
        (
            "an index outside its table",
            model(
                add(vec![
                    node("Mul", &["at", "at"], "square"),
                    node("Gather", &["table", "square"], "big"),
                ]),
                vec![wide("table", [4, 4]), int64s("at", &[1], &[9])],
            ),
            "the-Gather-big",
        ),
        (
            "twenty thousand nodes",
            model(chain(20_000), vec![]),
            "more than 8192 nodes",
        ),
        (
            "an unknown operator",
            model(vec![node("Exfiltrate", &["x"], "y")], vec![]),
            "the-Exfiltrate-y",
        ),
        (
            "no protobuf",
            b"PK\x03\x04 not an onnx file".to_vec(),
            "not a whole ONNX file",
        ),
        ("nothing", Vec::new(), "no graph"),
        (
            "half a file",
            {
                let file = model(chain(50), vec![]);
                file[..file.len() / 2].to_vec()
            },
            "ends inside a field",
        ),
    ];
    for (name, file, word) in cases {
        // What only fails when it runs passes as a graph, and says that it does not run.
        let said = match tried(folder, &file, LIMITS) {
            Ok(report) => report.trial,
            Err(CheckError::Refused { why, .. }) => Some(why),
            Err(other) => panic!("{name}: {other:?}"),
        };
        let said = said.unwrap_or_else(|| panic!("{name} runs"));
        assert!(said.contains(word), "{name}: {said}");
        eprintln!("  {name}: {}", said.chars().take(160).collect::<String>());
    }
    let longest = tried(folder, &model(chain(8000), vec![]), LIMITS).unwrap();
    assert_eq!((longest.graph.nodes, longest.trial), (8000, None));
}

/// With less memory the program itself does not start or the file cannot be read, with more it passes: between, decoding ends the child.
fn a_child_without_memory_says_so(folder: &Path) {
    let nodes = vec![node("Mul", &["x", "w"], "y")];
    let file = model(nodes, vec![floats("w", &[1 << 22, 1], 1 << 22)]);
    let limits = (4..=20).map(|part| CheckLimits {
        memory_bytes: part * (16 << 20),
        ..LIMITS
    });
    let outcomes: Vec<_> = limits.map(|limits| tried(folder, &file, limits)).collect();
    let told = |outcome: &_| matches!(outcome, Err(CheckError::Died { how, .. }) if how == "out of memory");
    assert!(outcomes.iter().any(told), "{outcomes:?}");
}

fn a_child_that_takes_too_long_is_ended(folder: &Path) {
    let file = model(vec![node("Relu", &["x"], "y")], vec![]);
    let none = CheckLimits {
        time: Duration::ZERO,
        ..LIMITS
    };
    assert!(matches!(tried(folder, &file, none), Err(CheckError::TooLong { .. })));
}

fn a_package_passes_only_with_its_golden_vectors(folder: &Path) {
    let manifest: Manifest = serde_json::from_value(json!({
        "model": "tiny", "version": 1, "description": "", "licence": "Apache-2.0", "source": "test", "opset": 17,
        "engine": engine::ENGINE, "files": [], "golden_file": "golden.jsonl", "parent": null, "provenance": [], "proposals": [],
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [{"Named": "batch"}, {"Fixed": 4}]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [{"Named": "batch"}, {"Fixed": 4}]}],
        "signatures": [{"name": "tensors", "pre": [], "post": [],
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [{"Named": "batch"}, {"Fixed": 4}]}],
            "outputs": [{"name": "y", "datatype": "FP32", "shape": [{"Named": "batch"}, {"Fixed": 4}]}]}],
        "variants": [{"id": "cpu-f32", "class": "cpu", "file": "model.onnx", "numerics": "tract", "batch_rows_max": 8,
            "checks": [{"close": {"abs": 1e-6, "rel": 0.0}}],
            "measured": {"cosine_min": 0.0, "top1_share": 0.0, "abs_max": 0.0, "row_us": 0, "rows8_us": 0, "load_us": 0}}]
    }))
    .unwrap();
    let check = |answer: &str, timed: bool| {
        let golden = format!(
            r#"{{"inputs":[{{"name":"x","datatype":"FP32","shape":[1,4],"data":[-1,2,-3,4]}}],"outputs":[{{"name":"y","datatype":"FP32","shape":[1,4],"data":[{answer}]}}]}}"#
        );
        let place = |name: &str, bytes: &[u8]| -> (String, PathBuf) {
            std::fs::write(folder.join(name), bytes).unwrap();
            (name.to_owned(), folder.join(name))
        };
        let file = model(vec![node("Relu", &["x"], "y")], vec![]);
        let files: BTreeMap<_, _> = [place("model.onnx", &file), place("golden.jsonl", golden.as_bytes())].into();
        let variant = manifest.variants[0].id.clone();
        let job = CheckJob::Package {
            manifest: Box::new(manifest.clone()),
            variant,
            files,
            timed,
            onnxruntime: None,
        };
        run_check(&std::env::current_exe().unwrap(), &job, LIMITS)
    };
    let measured = check("0,2,0,4", true).unwrap().measured.unwrap();
    assert!(measured.load_us > 0 && measured.cosine_min > 0.999, "{measured:?}");
    assert_eq!(check("0,2,0,4", false).unwrap().measured.unwrap().row_us, 0);
    let wrong = check("0,2,0,5", false).unwrap_err().to_string();
    assert!(wrong.contains("golden"), "{wrong}");
}

fn model(nodes: Vec<NodeProto>, constants: Vec<TensorProto>) -> Vec<u8> {
    let info = |name: &str| {
        let dim = |value| Dimension {
            value: Some(value),
            ..Dimension::default()
        };
        let dim = vec![
            dim(dimension::Value::DimParam("N".into())),
            dim(dimension::Value::DimValue(4)),
        ];
        let tensor = type_proto::Tensor {
            elem_type: 1,
            shape: Some(TensorShapeProto { dim }),
        };
        let kind = TypeProto {
            value: Some(type_proto::Value::TensorType(tensor)),
            ..TypeProto::default()
        };
        ValueInfoProto {
            name: name.to_owned(),
            r#type: Some(kind),
            ..ValueInfoProto::default()
        }
    };
    let (input, output) = (vec![info("x")], vec![info("y")]);
    let graph = GraphProto {
        node: nodes,
        initializer: constants,
        input,
        output,
        ..GraphProto::default()
    };
    let opset = OperatorSetIdProto {
        version: 17,
        ..OperatorSetIdProto::default()
    };
    encode(&ModelProto {
        ir_version: 8,
        opset_import: vec![opset],
        graph: Some(graph),
        ..ModelProto::default()
    })
}

fn node(operator: &str, inputs: &[&str], output: &str) -> NodeProto {
    let mut attribute = Vec::new();
    if operator == "Cast" {
        attribute.push(AttributeProto {
            name: "to".into(),
            r#type: 2,
            i: 7,
            ..AttributeProto::default()
        });
    }
    NodeProto {
        name: format!("the-{operator}-{output}"),
        op_type: operator.to_owned(),
        input: inputs.iter().map(|&name| name.to_owned()).collect(),
        output: vec![output.to_owned()],
        attribute,
        ..NodeProto::default()
    }
}

fn int64s(name: &str, dims: &[i64], elements: &[i64]) -> TensorProto {
    TensorProto {
        name: name.to_owned(),
        dims: dims.to_vec(),
        data_type: 7,
        int64_data: elements.to_vec(),
        ..TensorProto::default()
    }
}

fn floats(name: &str, dims: &[i64], count: usize) -> TensorProto {
    TensorProto {
        name: name.to_owned(),
        dims: dims.to_vec(),
        data_type: 1,
        float_data: vec![1.0; count],
        ..TensorProto::default()
    }
}
