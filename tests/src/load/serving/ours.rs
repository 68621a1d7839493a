//! Our side: a real node of a small real fleet, asked on its plain loopback listener.
//!
//! The fleet starts whole, as people start it; then all nodes but one end, so that the two cores belong to that one, the
//! client and a control plane and router that have nothing to do.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};
use engine::leisure::beat;
use fleet::dev::layout::{Folders, NODES};
use fleet::dev::world::{RunFile, World};
use rustix::thread::{CpuSet, sched_getaffinity};

use super::asked::Door;
use super::connection::Connection;
use super::process;
use super::target::OK;
use crate::fleet::{command, command_aside, until};

/// The only node of its region.
const NODE: &str = "eu-dub/n1";
const REGION: &str = "eu-dub";
const TENANT: &str = "world";

/// The fleet, and where its node is asked.
pub(super) struct Ours {
    /// The node's plain listener.
    pub(super) address: SocketAddr,
    world: World,
    /// Those that this process was given, and leaves to the fleet.
    cores: Vec<usize>,
    _folder: tempfile::TempDir,
}

/// Processes of the fleet that stand on machines of their own in earnest: while this lives they keep to one core, at leisure.
pub(super) struct Aside {
    core: usize,
    cores: Vec<usize>,
    over: Arc<AtomicBool>,
    processes: Vec<u32>,
}

impl Aside {
    fn new(processes: Vec<u32>, cores: Vec<usize>) -> Result<Self> {
        let (core, over) = (rustix::thread::sched_getcpu(), Arc::new(AtomicBool::new(false)));
        let told = Arc::clone(&over);
        std::thread::Builder::new()
            .name("beat".to_owned())
            .spawn(move || beat(core, || !told.load(Ordering::Relaxed)))?;
        let aside = Self {
            core,
            cores,
            over,
            processes,
        };
        aside.all(&[core], "--idle")?;
        Ok(aside)
    }

    fn all(&self, cores: &[usize], class: &str) -> Result<()> {
        for process in &self.processes {
            keep_to(cores, *process)?;
            util_linux("chrt", &[class, "--all-tasks", "--pid", "0", &process.to_string()])?;
        }
        Ok(())
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Err(why) = self.all(&self.cores, "--other") {
            eprintln!("·· parts of the fleet stay aside: {why:#}");
        }
    }
}

const fn roll_out(release: &str) -> [&str; 6] {
    ["rollout", "start", release, "--waves", REGION, "--watch"]
}

/// Keeps a process, all its threads, to `cores`.
fn keep_to(cores: &[usize], process: u32) -> Result<()> {
    let cores: Vec<String> = cores.iter().map(usize::to_string).collect();
    let (cores, process) = (cores.join(","), process.to_string());
    util_linux("taskset", &["--all-tasks", "--cpu-list", "--pid", &cores, &process])
}

/// The cores that this process may use.
fn own_cores() -> Result<Vec<usize>> {
    let may = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).filter(|core| may.is_set(*core)).collect())
}

fn util_linux(program: &str, args: &[&str]) -> Result<()> {
    let status = std::process::Command::new(program)
        .args(args)
        .stdout(Stdio::null())
        .status();
    let status = status.with_context(|| format!("run {program}, of util-linux"))?;
    ensure!(status.success(), "{program} {args:?} fails");
    Ok(())
}

impl Ours {
    /// Starts it. Nothing is served yet.
    ///
    /// # Errors
    /// A part did not start.
    pub(super) async fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let folders = Folders::new(&folder.path().join("fleet"))?;
        let mut world = World::up(folders, false, |what| eprintln!("·· {what}")).await?;
        for node in &NODES {
            world.stop_node(node.id).await?;
        }
        open_plainly(&world.folders.node(NODE).join("node.toml"))?;
        world.start_node_named(NODE).await?;
        let address = world.node(NODE)?.address("plain")?;
        Ok(Self {
            address,
            world,
            cores: own_cores()?,
            _folder: folder,
        })
    }

    /// How its model is asked.
    ///
    /// # Errors
    /// The fleet has no such tenant.
    pub(super) fn door(&self, model: &str, headers: &str) -> Result<Door> {
        Ok(Door {
            model: model.to_owned(),
            key: self.world.keys.get(TENANT).context("the tenant's key")?.clone(),
            headers: headers.to_owned(),
        })
    }

    /// Publishes, as `fleet publish ARGS`; gives the release.
    ///
    /// # Errors
    /// It was refused.
    pub(super) async fn publish(&self, args: &[&str]) -> Result<String> {
        eprintln!("·· publishing: {}", args.join(" "));
        let printed = command(&self.world, &[&["--json", "publish"], args].concat()).await?;
        let printed: serde_json::Value = serde_json::from_str(&printed)?;
        Ok(printed["release"].as_str().context("a release")?.to_owned())
    }

    /// Rolls a release out to the node's region and waits until it serves.
    ///
    /// # Errors
    /// It was refused.
    pub(super) async fn roll_out(&self, release: &str) -> Result<()> {
        eprintln!("·· rolling {release} out");
        command(&self.world, &roll_out(release)).await.map(drop)
    }

    /// Does so out of the way.
    ///
    /// # Errors
    /// It was refused.
    pub(super) async fn roll_out_aside(&self, release: &str, aside: &Aside) -> Result<()> {
        eprintln!("·· rolling {release} out");
        command_aside(&self.world, aside.core, &roll_out(release))
            .await
            .map(drop)
    }

    /// Lets the node and its client have the cores, until the guard is dropped.
    ///
    /// # Errors
    /// Their processes are not to be found.
    pub(super) fn leave_the_cores(&self) -> Result<Aside> {
        Aside::new(self.others()?, self.cores.clone())
    }

    /// Starts the node again on half of the cores, in the order of their numbers; the other half is for this process, its clients, and for the rest
    /// of the fleet. In earnest they stand on machines of their own. False, and nothing is done, where there is one core.
    ///
    /// # Errors
    /// The node did not start.
    pub(super) async fn apart(&mut self) -> Result<bool> {
        let cores = self.cores.clone();
        let (node, others) = cores.split_at(cores.len() / 2);
        if !node.is_empty() {
            self.on_cores(node, others).await?;
        }
        Ok(!node.is_empty())
    }

    /// Starts the node again on all cores, which it shares with its clients.
    ///
    /// # Errors
    /// It did not start.
    pub(super) async fn together(&mut self) -> Result<()> {
        let cores = self.cores.clone();
        self.on_cores(&cores, &cores).await
    }

    async fn on_cores(&mut self, node: &[usize], others: &[usize]) -> Result<()> {
        // A process begins on the cores of whoever starts it.
        keep_to(node, std::process::id())?;
        self.start_again().await?;
        keep_to(others, std::process::id())?;
        self.others()?.into_iter().try_for_each(|part| keep_to(others, part))
    }

    /// Processes of the fleet but the node's.
    fn others(&self) -> Result<Vec<u32>> {
        self.world.write_run_file()?;
        let run = RunFile::read(&self.world.folders).context("the fleet's processes")?;
        ensure!(
            run.parts.iter().any(|part| part.name == NODE),
            "no part is called {NODE}"
        );
        let others = run.parts.iter().filter(|part| part.name != NODE);
        Ok(others.map(|part| part.pid).collect())
    }

    /// Starts the node again with room in memory for `bytes` of model files.
    ///
    /// # Errors
    /// It did not start, or serves nothing.
    pub(super) async fn bound_memory(&mut self, bytes: u64) -> Result<()> {
        let bytes = toml::Value::from(i64::try_from(bytes)?);
        set(
            &self.world.folders.node(NODE).join("node.toml"),
            "models",
            "memory-bytes",
            bytes,
        )?;
        self.start_again().await
    }

    async fn start_again(&mut self) -> Result<()> {
        self.world.stop_node(NODE).await?;
        self.world.start_node_named(NODE).await?;
        self.address = self.world.node(NODE)?.address("plain")?;
        until("the node to serve again", async || {
            let mut connection = Connection::open(self.address).await?;
            let answer = connection
                .ask(b"GET /v2/health/ready HTTP/1.1\r\nhost: node\r\n\r\n")
                .await?;
            ensure!(answer.status == OK, "it answers {}", answer.status);
            Ok(())
        })
        .await
    }

    /// Memory of the node's process, MiB.
    ///
    /// # Errors
    /// It has ended.
    pub(super) fn rss_mib(&self) -> Result<f64> {
        process::rss_mib(self.world.node(NODE)?.pid().context("the node has ended")?)
    }

    /// The value of one line of the node's `/metrics`, labels and all; 0 where there is none.
    ///
    /// # Errors
    /// No answer.
    pub(super) async fn metric(&self, line: &str) -> Result<f64> {
        let mut connection = Connection::open(self.address).await?;
        let answer = connection.ask(b"GET /metrics HTTP/1.1\r\nhost: node\r\n\r\n").await?;
        ensure!(answer.status == OK, "/metrics answers {}", answer.status);
        let text = String::from_utf8(answer.body())?;
        let value = text.lines().find_map(|l| l.strip_prefix(line)?.strip_prefix(' '));
        Ok(value.map_or(Ok(0.0), str::parse)?)
    }

    /// Stops all of it.
    ///
    /// # Errors
    /// A part did not end cleanly.
    pub(super) async fn down(mut self) -> Result<()> {
        self.world.down().await
    }
}

/// Has the node listen without TLS as well, on a free port of loopback.
fn open_plainly(config: &Path) -> Result<()> {
    set(config, "ingress", "plain", toml::Value::from("127.0.0.1:0"))
}

/// Sets one key of a node's file.
fn set(config: &Path, table: &str, key: &str, value: toml::Value) -> Result<()> {
    let mut file: toml::Table = std::fs::read_to_string(config)?.parse()?;
    let known = file.entry(table).or_insert_with(|| toml::Table::new().into());
    let known = known.as_table_mut();
    let known = known.with_context(|| format!("`{table}` of {} is no table", config.display()))?;
    known.insert(key.to_owned(), value);
    Ok(std::fs::write(config, toml::to_string(&file)?)?)
}
