//! The model that lies in the repository answers as ONNX Runtime did, in both forms of its weights.
#![allow(missing_docs)]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::Path;

use engine::onnx::{Described, describe};
use engine::{PackageFiles, load, measure, quantize};
use models::golden;
use proto::manifest::Manifest;
use serde_json::{Value, json};

/// Goal: golden vectors of tensors and of whole files, reproduced by f32 and int8. Skips by name where the model is absent.
#[test]
fn the_bundled_model_reproduces_its_golden_vectors_in_both_forms() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../zoo/magika");
    let Ok(onnx) = std::fs::read(folder.join("model.onnx")) else {
        eprintln!("skipped: {} holds no model", folder.display());
        return;
    };
    let scratch = tempfile::tempdir().unwrap();
    let int8 = quantize::weights_int8(&onnx).unwrap();
    assert!(int8.len() * 3 < onnx.len(), "{} of {}", int8.len(), onnx.len());
    std::fs::write(scratch.path().join("int8.onnx"), int8).unwrap();
    let mut files: PackageFiles = ["model.onnx", "labels.txt"]
        .into_iter()
        .map(|name| (name, folder.join(name)))
        .collect();
    files.insert("int8.onnx", scratch.path().join("int8.onnx"));

    let vectors = golden::read(&std::fs::read(folder.join("golden.jsonl")).unwrap()).unwrap();
    let manifest = manifest(&describe(&onnx).unwrap());
    for variant in &manifest.variants {
        let (_, agreement) = measure::untimed(&load(&manifest, variant, &files).unwrap(), variant, &vectors).unwrap();
        assert!(agreement.passed(), "{}: {agreement:?}", variant.id);
    }
    let loaded = |at: usize| measure::Loaded::new(&manifest, &manifest.variants[at], &files, &vectors).unwrap();
    let times = measure::in_turn(&[&loaded(0), &loaded(1)], &vectors).unwrap();
    assert_eq!(times.len(), 2);
    assert!(
        times
            .iter()
            .all(|t| t.row_us > 0 && t.rows8_us > t.row_us && t.load_us > 0),
        "{times:?}"
    );
}

/// Goal: with a weight kept in f32 the model still answers, closer than with all weights coded, in a file between both.
#[test]
fn a_weight_of_the_bundled_model_can_stay_f32() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../zoo/magika");
    let Ok(onnx) = std::fs::read(folder.join("model.onnx")) else {
        eprintln!("skipped: {} holds no model", folder.display());
        return;
    };
    let weights = quantize::weights(&onnx).unwrap();
    let all_but_one = weights[1..].iter().map(|weight| weight.name.clone()).collect();
    let scratch = tempfile::tempdir().unwrap();
    let vectors = golden::read(&std::fs::read(folder.join("golden.jsonl")).unwrap()).unwrap();
    let manifest = manifest(&describe(&onnx).unwrap());
    let error = |int8: &[u8]| {
        std::fs::write(scratch.path().join("int8.onnx"), int8).unwrap();
        let mut files: PackageFiles = [("labels.txt", folder.join("labels.txt"))].into_iter().collect();
        files.insert("int8.onnx", scratch.path().join("int8.onnx"));
        let variant = &manifest.variants[1];
        let (_, agreement) = measure::untimed(&load(&manifest, variant, &files).unwrap(), variant, &vectors).unwrap();
        assert!(agreement.passed(), "{agreement:?}");
        agreement.squared_error
    };
    let whole = quantize::weights_int8(&onnx).unwrap();
    let mixed = quantize::weights_int8_but(&onnx, &all_but_one, &quantize::Calibration::default()).unwrap();
    assert!(whole.len() < mixed.len() && mixed.len() < onnx.len());
    assert!(error(&mixed) < error(&whole));
}

fn manifest(graph: &Described) -> Manifest {
    let measured =
        json!({"cosine_min": 0.0, "top1_share": 0.0, "abs_max": 0.0, "row_us": 0, "rows8_us": 0, "load_us": 0});
    let variant = |id: &str, file: &str, checks: Value| json!({"id": id, "class": "cpu", "file": file, "numerics": "t", "batch_rows_max": 1, "checks": checks, "measured": measured});
    let batch = json!([{"Named": "batch"}, {"Fixed": 1}]);
    let file = json!({
        "name": "file",
        "inputs": [{"name": "file", "datatype": "BYTES", "shape": [{"Named": "batch"}]}],
        "outputs": [{"name": "label", "datatype": "BYTES", "shape": batch}, {"name": "score", "datatype": "FP32", "shape": batch}],
        "pre": [{"file-ends": {"from": "file", "to": "bytes", "begin": 1024, "end": 1024, "block": 4096, "padding": 256}}],
        "post": [{"top-labels": {"from": "target_label", "labels_file": "labels.txt", "count": 1, "labels": "label", "scores": "score"}}]
    });
    serde_json::from_value(json!({
        "model": "magika", "version": 1, "description": "", "licence": "Apache-2.0", "source": "test", "opset": graph.opset,
        "engine": engine::ENGINE, "files": [], "golden_file": "golden.jsonl", "parent": null, "provenance": [], "proposals": [],
        "inputs": graph.inputs, "outputs": graph.outputs,
        "signatures": [
            {"name": "tensors", "pre": [], "post": [], "inputs": graph.inputs, "outputs": graph.outputs},
            file
        ],
        "variants": [
            variant("cpu-f32", "model.onnx", json!([{"close": {"abs": 0.001, "rel": 0.001}}])),
            variant("cpu-int8", "int8.onnx", json!([{"cosine": {"min": 0.99}}, {"same-top1": {"share_min": 1.0}}]))
        ]
    }))
    .unwrap()
}
