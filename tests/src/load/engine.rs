//! The engine beside ONNX Runtime: every zoo model and two of tables, or files of one's own, f32 and int8, round by round in turn.
//!
//! The rival is the `onnxruntime` wheel in a Python of its own, in three forms: f32, its dynamic int8 (`ort-int8`) and its
//! static int8 (`ort-static`), calibrated on the very rows that are measured. `ort-best` is the fastest of its forms whose
//! answers are at least as close to its f32 as ours are.
//!
//! | figure | what |
//! |---|---|
//! | `MODEL/FORM/b8/t1` | CPU time of a call of 8 rows on one thread, median |
//! | `../t1/wall` | wall time of the same |
//! | `../t2`, `../t2/wall` | CPU of both threads, and wall time, of the same rows on two threads |
//! | `../t1/cosine` | the row whose answer lies furthest from ONNX Runtime's f32, 1 is the same |
//! | `../t1/gmac_s` | products a second in layers and between activations, beside what a core's multipliers do in a loop of nothing else |
//! | `MODEL/FORM/load_ms` | file on disk to first answer of one row, in a fresh process on a machine that loaded it before |
//! | `../first_load_ms` | the same where it was never loaded: ours packs its weights and writes them |
//! | `../pss_mib`, `../pss_per_file` | memory that this process grew by meanwhile, and that by the file's size |
//! | `../file_mib` | the file's size |
//!
//! On two threads ONNX Runtime spreads one call over both. Our engine takes one thread a call, so halves of the rows run at once;
//! of a single row two requests run at once and each counts half: that figure is a rate, and no request is answered so soon.

mod fresh;
mod measure;
mod ours;
mod rival;
mod rows;
mod subject;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use fleet::zoo;

use super::{Figure, median};
use measure::Case;
use ours::Form;
use rival::Rival;
use subject::Subject;

pub use fresh::answer_once;

const SUITE: &str = "engine";

/// What the suite measures.
#[derive(Clone, Debug)]
pub struct Choice {
    /// Names of models; all where nothing else is chosen.
    pub models: Vec<String>,
    /// ONNX files that are no models of the zoo: what licences keep out of it can be measured all the same.
    pub files: Vec<PathBuf>,
    /// Rows of a call.
    pub rows: Vec<usize>,
    /// Each form is measured so often, in turn.
    pub rounds: u32,
    /// Also files that ONNX Runtime's quantizer made, in our engine.
    pub foreign: bool,
}

/// Measures what was chosen. Downloads models and ONNX Runtime, and trains the models of tables, where they are not there yet.
///
/// # Errors
/// An unknown model, no Python 3, no package index, or a model that our engine or ONNX Runtime's f32 refuses.
pub fn run(choice: &Choice) -> Result<Vec<Figure>> {
    ensure!(
        choice.rows.iter().all(|rows| *rows > 0),
        "a call has one row at least; --rows 1,8,32 is usual"
    );
    let cache = zoo::fetch::cache_folder()?;
    let names = if choice.files.is_empty() || !choice.models.is_empty() {
        subject::chosen(&choice.models)?
    } else {
        Vec::new()
    };
    let scratch = tempfile::tempdir()?;
    let mut rival = Rival::start(&cache.join("engine-rival"), scratch.path())?;
    let mut figures = Vec::new();
    for name in names {
        let subject = Subject::find(&name, &rival)?;
        figures.extend(measured(&subject, &mut rival, choice, scratch.path()).with_context(|| name)?);
    }
    for file in &choice.files {
        let subject = Subject::of_file(file)?;
        let found = measured(&subject, &mut rival, choice, scratch.path());
        figures.extend(found.with_context(|| file.display().to_string())?);
    }
    Ok(figures)
}

fn measured(subject: &Subject, rival: &mut Rival, choice: &Choice, scratch: &Path) -> Result<Vec<Figure>> {
    let mut forms = ours::forms(&subject.file, scratch)?;
    let specs = forms.first().map_or(&[][..], |form| form.graph.inputs()).to_vec();
    let specs = specs.as_slice();
    let one = rows::calls(specs, &subject.samples, 1)?;
    let coded = forms.iter().any(Form::is_int8);
    rival.model(
        subject,
        coded.then(|| subject.calibration(specs)).transpose()?.as_deref(),
    )?;
    if choice.foreign {
        forms.extend(ours::foreign(rival)?);
    }
    let mut figures = Vec::new();
    for rows in choice.rows.iter().copied() {
        if rows > 1 && !rows::any_number(specs) {
            eprintln!("·· {}: takes one row a call, not {rows}", subject.name);
            continue;
        }
        eprintln!("·· {}, {rows} rows", subject.name);
        let case = Case::new(&forms, rival, rows::calls(specs, &subject.samples, rows)?)?;
        let name = |form: &Form| format!("{}/{}/{}", subject.name, form.name, rows::shape(specs, &case.calls));
        figures.extend(case.measure(&forms, rival, choice.rounds, name)?);
    }
    eprintln!("·· {}, fresh processes", subject.name);
    let one = one.first().context("a call of one row")?;
    figures.extend(fresh::measure(&subject.name, &forms, rival, one, choice.rounds)?);
    Ok(figures)
}
