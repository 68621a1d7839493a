//! What runs a model beside the engine: ONNX Runtime, on processors and on graphics processors.
//!
//! Such variants hold the f32 file as it came, are proven and measured on this machine like all others, and are offered to
//! classes of nodes of their own, because a plan fixes one variant for each class.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use engine::child::{CheckError, CheckJob, CheckLimits, CheckReport, run_check};
use engine::onnxruntime::{Library, Provider};
use proto::manifest::{Check, Variant};

use super::make;
use super::source::Source;
use crate::cli;

/// A runtime that the publisher asked for.
#[derive(Clone, Debug)]
pub struct Elsewhere {
    /// Its library here.
    pub library: Library,
    /// What of it computes.
    pub provider: Provider,
}

/// What `options` ask for.
///
/// # Errors
/// The library cannot be used, or this program is built without ONNX Runtime.
pub fn of(options: &cli::Publish) -> Result<Vec<Elsewhere>> {
    let Some(path) = &options.onnxruntime else {
        return Ok(Vec::new());
    };
    let library = Library::at(path)?;
    let providers = [Some(Provider::Cpu), options.cuda.then_some(Provider::Cuda)];
    let with = |provider| Elsewhere {
        library: library.clone(),
        provider,
    };
    Ok(providers.into_iter().flatten().map(with).collect())
}

impl Elsewhere {
    /// The class of nodes that run its variants.
    const fn class(&self) -> &'static str {
        match self.provider {
            Provider::Cpu => "cpu-onnxruntime",
            Provider::Cuda => "cuda",
        }
    }

    /// The f32 form of the model in `file`.
    fn variant(&self, file: &str, checks: Vec<Check>) -> Result<Variant> {
        let class = self.class();
        let numerics = self.library.numerics(self.provider, "f32");
        make::variant(&format!("{class}-f32"), class, file, numerics, checks)
    }
}

/// What the file is; where the engine refuses it and something else may run it, also why.
pub(super) fn described(
    exe: &Path,
    limits: CheckLimits,
    path: &Path,
    elsewhere: &[Elsewhere],
) -> Result<(CheckReport, Option<String>)> {
    let run = |onnxruntime: Option<PathBuf>| {
        let path = path.to_owned();
        run_check(exe, &CheckJob::Onnx { path, onnxruntime }, limits)
    };
    let (report, lacking) = match (run(None), elsewhere.first()) {
        (Err(CheckError::Refused { why, .. }), Some(other)) => (run(Some(other.library.path().to_owned())), Some(why)),
        (report, _) => (report, None),
    };
    Ok((
        report.with_context(|| format!("{} is refused", path.display()))?,
        lacking,
    ))
}

/// The f32 model in one of the things that can run it.
pub(super) struct Form {
    pub(super) variant: Variant,
    /// `None`: the engine.
    pub(super) runtime: Option<Library>,
}

/// The engine's first, if it has the operators.
pub(super) fn forms(source: &Source, in_engine: bool) -> Result<Vec<Form>> {
    let (file, checks) = (&source.model.0, &source.f32_checks);
    let mut forms = Vec::new();
    if in_engine {
        forms.push(Form {
            variant: make::variant(make::F32, make::CLASS, file, make::own("f32"), checks.clone())?,
            runtime: None,
        });
    }
    for other in &source.elsewhere {
        forms.push(Form {
            variant: other.variant(file, checks.clone())?,
            runtime: Some(other.library.clone()),
        });
    }
    Ok(forms)
}
