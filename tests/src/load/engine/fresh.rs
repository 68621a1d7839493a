//! What loading costs: processes that do nothing but load one file and answer once, ours and ONNX Runtime's in turn.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use runtime::clock;
use serde::{Deserialize, Serialize};

use super::ours::{self, Form};
use super::rival::{DYNAMIC, F32, Rival, STATIC, Stored, store};
use super::rows::Call;
use super::{Figure, SUITE, median};

/// What such a process says of itself.
#[derive(Serialize, Deserialize)]
struct Said {
    load_ms: f64,
    pss_mib: f64,
}

/// Medians of one file.
struct Cost {
    load_ms: f64,
    pss_mib: f64,
    file_mib: f64,
}

/// Loads `model` and answers the inputs that the file `inputs` lists, once; prints milliseconds and memory as one JSON object.
///
/// # Errors
/// The files do not read, or the engine refuses them.
pub fn answer_once(model: &Path, inputs: &Path) -> Result<()> {
    let stored: Vec<Stored> = serde_json::from_slice(&std::fs::read(inputs)?)?;
    let inputs: Call = stored.iter().map(Stored::read).collect::<Result<_>>()?;
    let (before, start) = (pss_mib()?, clock::instant());
    let graph = ours::load(model)?;
    let answer = graph.run(&inputs)?;
    let load_ms = start.elapsed().as_secs_f64() * 1e3;
    let said = Said {
        load_ms,
        pss_mib: pss_mib()? - before,
    };
    println!("{}", serde_json::to_string(&said)?);
    // What was answered counts as in use until here.
    drop(answer);
    Ok(())
}

/// This process's share of the memory its pages take.
fn pss_mib() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup")?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    let kib: u32 = kib.context("smaps_rollup has a line `Pss: N kB`")?.trim().parse()?;
    Ok(f64::from(kib) / 1024.0)
}

/// Load time and memory of each of our forms beside ONNX Runtime's; beside int8 stands, figure by figure, the better of its two.
pub(super) fn measure(name: &str, forms: &[Form], rival: &Rival, call: &Call, rounds: u32) -> Result<Vec<Figure>> {
    let folder = rival.kept.as_path();
    let scratch = tempfile::tempdir_in(folder)?;
    let inputs = scratch.path().join("inputs.json");
    std::fs::write(&inputs, serde_json::to_vec(&store(call, scratch.path(), "input")?)?)?;
    let mut said: BTreeMap<String, Vec<Said>> = BTreeMap::new();
    let mut commands: Vec<(String, Command)> = Vec::new();
    for form in forms {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["engine", "--fresh"]).arg(&form.file).arg(&inputs);
        commands.push((format!("our {}", form.name), command));
    }
    for (form, file) in &rival.forms {
        commands.push((form.clone(), rival.fresh(file, &inputs)));
    }
    for _ in 0..rounds {
        for (who, command) in &mut commands {
            said.entry(who.clone())
                .or_default()
                .push(told(command).with_context(|| who.clone())?);
        }
    }
    let mut cost = |who: &str, file: &Path| -> Result<Option<Cost>> {
        let Some(said) = said.remove(who) else { return Ok(None) };
        let of = |figure: fn(&Said) -> f64| median(&mut said.iter().map(figure).collect::<Vec<_>>());
        let bytes = u32::try_from(std::fs::metadata(file)?.len())?;
        Ok(Some(Cost {
            load_ms: of(|said| said.load_ms),
            pss_mib: of(|said| said.pss_mib),
            file_mib: f64::from(bytes) / f64::from(1 << 20),
        }))
    };
    let mut theirs = Vec::new();
    for (form, shown) in [(F32, "ort-f32"), (DYNAMIC, "ort-int8"), (STATIC, "ort-static")] {
        if let Some(file) = rival.forms.get(form)
            && let Some(cost) = cost(form, file)?
        {
            theirs.push((shown, cost));
        }
    }
    let mut figures = Vec::new();
    for form in forms {
        let ours = cost(&format!("our {}", form.name), &form.file)?.context("every form was measured")?;
        let beside: Vec<_> = theirs
            .iter()
            .filter(|(shown, _)| (*shown == "ort-f32") != form.is_int8())
            .collect();
        figures.extend(figures_of(&format!("{name}/{}", form.name), &ours, &beside));
    }
    Ok(figures)
}

fn told(command: &mut Command) -> Result<Said> {
    let output = command.stderr(Stdio::inherit()).output()?;
    ensure!(
        output.status.success(),
        "a fresh process failed; what it said stands above"
    );
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn figures_of(name: &str, ours: &Cost, theirs: &[&(&'static str, Cost)]) -> Vec<Figure> {
    let kinds: [(&str, &'static str, fn(&Cost) -> f64); 4] = [
        ("load_ms", "ms", |cost| cost.load_ms),
        ("pss_mib", "MiB", |cost| cost.pss_mib),
        ("pss_per_file", "", |cost| cost.pss_mib / cost.file_mib),
        ("file_mib", "MiB", |cost| cost.file_mib),
    ];
    let figure = |(kind, unit, of): (&str, &'static str, fn(&Cost) -> f64)| {
        let figure = Figure::alone(SUITE, format!("{name}/{kind}"), of(ours), unit);
        let best = theirs.iter().min_by(|(_, a), (_, b)| of(a).total_cmp(&of(b)));
        best.map_or(figure.clone(), |(rival, cost)| figure.beside(rival, of(cost)))
    };
    kinds.into_iter().map(figure).collect()
}
