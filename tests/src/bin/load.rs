//! `cargo load SUITE`: measures, and prints a table or one JSON object a line.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use meridian_tests::load::{engine, node, serving, table};
use meridian_tests::scale::Scale;

/// What nodes use.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// A model of the engine suite; again for further ones. All where none is named.
    #[arg(long, value_name = "NAME")]
    model: Vec<String>,
    /// An ONNX file that the engine suite measures, its int8 form beside it; again for further ones.
    #[arg(long, value_name = "FILE")]
    file: Vec<PathBuf>,
    /// Rows of a call in the engine suite.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 8, 32])]
    rows: Vec<usize>,
    /// How large the serving suite runs.
    #[arg(long, env = "MERIDIAN_SCALE", value_enum, default_value_t = Scale::Ci)]
    scale: Scale,
    /// Gets and builds the peers of the serving suite that are not here yet. `--scale full` does so too.
    #[arg(long)]
    install: bool,
    /// Chapters of the serving suite; all where none is named.
    #[arg(long, value_delimiter = ',', value_enum)]
    only: Vec<serving::Chapter>,
    /// Also measure files that ONNX Runtime's quantizer made, in our engine.
    #[arg(long)]
    foreign: bool,
    /// What the engine suite starts for itself: loads MODEL, of which PACKED may hold something, and answers INPUTS once.
    #[arg(long, hide = true, num_args = 3, value_names = ["MODEL", "INPUTS", "PACKED"])]
    fresh: Option<Vec<PathBuf>>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Suite {
    /// The engine beside ONNX Runtime: zoo models and tables, f32 and int8, one thread and two; loading, memory, agreement.
    Engine,
    /// A real node of a real fleet: what it adds to its engine, and how soon it answers after a start.
    Node,
    /// A real node beside other servers: requests a second, times, overload, deadlines, isolation.
    Serving,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    if let Some([model, inputs, packed]) = args.fresh.as_deref() {
        return engine::answer_once(model, inputs, packed);
    }
    let figures = match args.suite {
        Suite::Engine => engine::run(&engine::Choice {
            models: args.model,
            files: args.file,
            rows: args.rows,
            rounds: args.rounds,
            foreign: args.foreign,
        })?,
        Suite::Node => node::run(args.requests).await?,
        Suite::Serving => {
            let install = args.install || args.scale == Scale::Full;
            serving::run(args.scale, install, &args.only).await?
        }
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
