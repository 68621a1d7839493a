//! Models and tensors for this crate's tests.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use proto::ids::ContentHash;
use proto::manifest::{DataType, Dim, FileEntry, Manifest, Measured, Signature, TensorSpec, Variant};
use proto::oip::Tensor;
use proto::signed::Document;

use crate::engine::{Fault, Model};
use crate::serving::ModelSlot;

/// A tensor of numbers.
pub(crate) fn fp32(name: &str, shape: &[usize], values: &[f32]) -> Tensor {
    let data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    Tensor {
        name: name.to_owned(),
        datatype: DataType::Fp32,
        shape: shape.to_vec(),
        data,
    }
}

/// A manifest of `name` with one FP32 input `x` and one output `y`, both `[batch, 2]`.
pub(crate) fn manifest(name: &str, version: u32) -> Manifest {
    let spec = |name: &str| TensorSpec {
        name: name.to_owned(),
        datatype: DataType::Fp32,
        shape: vec![Dim::Named("batch".to_owned()), Dim::Fixed(2)],
    };
    let file = |path: &str, content: &[u8]| FileEntry {
        path: path.to_owned(),
        bytes: 0,
        blake3: ContentHash::of(content),
        sha256: [0; 32],
        chunks: Vec::new(),
    };
    let signature = Signature {
        name: "tensors".to_owned(),
        inputs: vec![spec("x")],
        outputs: vec![spec("y")],
        pre: Vec::new(),
        post: Vec::new(),
    };
    Manifest {
        model: name.parse().unwrap(),
        version: version.to_string().parse().unwrap(),
        description: "doubles".to_owned(),
        licence: "Apache-2.0".to_owned(),
        source: "a test".to_owned(),
        opset: 17,
        engine: "fake".to_owned(),
        files: vec![
            file("model.onnx", format!("{name}@{version}").as_bytes()),
            file("golden.jsonl", b""),
        ],
        inputs: vec![spec("x")],
        outputs: vec![spec("y")],
        signatures: vec![signature],
        variants: vec![variant()],
        proposals: Vec::new(),
        golden_file: "golden.jsonl".to_owned(),
        parent: None,
        provenance: Vec::new(),
    }
}

fn variant() -> Variant {
    Variant {
        id: "cpu-f32".parse().unwrap(),
        class: "cpu".parse().unwrap(),
        file: "model.onnx".to_owned(),
        numerics: "fake/f32".to_owned(),
        checks: Vec::new(),
        measured: Measured {
            cosine_min: 1.0,
            top1_share: 1.0,
            abs_max: 0.0,
            row_us: 10,
            rows8_us: 20,
            load_us: 1,
        },
        batch_rows_max: 8,
    }
}

/// A slot whose model doubles at once.
pub(crate) fn slot(name: &str, version: u32) -> Arc<ModelSlot> {
    slot_with(name, version, Arc::new(Doubler::default()))
}

/// A slot that runs `model`.
pub(crate) fn slot_with(name: &str, version: u32, model: Arc<dyn Model>) -> Arc<ModelSlot> {
    let manifest = manifest(name, version);
    Arc::new(ModelSlot::new(manifest.id(), Arc::new(manifest), variant(), model).unwrap())
}

/// A slot of a variant for a device, `model`, whose release has a form for the processor too.
pub(crate) fn slot_on_device(name: &str, model: Arc<dyn Model>) -> Arc<ModelSlot> {
    let form = |id: &str, provider: &str| Variant {
        id: id.parse().unwrap(),
        numerics: format!("onnxruntime-1.32.0+{provider}/f32"),
        ..variant()
    };
    let forms = vec![form("cuda-f32", "cuda"), form("cpu-onnxruntime-f32", "cpu")];
    let (signed, manifest) = (forms[0].clone(), manifest(name, 1));
    let manifest = Manifest {
        variants: forms,
        ..manifest
    };
    Arc::new(ModelSlot::new(manifest.id(), Arc::new(manifest), signed, model).unwrap())
}

/// Doubles every number of `x` into `y`, counts, and can be held. A row with a negative number fails the whole run, a
/// NaN makes it panic.
#[derive(Debug, Default)]
pub(crate) struct Doubler {
    /// Runs that began.
    pub(crate) runs: AtomicUsize,
    /// Most rows in one run.
    pub(crate) rows_most: AtomicUsize,
    /// Each run takes this long.
    pub(crate) busy_us: AtomicU32,
    held: Mutex<bool>,
    released: Condvar,
}

impl Doubler {
    /// Runs stop before they answer, until [`Doubler::release`].
    pub(crate) fn hold(&self) {
        *self.held.lock().unwrap() = true;
    }
    /// Lets all runs go on.
    pub(crate) fn release(&self) {
        *self.held.lock().unwrap() = false;
        self.released.notify_all();
    }
    /// How many runs began.
    pub(crate) fn count(&self) -> usize {
        self.runs.load(Ordering::SeqCst)
    }
}

impl Model for Doubler {
    fn run(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>, Fault> {
        self.runs.fetch_add(1, Ordering::SeqCst);
        let x = &inputs[0];
        self.rows_most.fetch_max(x.shape[0], Ordering::SeqCst);
        drop(
            self.released
                .wait_while(self.held.lock().unwrap(), |held| *held)
                .unwrap(),
        );
        let busy = self.busy_us.load(Ordering::SeqCst);
        if busy > 0 {
            std::thread::sleep(std::time::Duration::from_micros(u64::from(busy)));
        }
        let values: Vec<f32> = x
            .data
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect();
        assert!(!values.iter().any(|v| v.is_nan()), "a model that cannot bear NaN");
        if values.iter().any(|v| *v < 0.0) {
            return Err(Fault::Input("negative numbers are not doubled".to_owned()));
        }
        Ok(vec![fp32(
            "y",
            &x.shape,
            &values.iter().map(|v| v * 2.0).collect::<Vec<_>>(),
        )])
    }
}
