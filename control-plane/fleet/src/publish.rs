//! From a model file to a signed release in the log.
//!
//! ```text
//!   zoo name, recipe or ONNX file
//!     -> [source]   its files, golden vectors, checks and signatures
//!     -> [make]     judged in a child process; f32 and [int8] measured in turn; the better one proposed
//!                   [calibrate] says by which inputs the int8 weights are rounded, [judge] by which others they are judged
//!                   [elsewhere] says what else runs the f32 model, and for which nodes
//!     -> [upload]   signed, only what the control plane lacks, logged
//! ```
//! A variant outside of its checks, and an int8 form slower than its parent, is shown and not offered; without a passing f32 there is no release. Interrupted at
//! any moment, the same command goes on where it stopped: chunks are named by their content.

use std::path::Path;

use anyhow::{Context, Result};
use proto::ids::{ModelVersion, Release};

pub mod calibrate;
pub mod elsewhere;
pub mod golden;
mod in_engine;
pub mod int8;
pub mod judge;
pub mod make;
pub mod propose;
pub mod rows;
pub mod source;
pub mod upload;

pub use make::Made;

use crate::cli;
use crate::client::Session;
use crate::home::Home;
use crate::output::{self, BAD, GOOD, paint, say};

/// `fleet publish ..`
///
/// # Errors
/// Those of [`publish`].
pub async fn run(options: &cli::Publish, dir: &Path, json: bool) -> Result<()> {
    let home = if options.dry_run { None } else { Some(Home::open(dir)?) };
    let made = prepare(options).await?;
    if !json {
        show(&made);
    }
    let Some(home) = home else {
        if json {
            output::json(&facts(&made, None));
        } else {
            say("\nnothing was signed or uploaded (--dry-run)");
        }
        return Ok(());
    };
    let sent = upload::upload(&Session::connect(home).await?, made.clone(), !json).await?;
    if json {
        output::json(&facts(&made, Some(&sent)));
        return Ok(());
    }
    say(&format!(
        "\npublished {} as {}, log entry {}: {} of {} sent, the rest was there",
        paint(GOOD, &sent.release.to_string()),
        sent.manifest,
        sent.entry,
        output::bytes(sent.sent_bytes),
        output::bytes(sent.all_bytes)
    ));
    say(&format!("next: fleet rollout start {}", sent.release));
    Ok(())
}

/// Makes, measures, signs and uploads. `None` for a dry run. With `show`, prints the table and the progress.
///
/// # Errors
/// The source cannot be had, the model is refused or strays from its golden vectors, or the control plane refuses.
pub async fn publish(options: &cli::Publish, dir: &Path, show: bool) -> Result<Option<Release>> {
    let made = prepare(options).await?;
    if show {
        self::show(&made);
    }
    if options.dry_run {
        return Ok(None);
    }
    let session = Session::connect(Home::open(dir)?).await?;
    Ok(Some(upload::upload(&session, made, show).await?.release))
}

/// Source and package; blocks for seconds to minutes, so on a thread of its own.
async fn prepare(options: &cli::Publish) -> Result<Made> {
    let options = options.clone();
    let work = move || {
        // Also when a build has put another file in this program's place meanwhile.
        let exe = std::path::PathBuf::from("/proc/self/exe");
        let source = source::find(&options)?;
        make::make(&exe, source)
    };
    tokio::task::spawn_blocking(work)
        .await
        .context("the thread that makes the package ended")?
}

fn show(made: &Made) {
    let manifest = &made.manifest;
    let f32_bytes = made.trials.first().map_or(0, |t| t.bytes);
    let row = |trial: &make::Trial| {
        let m = trial.measured;
        vec![
            trial.id.to_string(),
            if trial.bytes == 0 {
                dash()
            } else {
                output::bytes(trial.bytes)
            },
            if trial.bytes == 0 {
                dash()
            } else {
                ratio(f32_bytes, trial.bytes)
            },
            m.map_or_else(dash, |m| format!("{:.5}", m.cosine_min)),
            m.map_or_else(dash, |m| format!("{:.1} %", m.top1_share * 100.0)),
            m.map_or_else(dash, |m| format!("{:.2e}", m.abs_max)),
            m.map_or_else(dash, |m| milliseconds(m.row_us)),
            m.map_or_else(dash, |m| milliseconds(m.rows8_us)),
            trial
                .refused
                .as_ref()
                .map_or_else(|| paint(GOOD, "offered"), |_| paint(BAD, "not offered")),
        ]
    };
    let head = [
        "variant", "size", "smaller", "cosine", "top-1", "differs", "1 row", "8 rows", "verdict",
    ];
    let rows: Vec<_> = made.trials.iter().map(row).collect();
    say(&format!(
        "{}: {} golden vectors, {}",
        manifest.model, made.vectors, made.golden_from
    ));
    say(&output::table(&head, &rows, &head[1..8]));
    for trial in &made.trials {
        if let Some(why) = &trial.refused {
            say(&format!("{} {}: {why}", paint(BAD, "not offered"), trial.id));
        }
    }
    for kept in made.trials.iter().filter_map(|trial| trial.kept.as_ref()) {
        say(&int8::said(kept, output::bytes));
    }
    for by in made.trials.iter().filter_map(|trial| trial.calibrated.as_ref()) {
        say(&format!("int8 calibrated by {by}"));
    }
    for judged in made.trials.iter().filter_map(|trial| trial.judged.as_ref()) {
        say(&format!(
            "int8 judged by {} ({})",
            judge::said(&judged.figures),
            judged.by
        ));
    }
    for accepted in made.trials.iter().filter_map(|trial| trial.accepted.as_ref()) {
        say(&format!("{} with --accept-int8: {accepted}", paint(BAD, "accepted")));
    }
    if cfg!(debug_assertions) {
        say("times are those of a build that is made to build fast: publish with a release build");
    }
    for proposal in &manifest.proposals {
        say(&format!("proposed for `{}` nodes: {}", proposal.class, proposal.why));
    }
}

fn dash() -> String {
    "-".to_owned()
}

fn milliseconds(us: u32) -> String {
    if us == 0 {
        dash()
    } else {
        format!("{:.2} ms", f64::from(us) / 1000.0)
    }
}

/// `3.9x`, rounded down.
fn ratio(from: u64, to: u64) -> String {
    let tenths = from * 10 / to;
    format!("{}.{}x", tenths / 10, tenths % 10)
}

fn facts(made: &Made, sent: Option<&upload::Sent>) -> serde_json::Value {
    let trial = |t: &make::Trial| {
        let m = t.measured;
        serde_json::json!({"variant": t.id, "bytes": t.bytes, "cosine_min": m.map(|m| m.cosine_min),
            "top1_share": m.map(|m| m.top1_share), "abs_max": m.map(|m| m.abs_max), "row_us": m.map(|m| m.row_us),
            "rows8_us": m.map(|m| m.rows8_us), "load_us": m.map(|m| m.load_us), "refused": t.refused, "accepted": t.accepted,
            "calibrated": t.calibrated, "judged": t.judged.as_ref().map(|j| serde_json::json!({"by": j.by, "figures": j.figures, "missed": j.missed})),
            "stay_f32": t.kept.as_ref().map(|kept| kept.weights.iter().map(|w| w.name.as_str()).collect::<Vec<_>>()),
            "stay_f32_bytes": t.kept.as_ref().map(engine::quantize::keep::Kept::bytes)})
    };
    let trials: Vec<_> = made.trials.iter().map(trial).collect();
    let proposals: Vec<_> = made
        .manifest
        .proposals
        .iter()
        .map(|p| serde_json::json!({"class": p.class, "variant": p.variant, "why": p.why}))
        .collect();
    serde_json::json!({"model": made.manifest.model, "variants": trials, "proposals": proposals,
        "release": sent.map(|s| s.release.to_string()), "version": sent.map(|s| s.release.version), "manifest": sent.map(|s| s.manifest),
        "entry": sent.map(|s| s.entry), "sent_bytes": sent.map(|s| s.sent_bytes)})
}

/// The version that a dry run's manifest carries.
const UNPUBLISHED: ModelVersion = ModelVersion::FIRST;
