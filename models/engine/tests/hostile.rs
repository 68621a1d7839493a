//! Thousands of spoilt models, each tried in a child of its own as a node tries them: every one ends in an answer or in an error
//! that says what is wrong, within bounds of time and memory. Every third is tried as publishers and nodes try packages, against the
//! golden vectors of the unspoilt model. A binary of its own, because the child re-executes it.
//!
//! `MERIDIAN_SCALE=full cargo test --release -p meridian-engine --test hostile` tries ten thousand; `MERIDIAN_SEED=20261188` one
//! of them, and keeps its file.
#![allow(missing_docs)]
#![allow(clippy::unwrap_used, reason = "a test without the test harness is still a test")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use engine::child::{CheckError, CheckJob, CheckLimits, main_if_asked, run_check};
use engine::onnx::{Described, decode, describe, encode};
use engine::quantize::weights_int8;
use engine::{PackageFiles, load};
use models::golden::{self, Vector};
use proto::manifest::{Dim, Manifest, TensorSpec};
use proto::oip::Tensor;
use serde_json::json;
use tract_onnx::pb::{GraphProto, ModelProto};

/// What a child may hold, and its address space, which is more.
const MEMORY: u64 = 512 << 20;
const TIME: Duration = Duration::from_secs(5);
/// Models and the seed of the first.
const FEW: usize = 150;
const FULL: usize = 10_000;
const SEED: u64 = 20_261_123;

/// Numbers that shapes, axes and attributes are spoilt with.
const NUMBERS: [i64; 12] = [-1, 0, 1, 2, 3, 7, 12, 65_536, 1 << 31, 1 << 40, i64::MAX, i64::MIN];
/// Operators that nodes are made into.
const OPERATORS: [&str; 16] = [
    "Conv",
    "MaxPool",
    "MatMul",
    "Gemm",
    "Gather",
    "Reshape",
    "Expand",
    "Tile",
    "Pad",
    "Range",
    "ConstantOfShape",
    "Softmax",
    "DequantizeLinear",
    "LayerNormalization",
    "Loop",
    "Concat",
];

fn main() {
    main_if_asked();
    let full = std::env::var("MERIDIAN_SCALE").is_ok_and(|scale| scale == "full");
    let (bases, folder) = (bases(), tempfile::tempdir().unwrap());
    let mut tally: BTreeMap<&'static str, Kind> = BTreeMap::new();
    let mut wrong = Vec::new();
    let one = std::env::var("MERIDIAN_SEED")
        .ok()
        .map(|seed| seed.parse::<u64>().unwrap());
    let count = if full { FULL } else { FEW };
    for at in 0..one.map_or(count, |_| 1) {
        let seed = one.unwrap_or(SEED + u64::try_from(at).unwrap());
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let base = dice.of(&bases);
        let (kind, file) = spoilt(&mut dice, base, &bases);
        let Tried { told, took, peak_bytes } = tried(&job(seed, folder.path(), &file, base));
        if one.is_some() {
            let place = keep(&file);
            eprintln!(
                "  {kind}: {told:?} after {took:?} with {peak_bytes} bytes; the file is {}",
                place.display()
            );
        }
        if took > SLOW {
            eprintln!("  seed {seed}, {kind}: {took:?}");
        }
        let entry = tally.entry(kind).or_default();
        entry.tried += 1;
        entry.slowest = entry.slowest.max(took);
        entry.largest_bytes = entry.largest_bytes.max(peak_bytes);
        if peak_bytes > MEMORY {
            wrong.push(format!("seed {seed}, {kind}: held {peak_bytes} bytes"));
        }
        match told {
            Told::Passed => entry.passed += 1,
            Told::Refused(why) if names_something(&why) => entry.refused += 1,
            Told::Refused(why) => wrong.push(format!("seed {seed}, {kind}: says only `{why}`")),
            Told::Wrong(how) => wrong.push(format!("seed {seed}, {kind}: {how}")),
        }
        if at % 500 == 499 {
            eprintln!("  {} tried", at + 1);
        }
    }
    eprintln!(
        "  {:<22} {:>6} {:>7} {:>8} {:>9} {:>9}",
        "spoilt by", "tried", "passed", "refused", "slowest", "largest"
    );
    for (kind, of) in &tally {
        let slowest = format!("{:.2} s", of.slowest.as_secs_f64());
        let largest = format!("{} MiB", of.largest_bytes >> 20);
        eprintln!(
            "  {kind:<22} {:>6} {:>7} {:>8} {slowest:>9} {largest:>9}",
            of.tried, of.passed, of.refused
        );
    }
    assert!(wrong.is_empty(), "{} of them:\n{}", wrong.len(), wrong.join("\n"));
    eprintln!("test every_spoilt_model_is_answered_or_refused ... ok");
}

/// Longer than any honest model of such a size takes: worth a look.
const SLOW: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Kind {
    tried: usize,
    passed: usize,
    refused: usize,
    slowest: Duration,
    largest_bytes: u64,
}

#[derive(Debug)]
enum Told {
    Passed,
    Refused(String),
    Wrong(String),
}

struct Tried {
    told: Told,
    took: Duration,
    /// 0 where the child said nothing any more.
    peak_bytes: u64,
}

/// Every third as a package, the others as files that nobody has looked at.
fn job(seed: u64, folder: &Path, file: &[u8], base: &Base) -> CheckJob {
    let path = folder.join("model.onnx");
    std::fs::write(&path, file).unwrap();
    if !seed.is_multiple_of(3) {
        return CheckJob::Onnx {
            path,
            onnxruntime: None,
        };
    }
    let golden = folder.join("golden.jsonl");
    std::fs::write(&golden, &base.golden).unwrap();
    CheckJob::Package {
        manifest: Box::new(base.manifest.clone()),
        variant: base.manifest.variants[0].id.clone(),
        files: [("model.onnx".to_owned(), path), ("golden.jsonl".to_owned(), golden)].into(),
        timed: false,
        onnxruntime: None,
    }
}

fn tried(job: &CheckJob) -> Tried {
    let limits = CheckLimits {
        memory_bytes: MEMORY,
        time: TIME,
    };
    let begin = now();
    let outcome = run_check(&std::env::current_exe().unwrap(), job, limits);
    let took = begin.elapsed();
    let (told, peak_bytes) = match outcome {
        Ok(report) => (Told::Passed, report.peak_bytes),
        Err(CheckError::Refused { why, peak_bytes }) => (Told::Refused(why), peak_bytes),
        // A honest but slow model is ended just so.
        Err(CheckError::TooLong { limit, peak_bytes }) => {
            let why = CheckError::TooLong { limit, peak_bytes }.to_string();
            (Told::Refused(why), peak_bytes)
        }
        Err(other) => (Told::Wrong(other.to_string()), 0),
    };
    Tried { told, took, peak_bytes }
}

fn keep(file: &[u8]) -> PathBuf {
    let path = std::env::temp_dir().join("hostile.onnx");
    std::fs::write(&path, file).unwrap();
    path
}

/// Whether an error says where to look.
fn names_something(why: &str) -> bool {
    let words = ["node", "`", "file", "graph", "input", "output", "constant", "model"];
    words.iter().any(|word| why.contains(word))
}

/// A model as it should be, and what a package says of it.
struct Base {
    file: Vec<u8>,
    manifest: Manifest,
    golden: Vec<u8>,
}

/// Whole models of every kind that the engine has operators for.
fn bases() -> Vec<Base> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| std::fs::read(root.join(path)).unwrap();
    let mut bases: Vec<Vec<u8>> = ["boosted-three", "forest-two", "linear", "classes-softmax", "five"]
        .iter()
        .map(|name| read(&format!("tests/trees/{name}.onnx")))
        .collect();
    for form in [
        "convolutions-dynamic",
        "convolutions-qdq",
        "convolutions-qoperator",
        "iris-dynamic-u8",
    ] {
        bases.push(read(&format!("tests/quantized/{form}.onnx")));
    }
    for name in ["iris-mlp", "magika"] {
        let f32 = read(&format!("../zoo/{name}/model.onnx"));
        bases.extend(weights_int8(&f32).ok());
        bases.push(f32);
    }
    bases.into_iter().map(base).collect()
}

/// Its golden vector is what it makes of zeros, as far as that can be written.
fn base(file: Vec<u8>) -> Base {
    let Described { inputs, outputs, opset } = describe(&file).unwrap();
    let mut manifest: Manifest = serde_json::from_value(json!({
        "model": "base", "version": 1, "description": "", "licence": "Apache-2.0", "source": "test", "opset": opset,
        "engine": engine::ENGINE, "files": [], "golden_file": "golden.jsonl", "parent": null, "provenance": [], "proposals": [],
        "inputs": inputs, "outputs": outputs,
        "signatures": [{"name": "tensors", "pre": [], "post": [], "inputs": inputs, "outputs": outputs}],
        "variants": [{"id": "cpu-f32", "class": "cpu", "file": "model.onnx", "numerics": engine::ENGINE, "batch_rows_max": 8,
            "checks": [{"close": {"abs": 1e-3, "rel": 1e-3}}],
            "measured": {"cosine_min": 0.0, "top1_share": 0.0, "abs_max": 0.0, "row_us": 0, "rows8_us": 0, "load_us": 0}}]
    }))
    .unwrap();
    let place = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(place.path(), &file).unwrap();
    let files: PackageFiles = [("model.onnx", place.path())].into_iter().collect();
    let model = load(&manifest, &manifest.variants[0], &files).unwrap();
    let inputs: Vec<Tensor> = inputs.iter().map(zeros).collect();
    let vector = |outputs| Vector {
        inputs: inputs.clone(),
        outputs,
    };
    let mut outputs = model.run(&inputs).unwrap();
    outputs.retain(|output| golden::write(&[vector(vec![output.clone()])]).is_ok());
    let written = |spec: &TensorSpec| outputs.iter().any(|output| output.name == spec.name);
    manifest.signatures[0].outputs.retain(written);
    let golden = golden::write(&[vector(outputs)]).unwrap();
    Base { file, manifest, golden }
}

fn zeros(spec: &TensorSpec) -> Tensor {
    let size = |dim: &Dim| match dim {
        Dim::Fixed(size) => usize::try_from(*size).unwrap(),
        Dim::Named(_) => 2,
    };
    let shape: Vec<usize> = spec.shape.iter().map(size).collect();
    let bytes = shape.iter().product::<usize>() * spec.datatype.element_bytes().unwrap();
    Tensor {
        name: spec.name.clone(),
        datatype: spec.datatype,
        shape,
        data: vec![0; bytes],
    }
}

/// A model with one to three things wrong, and what kind of things.
fn spoilt(dice: &mut Dice, base: &Base, bases: &[Base]) -> (&'static str, Vec<u8>) {
    let base = base.file.clone();
    type Spoil = fn(&mut Dice, &mut GraphProto);
    let kinds: [(&str, Spoil); 7] = [
        ("numbers of attributes", attributes),
        ("sizes of constants", sizes),
        ("content of constants", content),
        ("kinds of elements", elements),
        ("operators", operators),
        ("wires", wires),
        ("sizes of inputs", inputs),
    ];
    match dice.below(10) {
        0 => ("bytes", bytes(dice, base)),
        1 => ("an end that is missing", base[..dice.below(base.len())].to_vec()),
        2 => ("another's bytes", spliced(dice, &base, bases)),
        at => {
            let (kind, spoil) = kinds[at - 3];
            let mut model: ModelProto = decode(&base).unwrap();
            for _ in 0..=dice.below(3) {
                spoil(dice, model.graph.as_mut().unwrap());
            }
            (kind, encode(&model))
        }
    }
}

fn bytes(dice: &mut Dice, mut file: Vec<u8>) -> Vec<u8> {
    for _ in 0..=dice.below(8) {
        // Near the ends lie names, shapes and nodes; between them weights.
        let at = match dice.below(3) {
            0 => dice.below(file.len().min(4096)),
            1 => file.len() - 1 - dice.below(file.len().min(4096)),
            _ => dice.below(file.len()),
        };
        file[at] ^= 1 << dice.below(8);
    }
    file
}

fn spliced(dice: &mut Dice, base: &[u8], bases: &[Base]) -> Vec<u8> {
    let other = &dice.of(bases).file;
    let (from, to) = (dice.below(base.len()), dice.below(other.len()));
    [&base[..from], &other[to..]].concat()
}

fn attributes(dice: &mut Dice, graph: &mut GraphProto) {
    let node = dice.below(graph.node.len());
    for attribute in &mut graph.node[node].attribute {
        let number = *dice.of(&NUMBERS);
        attribute.i = number;
        if let Some(at) = dice.place(attribute.ints.len()) {
            attribute.ints[at] = number;
        }
        if let Some(at) = dice.place(attribute.floats.len()) {
            attribute.floats[at] = f32::from_bits(u32::try_from(dice.below(1 << 32)).unwrap());
        }
        if dice.below(4) == 0 {
            attribute.ints.push(number);
            attribute.floats.pop();
            attribute.strings.pop();
        }
    }
}

fn sizes(dice: &mut Dice, graph: &mut GraphProto) {
    if let Some(at) = dice.place(graph.initializer.len()) {
        let dims = &mut graph.initializer[at].dims;
        match dice.place(dims.len()) {
            Some(axis) if dice.below(3) > 0 => dims[axis] = *dice.of(&NUMBERS),
            Some(axis) => dims.swap(0, axis),
            None => dims.push(*dice.of(&NUMBERS)),
        }
    }
}

fn content(dice: &mut Dice, graph: &mut GraphProto) {
    if let Some(at) = dice.place(graph.initializer.len()) {
        let tensor = &mut graph.initializer[at];
        if let Some(end) = dice.place(tensor.raw_data.len()) {
            match dice.below(3) {
                0 => tensor.raw_data.truncate(end),
                1 => tensor.raw_data.extend([0xff; 13]),
                _ => tensor.raw_data[end..].fill(0xff),
            }
        }
        let number = *dice.of(&NUMBERS);
        tensor.int64_data.iter_mut().for_each(|n| *n = number);
    }
}

fn elements(dice: &mut Dice, graph: &mut GraphProto) {
    if let Some(at) = dice.place(graph.initializer.len()) {
        graph.initializer[at].data_type = i32::try_from(dice.below(25)).unwrap();
    }
}

fn operators(dice: &mut Dice, graph: &mut GraphProto) {
    let at = dice.below(graph.node.len());
    graph.node[at].op_type = (*dice.of(&OPERATORS)).to_owned();
}

fn wires(dice: &mut Dice, graph: &mut GraphProto) {
    let (at, other) = (dice.below(graph.node.len()), dice.below(graph.node.len()));
    let names: Vec<String> = graph.node[other]
        .output
        .iter()
        .chain(&graph.node[other].input)
        .cloned()
        .collect();
    match dice.below(4) {
        0 => drop(graph.node.remove(at)),
        1 => graph.node[at].input.reverse(),
        2 => drop(graph.node[at].input.pop()),
        _ => {
            if let (Some(to), Some(from)) = (dice.place(graph.node[at].input.len()), dice.place(names.len())) {
                graph.node[at].input[to].clone_from(&names[from]);
            }
        }
    }
    if graph.node.is_empty() {
        graph.node.push(tract_onnx::pb::NodeProto::default());
    }
}

fn inputs(dice: &mut Dice, graph: &mut GraphProto) {
    use tract_onnx::pb::tensor_shape_proto::dimension::Value;
    use tract_onnx::pb::type_proto::Value as Type;
    let number = *dice.of(&NUMBERS);
    for info in graph.input.iter_mut().chain(&mut graph.output) {
        if let Some(Type::TensorType(tensor)) = info.r#type.as_mut().and_then(|kind| kind.value.as_mut())
            && let Some(shape) = &mut tensor.shape
            && let Some(axis) = dice.place(shape.dim.len())
        {
            shape.dim[axis].value = Some(Value::DimValue(number));
        }
    }
}

/// Numbers that repeat for a seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 16).unwrap() % end.max(1)
    }
    /// A place in a list, if it has any.
    fn place(&mut self, length: usize) -> Option<usize> {
        (length > 0).then(|| self.below(length))
    }
    fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

#[allow(clippy::disallowed_methods, reason = "how long a model takes is what is measured")]
fn now() -> Instant {
    Instant::now()
}
