//! One function a command: read what it needs, do it, print it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::CommandFactory;
use proto::entry::{Body, PlanStatus};
use proto::ids::{ContentHash, hex};
use serde_json::json;

use crate::cli::{Auditor, Batch, Ca, CaInit, Cache, Cli, Command, Dev, Log, Node, Region, Rollout, Router, Tenant};
use crate::client::Session;
use crate::home::{self, Home};
use crate::output::{self, GOOD, paint, say};
use crate::{dev, issue, rollout, show, state};

/// Does what was typed.
///
/// # Errors
/// Whatever stopped it, with what to do next.
pub async fn run(cli: Cli) -> Result<()> {
    let dir = home::folder(cli.home.as_deref())?;
    let open = || Home::open(&dir);
    match cli.command {
        Command::Dev(command) => run_dev(command, cli.json).await,
        Command::Zoo(command) => crate::zoo::run(&command, cli.json).await,
        Command::Publish(options) => crate::publish::run(&options, &dir, cli.json).await,
        Command::Rollout(command) => run_rollout(&command, open()?, cli.json).await,
        Command::Rollback(options) => {
            let session = Session::connect(open()?).await?;
            let plan = rollout::back(&session, &options, runtime::clock::now_ms()).await?;
            watch(&session, Some(&plan.to.model), 600, cli.json).await
        }
        Command::Status => {
            let status = state::status(&open()?).await?;
            if cli.json {
                output::json(&status);
            } else {
                say(&show::status(&status));
            }
            Ok(())
        }
        Command::Diff { left, right } => diff(&open()?, &left, &right, cli.json).await,
        Command::Ca(Ca::Init(options)) => init(&dir, &options),
        Command::Region(Region::Add { region, place }) => {
            let logged = Session::connect(open()?)
                .await?
                .command(&region_body(&region, &place)?)
                .await?;
            say(&format!("region {region} added, log entry {}", logged.index));
            Ok(())
        }
        Command::Node(command) => run_node(command, open()?).await,
        Command::Router(Router::Enroll(options)) => {
            issue::router(&open()?, &options)?;
            say(&format!(
                "router {} issued: copy {} to its host",
                options.name,
                options.out.display()
            ));
            Ok(())
        }
        Command::Auditor(Auditor::Enroll {
            name,
            region,
            out,
            days,
        }) => {
            issue::auditor(&open()?, name.clone(), region.clone(), &out, days)?;
            say(&format!(
                "auditor {name} of {region} issued: give them {}",
                out.display()
            ));
            Ok(())
        }
        Command::Tenant(command) => run_tenant(command, open()?, cli.json).await,
        Command::Log(command) => run_log(command, &dir, cli.json).await,
        Command::Audit(command) => crate::audit::run::run(command, &dir, cli.json).await,
        Command::Diagnose(args) => crate::observe::run_diagnose(&args, &open()?, cli.json).await,
        Command::Cost(args) => crate::observe::run_cost(&args, &open()?, cli.json).await,
        Command::Batch(Batch::Run(options)) => crate::batch::run(&options, cli.json).await,
        Command::Cache(Cache::Purge(args)) => crate::purge::run(&args, &open()?, cli.json).await,
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "fleet", &mut std::io::stdout());
            Ok(())
        }
    }
}

fn init(dir: &Path, options: &CaInit) -> Result<()> {
    issue::init(dir, options)?;
    say(&format!(
        "made fleet `{}` in {}\n  keep     {}/ca offline: it issues certificates\n  copy     {}/control-plane to the \
         control plane's host, then run: control-plane --config control-plane.toml",
        options.fleet,
        dir.display(),
        dir.display(),
        dir.display()
    ));
    Ok(())
}

async fn run_dev(command: Dev, as_json: bool) -> Result<()> {
    match command {
        Dev::Up(options) => dev::up(&options).await,
        Dev::Smoke(options) => dev::smoke(&options, as_json).await,
        Dev::Down { dir } => dev::down(&dir).await,
    }
}

/// The log entry that adds a region at a place of the built-in table.
///
/// # Errors
/// The place is unknown.
pub fn region_body(region: &proto::ids::RegionId, place: &str) -> Result<Body> {
    let places = regions::geo::Places::builtin();
    let found = places.get(place).with_context(|| {
        format!("place `{place}` is unknown: see regions/data/places.toml for all of them, such as fra, dub, iad")
    })?;
    let (lat_e6, lon_e6) = found.position.to_e6();
    Ok(Body::RegionAdd {
        region: region.clone(),
        country: found.country.as_str().to_owned(),
        lat_e6,
        lon_e6,
    })
}

async fn run_node(command: Node, home: Home) -> Result<()> {
    match command {
        Node::Enroll(options) => {
            let session = Session::connect(home).await?;
            let key = issue::node(&session.home, &options)?;
            let (node, class) = (options.node.clone(), options.class.clone());
            let logged = session
                .command(&Body::NodeEnrol {
                    node,
                    class,
                    ingress: options.ingress,
                    key,
                })
                .await?;
            say(&format!(
                "node {} enrolled, log entry {}: copy {} to its host, then run: edge-node --config node.toml",
                options.node,
                logged.index,
                options.out.display()
            ));
        }
        Node::Revoke { node } => {
            let logged = Session::connect(home)
                .await?
                .command(&Body::NodeRevoke { node: node.clone() })
                .await?;
            say(&format!("node {node} revoked, log entry {}", logged.index));
        }
    }
    Ok(())
}

async fn run_rollout(command: &Rollout, home: Home, as_json: bool) -> Result<()> {
    let session = Session::connect(home).await?;
    match command {
        Rollout::Start(options) => {
            let plan = rollout::start(&session, options, runtime::clock::now_ms()).await?;
            say(&format!(
                "plan {} of {} signed: {} waves",
                plan.serial,
                plan.to,
                plan.waves.len()
            ));
            if options.watch {
                return watch(&session, Some(&plan.to.model), 600, as_json).await;
            }
            say(&format!("follow it with: fleet rollout watch {}", plan.to.model));
            Ok(())
        }
        Rollout::Watch { model, timeout_s } => watch(&session, model.as_ref(), *timeout_s, as_json).await,
        Rollout::Abort { model, reason } => {
            let release = rollout::abort(&session, model, reason).await?;
            say(&format!(
                "rollout of {release} aborted; regions that changed keep it: fleet rollback {model}"
            ));
            Ok(())
        }
    }
}

async fn watch(session: &Session, model: Option<&proto::ids::ModelName>, timeout_s: u64, as_json: bool) -> Result<()> {
    rollout::watch(session, model, Duration::from_secs(timeout_s), |progress| {
        if as_json {
            output::json(progress);
            return;
        }
        let mark = |(region, done): &(proto::ids::RegionId, bool)| {
            if *done {
                paint(GOOD, &format!("{region} ok"))
            } else {
                format!("{region} ..")
            }
        };
        let regions: Vec<String> = progress.regions.iter().map(mark).collect();
        let wave = match progress.status {
            PlanStatus::Open { waves_begun } => format!("wave {waves_begun} of {}", progress.waves),
            PlanStatus::Complete => paint(GOOD, "complete"),
            PlanStatus::Aborted => "aborted".to_owned(),
        };
        say(&format!("{}  {wave}  {}", progress.to, regions.join("  ")));
    })
    .await
}

async fn diff(home: &Home, left: &proto::ids::RegionId, right: &proto::ids::RegionId, as_json: bool) -> Result<()> {
    let fleet = state::fleet(home).await?;
    for region in [left, right] {
        if !fleet.regions.contains_key(region) {
            bail!("region `{region}` is unknown: see `fleet status`");
        }
    }
    let rows = show::diff(&fleet, left, right);
    if as_json {
        let rows: Vec<_> = rows
            .iter()
            .map(|(m, l, r)| json!({"model": m, "left": l, "right": r}))
            .collect();
        output::json(&json!({"same": rows.is_empty(), "differences": rows}));
    } else if rows.is_empty() {
        say(&format!("{left} and {right} answer with the same digests"));
    } else {
        let rows: Vec<Vec<String>> = rows.into_iter().map(|(m, l, r)| vec![m.to_string(), l, r]).collect();
        say(&output::table(&["model", left.as_str(), right.as_str()], &rows, &[]));
    }
    Ok(())
}

/// Makes an API key: 256 random bits, shown once.
///
/// # Errors
/// The system gives no random numbers.
pub fn new_api_key() -> Result<(String, ContentHash)> {
    let mut key = [0; 32];
    getrandom::fill(&mut key).map_err(|e| anyhow::anyhow!("the system gives no random numbers: {e}"))?;
    let text = format!("mk_{}", hex(&key));
    let hash = ContentHash::of(text.as_bytes());
    Ok((text, hash))
}

async fn run_tenant(command: Tenant, home: Home, as_json: bool) -> Result<()> {
    match command {
        Tenant::Add { tenant, boundary } => {
            if !regions::policy::Boundaries::builtin().contains(&boundary) {
                bail!("boundary `{boundary}` is unknown: see regions/data/boundaries.toml, such as eea, us, global");
            }
            let (key, key_hash) = new_api_key()?;
            let body = Body::TenantAdd {
                tenant: tenant.clone(),
                boundary: boundary.clone(),
                key_hash,
            };
            Session::connect(home).await?.command(&body).await?;
            if as_json {
                output::json(&json!({"tenant": tenant, "boundary": boundary, "key": key}));
            } else {
                say(&format!("{key}\n"));
                anstream::eprintln!("the key of `{tenant}` ({boundary}) is shown this once; keep it now");
            }
        }
        Tenant::Revoke { tenant } => {
            Session::connect(home)
                .await?
                .command(&Body::TenantRevoke { tenant: tenant.clone() })
                .await?;
            say(&format!("tenant {tenant} revoked"));
        }
        Tenant::List => {
            let fleet = state::fleet(&home).await?;
            let rows = fleet
                .tenants
                .values()
                .map(|t| (t.id.to_string(), t.boundary.to_string()));
            if as_json {
                output::json(
                    &rows
                        .map(|(t, b)| json!({"tenant": t, "boundary": b}))
                        .collect::<Vec<_>>(),
                );
            } else {
                say(&output::table(
                    &["tenant", "boundary"],
                    &rows.map(|(t, b)| vec![t, b]).collect::<Vec<_>>(),
                    &[],
                ));
            }
        }
    }
    Ok(())
}

/// A folder with the log: the one named, or a fresh copy in a temporary folder that lives as long as the guard.
pub(crate) async fn log_folder(given: Option<PathBuf>, dir: &Path) -> Result<(PathBuf, Option<tempfile::TempDir>)> {
    if let Some(given) = given {
        return Ok((given, None));
    }
    let copy = tempfile::tempdir()?;
    crate::export::log(&Home::open(dir)?, copy.path()).await?;
    Ok((copy.path().to_owned(), Some(copy)))
}

pub(crate) fn trusted(given: Option<&Path>, dir: &Path) -> Result<proto::signed::TrustBundle> {
    home::read_trust(given.map_or_else(|| dir.join("trust.json"), Path::to_owned).as_path())
}

async fn run_log(command: Log, dir: &Path, as_json: bool) -> Result<()> {
    match command {
        Log::Export { out } => {
            let size = crate::export::log(&Home::open(dir)?, &out).await?;
            say(&format!(
                "{size} entries in {}: check them with fleet log verify {}",
                out.display(),
                out.display()
            ));
        }
        Log::Verify {
            dir: log,
            trust,
            earlier,
        } => {
            let trust = trusted(trust.as_deref(), dir)?;
            let earlier = earlier
                .map(std::fs::read_to_string)
                .transpose()
                .context("read the earlier checkpoint")?;
            let (log, _guard) = log_folder(log, dir).await?;
            let report = crate::audit::verify_log(&log, &trust.log_vkey, earlier.as_deref())?;
            if as_json {
                output::json(&report);
            } else {
                say(&format!("{} {report}", paint(GOOD, "ok")));
            }
        }
    }
    Ok(())
}
