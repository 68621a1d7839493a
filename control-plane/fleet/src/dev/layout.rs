//! Where the dev fleet's parts stand: real places, loopback addresses, folders.
//!
//! ```text
//!   127.0.9.1    geo-router          clients stand in   127.1.0.0/16  Frankfurt
//!   127.0.10.1   control plane                          127.2.0.0/16  Dublin
//!   127.0.11.1   eu-fra/n1                              127.3.0.0/16  Ashburn
//!   127.0.11.2   eu-fra/n2
//!   127.0.12.1   eu-dub/n1           `eea` holds eu-fra and eu-dub; us-iad lies outside
//!   127.0.13.1   us-iad/n1
//! ```

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use proto::ids::NodeId;

/// A node of the dev fleet.
#[derive(Clone, Copy, Debug)]
pub struct DevNode {
    /// `region/name`.
    pub id: &'static str,
    /// Its loopback address.
    pub ip: Ipv4Addr,
}

/// A region of the dev fleet.
#[derive(Clone, Copy, Debug)]
pub struct DevRegion {
    /// Name.
    pub id: &'static str,
    /// Place of the built-in table.
    pub place: &'static str,
    /// What people call it.
    pub city: &'static str,
    /// A client that stands there.
    pub client: Ipv4Addr,
}

/// All regions.
pub const REGIONS: [DevRegion; 3] = [
    DevRegion {
        id: "eu-fra",
        place: "fra",
        city: "Frankfurt",
        client: Ipv4Addr::new(127, 1, 0, 7),
    },
    DevRegion {
        id: "eu-dub",
        place: "dub",
        city: "Dublin",
        client: Ipv4Addr::new(127, 2, 0, 7),
    },
    DevRegion {
        id: "us-iad",
        place: "iad",
        city: "Ashburn",
        client: Ipv4Addr::new(127, 3, 0, 7),
    },
];
/// All nodes.
pub const NODES: [DevNode; 4] = [
    DevNode {
        id: "eu-fra/n1",
        ip: Ipv4Addr::new(127, 0, 11, 1),
    },
    DevNode {
        id: "eu-fra/n2",
        ip: Ipv4Addr::new(127, 0, 11, 2),
    },
    DevNode {
        id: "eu-dub/n1",
        ip: Ipv4Addr::new(127, 0, 12, 1),
    },
    DevNode {
        id: "us-iad/n1",
        ip: Ipv4Addr::new(127, 0, 13, 1),
    },
];
/// Regions inside the boundary `eea`.
pub const INSIDE: [&str; 2] = ["eu-fra", "eu-dub"];
/// Where the router stands.
pub const ROUTER_IP: Ipv4Addr = Ipv4Addr::new(127, 0, 9, 1);
/// Where the control plane stands.
pub const CONTROL_IP: Ipv4Addr = Ipv4Addr::new(127, 0, 10, 1);
/// The port that all HTTPS fronts share where it is free.
const HTTPS_PORT: u16 = 8443;

impl DevNode {
    /// Its full name.
    ///
    /// # Panics
    /// Never: the names above are right.
    #[must_use]
    pub fn node_id(&self) -> NodeId {
        self.id.parse().expect("dev node names are right")
    }
}

/// The prefix table of the dev fleet's clients, as `clients.toml`.
#[must_use]
pub fn clients_toml() -> String {
    let line = |r: &DevRegion| {
        let [a, b, ..] = r.client.octets();
        format!("[[prefix]]\ncidr = \"{a}.{b}.0.0/16\"\nplace = \"{}\"\n\n", r.place)
    };
    REGIONS.iter().map(line).collect()
}

/// Folders under the dev fleet's own.
#[derive(Clone, Debug)]
pub struct Folders {
    root: PathBuf,
}

impl Folders {
    /// Under `root`, made absolute.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new(root: &Path) -> Result<Self> {
        std::fs::create_dir_all(root.join("log")).with_context(|| format!("make {}", root.display()))?;
        Ok(Self {
            root: root.canonicalize()?,
        })
    }
    /// The operator's home.
    #[must_use]
    pub fn home(&self) -> PathBuf {
        self.root.join("home")
    }
    /// The control plane's own.
    #[must_use]
    pub fn control_plane(&self) -> PathBuf {
        self.home().join("control-plane")
    }
    /// A node's own.
    #[must_use]
    pub fn node(&self, id: &str) -> PathBuf {
        self.root.join("nodes").join(id.replace('/', "-"))
    }
    /// The router's own.
    #[must_use]
    pub fn router(&self) -> PathBuf {
        self.root.join("router")
    }
    /// What a part wrote to standard error.
    #[must_use]
    pub fn log(&self, part: &str) -> PathBuf {
        self.root.join("log").join(format!("{}.log", part.replace('/', "-")))
    }
    /// Process ids and addresses, for `fleet dev down`.
    #[must_use]
    pub fn run_file(&self) -> PathBuf {
        self.root.join("run.json")
    }
    /// API keys of the dev tenants. The dev fleet listens on loopback only.
    #[must_use]
    pub fn keys_file(&self) -> PathBuf {
        self.root.join("keys.json")
    }
}

/// Addresses that the parts will listen on.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Addresses {
    /// QUIC of the control plane.
    pub control_plane: SocketAddr,
    /// HTTPS of the control plane.
    pub operator_api: SocketAddr,
    /// HTTPS front of the router.
    pub http: SocketAddr,
    /// DNS front of the router.
    pub dns: SocketAddr,
    /// HTTPS port of every node.
    pub node_port: u16,
}

impl Addresses {
    /// Finds free ports: the well-known one for HTTPS where every part can have it, so that DNS answers name it.
    ///
    /// # Errors
    /// No port is free.
    pub fn find() -> Result<Self> {
        let fronts: Vec<Ipv4Addr> = NODES.iter().map(|n| n.ip).chain([ROUTER_IP]).collect();
        let common = |port: &u16| fronts.iter().all(|ip| TcpListener::bind((*ip, *port)).is_ok());
        let https = (HTTPS_PORT..HTTPS_PORT + 200)
            .find(common)
            .context("no port from 8443 is free on 127.0.9-13.x")?;
        let at = |ip: Ipv4Addr, port| SocketAddr::new(IpAddr::V4(ip), port);
        let udp = |ip: Ipv4Addr| -> Result<SocketAddr> { Ok(UdpSocket::bind((ip, 0))?.local_addr()?) };
        Ok(Self {
            control_plane: udp(CONTROL_IP)?,
            operator_api: TcpListener::bind((CONTROL_IP, 0))?.local_addr()?,
            http: at(ROUTER_IP, https),
            dns: udp(ROUTER_IP)?,
            node_port: https,
        })
    }
    /// Where a node listens.
    #[must_use]
    pub fn node(&self, node: &DevNode) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(node.ip), self.node_port)
    }
}
