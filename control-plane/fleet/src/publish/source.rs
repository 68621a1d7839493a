//! What is to be published: a model of the zoo, a recipe, or an ONNX file with its golden vectors.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use models::golden;
use proto::ids::ModelName;
use proto::manifest::{Check, Signature};

use super::calibrate::Calibrate;
use super::elsewhere::{self, Elsewhere};
use super::int8::Wish;
use super::judge::Judge;
use crate::cli;
use crate::zoo::{self, Recipe, fetch, recipe::GOLDEN_FILE};

/// Everything that a package is made of, before it was judged.
#[derive(Clone, Debug)]
pub struct Source {
    /// The model's name.
    pub name: ModelName,
    /// One line for people.
    pub description: String,
    /// SPDX expression.
    pub licence: String,
    /// Where it comes from.
    pub source: String,
    /// The f32 model: its name in the package, and where it lies.
    pub model: (String, PathBuf),
    /// Other files of the package, without golden vectors.
    pub files: Vec<(String, PathBuf)>,
    /// Where the golden vectors come from.
    pub golden: Golden,
    /// What f32 must keep.
    pub f32_checks: Vec<Check>,
    /// What int8 must keep; `None`: what fits the golden vectors.
    pub int8_checks: Option<Vec<Check>>,
    /// What the weights of int8 are rounded by.
    pub calibrate: Option<Calibrate>,
    /// What int8 is judged by beside the golden vectors.
    pub judge: Option<Judge>,
    /// Whether there is to be an int8 form.
    pub int8: Wish,
    /// Ways to call it beside the plain `tensors`.
    pub signatures: Vec<Signature>,
    /// What runs the f32 model beside the engine.
    pub elsewhere: Vec<Elsewhere>,
}

/// Where golden vectors come from.
#[derive(Clone, Debug)]
pub enum Golden {
    /// A file, and what made it.
    File(PathBuf, String),
    /// The f32 model itself answers seeded inputs: proves that variants and nodes agree with it, not that it is right.
    OfItself,
}

const F32_CHECKS: [Check; 1] = [Check::Close { abs: 1e-3, rel: 1e-3 }];

/// Finds out what `options` mean, and fetches it where it is not here yet.
///
/// # Errors
/// No such file or recipe; an ONNX file without a name or golden vectors.
pub fn find(options: &cli::Publish) -> Result<Source> {
    let path = Path::new(&options.source);
    let mut source = match path.extension().and_then(|e| e.to_str()) {
        Some("toml") => of_recipe(&Recipe::read(path)?)?,
        Some("onnx") => of_onnx(path, options)?,
        _ if path.is_file() => bail!("{} is neither an .onnx nor a .toml file", path.display()),
        _ => of_recipe(&zoo::read(&zoo::folder()?, &options.source)?)?,
    };
    if let Some(name) = &options.name {
        source.name.clone_from(name);
    }
    if let Some(description) = &options.description {
        source.description.clone_from(description);
    }
    if let Some(file) = &options.golden {
        source.golden = given(file);
    } else if options.self_golden {
        source.golden = Golden::OfItself;
    }
    if let Some(file) = &options.calibrate {
        let (path, from) = (file.clone(), given_as(file));
        source.calibrate = Some(Calibrate { path, from });
    }
    if let Some(file) = &options.judge {
        let bounds = source.judge.map(|judge| judge.bounds).unwrap_or_default();
        let (path, from) = (file.clone(), given_as(file));
        source.judge = Some(Judge { path, from, bounds });
    }
    if options.no_judge {
        source.judge = None;
    }
    source.int8 = match (options.accept_int8, options.no_int8) {
        (_, true) => Wish::None,
        (true, false) => Wish::Accept,
        (false, false) => Wish::Offer,
    };
    source.elsewhere = elsewhere::of(options)?;
    Ok(source)
}

fn given(file: &Path) -> Golden {
    Golden::File(file.to_owned(), given_as(file))
}

fn given_as(file: &Path) -> String {
    format!("given as {}", file.file_name().unwrap_or_default().to_string_lossy())
}

fn of_recipe(recipe: &Recipe) -> Result<Source> {
    let fetched = fetch::fetch(recipe, &fetch::cache_folder()?)?;
    let (mut files, mut model, mut golden) = (Vec::new(), None, None);
    for (name, path) in fetched.files {
        if name == recipe.model.file {
            model = Some((name, path));
        } else if name == GOLDEN_FILE {
            golden = Some(path);
        } else {
            files.push((name, path));
        }
    }
    let made_by = "made by ONNX Runtime 1.32, models/zoo/golden.py".to_owned();
    Ok(Source {
        name: recipe.name.clone(),
        description: recipe.description.clone(),
        licence: recipe.licence.clone(),
        source: recipe.source.clone(),
        model: model.context("a recipe has a model")?,
        files,
        golden: Golden::File(golden.context("a recipe has golden vectors")?, made_by),
        f32_checks: recipe.checks.f32.clone(),
        int8_checks: Some(recipe.checks.int8.clone()),
        calibrate: recipe.calibrate.as_ref().map(|calibrate| Calibrate {
            path: recipe.calibrate_path(calibrate),
            from: calibrate.from.clone(),
        }),
        judge: recipe.judge.as_ref().map(|judge| Judge {
            path: recipe.judge_path(judge),
            from: judge.from.clone(),
            bounds: judge.bounds,
        }),
        int8: Wish::Offer,
        signatures: recipe.signatures.iter().cloned().map(Signature::from).collect(),
        elsewhere: Vec::new(),
    })
}

fn of_onnx(path: &Path, options: &cli::Publish) -> Result<Source> {
    let name = options
        .name
        .clone()
        .context("an ONNX file needs a name: add --name NAME")?;
    let golden = match (&options.golden, options.self_golden) {
        (Some(file), _) => given(file),
        (None, true) => Golden::OfItself,
        (None, false) => bail!(
            "{} has no golden vectors: give some with --golden FILE (one JSON object {{\"inputs\": [..], \"outputs\": [..]}} a \
             line, made by the framework that you trust), or let the model vouch for itself with --self-golden",
            path.display()
        ),
    };
    let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Source {
        description: name.to_string(),
        name,
        licence: options.licence.clone(),
        source: file,
        model: ("model.onnx".to_owned(), path.to_owned()),
        files: Vec::new(),
        golden,
        f32_checks: F32_CHECKS.to_vec(),
        int8_checks: None,
        calibrate: None,
        judge: None,
        int8: Wish::Offer,
        signatures: Vec::new(),
        elsewhere: Vec::new(),
    })
}

/// Checks for int8 where nobody wrote any: cosine where rows have a direction, else closeness.
///
/// # Errors
/// The vectors contradict themselves.
pub fn int8_checks_for(vectors: &[golden::Vector]) -> Result<Vec<Check>> {
    let cosine = Check::Cosine { min: 0.99 };
    let itself = vectors.iter().map(|v| (v.outputs.as_slice(), v.outputs.as_slice()));
    let agreement = golden::judge(&[cosine], itself).context("golden vectors")?;
    let fallback = Check::Close { abs: 0.05, rel: 0.05 };
    Ok(vec![if agreement.passed() { cosine } else { fallback }])
}
