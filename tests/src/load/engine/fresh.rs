//! What loading costs: processes that do nothing but load one file and answer once, ours and ONNX Runtime's in turn.
//!
//! Ours keeps what it packs of a file, as a node does: the first start of a model and all later ones are told apart.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use engine::graph::Graph;
use engine::pack::{PackedFolder, prepare};
use proto::ids::ContentHash;
use runtime::clock;
use serde::{Deserialize, Serialize};

use super::ours::Form;
use super::rival::{DYNAMIC, F32, Rival, STATIC, Stored, store};
use super::rows::Call;
use super::{Figure, SUITE, median};

/// What such a process says of itself.
#[derive(Serialize, Deserialize)]
struct Said {
    load_ms: f64,
    pss_mib: f64,
}

/// A process that is started again and again, and what it said.
struct Fresh {
    whose: Whose,
    /// The form of ours, or the rival's name.
    name: &'static str,
    int8: bool,
    command: Command,
    said: Vec<Said>,
    file_mib: f64,
}

/// Whose process it is.
#[derive(Clone, Copy, PartialEq)]
enum Whose {
    /// The first that loads this file here.
    OursFirst,
    /// One that finds what an earlier one packed.
    Ours,
    Rival,
}

/// Name, unit, and how a figure comes of what was said.
type Kind = (&'static str, &'static str, fn(&Fresh) -> f64);

const KINDS: [Kind; 4] = [
    ("load_ms", "ms", |fresh| fresh.median(|said| said.load_ms)),
    ("pss_mib", "MiB", |fresh| fresh.median(|said| said.pss_mib)),
    ("pss_per_file", "", |fresh| {
        fresh.median(|said| said.pss_mib) / fresh.file_mib
    }),
    ("file_mib", "MiB", |fresh| fresh.file_mib),
];

impl Fresh {
    fn new(whose: Whose, name: &'static str, int8: bool, file: &Path, command: Command) -> Result<Self> {
        let bytes = u32::try_from(std::fs::metadata(file)?.len())?;
        Ok(Self {
            whose,
            name,
            int8,
            command,
            said: Vec::new(),
            file_mib: f64::from(bytes) / f64::from(1 << 20),
        })
    }

    fn start(&mut self) -> Result<()> {
        let output = self.command.stderr(Stdio::inherit()).output()?;
        ensure!(
            output.status.success(),
            "a fresh process failed; what it said stands above"
        );
        self.said.push(serde_json::from_slice(&output.stdout)?);
        Ok(())
    }

    fn median(&self, of: fn(&Said) -> f64) -> f64 {
        median(&mut self.said.iter().map(of).collect::<Vec<_>>())
    }
}

/// Loads `model`, of which `packed` may hold something, and answers the inputs that the file `inputs` lists, once; prints milliseconds
/// and memory as one JSON object.
///
/// # Errors
/// The files do not read, or the engine refuses them.
pub fn answer_once(model: &Path, inputs: &Path, packed: &Path) -> Result<()> {
    let packed = PackedFolder::new(packed, [0; 32])?;
    // A node knows the identity of each file from its manifest. One folder serves one file here.
    let file = ContentHash::of(b"");
    let stored: Vec<Stored> = serde_json::from_slice(&std::fs::read(inputs)?)?;
    let inputs: Call = stored.iter().map(Stored::read).collect::<Result<_>>()?;
    let (before, start) = (pss_mib()?, clock::instant());
    let graph = Graph::of(prepare(model, Some((&packed, &file)))?)?;
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
    let scratch = tempfile::tempdir()?;
    let inputs = scratch.path().join("inputs.json");
    std::fs::write(&inputs, serde_json::to_vec(&store(call, scratch.path(), "input")?)?)?;
    let mut all = Vec::new();
    for form in forms {
        let packed = scratch.path().join(form.name);
        for whose in [Whose::OursFirst, Whose::Ours] {
            let mut command = Command::new(std::env::current_exe()?);
            command
                .args(["engine", "--fresh"])
                .arg(&form.file)
                .arg(&inputs)
                .arg(&packed);
            all.push(Fresh::new(whose, form.name, form.is_int8(), &form.file, command)?);
        }
    }
    for (form, shown) in [(F32, "ort-f32"), (DYNAMIC, "ort-int8"), (STATIC, "ort-static")] {
        if let Some(file) = rival.forms.get(form) {
            all.push(Fresh::new(
                Whose::Rival,
                shown,
                form != F32,
                file,
                rival.fresh(file, &inputs),
            )?);
        }
    }
    for _ in 0..rounds {
        for form in forms {
            // So that the first of ours is the first.
            match std::fs::remove_dir_all(scratch.path().join(form.name)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
        }
        all.iter_mut().try_for_each(Fresh::start)?;
    }
    let mut figures = Vec::new();
    for ours in &all {
        let prefix = match ours.whose {
            Whose::OursFirst => "first_",
            Whose::Ours => "",
            Whose::Rival => continue,
        };
        // The file is the same at every start.
        for (kind, unit, of) in KINDS
            .iter()
            .filter(|(kind, ..)| prefix.is_empty() || *kind != "file_mib")
        {
            let figure = Figure::alone(SUITE, format!("{name}/{}/{prefix}{kind}", ours.name), of(ours), unit);
            let theirs = all.iter().filter(|fresh| fresh.int8 == ours.int8);
            let theirs = theirs
                .filter(|fresh| fresh.whose == Whose::Rival)
                .map(|fresh| (fresh.name, of(fresh)));
            figures.push(match theirs.min_by(|(_, a), (_, b)| a.total_cmp(b)) {
                Some((rival, best)) => figure.beside(rival, best),
                None => figure,
            });
        }
    }
    Ok(figures)
}
