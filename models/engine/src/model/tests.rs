use super::*;
use crate::onnx::values;
use crate::tensor::{of_byte_strings, of_f32s};
use crate::testing::{floats, model, node, ramp};
use serde_json::json;

mod kept;
mod mixed;

/// A model that doubles `x [batch, 3]`, with a signature that also ranks the result by label.
fn package(folder: &std::path::Path) -> LoadedModel {
    let two = values::of_floats("two", vec![1], &[2.0]);
    let file = model(
        &[("x", &[-1, 3])],
        &[("y", &[-1, 3])],
        vec![node("Mul", &["x", "two"], "y")],
        vec![two],
    );
    std::fs::write(folder.join("m.onnx"), file).unwrap();
    std::fs::write(folder.join("labels.txt"), "ash\nbirch\ncedar\n").unwrap();
    let row = |name: &str, size: u32| json!({"name": name, "datatype": "FP32", "shape": [{"Named": "batch"}, {"Fixed": size}]});
    let labels = json!({"name": "labels", "datatype": "BYTES", "shape": [{"Named": "batch"}, {"Fixed": 2}]});
    let manifest: Manifest = serde_json::from_value(json!({
        "model": "tiny", "version": 1, "description": "", "licence": "Apache-2.0", "source": "test", "opset": 17,
        "engine": crate::ENGINE, "files": [], "golden_file": "g", "parent": null, "provenance": [], "proposals": [],
        "inputs": [row("x", 3)], "outputs": [row("y", 3)],
        "signatures": [
            {"name": "tensors", "pre": [], "post": [], "inputs": [row("x", 3)], "outputs": [row("y", 3)]},
            {"name": "files", "inputs": [{"name": "file", "datatype": "BYTES", "shape": [{"Named": "batch"}]}],
             "outputs": [labels, row("scores", 2)], "pre": [],
             "post": [{"top-labels": {"from": "y", "labels_file": "labels.txt", "count": 2, "labels": "labels", "scores": "scores"}}]}
        ],
        "variants": [{"id": "cpu-f32", "class": "cpu", "file": "m.onnx", "numerics": "t", "batch_rows_max": 8, "checks": [],
            "measured": {"cosine_min": 0.0, "top1_share": 0.0, "abs_max": 0.0, "row_us": 0, "rows8_us": 0, "load_us": 0}}]
    }))
    .unwrap();
    let names = ["m.onnx", "labels.txt"];
    let files: PackageFiles = names.into_iter().map(|name| (name, folder.join(name))).collect();
    load(&manifest, &manifest.variants[0], &files).unwrap()
}

#[test]
fn the_names_of_the_inputs_select_the_signature_and_others_are_told_what_is_known() {
    let folder = tempfile::tempdir().unwrap();
    let model = package(folder.path());
    assert_eq!(model.signature_for(&["file"]).unwrap().name, "files");
    assert_eq!(model.signature_for(&["x"]).unwrap().name, "tensors");
    let error = model.signature_for(&["x", "file"]).unwrap_err();
    assert!(
        error.is_clients() && error.to_string().contains("tensors [x] or files [file]"),
        "{error}"
    );
}

#[test]
fn rows_of_several_requests_come_back_as_rows() {
    let folder = tempfile::tempdir().unwrap();
    let model = package(folder.path());
    model.warm();
    let out = model.run(&[of_f32s("x", vec![40, 3], &ramp(120))]).unwrap();
    assert_eq!(out[0].shape, [40, 3]);
    assert_eq!(floats(&out[0]), ramp(120).iter().map(|x| x * 2.0).collect::<Vec<_>>());
}

#[test]
fn what_the_request_got_wrong_is_the_clients_fault_and_names_the_input() {
    let folder = tempfile::tempdir().unwrap();
    let model = package(folder.path());
    let good = of_f32s("x", vec![1, 3], &[1.0; 3]);
    let wrong = [
        Tensor {
            datatype: proto::manifest::DataType::Int32,
            ..good.clone()
        },
        Tensor {
            shape: vec![1, 4],
            ..good.clone()
        },
        Tensor {
            shape: vec![3],
            ..good.clone()
        },
        Tensor {
            shape: vec![0, 3],
            data: vec![],
            ..good.clone()
        },
        Tensor {
            data: vec![0; 11],
            ..good.clone()
        },
        Tensor {
            shape: vec![usize::MAX, 3],
            ..good.clone()
        },
        Tensor {
            shape: vec![CALL_ROWS_MAX + 1, 3],
            data: vec![0; (CALL_ROWS_MAX + 1) * 12],
            ..good
        },
    ];
    for tensor in wrong {
        let error = model.run(std::slice::from_ref(&tensor)).unwrap_err();
        assert!(
            error.is_clients() && error.to_string().contains("`x`"),
            "{:?}: {error}",
            tensor.shape
        );
    }
    let mut cut = of_byte_strings("file", vec![1], [b"abc".as_slice()].into_iter());
    cut.data.pop();
    assert!(model.run(&[cut]).unwrap_err().is_clients());
}

#[test]
fn a_manifest_that_describes_another_graph_does_not_load() {
    let specs = |name: &str| {
        vec![TensorSpec {
            name: name.into(),
            datatype: proto::manifest::DataType::Fp32,
            shape: vec![],
        }]
    };
    assert!(same("inputs", &specs("a"), &specs("a")).is_ok());
    let error = same("inputs", &specs("a"), &specs("b")).unwrap_err().to_string();
    assert!(error.contains("inputs a") && error.contains("b FP32"), "{error}");
}
