//! `geo-router`: see the library for what it does. Exit codes: 0 stopped, 1 failed, 64 bad configuration.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use geo_router::app::App;
use geo_router::config::{RouterConfig, RouterFile};
use runtime::config::{EXIT_CONFIG, Example};

/// How long open requests may take after a stop signal.
const GRACE: Duration = Duration::from_secs(20);

/// Sends each client to the nearest healthy node that may lawfully answer.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The configuration file.
    #[arg(long, default_value = "router.toml")]
    config: PathBuf,
    /// Reads the configuration, says what is wrong with it, and stops.
    #[arg(long)]
    check_config: bool,
    /// Prints a commented example of the configuration, and stops.
    #[arg(long)]
    print_example_config: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.print_example_config {
        print!("{}", RouterFile::example(""));
        return ExitCode::SUCCESS;
    }
    let (code, result) = match RouterConfig::load(&arguments.config) {
        Ok(_) if arguments.check_config => return ExitCode::SUCCESS,
        Ok(config) => (ExitCode::FAILURE, run(config).await),
        Err(error) => (ExitCode::from(EXIT_CONFIG), Err(error.into())),
    };
    let Err(error) = result else { return ExitCode::SUCCESS };
    eprintln!("geo-router: {error:#}");
    code
}

async fn run(config: RouterConfig) -> anyhow::Result<()> {
    let telemetry = runtime::telemetry::init(&config.telemetry, "geo-router", &config.http.listen.to_string())?;
    let app = App::build(config).await?;
    let ready = serde_json::json!({ "ready": true, "addresses": app.addresses()? });
    let running = app.run().await?;
    println!("{ready}");
    let signal = runtime::lifecycle::stop_signal().await?;
    tracing::info!(signal, "stopping");
    running.stop(GRACE).await;
    telemetry.shutdown().await;
    Ok(())
}
