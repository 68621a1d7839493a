//! The daemons of a dev fleet as real processes: built, started, waited for, stopped.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// Longest wait for a daemon's ready line.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest wait for a daemon that was asked to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// Where the daemons' programs lie.
#[derive(Clone, Debug)]
pub struct Programs {
    folder: PathBuf,
}

impl Programs {
    /// From a source tree: builds them with the profile of this program. Installed: those beside this program.
    ///
    /// # Errors
    /// The build failed, or a program is missing.
    pub async fn find() -> Result<Self> {
        let own = std::env::current_exe()?;
        let folder = own.parent().context("a program lies in a folder")?;
        // Tests lie one folder below the programs.
        let folder = if folder.ends_with("deps") {
            folder.parent().unwrap_or(folder)
        } else {
            folder
        }
        .to_owned();
        if let Some(tree) = source_tree(&folder) {
            build(&tree, &folder).await?;
        }
        let programs = Self { folder };
        for name in ["control-plane", "edge-node", "geo-router"] {
            if !programs.path(name).is_file() {
                bail!(
                    "{} is missing beside fleet: install it there, or run from a source tree",
                    programs.path(name).display()
                );
            }
        }
        Ok(programs)
    }
    /// The path of one.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

/// The source tree that `folder` is the build output of, such as `TREE/target/debug`.
fn source_tree(folder: &Path) -> Option<PathBuf> {
    let built_from = Path::new(env!("CARGO_MANIFEST_DIR")).parent()?.parent()?;
    let is_output = folder.parent()?.join("CACHEDIR.TAG").is_file();
    (is_output && built_from.join("edge-node/Cargo.toml").is_file()).then(|| built_from.to_owned())
}

async fn build(tree: &Path, folder: &Path) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(tree).args(["build", "--bins"]);
    // With `fleet` among them, so that both builds share one set of features and nothing is compiled twice.
    command.args([
        "-p",
        "fleet",
        "-p",
        "control-plane",
        "-p",
        "edge-node",
        "-p",
        "geo-router",
    ]);
    // `cargo run` tells its program about its package; build scripts that watch those variables would build all again.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    if folder.ends_with("release") {
        command.arg("--release");
    }
    if let Some(target) = folder.parent() {
        command.arg("--target-dir").arg(target);
    }
    let status = command
        .stdin(Stdio::null())
        .status()
        .await
        .context("run cargo to build the daemons")?;
    if !status.success() {
        bail!("building the daemons failed: see the compiler's messages above");
    }
    Ok(())
}

/// A running daemon. Dropped, it is killed.
#[derive(Debug)]
pub struct Daemon {
    /// Such as `control-plane` or `eu-fra/n1`.
    pub part: String,
    /// What it listens on, by its own word.
    pub addresses: BTreeMap<String, String>,
    child: Child,
    log: PathBuf,
}

/// What a daemon prints once it listens.
#[derive(serde::Deserialize)]
struct ReadyLine {
    ready: bool,
    addresses: BTreeMap<String, String>,
}

impl Daemon {
    /// Starts `program --config config` and waits for its ready line.
    ///
    /// # Errors
    /// It ended or was silent; the end of its log is told.
    pub async fn start(part: &str, program: &Path, config: &Path, log: &Path, keep: bool) -> Result<Self> {
        let stderr = File::options().create(true).append(true).open(log)?;
        let mut command = Command::new(program);
        command
            .arg("--config")
            .arg(config)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr);
        // Its own group: a terminal's Ctrl-C reaches `fleet` alone, which then stops the parts in order.
        command.process_group(0).kill_on_drop(!keep);
        let mut child = command
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        let stdout = child.stdout.take().context("standard output is piped")?;
        let mut lines = BufReader::new(stdout).lines();
        let line = tokio::time::timeout(READY_TIMEOUT, lines.next_line()).await;
        let ready = line.ok().and_then(Result::ok).flatten();
        let ready = ready
            .and_then(|line| serde_json::from_str::<ReadyLine>(&line).ok())
            .filter(|r| r.ready);
        let mut daemon = Self {
            part: part.to_owned(),
            addresses: BTreeMap::new(),
            child,
            log: log.to_owned(),
        };
        match ready {
            Some(ready) => daemon.addresses = ready.addresses,
            None => bail!("{part} did not start: {}", daemon.last_words()),
        }
        Ok(daemon)
    }
    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }
    /// Ends it at once, as a power cut would.
    ///
    /// # Errors
    /// It was gone already.
    pub async fn kill(&mut self) -> Result<()> {
        self.child.kill().await.with_context(|| format!("kill {}", self.part))
    }
    /// Asks it to stop, waits, and kills it where it does not.
    ///
    /// # Errors
    /// It had to be killed, or ended with an error.
    pub async fn stop(&mut self) -> Result<()> {
        let Some(pid) = self.child.id() else { return Ok(()) };
        terminate(pid)?;
        match tokio::time::timeout(STOP_TIMEOUT, self.child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(ended) => bail!("{} ended with {ended:?}: {}", self.part, self.last_words()),
            Err(_) => {
                self.child.kill().await?;
                bail!(
                    "{} did not stop within {} s: {}",
                    self.part,
                    STOP_TIMEOUT.as_secs(),
                    self.last_words()
                )
            }
        }
    }
    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
    /// One of its addresses.
    ///
    /// # Errors
    /// It named none such.
    pub fn address(&self, name: &str) -> Result<SocketAddr> {
        let text = self
            .addresses
            .get(name)
            .with_context(|| format!("{} named no address `{name}`", self.part))?;
        Ok(text.parse()?)
    }
    fn last_words(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let mut tail: Vec<&str> = text.lines().rev().take(5).collect();
        tail.reverse();
        format!("end of {}:\n{}", self.log.display(), tail.join("\n"))
    }
}

/// Sends SIGTERM.
///
/// # Errors
/// There is no such process.
pub fn terminate(pid: u32) -> Result<()> {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .context("not a process id")?;
    kill_process(pid, Signal::TERM).context("ask the process to stop")
}

/// The moment a process began, in clock ticks since boot: with its id it names one process for ever.
#[must_use]
pub fn birth(pid: u32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name may hold blanks and brackets: fields are counted after the last bracket.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19).map(str::to_owned)
}
