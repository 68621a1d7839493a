//! ONNX Runtime beside tract: equal answers, clear refusals, nothing of a request in an error. A binary of its own, because the child
//! process re-executes it, and because a process holds one library until it ends.
//!
//! `ORT_DYLIB_PATH` names the library; `tests/interop/run onnxruntime` fetches one.
#![allow(missing_docs)]
#![allow(clippy::unwrap_used, reason = "a test without the test harness is still a test")]

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use engine::child::{CheckError, CheckJob, CheckLimits, main_if_asked, run_check};
use engine::onnx::{Described, describe, encode};
use engine::onnxruntime::{Library, Provider, RuntimeError};
use engine::preflight::{self, PreflightError};
use engine::{LoadError, PackageFiles, load, measure};
use models::golden;
use proto::manifest::{Check, Manifest};
use proto::oip::Tensor;
use serde_json::{Value, json};
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension};
use tract_onnx::pb::{
    GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto, TypeProto, ValueInfoProto,
    type_proto,
};

/// First argument of a process that runs [`request_that_fails`].
const FAILS: &str = "fails";
/// A number of a request that must stand nowhere else.
const SECRET: &str = "74656";

fn main() {
    main_if_asked();
    if std::env::args().nth(1).as_deref() == Some(FAILS) {
        return println!("{}", request_that_fails());
    }
    type Test = (&'static str, fn(&Path));
    let tests: &[Test] = &[
        (
            "what_is_no_library_is_told_with_the_next_step",
            what_is_no_library_is_told_with_the_next_step,
        ),
        (
            "bundled_models_answer_alike_in_both_backends",
            bundled_models_answer_alike_in_both_backends,
        ),
        ("one_process_holds_one_library", one_process_holds_one_library),
        (
            "only_the_very_version_that_was_signed_and_allowed_runs",
            only_the_very_version_that_was_signed_and_allowed_runs,
        ),
        (
            "the_processor_never_stands_in_for_a_graphics_processor",
            the_processor_never_stands_in_for_a_graphics_processor,
        ),
        (
            "what_tract_lacks_runs_and_what_harms_is_refused",
            what_tract_lacks_runs_and_what_harms_is_refused,
        ),
        ("calls_at_once_give_the_same_bits", calls_at_once_give_the_same_bits),
        (
            "a_failed_run_tells_nothing_of_its_request",
            a_failed_run_tells_nothing_of_its_request,
        ),
        (
            "a_device_that_is_missing_is_refused_also_where_the_processor_could_stand_in",
            a_device_that_is_missing_is_refused_also_where_the_processor_could_stand_in,
        ),
        (
            "a_child_proves_a_variant_by_its_golden_vectors",
            a_child_proves_a_variant_by_its_golden_vectors,
        ),
    ];
    for (name, test) in tests {
        let folder = tempfile::tempdir().unwrap();
        test(folder.path());
        eprintln!("test {name} ... ok");
    }
}

fn library() -> Library {
    let path = std::env::var_os("ORT_DYLIB_PATH");
    let path = path.expect("ORT_DYLIB_PATH names no library: tests/interop/run onnxruntime fetches one and sets it");
    Library::at(Path::new(&path)).unwrap()
}

fn what_is_no_library_is_told_with_the_next_step(folder: &Path) {
    let file = folder.join("libonnxruntime.so.1");
    let refused = |path: &Path| Library::at(path).unwrap_err().to_string();
    assert!(refused(&file).contains("No such file"), "{}", refused(&file));
    std::fs::write(&file, "a text that speaks of VERS_1.32.0").unwrap();
    assert!(refused(&file).contains("names no version"), "{}", refused(&file));
    assert!(refused(&file).contains("libonnxruntime.so.1.x.y"), "{}", refused(&file));

    // One that claims a version and is nothing to load.
    std::fs::write(&file, "\0VERS_1.32.0\0").unwrap();
    let false_one = Library::at(&file).unwrap();
    assert_eq!(false_one.version(), "1.32.0");
    let (manifest, files) = small(folder, &relu(), &false_one.numerics(Provider::Cpu, "f32"));
    let error = refusal(&manifest, files.allowing(Some(false_one)));
    assert!(matches!(error, RuntimeError::Library { .. }), "{error}");
}

/// Goal: magika and iris-mlp give in ONNX Runtime what they give in tract, and what their golden vectors hold, within the checks of
/// their recipes.
fn bundled_models_answer_alike_in_both_backends(_: &Path) {
    let checks = [
        (
            "magika",
            json!([{"close": {"abs": 0.001, "rel": 0.001}}, {"same-top1": {"share_min": 1.0}}]),
        ),
        (
            "iris-mlp",
            json!([{"close": {"abs": 0.0001, "rel": 0.001}}, {"same-top1": {"share_min": 1.0}}]),
        ),
    ];
    for (name, checks) in checks {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../zoo").join(name);
        let onnx = std::fs::read(folder.join("model.onnx")).unwrap();
        let numerics = library().numerics(Provider::Cpu, "f32");
        let manifest = manifest(name, &describe(&onnx).unwrap(), &[engine::ENGINE, &numerics], &checks);
        let files: PackageFiles = [("model.onnx", folder.join("model.onnx"))].into_iter().collect();
        let files = files.allowing(Some(library()));
        let vectors = golden::read(&std::fs::read(folder.join("golden.jsonl")).unwrap()).unwrap();
        let declared = || manifest.inputs.iter().map(|input| input.name.as_str());
        let tensors = |v: &golden::Vector| v.inputs.iter().map(|t| t.name.as_str()).eq(declared());
        let vectors: Vec<golden::Vector> = vectors.into_iter().filter(tensors).collect();
        let [ours, theirs] = [0, 1].map(|at| load(&manifest, &manifest.variants[at], &files).unwrap());
        for model in [&ours, &theirs] {
            let agreement = measure::agreement(model, &manifest.variants[0].checks, &vectors).unwrap();
            assert!(agreement.passed(), "{name}: {agreement:?}");
        }
        assert_eq!(ours.batched(), theirs.batched());
        let agreement = measure::parity(&theirs, &ours, &manifest.variants[0].checks, &vectors).unwrap();
        assert!(agreement.passed(), "{name}, one against the other: {agreement:?}");
    }
}

fn one_process_holds_one_library(folder: &Path) {
    let copy = folder.join("libonnxruntime.so.1");
    std::fs::copy(library().path(), &copy).unwrap();
    let copy = Library::at(&copy).unwrap();
    let (manifest, files) = small(folder, &relu(), &copy.numerics(Provider::Cpu, "f32"));
    let error = refusal(&manifest, files.allowing(Some(copy)));
    assert!(matches!(error, RuntimeError::Other { .. }), "{error}");
}

fn only_the_very_version_that_was_signed_and_allowed_runs(folder: &Path) {
    let (manifest, files) = small(folder, &relu(), "onnxruntime-1.2.3+cpu/f32");
    let error = refusal(&manifest, files.clone());
    assert!(matches!(error, RuntimeError::NotAllowed { .. }), "{error}");
    let error = refusal(&manifest, files.allowing(Some(library())));
    let found = library().version().to_owned();
    assert_eq!(
        error,
        RuntimeError::Version {
            want: "1.2.3".to_owned(),
            found
        }
    );
}

/// The library of the wheel `onnxruntime` has no CUDA: with one that has, and a device, this would run.
fn the_processor_never_stands_in_for_a_graphics_processor(folder: &Path) {
    let (manifest, files) = small(folder, &relu(), &library().numerics(Provider::Cuda, "f32"));
    let error = refusal(&manifest, files.allowing(Some(library())));
    let expected = matches!(
        error,
        RuntimeError::Provider {
            provider: Provider::Cuda,
            ..
        }
    );
    assert!(expected, "{error}");
}

/// Goal: the stand-in is for a device that has proven itself and then fails: one that is not there activates nothing.
fn a_device_that_is_missing_is_refused_also_where_the_processor_could_stand_in(folder: &Path) {
    let (cuda, cpu) = [Provider::Cuda, Provider::Cpu]
        .map(|p| library().numerics(p, "f32"))
        .into();
    let golden = r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[1,4],"data":[-1,2,-3,4]}],"outputs":[{"name":"y","datatype":"FP32","shape":[1,4],"data":[0,2,0,4]}]}"#;
    std::fs::write(folder.join("golden.jsonl"), golden).unwrap();
    let refused = |numerics: &[&str]| {
        small(folder, &relu(), numerics[0]);
        let onnx = std::fs::read(folder.join("model.onnx")).unwrap();
        let checks = json!([{"close": {"abs": 1e-6, "rel": 0.0}}]);
        let manifest = manifest("small", &describe(&onnx).unwrap(), numerics, &checks);
        let names = ["model.onnx", "golden.jsonl"];
        let job = CheckJob::Package {
            variant: manifest.variants[0].id.clone(),
            manifest: Box::new(manifest),
            files: names.map(|name| (name.to_owned(), folder.join(name))).into(),
            timed: false,
            onnxruntime: Some(library().path().to_owned()),
        };
        let limits = CheckLimits {
            memory_bytes: 1 << 30,
            time: Duration::from_secs(30),
        };
        match run_check(&std::env::current_exe().unwrap(), &job, limits).unwrap_err() {
            CheckError::Refused { why, .. } => why,
            other => panic!("{other}"),
        }
    };
    let told = refused(&[&cuda, &cpu]);
    assert!(told.contains("cannot use cuda here"), "{told}");
    let told = refused(&[&cuda]);
    assert!(
        told.contains("no form of the same file") && told.contains(&cpu),
        "{told}"
    );
}

fn what_tract_lacks_runs_and_what_harms_is_refused(folder: &Path) {
    let numerics = library().numerics(Provider::Cpu, "f32");
    let tried = |file: &ModelProto| {
        let (manifest, files) = small(folder, file, &numerics);
        load(&manifest, &manifest.variants[0], &files.allowing(Some(library())))
    };
    let det = model(vec![node("", "Det", &["x"], "y")], &[-1, 2, 2], &[-1]);
    assert!(matches!(preflight::check(&det), Err(PreflightError::Operators(_))));
    let x = floats("x", vec![2, 2, 2], &[1.0, 2.0, 0.0, -4.0, 2.0, 0.0, 0.0, 3.0]);
    assert_eq!(
        tried(&det).unwrap().run(&[x]).unwrap(),
        [floats("y", vec![2], &[-4.0, 6.0])]
    );

    let told = |file: &ModelProto| tried(file).map(drop).unwrap_err();
    let unknown = told(&model(vec![node("", "Nonsense", &["x"], "y")], &[-1, 4], &[-1, 4]));
    assert!(
        matches!(unknown, LoadError::OnnxRuntime(RuntimeError::Refused(_))),
        "{unknown}"
    );
    assert!(unknown.to_string().contains("Nonsense"), "{unknown}");
    for (domain, operator) in [
        ("somebody.else", "Relu"),
        ("com.microsoft", "EPContext"),
        ("", "Loop"),
        ("", "Bernoulli"),
    ] {
        let error = told(&model(vec![node(domain, operator, &["x"], "y")], &[-1, 4], &[-1, 4]));
        assert!(matches!(error, LoadError::Preflight(_)), "{operator}: {error}");
    }
    let mut huge = model(vec![node("", "ConstantOfShape", &["shape"], "y")], &[-1, 4], &[-1, 4]);
    let shape = int64s("shape", &[1 << 20, 1 << 21]);
    huge.graph.as_mut().unwrap().initializer.push(shape);
    assert!(matches!(told(&huge), LoadError::Preflight(_)));
}

/// Goal: more threads than sessions, each call the bits of the first.
fn calls_at_once_give_the_same_bits(_: &Path) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../zoo/magika");
    let onnx = std::fs::read(folder.join("model.onnx")).unwrap();
    let numerics = library().numerics(Provider::Cpu, "f32");
    let manifest = manifest("magika", &describe(&onnx).unwrap(), &[&numerics], &json!([]));
    let files: PackageFiles = [("model.onnx", folder.join("model.onnx"))].into_iter().collect();
    let two = library().for_calls(NonZeroUsize::new(2).unwrap());
    let model = load(&manifest, &manifest.variants[0], &files.allowing(Some(two))).unwrap();
    let input = [Tensor {
        name: "bytes".to_owned(),
        datatype: proto::manifest::DataType::Int32,
        shape: vec![1, 2048],
        data: (0..2048).flat_map(|i: i32| (i * 7919 % 257).to_le_bytes()).collect(),
    }];
    let first = model.run(&input).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..25).for_each(|_| assert_eq!(model.run(&input).unwrap(), first)));
        }
    });
}

fn a_failed_run_tells_nothing_of_its_request(_: &Path) {
    let output = Command::new(std::env::current_exe().unwrap())
        .arg(FAILS)
        .output()
        .unwrap();
    let (told, logged) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(told.contains("the-Gather"), "{told}{logged}");
    assert!(!told.contains(SECRET) && !logged.contains(SECRET), "{told}{logged}");
}

/// Gathers an element that is not there, and gives the error.
fn request_that_fails() -> String {
    let folder = tempfile::tempdir().unwrap();
    let to_int64 = tract_onnx::pb::AttributeProto {
        name: "to".into(),
        r#type: 2,
        i: 7,
        ..Default::default()
    };
    let cast = NodeProto {
        attribute: vec![to_int64],
        ..node("", "Cast", &["x"], "at")
    };
    let mut file = model(
        vec![cast, node("", "Gather", &["table", "at"], "y")],
        &[-1, 4],
        &[-1, 4],
    );
    let graph = file.graph.as_mut().unwrap();
    graph.initializer.push(int64s("table", &[1, 2, 3]));
    graph.output[0] = info("y", 7, &[-1, 4]);
    let (manifest, files) = small(folder.path(), &file, &library().numerics(Provider::Cpu, "f32"));
    let model = load(&manifest, &manifest.variants[0], &files.allowing(Some(library()))).unwrap();
    let secret: f32 = SECRET.parse().unwrap();
    let failed = model.run(&[floats("x", vec![1, 4], &[0.0, 1.0, secret, 2.0])]);
    failed.unwrap_err().to_string()
}

fn a_child_proves_a_variant_by_its_golden_vectors(folder: &Path) {
    let limits = CheckLimits {
        memory_bytes: 1 << 30,
        time: Duration::from_secs(30),
    };
    let exe = std::env::current_exe().unwrap();
    let check = |answer: &str, allowed: bool| {
        let (mut manifest, _) = small(folder, &relu(), &library().numerics(Provider::Cpu, "f32"));
        manifest.variants[0].checks = vec![Check::Close { abs: 1e-6, rel: 0.0 }];
        let golden = format!(
            r#"{{"inputs":[{{"name":"x","datatype":"FP32","shape":[1,4],"data":[-1,2,-3,4]}}],"outputs":[{{"name":"y","datatype":"FP32","shape":[1,4],"data":[{answer}]}}]}}"#
        );
        std::fs::write(folder.join("golden.jsonl"), golden).unwrap();
        let names = ["model.onnx", "golden.jsonl"];
        let files: BTreeMap<String, PathBuf> = names.map(|name| (name.to_owned(), folder.join(name))).into();
        let variant = manifest.variants[0].id.clone();
        let onnxruntime = allowed.then(|| library().path().to_owned());
        let job = CheckJob::Package {
            manifest: Box::new(manifest),
            variant,
            files,
            timed: true,
            onnxruntime,
        };
        run_check(&exe, &job, limits)
    };
    assert!(check("0,2,0,4", true).unwrap().measured.unwrap().load_us > 0);
    let refused = |answer: &str, allowed: bool| match check(answer, allowed).unwrap_err() {
        CheckError::Refused { why, .. } => why,
        other => panic!("{other}"),
    };
    assert!(refused("0,2,0,5", true).contains("golden"));
    assert!(refused("0,2,0,4", false).contains("engine.onnxruntime"));
    let path = folder.join("model.onnx");
    let onnxruntime = Some(library().path().to_owned());
    let report = run_check(&exe, &CheckJob::Onnx { path, onnxruntime }, limits).unwrap();
    assert_eq!((report.graph.nodes, report.trial), (1, None));
}

fn refusal(manifest: &Manifest, files: PackageFiles) -> RuntimeError {
    match load(manifest, &manifest.variants[0], &files).map(drop).unwrap_err() {
        LoadError::OnnxRuntime(error) => error,
        other => panic!("{other}"),
    }
}

/// A package of one file and one variant.
fn small(folder: &Path, file: &ModelProto, numerics: &str) -> (Manifest, PackageFiles) {
    let bytes = encode(file);
    let path = folder.join("model.onnx");
    std::fs::write(&path, &bytes).unwrap();
    let manifest = manifest("small", &describe(&bytes).unwrap(), &[numerics], &json!([]));
    (manifest, [("model.onnx", path)].into_iter().collect())
}

fn manifest(name: &str, graph: &Described, numerics: &[&str], checks: &Value) -> Manifest {
    let measured =
        json!({"cosine_min": 0.0, "top1_share": 0.0, "abs_max": 0.0, "row_us": 0, "rows8_us": 0, "load_us": 0});
    let variant = |(at, numerics): (usize, &&str)| json!({"id": format!("v{at}"), "class": "cpu", "file": "model.onnx", "numerics": numerics, "batch_rows_max": 1, "checks": checks, "measured": measured});
    let variants: Vec<Value> = numerics.iter().enumerate().map(variant).collect();
    serde_json::from_value(json!({
        "model": name, "version": 1, "description": "", "licence": "Apache-2.0", "source": "test", "opset": graph.opset,
        "engine": engine::ENGINE, "files": [], "golden_file": "golden.jsonl", "parent": null, "provenance": [], "proposals": [],
        "inputs": graph.inputs, "outputs": graph.outputs, "variants": variants,
        "signatures": [{"name": "tensors", "pre": [], "post": [], "inputs": graph.inputs, "outputs": graph.outputs}]
    }))
    .unwrap()
}

fn relu() -> ModelProto {
    model(vec![node("", "Relu", &["x"], "y")], &[-1, 4], &[-1, 4])
}

/// A model of operator set 17 from `x` to `y`; -1 stands for the batch.
fn model(nodes: Vec<NodeProto>, from: &[i64], to: &[i64]) -> ModelProto {
    let graph = GraphProto {
        name: "small".to_owned(),
        node: nodes,
        input: vec![info("x", 1, from)],
        output: vec![info("y", 1, to)],
        ..GraphProto::default()
    };
    let set = |domain: &str, version: i64| OperatorSetIdProto {
        domain: domain.to_owned(),
        version,
    };
    ModelProto {
        ir_version: 8,
        opset_import: vec![set("", 17), set("com.microsoft", 1)],
        graph: Some(graph),
        ..ModelProto::default()
    }
}

fn info(name: &str, elem_type: i32, dims: &[i64]) -> ValueInfoProto {
    let dim = |&size: &i64| {
        let value = if size < 0 {
            dimension::Value::DimParam("N".into())
        } else {
            dimension::Value::DimValue(size)
        };
        Dimension {
            value: Some(value),
            ..Dimension::default()
        }
    };
    let shape = TensorShapeProto {
        dim: dims.iter().map(dim).collect(),
    };
    let tensor = type_proto::Tensor {
        elem_type,
        shape: Some(shape),
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
}

fn node(domain: &str, operator: &str, inputs: &[&str], output: &str) -> NodeProto {
    NodeProto {
        name: format!("the-{operator}"),
        op_type: operator.to_owned(),
        domain: domain.to_owned(),
        input: inputs.iter().map(|&name| name.to_owned()).collect(),
        output: vec![output.to_owned()],
        ..NodeProto::default()
    }
}

fn int64s(name: &str, elements: &[i64]) -> TensorProto {
    let dims = vec![i64::try_from(elements.len()).unwrap()];
    TensorProto {
        name: name.to_owned(),
        dims,
        data_type: 7,
        int64_data: elements.to_vec(),
        ..TensorProto::default()
    }
}

fn floats(name: &str, shape: Vec<usize>, values: &[f32]) -> Tensor {
    let data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    Tensor {
        name: name.to_owned(),
        datatype: proto::manifest::DataType::Fp32,
        shape,
        data,
    }
}
