//! Looking at running nodes: what holds one up, and what its predictions cost.
//!
//! [`pages`] asks nodes as this operator, [`series`] reads their metrics, [`diagnose`] and [`cost`] decide and are pure.

pub mod cost;
pub mod diagnose;
pub mod pages;
pub mod series;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use proto::ids::{NodeId, RegionId};
use proto::status::NodeStatus;
use runtime::clock;

use crate::home::Home;
use crate::output::{self, BAD, GOOD, paint, say, table};
use crate::state;
use diagnose::{Diagnosis, Sample};
use pages::Pages;

/// `fleet diagnose ..`
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  fleet diagnose eu-fra/n1 --seconds 30\n\nCompares two readings of the node's metrics."
)]
pub struct DiagnoseArgs {
    /// Which node, such as eu-fra/n1
    pub node: NodeId,
    /// How long to watch it
    #[arg(long, default_value_t = 5, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub seconds: u64,
}

/// `fleet cost ..`
#[derive(Debug, Args)]
#[command(
    after_help = "A price file:\n  currency = \"EUR\"\n  [class.cpu]\n  core-hour = 0.041      # one engine thread for an hour\n\n\
    Counts are since each node started. \"busy\" pays the time that engine threads ran; \"all in\" pays their idle time as well."
)]
pub struct CostArgs {
    /// What an hour costs, by class of node
    #[arg(long, value_name = "FILE")]
    pub prices: PathBuf,
    /// Only nodes of this region
    #[arg(long)]
    pub region: Option<RegionId>,
}

/// Watches one node and tells what holds it up.
///
/// # Errors
/// The node is unknown or does not answer.
pub async fn run_diagnose(args: &DiagnoseArgs, home: &Home, as_json: bool) -> Result<()> {
    let nodes = enrolled(home).await?;
    let found = nodes.iter().find(|node| node.node == args.node);
    let Some(node) = found else {
        let known: Vec<String> = nodes.iter().map(|node| node.node.to_string()).collect();
        bail!("no node `{}` is enrolled; there are: {}", args.node, known.join(", "));
    };
    let pages = Pages::new(home)?;
    let before = sample(&pages, node).await?;
    if !as_json {
        anstream::eprintln!("watching {} for {} s", args.node, args.seconds);
    }
    tokio::time::sleep(Duration::from_secs(args.seconds)).await;
    let after = sample(&pages, node).await?;
    let diagnosis = diagnose::of(&args.node, &before, &after);
    if as_json {
        output::json(&diagnosis);
    } else {
        say(&shown(&diagnosis));
    }
    Ok(())
}

async fn sample(pages: &Pages<'_>, node: &NodeStatus) -> Result<Sample> {
    let at = clock::instant();
    Ok(Sample {
        at,
        series: series::read(&pages.text(node, "/metrics").await?),
        usage: pages.json(node, "/v1/usage").await?,
    })
}

/// The nodes that are to be asked, by what the control plane knows.
pub(crate) async fn enrolled(home: &Home) -> Result<Vec<NodeStatus>> {
    let status = state::status(home).await?;
    let nodes = status.regions.into_iter().flat_map(|region| region.nodes);
    Ok(nodes.filter(|node| node.enrolled).collect())
}

fn shown(d: &Diagnosis) -> String {
    let verdict = match d.bottleneck {
        Some(what) => paint(BAD, &format!("bottleneck: {}", what.name())),
        None => paint(GOOD, "nothing holds it up"),
    };
    let mut out = format!(
        "{}   {verdict}\n{:.1} requests/s answered, {:.2} ms in the mean, {:.1} % refused, engine {:.0} % busy\n\n",
        d.node,
        d.answered_per_s,
        d.mean_ms,
        d.refused_share * 100.0,
        d.engine_busy * 100.0
    );
    let stages = d.stages.iter().map(|stage| {
        let share = format!("{:.1} %", stage.share * 100.0);
        vec![stage.stage.to_owned(), format!("{:.3}", stage.mean_ms), share]
    });
    out += &table(
        &["stage", "mean ms", "share"],
        &stages.collect::<Vec<_>>(),
        &["mean ms", "share"],
    );
    for finding in &d.findings {
        let (what, told, next) = (finding.resource.name(), &finding.evidence, &finding.advice);
        out += &format!("\n\n{what}: {told}\n  {next}");
    }
    out
}

/// Tells what predictions cost, by model and tenant.
///
/// # Errors
/// The price file is wrong, or no node answers.
pub async fn run_cost(args: &CostArgs, home: &Home, as_json: bool) -> Result<()> {
    let path = args.prices.display();
    let text = std::fs::read_to_string(&args.prices).with_context(|| format!("read {path}"))?;
    let prices: cost::Prices = toml::from_str(&text).with_context(|| format!("{path} is not a price file"))?;
    prices.check().with_context(|| format!("{path}"))?;
    let pages = Pages::new(home)?;
    let (mut used, mut silent) = (Vec::new(), Vec::new());
    for node in enrolled(home).await? {
        if args.region.as_ref().is_some_and(|region| node.node.region != *region) {
            continue;
        }
        match pages.json(&node, "/v1/usage").await {
            Ok(usage) => used.push(cost::NodeUsage {
                class: node.class,
                usage,
            }),
            Err(why) => silent.push((node.node, why)),
        }
    }
    if used.is_empty() {
        let why = silent
            .first()
            .map_or_else(|| "none is enrolled there".to_owned(), |(_, why)| format!("{why:#}"));
        bail!("no node told its use: {why}");
    }
    let bill = cost::bill(&prices, &used)?;
    for (node, why) in &silent {
        anstream::eprintln!("{}: {node} is not counted: {why:#}", paint(BAD, "missing"));
    }
    if as_json {
        output::json(&bill);
    } else {
        say(&cost::shown(&bill));
    }
    Ok(())
}
