//! Models that ONNX Runtime quantized, in every way it has, answer as their FP32 does. `quantized/make.py` made the files.
#![allow(missing_docs)]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::{Path, PathBuf};

use engine::graph::Graph;
use engine::{onnx, preflight};
use proto::manifest::DataType;
use proto::oip::Tensor;

fn graph(path: &Path) -> Graph {
    let model = onnx::decode(&std::fs::read(path).unwrap()).unwrap();
    preflight::check(&model).unwrap();
    Graph::new(model).unwrap()
}

/// Rows of the shape `inner` with numbers that repeat for nobody: in 0..8 for flowers, around 0 for pictures.
fn rows(name: &str, count: usize, inner: &[usize]) -> Tensor {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut unit = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        f32::from(u16::try_from(state >> 48).unwrap()) / 65536.0
    };
    let numbers = inner.iter().product::<usize>() * count;
    let value = |unit: f32| if inner.len() == 1 { unit * 8.0 } else { unit * 4.0 - 2.0 };
    Tensor {
        name: name.to_owned(),
        datatype: DataType::Fp32,
        shape: [&[count], inner].concat(),
        data: (0..numbers).flat_map(|_| value(unit()).to_le_bytes()).collect(),
    }
}

fn floats(tensor: &Tensor) -> Vec<f32> {
    tensor
        .data
        .as_chunks()
        .0
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
        .collect()
}

#[test]
fn models_that_onnx_runtime_quantized_answer_as_their_fp32_does() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/quantized");
    let iris = folder.join("../../../zoo/iris-mlp/model.onnx");
    let subjects: [(&str, PathBuf, &[usize]); 2] = [
        ("iris", iris, &[4]),
        ("convolutions", folder.join("convolutions.onnx"), &[3, 16, 16]),
    ];
    for (name, plain, inner) in subjects {
        let exact = graph(&plain);
        let x = rows(&exact.inputs()[0].name, 24, inner);
        let expected = exact.run(std::slice::from_ref(&x)).unwrap();
        let expected = floats(expected.iter().find(|t| t.datatype == DataType::Fp32).unwrap());
        for form in ["dynamic", "dynamic-u8", "qdq", "qdq-tensor", "qoperator"] {
            let ours = graph(&folder.join(format!("{name}-{form}.onnx")))
                .run(std::slice::from_ref(&x))
                .unwrap();
            let ours = floats(ours.iter().find(|t| t.datatype == DataType::Fp32).unwrap());
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
            let width = expected.len() / 24;
            let cosines = expected
                .chunks(width)
                .zip(ours.chunks(width))
                .map(|(a, b)| dot(a, b) / (dot(a, a) * dot(b, b)).sqrt());
            let least = cosines.fold(1.0, f32::min);
            eprintln!("{name}-{form}: lowest cosine {least:.5}");
            assert!(least > 0.98, "{name}-{form}: lowest cosine {least}");
        }
    }
}
