//! Our side: a real node of a small real fleet, asked on its plain loopback listener.
//!
//! The fleet starts whole, as people start it; then all nodes but one end, so that the two cores belong to that one, the
//! client and a control plane and router that have nothing to do.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use fleet::dev::layout::{Folders, NODES};
use fleet::dev::world::World;

use super::asked::Door;
use super::connection::Connection;
use super::process;
use super::target::OK;
use crate::fleet::command;

/// The only node of its region.
const NODE: &str = "eu-dub/n1";
const REGION: &str = "eu-dub";
const TENANT: &str = "world";

/// The fleet, and where its node is asked.
pub(super) struct Ours {
    /// The node's plain listener.
    pub(super) address: SocketAddr,
    world: World,
    _folder: tempfile::TempDir,
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
        command(
            &self.world,
            &["rollout", "start", release, "--waves", REGION, "--watch"],
        )
        .await?;
        Ok(())
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
    let mut file: toml::Table = std::fs::read_to_string(config)?.parse()?;
    let ingress = file.get_mut("ingress").and_then(toml::Value::as_table_mut);
    let ingress = ingress.with_context(|| format!("{} has no [ingress]", config.display()))?;
    ingress.insert("plain".to_owned(), toml::Value::from("127.0.0.1:0"));
    Ok(std::fs::write(config, toml::to_string(&file)?)?)
}
