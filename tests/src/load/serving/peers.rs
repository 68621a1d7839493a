//! The peers: what `tests/load/peers/` holds, installed from registries, started as its README says.
//!
//! A peer that is not installed and cannot be is left out, and it is said why. Python's packages lie in environments below
//! `~/.cache/meridian/peers`, furnace's build beside them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use fleet::zoo::fetch;

use super::asked::Requests;
use super::process::{Process, free_address};

/// Worker processes of a Python peer: one a core of the two.
const WORKERS: &str = "2";

/// A program that serves models.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// furnace-server, a Rust crate.
    Furnace,
    /// FastAPI with uvicorn.
    Fastapi,
    /// mosec.
    Mosec,
    /// Triton by PyTriton.
    Triton,
}

/// What is served.
#[derive(Clone, Debug)]
pub struct Served {
    /// Name in the path.
    pub model: &'static str,
    /// The ONNX file.
    pub file: PathBuf,
    /// An embedder's tokenizer.
    pub tokenizer: Option<PathBuf>,
    /// Most requests that a peer with a batcher joins, and how long they wait for each other, milliseconds.
    pub batch: (&'static str, &'static str),
}

/// A running peer.
pub struct Peer {
    /// As figures call it.
    pub name: &'static str,
    /// Its processes.
    pub process: Process,
}

/// The programs that are here.
#[derive(Debug)]
pub struct Installed {
    kept: PathBuf,
    python: Option<PathBuf>,
    triton: Option<PathBuf>,
    furnace: Option<PathBuf>,
}

impl Installed {
    /// Looks what is here; with `install`, gets and builds what is not.
    ///
    /// # Errors
    /// There is no folder to keep them in.
    pub fn find(install: bool) -> Result<Self> {
        let kept = fetch::cache_folder()?.join("peers");
        std::fs::create_dir_all(&kept)?;
        let told = |what: &str, found: Result<PathBuf>| {
            let found = found.inspect_err(|why| eprintln!("·· without {what}: {why:#}"));
            found.ok()
        };
        let python = told("FastAPI and mosec", environment("requirements.txt", &kept, install));
        let triton = told("nvidia-pytriton", environment("pytriton.txt", &kept, install));
        let furnace = match &python {
            Some(_) => furnace(&kept, install),
            None => Err(anyhow::anyhow!(
                "the library of ONNX Runtime comes with the Python peers"
            )),
        };
        Ok(Self {
            furnace: told("furnace-server", furnace),
            kept,
            python,
            triton,
        })
    }

    /// The file that ONNX Runtime's dynamic quantization makes of `model`, made once; `None` without Python.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn int8(&self, model: &Path) -> Result<Option<PathBuf>> {
        let Some(python) = &self.python else { return Ok(None) };
        let name = model
            .parent()
            .and_then(Path::file_name)
            .context("a model lies in a folder of its name")?;
        let made = self.kept.join(format!("{}-int8.onnx", name.to_string_lossy()));
        if !made.is_file() {
            let mut command = Command::new(python);
            command.arg(script("peer.py")).arg("--int8").arg(model).arg(&made);
            ensure!(
                command.status()?.success(),
                "ONNX Runtime could not quantize {}",
                model.display()
            );
        }
        Ok(Some(made))
    }

    /// Starts one and waits for its first answer; `None`, and why on standard error, where it is not to be had.
    pub async fn start(&self, kind: Kind, name: &'static str, served: &Served, request: &Requests) -> Option<Peer> {
        let (mut first, log) = (Vec::new(), self.kept.join(format!("{name}.log")));
        request(0, &mut first);
        let started = async {
            let address = free_address()?;
            let Some(command) = self.command(kind, served, address.port())? else {
                return Ok(None);
            };
            Process::start(command, address, &first, &log).await.map(Some)
        };
        let started: Result<Option<Process>> = started.await;
        let process = started.inspect_err(|why| eprintln!("·· without {name}: {why:#}"));
        Some(Peer {
            name,
            process: process.ok()??,
        })
    }

    fn command(&self, kind: Kind, served: &Served, port: u16) -> Result<Option<Command>> {
        let port = port.to_string();
        let program = match kind {
            Kind::Furnace => &self.furnace,
            Kind::Triton => &self.triton,
            Kind::Fastapi | Kind::Mosec => &self.python,
        };
        let Some(program) = program else { return Ok(None) };
        let mut command = Command::new(program);
        match kind {
            Kind::Furnace => {
                let python = self.python.as_deref().context("a Python with ONNX Runtime")?;
                command.arg(served.model).arg(&served.file).arg(port);
                command.env("ORT_DYLIB_PATH", library(python)?);
            }
            Kind::Fastapi => {
                command.arg(script("fastapi_peer.py")).args([&port, WORKERS]);
            }
            Kind::Mosec => {
                command.arg(script("mosec_peer.py"));
                command.args(["--address", "127.0.0.1", "--port", &port]);
            }
            Kind::Triton => {
                command.arg(script("pytriton_peer.py")).arg(port);
            }
        }
        let (rows, wait_ms) = served.batch;
        command.env("PEER_NAME", served.model).env("PEER_MODEL", &served.file);
        command.env("PEER_ROWS", rows).env("PEER_WAIT_MS", wait_ms);
        command.env("PEER_WORKERS", WORKERS);
        if let Some(tokenizer) = &served.tokenizer {
            command.env("PEER_TOKENIZER", tokenizer);
        }
        command.current_dir(script("")).env("PYTHONDONTWRITEBYTECODE", "1");
        command.env("PYTRITON_HOME", self.kept.join("pytriton"));
        Ok(Some(command))
    }
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("load/peers").join(name)
}

/// The Python that has what the file `requires` names.
fn environment(requires: &str, kept: &Path, install: bool) -> Result<PathBuf> {
    let requires = std::fs::read_to_string(script(requires))?;
    let requires: Vec<String> = requires.lines().map(str::to_owned).collect();
    if !install && !fetch::has_environment(&requires, kept) {
        bail!("not installed yet: `cargo load serving --install` gets it");
    }
    Ok(fetch::environment(&requires, kept)?.join("bin/python"))
}

/// furnace's program: built from its own workspace, once.
fn furnace(kept: &Path, install: bool) -> Result<PathBuf> {
    let target = kept.join("furnace-target");
    let program = target.join("release/furnace-peer");
    if program.is_file() && !install {
        return Ok(program);
    }
    ensure!(install, "not built yet: `cargo load serving --install` builds it");
    eprintln!("·· building furnace-server");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--release", "--locked", "--quiet", "--manifest-path"]);
    command
        .arg(script("furnace/Cargo.toml"))
        .arg("--target-dir")
        .arg(&target);
    let status = command.stdin(Stdio::null()).status().context("run cargo")?;
    ensure!(status.success(), "its build failed: see the compiler's words above");
    Ok(program)
}

/// The library that `python`'s package `onnxruntime` holds.
fn library(python: &Path) -> Result<PathBuf> {
    let folder = python
        .parent()
        .and_then(Path::parent)
        .context("an environment")?
        .join("lib");
    let python = std::fs::read_dir(&folder)?
        .flatten()
        .find(|entry| entry.file_name() != "pkgconfig");
    let packages = python
        .context("no Python in its environment")?
        .path()
        .join("site-packages");
    let mut files = std::fs::read_dir(packages.join("onnxruntime/capi"))?.flatten();
    let library = files.find(|file| file.file_name().to_string_lossy().starts_with("libonnxruntime.so"));
    Ok(library.context("the package onnxruntime holds no library")?.path())
}
