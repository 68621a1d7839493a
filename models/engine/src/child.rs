//! Tries a model in a process of its own, so that whatever it does, the process that asked lives on.
//!
//! ```text
//!   caller                      child: the same binary, re-executed
//!     | -- job (JSON, stdin) ------> | limits its own memory and CPU, dies with its parent
//!     |                              | preflight -> load -> golden vectors
//!     | <----- verdict (JSON) ------ |
//!     | no verdict in time: killed
//! ```
//! An abort, a stack overflow, exhausted memory and an endless loop all become a [`CheckError`]. The child opens no socket
//! and reads only the files that the job names.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use proto::ids::VariantId;
use proto::limits::{CHECK_JOB_BYTES_MAX, FILE_BYTES_MAX, ONNX_BYTES_MAX};
use proto::manifest::{Manifest, Measured, TensorSpec};
use rustix::process::{Resource, Rlimit, Signal, set_parent_process_death_signal, setrlimit};
use serde::{Deserialize, Serialize};
use tract_onnx::pb::ModelProto;

use crate::graph::Graph;
use crate::onnxruntime::{Library, Provider, Wanted, on_device};
use crate::package::read_bounded;
use crate::preflight::{GraphReport, PreflightError, check, check_for_onnxruntime};
use crate::{LoadError, PackageFiles, measure, onnx};

/// First argument of a process that is to be a child.
const ASKED: &str = "--engine-check-child";
/// Last argument of one that uses a graphics processor.
const ON_DEVICE: &str = "on-device";

/// What to try.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CheckJob {
    /// An ONNX file that nobody has looked at: preflight, description, plan, one row of zeros.
    Onnx {
        /// The file.
        path: PathBuf,
        /// The library of ONNX Runtime that is to run it in the engine's place.
        onnxruntime: Option<PathBuf>,
    },
    /// One variant of a package: preflight, load, golden vectors within the variant's checks.
    Package {
        /// What the package holds.
        manifest: Box<Manifest>,
        /// Which variant.
        variant: VariantId,
        /// Paths by package file name; the golden file is among them.
        files: BTreeMap<String, PathBuf>,
        /// Also take the times of [`Measured`]; without, they are 0.
        timed: bool,
        /// The library of ONNX Runtime that variants may run in.
        onnxruntime: Option<PathBuf>,
    },
}

impl CheckJob {
    /// What bounds the child's memory. The driver of a graphics processor reserves addresses by the terabyte and fills few of
    /// them, so there only what can be written counts.
    fn bounded(&self) -> Resource {
        let on_device = match self {
            Self::Onnx { .. } => false,
            Self::Package { manifest, variant, .. } => manifest.variant(variant).is_some_and(on_device),
        };
        if on_device { Resource::Data } else { Resource::As }
    }
}

/// What the child may take. Past it, it is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckLimits {
    /// Address space, bytes; written memory for a variant on a graphics processor.
    pub memory_bytes: u64,
    /// Wall clock.
    pub time: Duration,
}

impl CheckLimits {
    /// Room for an honest model of this file size: its weights several times over, half a second a megabyte.
    #[must_use]
    pub fn for_file(bytes: u64) -> Self {
        let memory_bytes = (768 << 20) + bytes.min(FILE_BYTES_MAX) * 12;
        Self {
            memory_bytes,
            time: Duration::from_secs(30 + (bytes >> 21)),
        }
    }
}

/// What a model that passed was found to be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckReport {
    /// Size and operators.
    pub graph: GraphReport,
    /// Inputs of the graph.
    pub inputs: Vec<TensorSpec>,
    /// Outputs of the graph.
    pub outputs: Vec<TensorSpec>,
    /// Version of the default operator set.
    pub opset: u32,
    /// Why one row of zeros gave no answer, where a bare ONNX file was tried: a hint, since zeros suit not every model.
    pub trial: Option<String>,
    /// Agreement with the golden vectors, and times if asked for; `None` for a bare ONNX file.
    pub measured: Option<Measured>,
}

/// Why a model was not passed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckError {
    /// The child could not be started or talked to: not the model's fault.
    #[error("cannot run the check in a child process: {0}")]
    Start(#[from] std::io::Error),
    /// The child looked at the model and says no.
    #[error("{why}")]
    Refused {
        /// What it found, naming node, constant or vector.
        why: String,
    },
    /// It was still at it when its time was up.
    #[error("the model was not ready after {} s and was ended; simplify it", limit.as_secs())]
    TooLong {
        /// The limit.
        limit: Duration,
    },
    /// It ended without a verdict.
    #[error(
        "the model ended its process ({how}) within {memory_bytes} bytes of memory; it would do the same to a node"
    )]
    Died {
        /// Signal or exit code.
        how: String,
        /// The limit it ran under.
        memory_bytes: u64,
    },
}

#[derive(Serialize, Deserialize)]
enum Verdict {
    Passed(Box<CheckReport>),
    Refused(String),
}

/// Tries a model in a child process and waits for the verdict. Blocks; call it from a thread of your own.
///
/// `exe` is a binary whose `main` calls [`main_if_asked`] first, usually `std::env::current_exe()`.
///
/// # Errors
/// [`CheckError`]; all but [`CheckError::Start`] are the model's fault.
pub fn run_check(exe: &Path, job: &CheckJob, limits: CheckLimits) -> Result<CheckReport, CheckError> {
    let bounded = job.bounded();
    let job = serde_json::to_vec(job).map_err(std::io::Error::other)?;
    let seconds = limits.time.as_secs().saturating_add(1);
    let mut child = Command::new(exe)
        .args([ASKED, &limits.memory_bytes.to_string(), &seconds.to_string()])
        .args((bounded == Resource::Data).then_some(ON_DEVICE))
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let answer = talk(&mut child, job, limits.time);
    if answer.is_none() {
        child.kill()?;
    }
    let status = child.wait()?;
    let Some(answer) = answer else {
        return Err(CheckError::TooLong { limit: limits.time });
    };
    match serde_json::from_slice(&answer) {
        Ok(Verdict::Passed(report)) => Ok(*report),
        Ok(Verdict::Refused(why)) => Err(CheckError::Refused { why }),
        Err(_) => Err(CheckError::Died {
            how: how(status),
            memory_bytes: limits.memory_bytes,
        }),
    }
}

/// Hands over the job and takes what comes back; `None` when time is up.
fn talk(child: &mut Child, job: Vec<u8>, time: Duration) -> Option<Vec<u8>> {
    let (mut stdin, stdout) = (child.stdin.take()?, child.stdout.take()?);
    let (send, receive) = mpsc::sync_channel(1);
    // One thread per check; it ends when the child does, because the pipes close.
    std::thread::spawn(move || {
        // A child that died early leaves a broken pipe; what it answered decides.
        let _ = stdin.write_all(&job);
        drop(stdin);
        let mut answer = Vec::new();
        let _ = stdout.take(CHECK_JOB_BYTES_MAX).read_to_end(&mut answer);
        let _ = send.send(answer);
    });
    receive.recv_timeout(time).ok()
}

fn how(status: ExitStatus) -> String {
    /// What an allocation that fails or an assertion in C raises.
    const ABORT: i32 = 6;
    /// What a stack that overflows raises.
    const SEGV: i32 = 11;
    /// What too much CPU time raises.
    const XCPU: i32 = 24;
    match status.signal() {
        Some(ABORT) => "abort: out of memory, or a bug in the engine".to_owned(),
        Some(SEGV) => "segmentation fault, as when a stack overflows".to_owned(),
        Some(XCPU) => "its CPU time was used up".to_owned(),
        Some(signal) => format!("signal {signal}"),
        None => format!("exit code {}", status.code().unwrap_or(-1)),
    }
}

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
    let verdict = std::thread::spawn(verdict).join();
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
        Ok(report) => Verdict::Passed(Box::new(report)),
        Err(why) => Verdict::Refused(why),
    }
}

/// A file that was judged: its bytes, what they hold, and what is told of it.
struct Judged {
    bytes: Vec<u8>,
    model: ModelProto,
    report: CheckReport,
}

/// Preflight and description of a file.
fn judged(path: &Path, rules: fn(&ModelProto) -> Result<GraphReport, PreflightError>) -> Result<Judged, LoadError> {
    let bytes = read_bounded(path, ONNX_BYTES_MAX)?;
    let model = onnx::decode(&bytes)?;
    let graph = rules(&model)?;
    let onnx::Described { inputs, outputs, opset } = onnx::describe_model(&model)?;
    let report = CheckReport {
        graph,
        inputs,
        outputs,
        opset,
        trial: None,
        measured: None,
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
            let rules = match Wanted::of(variant).map_err(|e| text(&e))? {
                None => check,
                Some(_) => check_for_onnxruntime,
            };
            let path = files.path(&variant.file).map_err(|e| text(&e))?;
            let Judged { report, .. } = judged(path, rules).map_err(|e| text(&e))?;
            let golden = read_bounded(files.path(&manifest.golden_file).map_err(|e| text(&e))?, FILE_BYTES_MAX)
                .map_err(|e| text(&e))?;
            let vectors = models::golden::read(&golden).map_err(|e| text(&e))?;
            let (measured, agreement) = if *timed {
                measure::measure(manifest, variant, &files, &vectors).map_err(|e| text(&e))?
            } else {
                measure::untimed(manifest, variant, &files, &vectors).map_err(|e| text(&e))?
            };
            if agreement.passed() {
                return Ok(CheckReport {
                    measured: Some(measured),
                    ..report
                });
            }
            let failed = agreement
                .verdicts
                .iter()
                .filter(|v| !v.passed)
                .map(|v| format!("{:?} found {}", v.check, v.figure));
            Err(format!(
                "variant `{}` does not reproduce its golden vectors: {}",
                variant.id,
                failed.collect::<Vec<_>>().join("; ")
            ))
        }
    }
}
