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
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use proto::ids::VariantId;
use proto::limits::{CHECK_JOB_BYTES_MAX, FILE_BYTES_MAX};
use proto::manifest::{Manifest, Measured, TensorSpec};
use rustix::process::Resource;
use serde::{Deserialize, Serialize};

use crate::onnxruntime::on_device;
use crate::preflight::GraphReport;

mod inside;
pub use inside::main_if_asked;

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
    /// Most memory that the child held, bytes.
    pub peak_bytes: u64,
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
        /// Most memory that the child held, bytes.
        peak_bytes: u64,
    },
    /// It was still at it when its time was up.
    #[error("the model was not ready after {} s and was ended; simplify it", limit.as_secs())]
    TooLong {
        /// The limit.
        limit: Duration,
        /// Most memory that the child held until then, bytes.
        peak_bytes: u64,
    },
    /// It ended without a verdict.
    #[error(
        "the model ended its process ({how}) within {memory_bytes} bytes of memory; it would do the same to a node"
    )]
    Died {
        /// Out of memory, an overflowed stack, another signal, or an exit code.
        how: String,
        /// The limit it ran under.
        memory_bytes: u64,
    },
}

#[derive(Serialize, Deserialize)]
enum Verdict {
    Passed(Box<CheckReport>),
    Refused { why: String, peak_bytes: u64 },
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
        // mimalloc reserves a gigabyte of addresses at once, all of which the limit counts: here a little at a time.
        .env("MIMALLOC_ARENA_RESERVE", "65536") // KiB
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let said = child.stderr.take();
    let said = said.map(|stderr| std::thread::spawn(move || last_words(stderr)));
    let answer = talk(&mut child, job, limits.time);
    let Some(answer) = answer else {
        let peak_bytes = peak_bytes(&child.id().to_string());
        child.kill()?;
        child.wait()?;
        return Err(CheckError::TooLong {
            limit: limits.time,
            peak_bytes,
        });
    };
    let status = child.wait()?;
    let said = said.and_then(|thread| thread.join().ok()).unwrap_or_default();
    match serde_json::from_slice(&answer) {
        Ok(Verdict::Passed(report)) => Ok(*report),
        Ok(Verdict::Refused { why, peak_bytes }) => Err(CheckError::Refused { why, peak_bytes }),
        Err(_) => Err(CheckError::Died {
            how: how(status, &said),
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

/// The end of what a child says on standard error, read to its end so that the child never waits. It is looked at and never passed on: it
/// may quote the model.
fn last_words(mut stderr: ChildStderr) -> Vec<u8> {
    const BYTES_MAX: usize = 4096;
    let (mut last, mut piece) = (Vec::new(), [0; BYTES_MAX]);
    while let Ok(count @ 1..) = stderr.read(&mut piece) {
        last.extend_from_slice(&piece[..count]);
        last.drain(..last.len().saturating_sub(BYTES_MAX));
    }
    last
}

/// Most memory that a process has held, bytes; 0 where the system does not tell. `process` is its number, or `self`.
fn peak_bytes(process: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes = peak.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kibibytes.unwrap_or(0) << 10
}

/// What a process said of its own end: Rust of memory that it did not get and of its stack, C++ of memory.
fn cause(said: &[u8]) -> Option<&'static str> {
    let said = String::from_utf8_lossy(said);
    let told = |line: &str| match line {
        _ if line.starts_with("memory allocation of ") && line.ends_with(" bytes failed") => Some("out of memory"),
        _ if line.contains("'std::bad_alloc'") => Some("out of memory"),
        _ if line.ends_with(" has overflowed its stack") => Some("its stack overflowed"),
        _ => None,
    };
    said.lines().find_map(told)
}

fn how(status: ExitStatus, said: &[u8]) -> String {
    /// What an allocation that fails, a stack that overflows or an assertion in C raises.
    const ABORT: i32 = 6;
    /// What C raises where it leaves its stack or its memory.
    const SEGV: i32 = 11;
    /// What too much CPU time raises.
    const XCPU: i32 = 24;
    match status.signal() {
        Some(ABORT) => cause(said).unwrap_or("abort, by a bug in the engine").to_owned(),
        Some(SEGV) => "segmentation fault".to_owned(),
        Some(XCPU) => "its CPU time was used up".to_owned(),
        Some(signal) => format!("signal {signal}"),
        None => format!("exit code {}", status.code().unwrap_or(-1)),
    }
}

#[cfg(test)]
mod tests;
