//! The child's own half: limits first, then the job, then the verdict.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use proto::limits::{CHECK_JOB_BYTES_MAX, FILE_BYTES_MAX, ONNX_BYTES_MAX};
use rustix::process::{Resource, Rlimit, Signal, set_parent_process_death_signal, setrlimit};
use tract_onnx::pb::ModelProto;

use super::{ASKED, CheckJob, CheckReport, ON_DEVICE, Verdict, peak_bytes};
use crate::graph::Graph;
use crate::model::load_judged;
use crate::onnxruntime::{Library, Provider, Wanted, stand_in};
use crate::package::{map_bounded, read_bounded};
use crate::preflight::{GraphReport, PreflightError, check, check_for_onnxruntime};
use crate::{LoadError, PackageFiles, leisure, load, measure, onnx};

/// After patience, of a child that nobody waits for.
const NICE: i32 = 10;

/// Becomes the child and exits, if this process was started as one; otherwise returns at once. The first line of `main`.
pub fn main_if_asked() {
    let mut args = std::env::args().skip(1);
    if args.next().as_deref() != Some(ASKED) {
        return;
    }
    let mut number = || args.next().and_then(|text| text.parse::<u64>().ok());
    let (Some(memory_bytes), Some(seconds)) = (number(), number()) else {
        std::process::exit(64)
    };
    let on_device = args.next().as_deref() == Some(ON_DEVICE);
    let memory = if on_device { Resource::Data } else { Resource::As };
    // Under no limits nothing may be tried.
    if limit(memory, memory_bytes, seconds).is_err() {
        std::process::exit(71);
    }
    // A thread with the stack that a daemon's own threads have, so that what passes here passes there.
    let verdict = std::thread::spawn(|| leisure::if_inherited(NICE, leisure::PATIENCE_AHEAD, verdict)).join();
    let Ok(verdict) = verdict else { std::process::exit(70) };
    let mut stdout = std::io::stdout().lock();
    let sent = serde_json::to_writer(&mut stdout, &verdict)
        .map_err(std::io::Error::from)
        .and_then(|()| stdout.flush());
    std::process::exit(if sent.is_ok() { 0 } else { 74 });
}

fn limit(memory: Resource, memory_bytes: u64, seconds: u64) -> rustix::io::Result<()> {
    let at_most = |value: u64| Rlimit {
        current: Some(value),
        maximum: Some(value),
    };
    setrlimit(memory, at_most(memory_bytes))?;
    // The parent's clock ends the child first; this is for a parent that died. Two cores count double.
    setrlimit(Resource::Cpu, at_most(seconds.saturating_mul(2)))?;
    setrlimit(Resource::Core, at_most(0))?;
    set_parent_process_death_signal(Some(Signal::KILL))
}

fn verdict() -> Verdict {
    let mut bytes = Vec::new();
    let job = std::io::stdin()
        .lock()
        .take(CHECK_JOB_BYTES_MAX)
        .read_to_end(&mut bytes)
        .map_err(|e| e.to_string());
    let job = job.and_then(|_| serde_json::from_slice(&bytes).map_err(|e| e.to_string()));
    match job.and_then(|job| attempt(&job)) {
        Ok(report) => Verdict::Passed(Box::new(CheckReport {
            peak_bytes: peak_bytes("self"),
            ..report
        })),
        Err(why) => Verdict::Refused {
            why,
            peak_bytes: peak_bytes("self"),
        },
    }
}

/// A file that was judged: its bytes, what they hold, and what is told of it.
struct Judged {
    bytes: Bytes,
    model: ModelProto,
    report: CheckReport,
}

/// Preflight and description of a file.
fn judged(path: &Path, rules: fn(&ModelProto) -> Result<GraphReport, PreflightError>) -> Result<Judged, LoadError> {
    let bytes = map_bounded(path, ONNX_BYTES_MAX)?;
    let model = onnx::decode_shared(bytes.clone())?;
    let graph = rules(&model)?;
    let onnx::Described { inputs, outputs, opset } = onnx::describe_model(&model)?;
    let report = CheckReport {
        graph,
        inputs,
        outputs,
        opset,
        trial: None,
        measured: None,
        peak_bytes: 0,
    };
    Ok(Judged { bytes, model, report })
}

/// A file alone, in the engine or in the ONNX Runtime that is named.
fn file(path: &Path, onnxruntime: Option<&Library>) -> Result<CheckReport, LoadError> {
    let (graph, report) = match onnxruntime {
        None => {
            let Judged { model, report, .. } = judged(path, check)?;
            (Graph::new(model)?, report)
        }
        Some(library) => {
            let Judged { bytes, model, report } = judged(path, check_for_onnxruntime)?;
            (Graph::in_onnxruntime(&model, &bytes, Provider::Cpu, library)?, report)
        }
    };
    Ok(CheckReport {
        trial: graph.try_zeros().err().map(|e| e.to_string()),
        ..report
    })
}

fn attempt(job: &CheckJob) -> Result<CheckReport, String> {
    let text = |e: &dyn std::fmt::Display| e.to_string();
    let library = |path: &Option<PathBuf>| path.as_deref().map(Library::at).transpose().map_err(|e| e.to_string());
    match job {
        CheckJob::Onnx { path, onnxruntime } => file(path, library(onnxruntime)?.as_ref()).map_err(|e| text(&e)),
        CheckJob::Package {
            manifest,
            variant,
            files,
            timed,
            onnxruntime,
        } => {
            let files: PackageFiles = files.iter().map(|(name, path)| (name.clone(), path.clone())).collect();
            let files = files.allowing(library(onnxruntime)?);
            let variant = manifest
                .variant(variant)
                .ok_or_else(|| format!("the manifest has no variant `{variant}`"))?;
            let stand_in = stand_in(manifest, variant).map_err(|e| text(&e))?;
            let own = Wanted::of(variant).map_err(|e| text(&e))?.is_none();
            let rules = if own { check } else { check_for_onnxruntime };
            let path = files.path(&variant.file).map_err(|e| text(&e))?;
            let Judged { model, report, .. } = judged(path, rules).map_err(|e| text(&e))?;
            let golden = read_bounded(files.path(&manifest.golden_file).map_err(|e| text(&e))?, FILE_BYTES_MAX)
                .map_err(|e| text(&e))?;
            let vectors = models::golden::read(&golden).map_err(|e| text(&e))?;
            let (measured, agreement) = if *timed {
                // Loading is one of the times: it begins with the file.
                drop(model);
                measure::measure(manifest, variant, &files, &vectors).map_err(|e| text(&e))?
            } else {
                let loaded = if own {
                    load_judged(manifest, model, &files)
                } else {
                    drop(model);
                    load(manifest, variant, &files)
                };
                measure::untimed(&loaded.map_err(|e| text(&e))?, variant, &vectors).map_err(|e| text(&e))?
            };
            if !agreement.passed() {
                let failed = measure::failed(&agreement);
                let id = &variant.id;
                return Err(format!(
                    "variant `{id}` does not reproduce its golden vectors: {failed}"
                ));
            }
            if let Some(stand_in) = stand_in {
                measure::beside(manifest, variant, stand_in, &files, &vectors).map_err(|e| text(&e))?;
            }
            Ok(CheckReport {
                measured: Some(measured),
                ..report
            })
        }
    }
}
