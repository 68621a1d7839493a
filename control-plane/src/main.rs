//! The control plane's daemon.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use control_plane::app::{App, Credentials};
use control_plane::config::{Config, ControlPlaneFile};
use runtime::config::{EXIT_CONFIG, Example};
use runtime::lifecycle::{Lifecycle, stop_signal};

/// Release log, artifact store, rollouts and registry of a Meridian fleet.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// The configuration file.
    #[arg(long, default_value = "control-plane.toml")]
    config: PathBuf,
    /// Reads the configuration and the files it names, and exits.
    #[arg(long)]
    check_config: bool,
    /// Prints a commented configuration file, and exits.
    #[arg(long)]
    print_example_config: bool,
}

/// How long requests that have begun may take to end.
const GRACE: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let args = Args::parse();
    if args.print_example_config {
        print!("{}", ControlPlaneFile::example(""));
        return ExitCode::SUCCESS;
    }
    let config = match Config::load(&args.config).map_err(anyhow::Error::from) {
        Ok(config) if args.check_config => Credentials::load(&config).map(|_| config).map_err(anyhow::Error::from),
        other => other,
    };
    let result = match config {
        Ok(_) if args.check_config => return ExitCode::SUCCESS,
        Ok(config) => run(&config).map_err(|e| (ExitCode::FAILURE, e)),
        Err(error) => Err((ExitCode::from(EXIT_CONFIG), error)),
    };
    result.map_or_else(
        |(code, e)| {
            eprintln!("control-plane: {e:#}");
            code
        },
        |()| ExitCode::SUCCESS,
    )
}

#[tokio::main]
async fn run(config: &Config) -> anyhow::Result<()> {
    let telemetry = runtime::telemetry::init(&config.telemetry, "control-plane", "control-plane")?;
    let lifecycle = Lifecycle::new();
    let app = App::build(config, &lifecycle).await.context("cannot start")?;
    let at = app.addresses();
    app.start()?;
    println!(
        "{{\"ready\":true,\"addresses\":{{\"quic\":\"{}\",\"operator\":\"{}\"}}}}",
        at.quic, at.operator
    );
    tracing::info!(signal = stop_signal().await?, "stopping");
    lifecycle.stop(GRACE).await;
    telemetry.shutdown().await;
    Ok(())
}
