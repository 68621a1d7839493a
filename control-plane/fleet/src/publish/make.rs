//! Making a package: judge the model in a child process, quantise it, time both forms in turn, describe it all.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use engine::PackageFiles;
use engine::child::{CheckJob, CheckLimits, CheckReport, run_check};
use engine::quantize::keep::Kept;
use models::chunk::describe;
use models::golden::{self as vectors, Vector};
use proto::ids::{NodeClass, VariantId};
use proto::limits::ONNX_BYTES_MAX;
use proto::manifest::{Check, FileEntry, Manifest, Measured, Signature, Variant};
use proto::signed::Document as _;
use tempfile::TempDir;

use super::elsewhere::{Elsewhere, Form, described, forms};
use super::judge::{self, Judged};
use super::propose::{batch_rows_max, propose};
use super::source::{Golden, Source};
use super::{UNPUBLISHED, golden, in_engine, int8, rows};
use crate::zoo::recipe::GOLDEN_FILE;

/// The class of nodes that run the engine's own variants.
pub(super) const CLASS: &str = "cpu";
pub(super) const F32: &str = "cpu-f32";

/// A package that is ready to be signed.
#[derive(Clone, Debug)]
pub struct Made {
    /// Its description; the version is set when it is published.
    pub manifest: Manifest,
    /// Where each file of the package lies.
    pub files: Vec<(FileEntry, PathBuf)>,
    /// What was tried, offered or not; the model as it came first.
    pub trials: Vec<Trial>,
    /// Golden vectors.
    pub vectors: usize,
    /// Where those come from.
    pub golden_from: String,
    /// Holds the files that were made here until all copies are gone.
    _work: Arc<TempDir>,
}

/// One form of the weights, and what became of it.
#[derive(Clone, Debug)]
pub struct Trial {
    /// Its name.
    pub id: VariantId,
    /// Length of its file; 0 where none was made.
    pub bytes: u64,
    /// Figures, where it ran.
    pub measured: Option<Measured>,
    /// Why it is not offered.
    pub refused: Option<String>,
    /// What spoke against it, where the publisher accepted that.
    pub accepted: Option<String>,
    /// What its weights were rounded by, beside themselves.
    pub calibrated: Option<String>,
    /// What it showed on inputs that it was not made with.
    pub judged: Option<Judged>,
    /// Weights that stayed f32 to keep it within its checks.
    pub kept: Option<Kept>,
}

/// Makes the package of `source`. Blocks for seconds to minutes. `exe` becomes the child that tries the model first.
///
/// # Errors
/// The model is refused, with the node or constant that is to blame; it strays from its golden vectors; a file cannot be
/// read.
pub fn make(exe: &Path, source: Source) -> Result<Made> {
    let work = Arc::new(TempDir::new().context("a folder for the package")?);
    let (model_name, model_path) = source.model.clone();
    let bytes = fs::metadata(&model_path)
        .with_context(|| format!("look at {}", model_path.display()))?
        .len();
    anyhow::ensure!(
        bytes <= ONNX_BYTES_MAX,
        "{} has {bytes} bytes, allowed is {ONNX_BYTES_MAX}",
        model_path.display()
    );
    let limits = CheckLimits::for_file(bytes);
    let (report, lacking) = described(exe, limits, &absolute(&model_path)?, &source.elsewhere)?;

    let mut package = Package::new(&source, report)?;
    let f32_file = package.add(&model_name, &model_path)?;
    for (name, path) in &source.files {
        package.add(name, path)?;
    }
    let forms = forms(&source, lacking.is_none())?;
    let (first, others) = forms.split_first().context("nothing is left to run the model")?;
    let (golden_vectors, golden_from) = package.golden(&source.golden, first, work.path())?;
    if let Some(why) = lacking {
        package.trials.push(refused(F32.parse()?, f32_file.bytes, None, why));
    }
    let measured = package
        .prove(exe, limits, first, &golden_vectors)
        .context("the model is refused against its golden vectors")?;
    if first.runtime.is_none() {
        let proven = in_engine::Proven {
            variant: first.variant.clone(),
            measured,
            bytes: f32_file.bytes,
        };
        in_engine::offer(&mut package, &source, proven, work.path(), &golden_vectors)?;
    } else {
        package.offer(first.variant.clone(), measured, f32_file.bytes);
    }
    for form in others {
        match package.prove(exe, limits, form, &golden_vectors) {
            Ok(measured) => package.offer(form.variant.clone(), measured, f32_file.bytes),
            Err(error) => {
                let (id, why) = (form.variant.id.clone(), format!("{error:#}"));
                package.trials.push(refused(id, f32_file.bytes, None, why));
            }
        }
    }
    package.provenance(&golden_from, &f32_file, &source.elsewhere);
    package.finish(golden_vectors.len(), golden_from, work)
}

/// A form that is shown and not offered.
pub(super) fn refused(id: VariantId, bytes: u64, measured: Option<Measured>, why: String) -> Trial {
    Trial {
        id,
        bytes,
        measured,
        refused: Some(why),
        accepted: None,
        calibrated: None,
        judged: None,
        kept: None,
    }
}

fn absolute(path: &Path) -> Result<PathBuf> {
    fs::canonicalize(path).with_context(|| format!("find {}", path.display()))
}

/// Numerics of the engine's own.
pub(super) fn own(arithmetic: &str) -> String {
    format!("{}/{arithmetic}", engine::ENGINE)
}

/// A variant that nobody has measured.
///
/// # Errors
/// `id` or `class` is no name.
pub(super) fn variant(id: &str, class: &str, file: &str, numerics: String, checks: Vec<Check>) -> Result<Variant> {
    Ok(Variant {
        id: id.parse()?,
        class: class.parse()?,
        file: file.to_owned(),
        numerics,
        checks,
        measured: Measured {
            cosine_min: 0.0,
            top1_share: 0.0,
            abs_max: 0.0,
            row_us: 0,
            rows8_us: 0,
            load_us: 0,
        },
        batch_rows_max: 1,
    })
}

/// A package on its way.
pub(super) struct Package {
    pub(super) manifest: Manifest,
    files: Vec<(FileEntry, PathBuf)>,
    pub(super) trials: Vec<Trial>,
    offered: Vec<(Variant, u64)>,
    /// Whether rows are answered each by itself.
    joinable: bool,
}

impl Package {
    fn new(source: &Source, report: CheckReport) -> Result<Self> {
        let plain = Signature {
            name: "tensors".to_owned(),
            inputs: report.inputs.clone(),
            outputs: report.outputs.clone(),
            pre: Vec::new(),
            post: Vec::new(),
        };
        let manifest = Manifest {
            model: source.name.clone(),
            version: UNPUBLISHED,
            description: source.description.clone(),
            licence: source.licence.clone(),
            source: source.source.clone(),
            opset: report.opset,
            engine: engine::ENGINE.to_owned(),
            files: Vec::new(),
            inputs: report.inputs,
            outputs: report.outputs,
            signatures: std::iter::once(plain).chain(source.signatures.clone()).collect(),
            variants: Vec::new(),
            proposals: Vec::new(),
            golden_file: GOLDEN_FILE.to_owned(),
            parent: None,
            provenance: Vec::new(),
        };
        Ok(Self {
            manifest,
            files: Vec::new(),
            trials: Vec::new(),
            offered: Vec::new(),
            joinable: false,
        })
    }

    pub(super) fn add(&mut self, name: &str, path: &Path) -> Result<FileEntry> {
        let bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
        let entry = describe(name, &bytes);
        self.files.push((entry.clone(), absolute(path)?));
        self.manifest.files.push(entry.clone());
        Ok(entry)
    }

    fn paths(&self) -> Vec<(String, PathBuf)> {
        self.files
            .iter()
            .map(|(entry, path)| (entry.path.clone(), path.clone()))
            .collect()
    }

    pub(super) fn package_files(&self) -> PackageFiles {
        self.paths().into_iter().collect()
    }

    /// Reads or makes the golden vectors and adds their file.
    fn golden(&mut self, from: &Golden, by: &Form, work: &Path) -> Result<(Vec<Vector>, String)> {
        let (path, said) = match from {
            Golden::File(path, said) => (path.clone(), said.clone()),
            Golden::OfItself => {
                let files = self.package_files().allowing(by.runtime.clone());
                let made = golden::of_itself(&self.manifest, &by.variant, &files)?;
                let path = work.join(GOLDEN_FILE);
                fs::write(&path, vectors::write(&made)?).context("write the golden vectors")?;
                (
                    path,
                    "made by the f32 variant itself from seeded inputs: nobody else vouches for it".to_owned(),
                )
            }
        };
        let bytes = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        let read = vectors::read(&bytes).with_context(|| path.display().to_string())?;
        self.add(GOLDEN_FILE, &path)?;
        Ok((read, said))
    }

    /// Tries a form against the golden vectors in a child process, which also times it where it does not run in the engine.
    fn prove(&mut self, exe: &Path, limits: CheckLimits, form: &Form, golden: &[Vector]) -> Result<Measured> {
        let mut manifest = Box::new(self.manifest.clone());
        // Beside what was offered so far: a form for a device is held against that for the processor.
        manifest.variants.push(form.variant.clone());
        let job = CheckJob::Package {
            manifest,
            variant: form.variant.id.clone(),
            files: self.paths().into_iter().collect(),
            timed: form.runtime.is_some(),
            onnxruntime: form.runtime.as_ref().map(|library| library.path().to_owned()),
        };
        let report = run_check(exe, &job, limits)?;
        let measured = report.measured.context("a check of a package gives figures")?;
        let files = self.package_files().allowing(form.runtime.clone());
        let model = engine::load(&self.manifest, &form.variant, &files)?;
        self.joinable = rows::independent(&model, golden);
        Ok(measured)
    }

    pub(super) fn offer(&mut self, mut variant: Variant, measured: Measured, bytes: u64) {
        variant.measured = measured;
        variant.batch_rows_max = if self.joinable { batch_rows_max(&measured) } else { 1 };
        self.trials.push(Trial {
            id: variant.id.clone(),
            bytes,
            measured: Some(measured),
            refused: None,
            accepted: None,
            calibrated: None,
            judged: None,
            kept: None,
        });
        self.manifest.variants.push(variant.clone());
        self.offered.push((variant, bytes));
    }

    fn provenance(&mut self, golden_from: &str, f32: &FileEntry, elsewhere: &[Elsewhere]) {
        let fact = |key: &str, value: String| (key.to_owned(), value);
        self.manifest.provenance = vec![
            fact("publisher", format!("fleet {}", env!("CARGO_PKG_VERSION"))),
            fact("engine", engine::ENGINE.to_owned()),
            fact("model-sha256", proto::ids::hex(&f32.sha256)),
            fact("golden", golden_from.to_owned()),
            fact(
                "int8",
                "weights per channel, symmetric, 8 bits; linear layers in integers, activations 8 bits a row; the rest in f32"
                    .to_owned(),
            ),
        ];
        for trial in self.trials.iter().filter(|trial| trial.refused.is_none()) {
            let kept = trial.kept.as_ref().map(int8::count);
            let judged = trial.judged.as_ref();
            let facts = [
                ("int8-mixed", kept),
                ("int8-calibrated-by", trial.calibrated.clone()),
                ("int8-judged", judged.map(|judged| judge::said(&judged.figures))),
                ("int8-judged-by", judged.map(|judged| judged.by.clone())),
                ("int8-accepted", trial.accepted.clone()),
            ];
            let facts = facts.into_iter().filter_map(|(key, value)| Some(fact(key, value?)));
            self.manifest.provenance.extend(facts);
        }
        let other = elsewhere.first().map(|other| other.library.version().to_owned());
        self.manifest
            .provenance
            .extend(other.map(|version| fact("onnxruntime", version)));
    }

    fn finish(mut self, vectors: usize, golden_from: String, work: Arc<TempDir>) -> Result<Made> {
        let classes: BTreeSet<&NodeClass> = self.offered.iter().map(|(variant, _)| &variant.class).collect();
        let proposals = classes.into_iter().filter_map(|class| propose(class, &self.offered));
        self.manifest.proposals = proposals.collect();
        self.manifest
            .check()
            .context("the package breaks a rule of manifests")?;
        let Self {
            manifest,
            files,
            trials,
            ..
        } = self;
        Ok(Made {
            manifest,
            files,
            trials,
            vectors,
            golden_from,
            _work: work,
        })
    }
}
