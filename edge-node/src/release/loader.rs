//! The loader of a real node: golden vectors in a child process, then the engine in this one, and a device behind its stand-in.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use engine::child::{CheckJob, CheckLimits, run_check};
use engine::leisure::Starter;
use engine::onnxruntime::{Library, stand_in};
use engine::{LoadedModel, PackageFiles, RunError};
use proto::limits::FILE_BYTES_MAX;
use proto::manifest::Variant;
use proto::oip::Tensor;

use super::package::{Loader, Package};
use crate::cache::RowsOfRun;
use crate::engine::device::{Backed, Bounds, LostCalls, Parts, Question};
use crate::engine::{Fault, Model};
use crate::metrics::device::DeviceMetrics;

/// How many times what loading took the publisher a device may take before its model serves without it, and how long at least.
const LOADING_FACTOR: u32 = 10;
const LOADING_MIN: Duration = Duration::from_secs(20);

/// Checks with the binary `exe`, whose `main` begins with [`engine::child::main_if_asked`]; loads with the engine.
#[derive(Clone, Debug)]
pub struct EngineLoader {
    exe: PathBuf,
    onnxruntime: Option<Library>,
    device: DeviceMetrics,
    lost: LostCalls,
    /// Loading is at leisure; threads of devices, which answer requests, are not.
    starter: Starter,
}

impl EngineLoader {
    /// `exe` is this very binary: the child then computes with the same instructions.
    #[must_use]
    pub fn new(exe: PathBuf) -> Self {
        Self {
            exe,
            onnxruntime: None,
            device: DeviceMetrics::default(),
            lost: LostCalls::default(),
            starter: Starter::default(),
        }
    }
    /// Counts in `device` what devices do.
    #[must_use]
    pub fn counting(self, device: DeviceMetrics) -> Self {
        Self { device, ..self }
    }
    /// Allows variants that run in ONNX Runtime, or none of them.
    #[must_use]
    pub fn allowing(self, onnxruntime: Option<Library>) -> Self {
        Self { onnxruntime, ..self }
    }
}

impl Loader for EngineLoader {
    fn build(&self) -> String {
        let own = format!("{} {}", env!("CARGO_PKG_VERSION"), engine::ENGINE);
        match &self.onnxruntime {
            Some(library) => format!("{own} onnxruntime-{}", library.version()),
            None => own,
        }
    }

    fn check(&self, package: &Package) -> Result<(), String> {
        let weights = package.manifest.file(&package.variant.file).map_or(0, |f| f.bytes);
        let job = CheckJob::Package {
            manifest: Box::new((*package.manifest).clone()),
            variant: package.variant.id.clone(),
            files: package.files.clone(),
            timed: false,
            onnxruntime: self.onnxruntime.as_ref().map(|library| library.path().to_owned()),
        };
        let report = run_check(&self.exe, &job, CheckLimits::for_file(weights));
        report.map(|_| ()).map_err(|e| runtime::telemetry::chain(&e))
    }

    fn load(&self, package: &Package) -> Result<Arc<dyn Model>, String> {
        let Package { manifest, variant, .. } = package;
        match stand_in(manifest, variant).map_err(|e| runtime::telemetry::chain(&e))? {
            None => loaded(package, variant, self.onnxruntime.as_ref()),
            Some(stand_in) => self.backed(package, stand_in),
        }
    }
}

impl EngineLoader {
    /// The processor's form first: it is there when the device is not, now or later. That the device can run the model, and right, was
    /// proven in the child when the release was activated; one that cannot now is out of use, and tried again.
    fn backed(&self, package: &Package, by: &Variant) -> Result<Arc<dyn Model>, String> {
        let variant = &package.variant;
        let stand_in = loaded(package, by, self.onnxruntime.as_ref())?;
        let question = question(package, &*stand_in)?;
        let (on_device, library) = (package.clone(), self.onnxruntime.clone());
        let parts = Parts {
            name: package.manifest.release().to_string(),
            load: Box::new(move || loaded(&on_device, &on_device.variant, library.as_ref())),
            stand_in,
            question,
            row_us: [variant.measured.row_us, by.measured.row_us],
            bounds: Bounds::default(),
            metrics: self.device.clone(),
            lost: self.lost.clone(),
            starter: self.starter.clone(),
        };
        let patience = Duration::from_micros(u64::from(variant.measured.load_us)) * LOADING_FACTOR;
        let backed = Backed::start(parts, patience.max(LOADING_MIN));
        Ok(Arc::new(backed.map_err(|e| format!("no thread for the device: {e}"))?))
    }
}

/// What a device is tried with.
fn question(package: &Package, stand_in: &dyn Model) -> Result<Question, String> {
    let name = &package.manifest.golden_file;
    let path = package
        .files
        .get(name)
        .ok_or_else(|| format!("the package has no `{name}`"))?;
    let bytes = std::fs::metadata(path).map_or(0, |meta| meta.len());
    if bytes > FILE_BYTES_MAX {
        return Err(format!("`{name}` has {bytes} bytes, allowed is {FILE_BYTES_MAX}"));
    }
    let golden = std::fs::read(path).map_err(|e| format!("read `{name}`: {e}"))?;
    let vectors = models::golden::read(&golden).map_err(|e| e.to_string())?;
    Question::of(vectors, package.variant.checks.clone(), stand_in)
}

/// Loads one form of a package in this process, and warms it.
fn loaded(package: &Package, variant: &Variant, library: Option<&Library>) -> Result<Arc<dyn Model>, String> {
    let files = package.files.iter().map(|(name, path)| (name.clone(), path.clone()));
    let files: PackageFiles = files.collect();
    let files = files.packed_in(package.packed.clone()).allowing(library.cloned());
    let loaded = engine::load(&package.manifest, variant, &files);
    let model = loaded.map_err(|e| runtime::telemetry::chain(&e))?;
    model.warm();
    Ok(Arc::new(model))
}

impl Model for LoadedModel {
    fn run(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>, Fault> {
        Self::run(self, inputs).map_err(|e| fault(&e))
    }

    fn run_keeping(&self, inputs: &[Tensor], rows: &RowsOfRun) -> Result<Vec<Tensor>, Fault> {
        Self::run_keeping(self, inputs, rows).map_err(|e| fault(&e))
    }

    fn tokens(&self, inputs: &[Tensor]) -> usize {
        Self::tokens(self, inputs)
    }
}

fn fault(error: &RunError) -> Fault {
    if error.is_clients() {
        Fault::Input(error.to_string())
    } else {
        Fault::Internal(error.to_string())
    }
}
