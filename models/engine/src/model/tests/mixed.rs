//! Texts of mixed lengths in one call.

use tract_onnx::pb::NodeProto;
use tract_onnx::pb::tensor_proto::DataType as OnnxType;

use super::*;
use crate::onnx::encode;
use crate::testing::{TOKENIZER, info, int64s, model_proto, with_int, with_ints};

/// Enough that a row of one word and one of all words are never worth one run.
const WORDS_MAX: usize = 60;

fn op(operator: &str, inputs: &[&str], output: &str) -> NodeProto {
    NodeProto {
        name: output.to_owned(),
        ..node(operator, inputs, output)
    }
}

/// Embedded tokens, attention of two heads that leaves padding out, and the sum with what came in.
fn graph() -> Vec<u8> {
    let turn = |x: &str, y: &str, order: &[i64]| with_ints(op("Transpose", &[x], y), "perm", order);
    let mut nodes = vec![
        op("Gather", &["table", "ids"], "x"),
        with_int(op("Cast", &["mask"], "real"), "to", 1),
        op("Sub", &["real", "one"], "missing"),
        op("Mul", &["missing", "far"], "flat"),
        op("Unsqueeze", &["flat", "axes"], "added"),
    ];
    for of in ["q", "k", "v"] {
        let [weight, product, heads] = ["weight", "product", "heads"].map(|name| format!("{of}.{name}"));
        nodes.push(op("MatMul", &["x", &weight], &product));
        nodes.push(op("Reshape", &[&product, "split"], &heads));
        let order = if of == "k" { [0, 2, 3, 1] } else { [0, 2, 1, 3] };
        nodes.push(turn(&heads, of, &order));
    }
    nodes.extend([
        op("MatMul", &["q", "k"], "products"),
        op("Mul", &["products", "scale"], "scaled"),
        op("Add", &["scaled", "added"], "scores"),
        with_int(op("Softmax", &["scores"], "shares"), "axis", -1),
        op("MatMul", &["shares", "v"], "mixed"),
        turn("mixed", "back", &[0, 2, 1, 3]),
        op("Reshape", &["back", "join"], "joined"),
        op("Add", &["joined", "x"], "vectors"),
    ]);
    let weight = |name: &str, seed: usize| values::of_floats(name, vec![16, 16], &ramp(seed + 256)[seed..]);
    let constants = vec![
        values::of_floats("table", vec![7, 16], &ramp(112)),
        weight("q.weight", 3),
        weight("k.weight", 271),
        weight("v.weight", 550),
        int64s("split", &[4], &[0, 0, 2, 8]),
        int64s("join", &[3], &[0, 0, 16]),
        int64s("axes", &[2], &[1, 2]),
        values::of_floats("scale", vec![], &[0.35]),
        values::of_floats("one", vec![], &[1.0]),
        values::of_floats("far", vec![], &[1e9]),
    ];
    let mut proto = model_proto(&[], &[("vectors", &[-1, -1, 16])], nodes, constants);
    let inputs = ["ids", "mask"].map(|name| info(&(name, &[-1, -1]), OnnxType::Int64));
    proto.graph.as_mut().unwrap().input.extend(inputs);
    encode(&proto)
}

/// Its int8 form; `outputs` says whether sentences or tokens are answered.
fn texts(folder: &std::path::Path, sentences: bool) -> LoadedModel {
    let int8 = crate::quantize::weights_int8(&graph()).unwrap();
    let described = crate::onnx::describe(&int8).unwrap();
    std::fs::write(folder.join("m.onnx"), int8).unwrap();
    std::fs::write(folder.join("tokenizer.json"), TOKENIZER).unwrap();
    let batch = json!({"Named": "batch"});
    let (output, post) = if sentences {
        let mean = json!({"mean-pool": {"from": "vectors", "mask": "mask", "to": "mean"}});
        (
            json!({"name": "mean", "datatype": "FP32", "shape": [batch, {"Fixed": 16}]}),
            json!([mean]),
        )
    } else {
        (
            json!({"name": "vectors", "datatype": "FP32", "shape": [batch, {"Named": "s"}, {"Fixed": 16}]}),
            json!([]),
        )
    };
    let step = json!({"from": "text", "tokenizer": "tokenizer.json", "tokens_max": 64, "ids": "ids", "mask": "mask"});
    let manifest: Manifest = serde_json::from_value(json!({
        "model": "tiny", "version": 1, "description": "", "licence": "Apache-2.0", "source": "test", "opset": 17,
        "engine": crate::ENGINE, "files": [], "golden_file": "g", "parent": null, "provenance": [], "proposals": [],
        "inputs": described.inputs, "outputs": described.outputs,
        "signatures": [{"name": "text", "inputs": [{"name": "text", "datatype": "BYTES", "shape": [batch]}],
            "outputs": [output], "pre": [{"tokenize": step}], "post": post}],
        "variants": [{"id": "cpu-int8", "class": "cpu", "file": "m.onnx", "numerics": "t", "batch_rows_max": 8, "checks": [],
            "measured": {"cosine_min": 0.0, "top1_share": 0.0, "abs_max": 0.0, "row_us": 0, "rows8_us": 0, "load_us": 0}}]
    }))
    .unwrap();
    let names = ["m.onnx", "tokenizer.json"];
    let files: PackageFiles = names.into_iter().map(|name| (name, folder.join(name))).collect();
    load(&manifest, &manifest.variants[0], &files).unwrap()
}

fn text(rows: &[&str]) -> Tensor {
    of_byte_strings("text", vec![rows.len()], rows.iter().map(|row| row.as_bytes()))
}

/// `words` words, another text for each `seed`.
fn words(words: usize, seed: usize) -> String {
    let word = |at: usize| ["the", "fleet", "runs", "on"][(at * at + seed + at / 3) % 4];
    (0..words).map(word).collect::<Vec<_>>().join(" ")
}

#[test]
fn texts_of_mixed_lengths_run_apart_and_each_gets_the_bits_that_it_gets_alone() {
    let folder = tempfile::tempdir().unwrap();
    let model = texts(folder.path(), true);
    assert_eq!(model.signatures[0].mixed, Some(0));
    let rows: Vec<String> = (0..70).map(|n| words(n * 37 % WORDS_MAX, n)).collect();
    let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
    let together = model.run(&[text(&rows)]).unwrap();
    assert_eq!(together[0].shape, [70, 16]);
    let mut differ = std::collections::BTreeSet::new();
    for (at, row) in rows.iter().enumerate() {
        let alone = model.run(&[text(&[row])]).unwrap();
        assert!(tensor::rows(&together[0], at..at + 1) == alone[0], "row {at}");
        differ.insert(alone[0].data.clone());
    }
    assert!(differ.len() > 50, "texts have answers of their own: {}", differ.len());
}

#[test]
fn answers_with_a_place_for_each_token_are_padded_to_the_longest_row() {
    let folder = tempfile::tempdir().unwrap();
    let model = texts(folder.path(), false);
    assert_eq!(model.signatures[0].mixed, None);
    let vectors = model.run(&[text(&["runs", &words(40, 1)])]).unwrap();
    assert_eq!(vectors[0].shape, [2, 42, 16]);
}
