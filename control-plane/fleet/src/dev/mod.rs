//! A whole fleet on one machine: real processes, real TLS, loopback addresses that stand for real places.
//!
//! `up` starts it and stays; `smoke` starts one in a temporary folder, tries what matters, and stops it; `down` stops one.

pub mod client;
pub mod layout;
pub mod process;
pub mod smoke;
pub mod world;

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::cli::{DevSmoke, DevUp};
use crate::output::{self, BAD, DIM, GOOD, paint, say};
use layout::{Folders, REGIONS};
use world::{RunFile, World};

/// Starts a fleet, publishes a model, prints requests to paste; stops all at Ctrl-C unless detached.
///
/// # Errors
/// A part did not start, or the model could not be published or rolled out.
pub async fn up(options: &DevUp) -> Result<()> {
    let folders = Folders::new(&options.dir)?;
    if let Some(run) = RunFile::read(&folders).filter(RunFile::is_alive) {
        bail!(
            "a dev fleet runs already from {} (process {}): stop it with `fleet dev down`",
            options.dir.display(),
            run.parts[0].pid
        );
    }
    let mut world = World::up(folders.clone(), options.detach, step).await?;
    world.serve_model(&options.model, step).await?;
    world.write_run_file()?;
    say(&format!("\n{}", paste(&world)));
    if options.detach {
        say(&format!(
            "it runs on; stop it with: fleet dev down --dir {}",
            options.dir.display()
        ));
        world.leave();
        return Ok(());
    }
    say(&paint(DIM, "Ctrl-C stops all of it"));
    runtime::lifecycle::stop_signal().await?;
    say("\nstopping");
    let stopped = world.down().await;
    std::fs::remove_file(folders.run_file()).ok();
    stopped
}

/// Says what is being done, one line each.
fn step(text: &str) {
    anstream::eprintln!("{} {text}", paint(DIM, "··"));
}

/// Requests to paste, one for each place.
fn paste(world: &World) -> String {
    let ca = world.folders.home().join("ca").join("ca.pem");
    let mut out = String::from("requests to paste:\n");
    for region in &REGIONS {
        out += &format!(
            "\n  # from {}\n  curl -s --interface {} --cacert {} -H 'Authorization: Bearer {}' \\\n       \
             https://{}/v2/models/magika/infer -d '{}'\n",
            region.city,
            region.client,
            ca.display(),
            world.keys["world"],
            world.addresses.http,
            smoke::SAMPLE,
        );
    }
    out += &format!(
        "\n  # who would answer, and why\n  curl -s --interface {} --cacert {} -H 'Authorization: Bearer {}' \
         'https://{}/v2/models/magika/infer?explain=1'\n",
        REGIONS[0].client,
        ca.display(),
        world.keys["europe"],
        world.addresses.http
    );
    out += &format!("\n  fleet --home {} status\n", world.folders.home().display());
    out
}

/// Stops a fleet that `up --detach` (or another terminal) started.
///
/// # Errors
/// None runs from that folder, or a part does not stop.
pub async fn down(dir: &Path) -> Result<()> {
    let folders = Folders::new(dir)?;
    let run = RunFile::read(&folders).with_context(|| format!("no dev fleet runs from {}", dir.display()))?;
    run.stop().await?;
    std::fs::remove_file(folders.run_file())?;
    say("stopped");
    Ok(())
}

/// Starts a fleet, tries everything, prints what was seen.
///
/// # Errors
/// A check did not hold, or the fleet did not start.
pub async fn smoke(options: &DevSmoke, as_json: bool) -> Result<()> {
    let temporary = tempfile::tempdir()?;
    let root = options.keep.as_deref().unwrap_or(temporary.path());
    let folders = Folders::new(root)?;
    if folders.home().exists() {
        bail!("{} holds a fleet already: name an empty folder", root.display());
    }
    let mut world = World::up(folders, false, step).await?;
    let seen = smoke::run(&mut world, step).await;
    let stopped = world.down().await;
    let rows = seen?;
    if as_json {
        output::json(&rows);
    } else {
        let cells = |r: &smoke::Row| {
            let verdict = if r.holds {
                paint(GOOD, "ok")
            } else {
                paint(BAD, "FAILED")
            };
            vec![r.check.clone(), r.seen.clone(), format!("{} ms", r.took_ms), verdict]
        };
        let cells: Vec<Vec<String>> = rows.iter().map(cells).collect();
        say(&format!(
            "\n{}\n",
            output::table(&["check", "seen", "took", "verdict"], &cells, &["took"])
        ));
    }
    let failed = rows.iter().filter(|r| !r.holds).count();
    if failed > 0 {
        bail!(
            "{failed} of {} checks failed; run again with --keep DIR to look at the parts' logs",
            rows.len()
        );
    }
    stopped?;
    say(&format!("{} all {} checks hold", paint(GOOD, "ok"), rows.len()));
    Ok(())
}
