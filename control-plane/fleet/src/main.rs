//! The `fleet` command.

use clap::Parser;

fn main() -> std::process::ExitCode {
    engine::child::main_if_asked();
    let cli = fleet::cli::Cli::parse();
    fleet::log_to_stderr();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            anstream::eprintln!("fleet: start: {e}");
            return std::process::ExitCode::FAILURE;
        }
    };
    match runtime.block_on(fleet::commands::run(cli)) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(e) => {
            anstream::eprintln!("{}: {e:#}", fleet::output::paint(fleet::output::BAD, "fleet"));
            std::process::ExitCode::FAILURE
        }
    }
}
