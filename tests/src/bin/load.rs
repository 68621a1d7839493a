//! `cargo load SUITE`: measures, and prints a table or one JSON object a line.

use clap::{Parser, ValueEnum};
use meridian_tests::load::{engine, node, serving, table};

/// Measures Meridian side by side with what it is to be compared with.
#[derive(Parser)]
struct Args {
    /// What to measure.
    suite: Suite,
    /// Prints one JSON object a line instead of a table.
    #[arg(long)]
    json: bool,
    /// Requests of each figure.
    #[arg(long, default_value_t = 2_000)]
    requests: u32,
    /// Rounds of the engine suite.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
}

#[derive(Clone, Copy, ValueEnum)]
enum Suite {
    /// The engine beside ONNX Runtime: every zoo model, f32 and int8, CPU time of one thread.
    Engine,
    /// A real node of a real fleet: what it adds to its engine, and how soon it answers after a start.
    Node,
    /// The ingress alone, around a model that costs nothing: its own latency, and answers out of its cache.
    Serving,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let figures = match args.suite {
        Suite::Engine => engine::run(args.rounds)?,
        Suite::Node => node::run(args.requests).await?,
        Suite::Serving => serving::run(args.requests).await?,
    };
    if args.json {
        for figure in &figures {
            println!("{}", serde_json::to_string(figure)?);
        }
    } else {
        print!("{}", table(&figures));
    }
    Ok(())
}
