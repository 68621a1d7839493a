//! Making a package: judge the model in a child process, quantise it, measure both forms, describe it all.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use engine::child::{CheckJob, CheckLimits, CheckReport, run_check};
use engine::{PackageFiles, measure};
use models::chunk::describe;
use models::golden::{self as vectors, Agreement, Vector};
use proto::ids::{NodeClass, VariantId};
use proto::limits::ONNX_BYTES_MAX;
use proto::manifest::{Check, FileEntry, Manifest, Measured, Signature, Variant};
use proto::signed::Document as _;
use tempfile::TempDir;

use super::propose::{batch_rows_max, propose};
use super::source::{Golden, Source, int8_checks_for};
use super::{UNPUBLISHED, golden, rows};
use crate::zoo::recipe::GOLDEN_FILE;

/// The only class of nodes there is yet.
const CLASS: &str = "cpu";
const F32: &str = "cpu-f32";
const INT8: &str = "cpu-int8";
const INT8_FILE: &str = "model-int8.onnx";

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
    let job = CheckJob::Onnx {
        path: absolute(&model_path)?,
    };
    let report = run_check(exe, &job, limits).with_context(|| format!("{} is refused", model_path.display()))?;

    let mut package = Package::new(&source, report)?;
    let f32_file = package.add(&model_name, &model_path)?;
    for (name, path) in &source.files {
        package.add(name, path)?;
    }
    let f32 = variant(F32, &model_name, "f32", source.f32_checks.clone())?;
    package.manifest.variants.push(f32.clone());
    let (golden_vectors, golden_from) = package.golden(&source.golden, &f32, work.path())?;

    let job = CheckJob::Package {
        manifest: Box::new(package.manifest.clone()),
        variant: f32.id.clone(),
        files: package.paths().into_iter().collect(),
        timed: true,
    };
    let report = run_check(exe, &job, limits).context("the model is refused against its golden vectors")?;
    let measured = report.measured.context("a check of a package gives figures")?;
    let model = engine::load(&package.manifest, &f32, &package.package_files())?;
    package.joinable = rows::independent(&model, &golden_vectors);
    drop(model);
    package.manifest.variants.clear();
    package.offer(f32, measured, f32_file.bytes);

    let checks = source
        .int8_checks
        .map_or_else(|| int8_checks_for(&golden_vectors), Ok)?;
    package.int8(
        &model_path,
        work.path(),
        variant(INT8, INT8_FILE, "s8-weights-u8-rows", checks)?,
        &golden_vectors,
    )?;
    package.provenance(&golden_from, &f32_file);
    package.finish(golden_vectors.len(), golden_from, work)
}

fn absolute(path: &Path) -> Result<PathBuf> {
    fs::canonicalize(path).with_context(|| format!("find {}", path.display()))
}

fn variant(id: &str, file: &str, arithmetic: &str, checks: Vec<Check>) -> Result<Variant> {
    Ok(Variant {
        id: id.parse()?,
        class: CLASS.parse()?,
        file: file.to_owned(),
        numerics: format!("{}/{arithmetic}", engine::ENGINE),
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
struct Package {
    manifest: Manifest,
    files: Vec<(FileEntry, PathBuf)>,
    trials: Vec<Trial>,
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

    fn add(&mut self, name: &str, path: &Path) -> Result<FileEntry> {
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

    fn package_files(&self) -> PackageFiles {
        self.paths().into_iter().collect()
    }

    /// Reads or makes the golden vectors and adds their file.
    fn golden(&mut self, from: &Golden, f32: &Variant, work: &Path) -> Result<(Vec<Vector>, String)> {
        let (path, said) = match from {
            Golden::File(path, said) => (path.clone(), said.clone()),
            Golden::OfItself => {
                let made = golden::of_itself(&self.manifest, f32, &self.package_files())?;
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

    fn offer(&mut self, mut variant: Variant, measured: Measured, bytes: u64) {
        variant.measured = measured;
        variant.batch_rows_max = if self.joinable { batch_rows_max(&measured) } else { 1 };
        self.trials.push(Trial {
            id: variant.id.clone(),
            bytes,
            measured: Some(measured),
            refused: None,
        });
        self.manifest.variants.push(variant.clone());
        self.offered.push((variant, bytes));
    }

    /// Makes and measures the int8 form; it joins the package only within its checks.
    fn int8(&mut self, model: &Path, work: &Path, variant: Variant, golden: &[Vector]) -> Result<()> {
        let onnx = fs::read(model).with_context(|| format!("read {}", model.display()))?;
        let refuse = |bytes, measured, why| Trial {
            id: variant.id.clone(),
            bytes,
            measured,
            refused: Some(why),
        };
        let small = match engine::quantize::weights_int8(&onnx) {
            Ok(small) => small,
            Err(error) => {
                self.trials.push(refuse(0, None, error.to_string()));
                return Ok(());
            }
        };
        let path = work.join(INT8_FILE);
        fs::write(&path, &small).context("write the int8 variant")?;
        let mut files = self.package_files();
        files.insert(INT8_FILE, &path);
        let bytes = u64::try_from(small.len())?;
        match measure::measure(&self.manifest, &variant, &files, golden) {
            Err(error) => self.trials.push(refuse(bytes, None, error.to_string())),
            Ok((measured, agreement)) if !agreement.passed() => {
                self.trials
                    .push(refuse(bytes, Some(measured), failed_checks(&agreement)));
            }
            Ok((measured, _)) => {
                self.add(INT8_FILE, &path)?;
                self.offer(variant, measured, bytes);
            }
        }
        Ok(())
    }

    fn provenance(&mut self, golden_from: &str, f32: &FileEntry) {
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
    }

    fn finish(mut self, vectors: usize, golden_from: String, work: Arc<TempDir>) -> Result<Made> {
        let class: NodeClass = CLASS.parse()?;
        self.manifest.proposals.extend(propose(&class, &self.offered));
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

/// The checks that failed, in a sentence.
fn failed_checks(agreement: &Agreement) -> String {
    let say = |v: &vectors::Verdict| match v.check {
        Check::Close { abs, rel } => {
            format!(
                "only {:.2} % of the numbers are within {abs} + {rel} of theirs",
                v.figure * 100.0
            )
        }
        Check::Cosine { min } => format!("lowest cosine {:.5}, bound {min}", v.figure),
        Check::SameTop1 { share_min } => {
            format!(
                "top-1 agrees in {:.1} % of {} rows, bound {:.1} %",
                v.figure * 100.0,
                v.judged,
                share_min * 100.0
            )
        }
    };
    agreement
        .verdicts
        .iter()
        .filter(|v| !v.passed)
        .map(say)
        .collect::<Vec<_>>()
        .join("; ")
}
