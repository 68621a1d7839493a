//! The `edge-node` daemon.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use edge_node::app::App;
use edge_node::config::{NodeConfig, NodeFile};
use edge_node::release::EngineLoader;
use runtime::config::{EXIT_CONFIG, Example};
use runtime::identity::Identity;

/// What a request asks for and gives back is small and crosses threads: see decision 0020.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Answers inference requests in one region, from models that a signed, logged release names.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// The configuration file.
    #[arg(long, default_value = "node.toml")]
    config: PathBuf,
    /// Checks the configuration and does nothing else.
    #[arg(long)]
    check_config: bool,
    /// Prints a commented configuration and does nothing else.
    #[arg(long)]
    print_example_config: bool,
}

fn main() -> ExitCode {
    engine::child::main_if_asked();
    let args = Args::parse();
    if args.print_example_config {
        print!("{}", NodeFile::example(""));
        return ExitCode::SUCCESS;
    }
    let config = match NodeConfig::read(&args.config) {
        Ok(_) if args.check_config => return ExitCode::SUCCESS,
        Ok(config) => config,
        Err(error) => {
            eprintln!("edge-node: {}", runtime::telemetry::chain(&error));
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    match on_threads(config.ingress.threads, serve(config)) {
        Ok(clean) => ExitCode::from(u8::from(!clean)),
        Err(error) => {
            eprintln!("edge-node: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs `work` on that many threads, which read requests and write answers.
fn on_threads<T>(threads: NonZeroUsize, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads.get())
        .enable_all()
        .build();
    runtime.context("start threads")?.block_on(work)
}

async fn serve(config: NodeConfig) -> anyhow::Result<bool> {
    let node = Identity::load(&config.identity)?.role.to_string();
    let telemetry = runtime::telemetry::init(&config.telemetry, "edge-node", &node)?;
    let exe = std::env::current_exe().context("find this binary")?;
    let loader = EngineLoader::new(exe).allowing(config.onnxruntime.clone());
    if let Some(library) = &config.onnxruntime {
        tracing::info!(version = library.version(), library = %library.path().display(), "models may run in ONNX Runtime");
    }
    let app = App::build(config, loader).await?;
    println!("{}", serde_json::json!({ "ready": true, "addresses": app.addresses }));
    let signal = runtime::lifecycle::stop_signal().await?;
    tracing::info!(signal, "stopping");
    let clean = app.stop().await;
    telemetry.shutdown().await;
    Ok(clean)
}
