//! The loader of a real node: golden vectors in a child process, then the engine in this one.

use std::path::PathBuf;
use std::sync::Arc;

use engine::child::{CheckJob, CheckLimits, run_check};
use engine::onnxruntime::Library;
use engine::{LoadedModel, PackageFiles};
use proto::oip::Tensor;

use super::package::{Loader, Package};
use crate::engine::{Fault, Model};

/// Checks with the binary `exe`, whose `main` begins with [`engine::child::main_if_asked`]; loads with the engine.
#[derive(Clone, Debug)]
pub struct EngineLoader {
    exe: PathBuf,
    onnxruntime: Option<Library>,
}

impl EngineLoader {
    /// `exe` is this very binary: the child then computes with the same instructions.
    #[must_use]
    pub fn new(exe: PathBuf) -> Self {
        Self { exe, onnxruntime: None }
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
        let files: PackageFiles = package
            .files
            .iter()
            .map(|(name, path)| (name.clone(), path.clone()))
            .collect();
        let files = files
            .packed_in(package.packed.clone())
            .allowing(self.onnxruntime.clone());
        let loaded = engine::load(&package.manifest, &package.variant, &files);
        let model = loaded.map_err(|e| runtime::telemetry::chain(&e))?;
        model.warm();
        Ok(Arc::new(model))
    }
}

impl Model for LoadedModel {
    fn run(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>, Fault> {
        Self::run(self, inputs).map_err(|e| {
            if e.is_clients() {
                Fault::Input(e.to_string())
            } else {
                Fault::Internal(e.to_string())
            }
        })
    }

    fn tokens(&self, inputs: &[Tensor]) -> usize {
        Self::tokens(self, inputs)
    }
}
