//! Writes a log for verifiers that are not ours, and prints its public key: `sample-log DIR ENTRIES`.
//!
//! The entries are no fleet's: what is to be judged is the form. The private key is a constant, so trust it with nothing.

use std::path::Path;

use anyhow::{Context, Result};
use models::log::Log;
use proto::note::Signer;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, dir, entries] = arguments.as_slice() else {
        anyhow::bail!("usage: sample-log DIR ENTRIES")
    };
    let entries: u64 = entries.parse().context("ENTRIES is a number")?;
    let signer = Signer::new("sample.meridian/log", [1; 32])?;
    println!("{}", signer.vkey());
    let mut log = Log::open(Path::new(dir), signer)?;
    // Batches of growing size: the same tree must come out whatever they are.
    let mut batch = 1;
    while log.view().size() < entries {
        let until = (log.view().size() + batch).min(entries);
        let leaves: Vec<Vec<u8>> = (log.view().size()..until)
            .map(|i| format!("{{\"entry\":{i}}}").into_bytes())
            .collect();
        log.append(&leaves)?;
        batch = batch * 3 + 1;
    }
    Ok(())
}
