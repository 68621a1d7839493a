//! What can be typed after `fleet`, and the help that explains it.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use proto::ids::{BoundaryId, ModelName, ModelVersion, NodeClass, NodeId, PrincipalName, RegionId, Release, TenantId};

/// Publish models, roll them out region by region, and prove afterwards what answered where.
#[derive(Debug, Parser)]
#[command(name = "fleet", version, max_term_width = 110, arg_required_else_help = true)]
#[command(
    after_help = "Start here:\n  fleet dev up                     a whole fleet on this machine, with requests to paste\n  \
    fleet publish magika             make, measure, sign and upload a release\n  \
    fleet rollout start magika@1     change all regions to it\n  fleet status                     what runs where"
)]
pub struct Cli {
    /// Folder with this operator's identity and `fleet.toml`
    #[arg(long, global = true, env = "FLEET_HOME", value_name = "DIR")]
    pub home: Option<PathBuf>,
    /// Print JSON instead of tables
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// First word.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// A whole fleet on this machine: control plane, router, three regions of nodes
    #[command(subcommand)]
    Dev(Dev),
    /// Real models from package registries
    #[command(subcommand)]
    Zoo(Zoo),
    /// Check, quantise, measure, sign and upload a model
    Publish(Publish),
    /// Change regions from one release to another
    #[command(subcommand)]
    Rollout(Rollout),
    /// Go back to an earlier release, everywhere at once; moves no bytes where nodes still hold it
    Rollback(Rollback),
    /// What runs where
    Status,
    /// What two regions run differently
    Diff {
        /// One region
        left: RegionId,
        /// The other
        right: RegionId,
    },
    /// The fleet's certificate authority
    #[command(subcommand)]
    Ca(Ca),
    /// Regions
    #[command(subcommand)]
    Region(Region),
    /// Edge nodes
    #[command(subcommand)]
    Node(Node),
    /// Geo-routers
    #[command(subcommand)]
    Router(Router),
    /// Auditors
    #[command(subcommand)]
    Auditor(Auditor),
    /// Customers and their API keys
    #[command(subcommand)]
    Tenant(Tenant),
    /// The release log
    #[command(subcommand)]
    Log(Log),
    /// Proofs about the past, made offline from the log
    #[command(subcommand)]
    Audit(Audit),
    /// What holds a node up: queue, CPU, memory, network, disk or model
    Diagnose(crate::observe::DiagnoseArgs),
    /// What predictions cost, by model and tenant
    Cost(crate::observe::CostArgs),
    /// Many requests at leisure, behind everybody else's
    #[command(subcommand)]
    Batch(Batch),
    /// Answers that nodes keep
    #[command(subcommand)]
    Cache(Cache),
    /// Completions for a shell, to standard output
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

/// `fleet dev ..`
#[derive(Debug, Subcommand)]
pub enum Dev {
    /// Start it, publish the bundled model, print requests to paste; Ctrl-C stops all of it
    Up(DevUp),
    /// Start it, try everything that matters, print what was seen, stop it; exit 0 only if all held
    Smoke(DevSmoke),
    /// Stop a fleet that `dev up` started
    Down {
        /// Where it keeps its files
        #[arg(long, default_value = ".dev", value_name = "DIR")]
        dir: PathBuf,
    },
}

/// `fleet dev up ..`
#[derive(Debug, Args)]
pub struct DevUp {
    /// Where to keep its files; an existing fleet there is started again with its log and models
    #[arg(long, default_value = ".dev", value_name = "DIR")]
    pub dir: PathBuf,
    /// Return once it serves; stop it later with `fleet dev down`
    #[arg(long)]
    pub detach: bool,
    /// Model to publish: a zoo name or a recipe file
    #[arg(long, default_value = "magika", value_name = "NAME")]
    pub model: String,
}

/// `fleet dev smoke ..`
#[derive(Debug, Args)]
pub struct DevSmoke {
    /// Keep the files of the run in this folder (must be empty); a temporary folder otherwise
    #[arg(long, value_name = "DIR")]
    pub keep: Option<PathBuf>,
}

/// `fleet zoo ..`
#[derive(Debug, Subcommand)]
pub enum Zoo {
    /// All recipes
    List,
    /// Get one through pip, check its digest, and convert it where needed
    Fetch {
        /// Name of the recipe
        name: String,
    },
}

/// `fleet publish ..`
#[derive(Clone, Debug, Args)]
pub struct Publish {
    /// A zoo name, a recipe file or an ONNX file
    pub source: String,
    /// Name of the model; needed for an ONNX file
    #[arg(long)]
    pub name: Option<ModelName>,
    /// Golden vectors, one JSON object {"inputs": [..], "outputs": [..]} a line; needed for an ONNX file
    #[arg(long, value_name = "FILE")]
    pub golden: Option<PathBuf>,
    /// Make golden vectors by running the f32 model itself on seeded inputs
    #[arg(long, conflicts_with = "golden")]
    pub self_golden: bool,
    /// Inputs by which the weights of the int8 form are rounded, one JSON object {"inputs": [..]} a line: a dozen that are like
    /// what users will send
    #[arg(long, value_name = "FILE")]
    pub calibrate: Option<PathBuf>,
    /// Inputs other than the golden ones to judge int8 against f32 by, one JSON object {"inputs": [..]} or, for an embedder,
    /// {"query": [..], "answer": [..]} a line
    #[arg(long, value_name = "FILE")]
    pub judge: Option<PathBuf>,
    /// Do not judge int8 by the inputs that a recipe names: sooner done, and the release holds no word of it
    #[arg(long, conflicts_with = "judge")]
    pub no_judge: bool,
    /// Offer the int8 form also where it is slower than f32 or under its agreement bounds; what it missed is recorded
    #[arg(long, conflicts_with = "no_int8")]
    pub accept_int8: bool,
    /// Make no int8 form
    #[arg(long)]
    pub no_int8: bool,
    /// Licence (SPDX) of an ONNX file's model
    #[arg(long, default_value = "LicenseRef-unknown")]
    pub licence: String,
    /// One line about this version
    #[arg(long)]
    pub description: Option<String>,
    /// Offer the model in ONNX Runtime as well, by its library, to nodes of the class `cpu-onnxruntime`; also where the
    /// engine lacks an operator. Needs a build with `--features onnxruntime`
    #[arg(long, value_name = "LIBRARY")]
    pub onnxruntime: Option<PathBuf>,
    /// And on the graphics processor of this machine, to nodes of the class `cuda`
    #[arg(long, requires = "onnxruntime")]
    pub cuda: bool,
    /// Check, make and measure, but neither sign nor upload
    #[arg(long)]
    pub dry_run: bool,
}

/// `fleet rollout ..`
#[derive(Debug, Subcommand)]
pub enum Rollout {
    /// Sign a plan and begin its first wave
    Start(RolloutStart),
    /// Follow a rollout until it is complete
    Watch {
        /// Which model; all open rollouts otherwise
        model: Option<ModelName>,
        /// Give up after this many seconds
        #[arg(long, default_value_t = 600, value_name = "SECONDS")]
        timeout_s: u64,
    },
    /// Begin no further wave
    Abort {
        /// Which model
        model: ModelName,
        /// Why, for the log
        #[arg(long, default_value = "aborted by operator")]
        reason: String,
    },
}

/// `fleet rollout start ..`
#[derive(Debug, Args)]
pub struct RolloutStart {
    /// Which release, such as minilm@7
    pub release: Release,
    /// Waves in order, regions of one wave joined by `+`: eu-fra,eu-dub+us-iad. All regions at once otherwise
    #[arg(long, value_delimiter = ',', value_name = "WAVE,..")]
    pub waves: Vec<String>,
    /// How long a wave must be ready before the next begins: 90s, 10m
    #[arg(long, default_value = "0s", value_parser = parse_duration_ms, value_name = "TIME")]
    pub bake: u64,
    /// Nodes of each region that must be ready; more than half otherwise
    #[arg(long, value_name = "N")]
    pub quorum: Option<u32>,
    /// The plan begins no step after this: 30m, 24h
    #[arg(long, default_value = "24h", value_parser = parse_duration_ms, value_name = "TIME")]
    pub expires: u64,
    /// Why, for the log
    #[arg(long, default_value = "")]
    pub reason: String,
    /// Follow it until it is complete
    #[arg(long)]
    pub watch: bool,
}

/// `fleet rollback ..`
#[derive(Debug, Args)]
pub struct Rollback {
    /// Which model
    pub model: ModelName,
    /// To which version; the one that was active before otherwise
    #[arg(long, value_name = "VERSION")]
    pub to: Option<ModelVersion>,
    /// Why, for the log
    #[arg(long, default_value = "rollback")]
    pub reason: String,
}

/// `fleet ca ..`
#[derive(Debug, Subcommand)]
pub enum Ca {
    /// Make the authority, the first operator, the log's and the state's keys, and the control plane's bundle
    Init(CaInit),
}

/// `fleet ca init ..`
#[derive(Debug, Args)]
pub struct CaInit {
    /// Name of the fleet: part of every identity
    #[arg(long)]
    pub fleet: PrincipalName,
    /// Name of the first operator: signs manifests, plans and commands
    #[arg(long, default_value = "operator")]
    pub operator: PrincipalName,
    /// Where the control plane listens for nodes and publishers (QUIC)
    #[arg(long, default_value = "127.0.0.1:7001", value_name = "ADDR:PORT")]
    pub control_plane: SocketAddr,
    /// Where the control plane listens for operators (HTTPS)
    #[arg(long, default_value = "127.0.0.1:7002", value_name = "ADDR:PORT")]
    pub operator_api: SocketAddr,
}

/// `fleet region ..`
#[derive(Debug, Subcommand)]
pub enum Region {
    /// Add a region at a real place
    Add {
        /// Name, such as eu-fra
        region: RegionId,
        /// A place of regions/data/places.toml, such as fra
        #[arg(long)]
        place: String,
    },
}

/// `fleet node ..`
#[derive(Debug, Subcommand)]
pub enum Node {
    /// Issue a node's certificates, write its bundle, and say so in the log
    Enroll(NodeEnroll),
    /// The node may no longer join
    Revoke {
        /// Which node, such as eu-fra/n1
        node: NodeId,
    },
}

/// `fleet node enroll ..`
#[derive(Debug, Args)]
pub struct NodeEnroll {
    /// Which node, such as eu-fra/n1
    pub node: NodeId,
    /// Where its HTTPS ingress listens
    #[arg(long, value_name = "ADDR:PORT")]
    pub ingress: SocketAddr,
    /// Where to write its bundle: identity, trust, ingress certificate, node.toml
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Its hardware
    #[arg(long, default_value = "cpu")]
    pub class: NodeClass,
    /// Days until its certificates expire
    #[arg(long, default_value_t = 30)]
    pub days: u32,
}

/// `fleet router ..`
#[derive(Debug, Subcommand)]
pub enum Router {
    /// Issue a router's certificates and write its bundle
    Enroll(RouterEnroll),
}

/// `fleet router enroll ..`
#[derive(Debug, Args)]
pub struct RouterEnroll {
    /// Name of the router
    pub name: PrincipalName,
    /// Where its HTTPS front listens
    #[arg(long, value_name = "ADDR:PORT")]
    pub http: SocketAddr,
    /// Where its DNS front listens
    #[arg(long, value_name = "ADDR:PORT")]
    pub dns: SocketAddr,
    /// Zone it is authoritative for
    #[arg(long, default_value = "infer.meridian.test")]
    pub zone: String,
    /// Where to write its bundle
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Days until its certificates expire
    #[arg(long, default_value_t = 30)]
    pub days: u32,
}

/// `fleet auditor ..`
#[derive(Debug, Subcommand)]
pub enum Auditor {
    /// Issue a read-only certificate for one region
    Enroll {
        /// Name of the auditor
        name: PrincipalName,
        /// Region they may look at
        #[arg(long)]
        region: RegionId,
        /// Where to write their folder, a `--home` for this command
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Days until it expires
        #[arg(long, default_value_t = 30)]
        days: u32,
    },
}

/// `fleet tenant ..`
#[derive(Debug, Subcommand)]
pub enum Tenant {
    /// Make an API key; it is printed once and kept nowhere
    Add {
        /// Name
        tenant: TenantId,
        /// Their data never leaves this boundary
        #[arg(long)]
        boundary: BoundaryId,
    },
    /// Every node refuses the key within two seconds
    Revoke {
        /// Name
        tenant: TenantId,
    },
    /// All customers
    List,
}

/// `fleet log ..`
#[derive(Debug, Subcommand)]
pub enum Log {
    /// Copy the whole log to a folder, as C2SP tlog-tiles
    Export {
        /// Where to
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
    /// Check a copy of the log offline: checkpoint, every tile, every entry
    Verify {
        /// Folder of the log; a fresh copy of the control plane's otherwise
        dir: Option<PathBuf>,
        /// Trust this trust.json instead of the home folder's
        #[arg(long, value_name = "FILE")]
        trust: Option<PathBuf>,
        /// A checkpoint seen earlier: the log must extend it
        #[arg(long, value_name = "FILE")]
        earlier: Option<PathBuf>,
    },
}

/// `fleet audit ..`
#[derive(Debug, Subcommand)]
pub enum Audit {
    /// Prove which release and digest a region answered with at a moment
    ModelAt {
        /// Which model
        model: ModelName,
        /// Which region
        #[arg(long)]
        region: RegionId,
        /// When, RFC 3339, such as 2026-11-14T09:00Z
        #[arg(long)]
        time: String,
        /// Folder of the log; a fresh copy of the control plane's otherwise
        #[arg(long, value_name = "DIR")]
        log: Option<PathBuf>,
        /// Trust this trust.json instead of the home folder's
        #[arg(long, value_name = "FILE")]
        trust: Option<PathBuf>,
    },
    /// Check what a node signed for an answer: who, when, which release and arithmetic, and that the release log bears it out
    Receipt(crate::audit::run::ReceiptArgs),
}

/// `fleet cache ..`
#[derive(Debug, Subcommand)]
pub enum Cache {
    /// Have kept answers forgotten for good, on every node: of all who are named together
    Purge(crate::purge::PurgeArgs),
}

/// `fleet batch ..`
#[derive(Debug, Subcommand)]
pub enum Batch {
    /// Ask a model each line of a file; run it again to go on where it was stopped
    Run(crate::batch::BatchRun),
}

/// Reads `250ms`, `90s`, `10m`, `24h` as milliseconds.
fn parse_duration_ms(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let factor = match &text[digits..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err("write a number and ms, s, m or h, such as 90s".to_owned()),
    };
    let number: u64 = text[..digits]
        .parse()
        .map_err(|_| "write a number first, such as 90s".to_owned())?;
    number.checked_mul(factor).ok_or_else(|| "too long".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_has_no_contradictions() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_time_needs_its_unit() {
        assert_eq!(parse_duration_ms("10m"), Ok(600_000));
        assert_eq!(parse_duration_ms("250ms"), Ok(250));
        for bad in ["", "10", "m", "-1s", "1d", "99999999999999999999s"] {
            assert!(parse_duration_ms(bad).is_err(), "{bad}");
        }
    }
}
