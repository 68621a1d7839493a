//! The loader of a real node: golden vectors in a child process, then the engine in this one.

use std::path::PathBuf;
use std::sync::Arc;

use engine::child::{CheckJob, CheckLimits, run_check};
use engine::{LoadedModel, PackageFiles};
use proto::oip::Tensor;

use super::package::{Loader, Package};
use crate::engine::{Fault, Model};

/// Checks with the binary `exe`, whose `main` begins with [`engine::child::main_if_asked`]; loads with the engine.
#[derive(Clone, Debug)]
pub struct EngineLoader {
    exe: PathBuf,
}

impl EngineLoader {
    /// `exe` is this very binary: the child then computes with the same instructions.
    #[must_use]
    pub fn new(exe: PathBuf) -> Self {
        Self { exe }
    }
}

impl Loader for EngineLoader {
    fn build(&self) -> String {
        format!("{} {}", env!("CARGO_PKG_VERSION"), engine::ENGINE)
    }

    fn check(&self, package: &Package) -> Result<(), String> {
        let weights = package.manifest.file(&package.variant.file).map_or(0, |f| f.bytes);
        let job = CheckJob::Package {
            manifest: Box::new((*package.manifest).clone()),
            variant: package.variant.id.clone(),
            files: package.files.clone(),
            timed: false,
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
        let files = files.packed_in(package.packed.clone());
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
}
