//! A running dev fleet: bring it up, publish to it, break it, take it down.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use proto::entry::Body;
use proto::ids::Release;
use serde::{Deserialize, Serialize};

use super::client::DevClient;
use super::layout::{Addresses, DevNode, Folders, NODES, REGIONS, clients_toml};
use super::process::{self, Daemon, Programs};
use crate::cli::{CaInit, NodeEnroll, Publish, RolloutStart, RouterEnroll};
use crate::client::Session;
use crate::commands::{new_api_key, region_body};
use crate::home::Home;
use crate::{issue, rollout};

/// Tenants of the dev fleet and their boundaries.
pub const TENANTS: [(&str, &str); 2] = [("world", "global"), ("europe", "eea")];
/// Name of every dev fleet.
const FLEET: &str = "dev";
/// Longest wait for a rollout.
const ROLLOUT_TIMEOUT: Duration = Duration::from_secs(120);

/// A dev fleet.
pub struct World {
    /// Where its files lie.
    pub folders: Folders,
    /// Where its parts listen.
    pub addresses: Addresses,
    /// API keys by tenant.
    pub keys: BTreeMap<String, String>,
    /// The programs it runs.
    programs: Programs,
    /// The control plane; `None` while it is dead.
    control: Option<Daemon>,
    /// Nodes that run, by name.
    nodes: BTreeMap<&'static str, Daemon>,
    router: Option<Daemon>,
    keep: bool,
}

impl World {
    /// Builds the daemons, makes a fleet in an empty folder or takes the one that is there, and starts all parts.
    ///
    /// # Errors
    /// A part did not start.
    pub async fn up(folders: Folders, keep: bool, step: impl Fn(&str)) -> Result<Self> {
        step("building the daemons");
        let programs = Programs::find().await?;
        let fresh = !folders.home().exists();
        let addresses = if fresh {
            Addresses::find()?
        } else {
            saved_addresses(&folders)?
        };
        let mut world = Self {
            folders,
            addresses,
            keys: BTreeMap::new(),
            programs,
            control: None,
            nodes: BTreeMap::new(),
            router: None,
            keep,
        };
        if fresh {
            step("making a certificate authority and keys");
            world.init()?;
        }
        step("starting the control plane");
        world.start_control().await?;
        if fresh {
            step("enrolling three regions, four nodes, a router and two tenants");
            world.enrol().await?;
        } else {
            world.keys = serde_json::from_slice(&std::fs::read(world.folders.keys_file())?)?;
        }
        step("starting nodes and router");
        for node in &NODES {
            world.start_node(node).await?;
        }
        world.start_router().await?;
        Ok(world)
    }

    fn init(&self) -> Result<()> {
        let options = CaInit {
            fleet: FLEET.parse()?,
            operator: "alice".parse()?,
            control_plane: self.addresses.control_plane,
            operator_api: self.addresses.operator_api,
        };
        issue::init(&self.folders.home(), &options)?;
        std::fs::write(
            self.folders.home().join("addresses.json"),
            serde_json::to_vec(&self.addresses)?,
        )?;
        Ok(())
    }

    async fn enrol(&mut self) -> Result<()> {
        let session = self.session().await?;
        for region in &REGIONS {
            session
                .command(&region_body(&region.id.parse()?, region.place)?)
                .await?;
        }
        for node in &NODES {
            let options = NodeEnroll {
                node: node.node_id(),
                ingress: self.addresses.node(node),
                out: self.folders.node(node.id),
                class: "cpu".parse()?,
                days: 30,
            };
            let key = issue::node(&session.home, &options)?;
            let (node, class) = (options.node, options.class);
            session
                .command(&Body::NodeEnrol {
                    node,
                    class,
                    ingress: options.ingress,
                    key,
                })
                .await?;
        }
        let options = RouterEnroll {
            name: "r1".parse()?,
            http: self.addresses.http,
            dns: self.addresses.dns,
            zone: "infer.meridian.test".to_owned(),
            out: self.folders.router(),
            days: 30,
        };
        issue::router(&session.home, &options)?;
        std::fs::write(self.folders.router().join("clients.toml"), clients_toml())?;
        for (tenant, boundary) in TENANTS {
            let (key, key_hash) = new_api_key()?;
            let body = Body::TenantAdd {
                tenant: tenant.parse()?,
                boundary: boundary.parse()?,
                key_hash,
            };
            session.command(&body).await?;
            self.keys.insert(tenant.to_owned(), key);
        }
        std::fs::write(self.folders.keys_file(), serde_json::to_vec(&self.keys)?)?;
        Ok(())
    }

    /// A connection to the control plane as the dev operator.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn session(&self) -> Result<Session> {
        Session::connect(Home::open(&self.folders.home())?).await
    }

    /// Starts the control plane.
    ///
    /// # Errors
    /// It did not start.
    pub async fn start_control(&mut self) -> Result<()> {
        let config = self.folders.control_plane().join("control-plane.toml");
        self.control = Some(self.start("control-plane", "control-plane", &config).await?);
        Ok(())
    }
    /// Starts one node.
    ///
    /// # Errors
    /// It did not start.
    pub async fn start_node(&mut self, node: &DevNode) -> Result<()> {
        let config = self.folders.node(node.id).join("node.toml");
        let daemon = self.start(node.id, "edge-node", &config).await?;
        self.nodes.insert(node.id, daemon);
        Ok(())
    }
    async fn start_router(&mut self) -> Result<()> {
        let config = self.folders.router().join("router.toml");
        self.router = Some(self.start("geo-router", "geo-router", &config).await?);
        Ok(())
    }
    /// Asks the router to stop and starts it again, with what its file says now.
    ///
    /// # Errors
    /// It did not stop cleanly, or did not start.
    pub async fn restart_router(&mut self) -> Result<()> {
        self.router.take().context("the router does not run")?.stop().await?;
        self.start_router().await
    }
    async fn start(&self, part: &str, program: &str, config: &std::path::Path) -> Result<Daemon> {
        Daemon::start(
            part,
            &self.programs.path(program),
            config,
            &self.folders.log(part),
            self.keep,
        )
        .await
    }

    /// Kills a node as a power cut would.
    ///
    /// # Errors
    /// It does not run.
    pub async fn kill_node(&mut self, id: &str) -> Result<()> {
        self.nodes
            .remove(id)
            .with_context(|| format!("{id} does not run"))?
            .kill()
            .await
    }
    /// Starts a node that was killed, or another time.
    ///
    /// # Errors
    /// There is no such node, or it did not start.
    pub async fn start_node_named(&mut self, id: &str) -> Result<()> {
        let node = NODES
            .iter()
            .find(|n| n.id == id)
            .with_context(|| format!("`{id}` is no node of the dev fleet"))?;
        self.start_node(node).await
    }
    /// The path of the `fleet` program, and of the daemons beside it.
    #[must_use]
    pub fn program(&self, name: &str) -> std::path::PathBuf {
        self.programs.path(name)
    }
    /// Asks a node to drain and stop.
    ///
    /// # Errors
    /// It does not run, or did not stop cleanly.
    pub async fn stop_node(&mut self, id: &str) -> Result<()> {
        self.nodes
            .remove(id)
            .with_context(|| format!("{id} does not run"))?
            .stop()
            .await
    }
    /// Kills the control plane as a power cut would.
    ///
    /// # Errors
    /// It does not run.
    pub async fn kill_control(&mut self) -> Result<()> {
        self.control
            .take()
            .context("the control plane does not run")?
            .kill()
            .await
    }
    /// The process of a node that runs.
    ///
    /// # Errors
    /// It does not run.
    pub fn node(&self, id: &str) -> Result<&Daemon> {
        self.nodes.get(id).with_context(|| format!("{id} does not run"))
    }
    /// Whether the named node runs.
    #[must_use]
    pub fn has_node(&self, id: &str) -> bool {
        self.nodes.contains_key(id)
    }

    /// An end user who stands at `place` and asks through the router.
    ///
    /// # Errors
    /// The authority's certificate cannot be read, or the tenant is none of the dev fleet's.
    pub fn through_router(&self, place: Ipv4Addr, tenant: &str) -> Result<DevClient> {
        DevClient::new(
            place,
            self.addresses.http,
            "infer.meridian.test",
            &self.authority()?,
            self.key(tenant)?,
        )
    }
    /// An end user who asks one node.
    ///
    /// # Errors
    /// As [`World::through_router`], or there is no such node.
    pub fn at_node(&self, id: &str, tenant: &str) -> Result<DevClient> {
        let node = NODES
            .iter()
            .find(|n| n.id == id)
            .with_context(|| format!("`{id}` is no node of the dev fleet"))?;
        let name = issue::node_tls_name(&node.node_id(), &FLEET.parse()?);
        DevClient::new(
            REGIONS[0].client,
            self.addresses.node(node),
            &name,
            &self.authority()?,
            self.key(tenant)?,
        )
    }
    fn authority(&self) -> Result<String> {
        Ok(std::fs::read_to_string(self.folders.home().join("ca").join("ca.pem"))?)
    }
    fn key(&self, tenant: &str) -> Result<&str> {
        Ok(self
            .keys
            .get(tenant)
            .with_context(|| format!("`{tenant}` is no tenant of the dev fleet"))?)
    }
    /// What every node says that it answers with, `name@version b3:..`; all must agree.
    ///
    /// # Errors
    /// A node does not answer `sample`, or nodes differ.
    pub async fn one_digest(&self, model: &str, sample: &str) -> Result<String> {
        let mut all: Vec<String> = Vec::new();
        for node in &NODES {
            let answer = self
                .at_node(node.id, "world")?
                .infer(model, &Bytes::copy_from_slice(sample.as_bytes()))
                .await?;
            ensure!(answer.status.is_success(), "{} answered {}", node.id, answer.status);
            all.push(answer.header("meridian-model").to_owned());
        }
        ensure!(all.windows(2).all(|w| w[0] == w[1]), "nodes differ: {all:?}");
        Ok(all.swap_remove(0))
    }

    /// Publishes `source` and rolls it out everywhere; an existing fleet that serves the model already is left alone.
    ///
    /// # Errors
    /// Publishing or the rollout failed.
    pub async fn serve_model(&self, source: &str, step: impl Fn(&str)) -> Result<()> {
        let session = self.session().await?;
        let fleet = crate::state::fleet(&session.home).await?;
        if fleet.targets.keys().any(|(_, model)| model.as_str() == source) {
            step(&format!("`{source}` is served already"));
            return Ok(());
        }
        step(&format!("publishing `{source}`"));
        let release = self.publish(source, None).await?;
        step(&format!("rolling {release} out to all regions"));
        self.roll_out(&release, &[]).await
    }
    /// Publishes and gives the new release.
    ///
    /// # Errors
    /// Publishing failed.
    pub async fn publish(&self, source: &str, description: Option<&str>) -> Result<Release> {
        let options = Publish {
            source: source.to_owned(),
            name: None,
            golden: None,
            self_golden: false,
            calibrate: None,
            judge: None,
            // Somebody waits for the fleet, and a build that is made to build fast judges slowly.
            no_judge: true,
            accept_int8: false,
            no_int8: false,
            licence: String::new(),
            description: description.map(str::to_owned),
            onnxruntime: None,
            cuda: false,
            dry_run: false,
        };
        let published = crate::publish::publish(&options, &self.folders.home(), false).await?;
        published.context("publishing gave no release")
    }
    /// Rolls `release` out and waits until it is complete.
    ///
    /// # Errors
    /// It was refused or did not complete.
    pub async fn roll_out(&self, release: &Release, waves: &[&str]) -> Result<()> {
        let session = self.session().await?;
        let options = RolloutStart {
            release: release.clone(),
            waves: waves.iter().map(|w| (*w).to_owned()).collect(),
            bake: 0,
            quorum: None,
            expires: 3_600_000,
            reason: "dev fleet".to_owned(),
            watch: false,
        };
        rollout::start(&session, &options, runtime::clock::now_ms()).await?;
        rollout::watch(&session, Some(&release.model), ROLLOUT_TIMEOUT, |_| {}).await
    }

    /// Stops all parts: router, nodes, control plane.
    ///
    /// # Errors
    /// The first part that did not stop cleanly; the others are stopped all the same.
    pub async fn down(&mut self) -> Result<()> {
        let nodes = std::mem::take(&mut self.nodes).into_values();
        let parts = self.router.take().into_iter().chain(nodes).chain(self.control.take());
        let stops = parts.map(|mut part| async move { part.stop().await });
        let mut first = Ok(());
        for stop in stops {
            first = first.and(stop.await);
        }
        first
    }
    /// Lets the parts run on after this program.
    pub fn leave(self) {
        drop(self);
    }
    /// Writes which processes run, for `fleet dev down`.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_run_file(&self) -> Result<()> {
        let daemons = self.router.iter().chain(self.nodes.values()).chain(&self.control);
        let part = |d: &Daemon| {
            let pid = d.pid()?;
            Some(Part {
                name: d.part.clone(),
                pid,
                birth: process::birth(pid)?,
            })
        };
        let run = RunFile {
            parts: daemons.filter_map(part).collect(),
        };
        std::fs::write(self.folders.run_file(), serde_json::to_vec_pretty(&run)?)?;
        Ok(())
    }
}

fn saved_addresses(folders: &Folders) -> Result<Addresses> {
    let path = folders.home().join("addresses.json");
    let bytes = std::fs::read(&path).with_context(|| {
        format!(
            "{} is no dev fleet: name another folder with --dir",
            folders.home().display()
        )
    })?;
    Ok(serde_json::from_slice(&bytes)?)
}

/// One process of a dev fleet.
#[derive(Debug, Serialize, Deserialize)]
pub struct Part {
    /// Which part.
    pub name: String,
    /// Its process id.
    pub pid: u32,
    /// When it began: a process id alone may by now belong to somebody else.
    birth: String,
}

/// `run.json`: the processes of a dev fleet.
#[derive(Debug, Serialize, Deserialize)]
pub struct RunFile {
    /// In the order they are stopped.
    pub parts: Vec<Part>,
}

impl Part {
    fn is_alive(&self) -> bool {
        process::birth(self.pid).is_some_and(|b| b == self.birth)
    }
}

impl RunFile {
    /// Reads it, if there is one.
    #[must_use]
    pub fn read(folders: &Folders) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(folders.run_file()).ok()?).ok()
    }
    /// Whether any of its processes still runs.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.parts.iter().any(Part::is_alive)
    }
    /// Asks all to stop and waits for them.
    ///
    /// # Errors
    /// A process is still there after 20 s.
    pub async fn stop(&self) -> Result<()> {
        for part in self.parts.iter().filter(|p| p.is_alive()) {
            process::terminate(part.pid)?;
        }
        let deadline = runtime::clock::instant() + Duration::from_secs(20);
        while let Some(part) = self.parts.iter().find(|p| p.is_alive()) {
            if runtime::clock::instant() > deadline {
                bail!("{} (process {}) does not stop", part.name, part.pid);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }
}
