//! A copy of the whole release log, as C2SP tlog-tiles, for offline work.

use std::path::Path;

use anyhow::{Context, Result};
use proto::{note, tile};

use crate::home::Home;
use crate::state::get;

/// Copies the log to `out` and gives its size. The checkpoint is written last: a folder with one is complete.
///
/// # Errors
/// No answer, a checkpoint that the trusted log did not sign, or the folder cannot be written.
pub async fn log(home: &Home, out: &Path) -> Result<u64> {
    let text = get(home, "/log/checkpoint").await?;
    let text = String::from_utf8(text.to_vec()).context("the checkpoint is not text")?;
    let size = note::open_checkpoint(&text, &home.trust.log_vkey)?.size;
    for path in tile::entry_paths(size).into_iter().chain(tile::hash_paths(size)) {
        let to = out.join(&path);
        std::fs::create_dir_all(to.parent().context("a tile path has a folder")?)?;
        let bytes = get(home, &format!("/log/{path}")).await?;
        std::fs::write(&to, &bytes).with_context(|| format!("write {}", to.display()))?;
    }
    std::fs::write(out.join("checkpoint"), text).with_context(|| format!("write {}", out.display()))?;
    Ok(size)
}
