//! What is measured: the zoo's models, and models of tables that are trained once.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use fleet::zoo;
use proto::manifest::{DataType, TensorSpec};
use proto::oip::Tensor;

use super::rival::Rival;
use super::rows;

/// Names of ours -> files that `models/engine/tests/trees/sizes.py` makes. The last does nothing: what a call itself costs.
const TABLES: [(&str, &str); 3] = [
    ("trees-forest", "forest-100-trees-any-depth.onnx"),
    ("trees-gbt", "boosted-100-trees-depth-6.onnx"),
    ("trees-nothing", "nothing.onnx"),
];
/// Columns of their rows.
const COLUMNS: usize = 30;
/// Rows of made-up input that static quantization is calibrated with, beside real ones.
const CALIBRATION_ROWS: usize = 8;

/// A model's file, and real inputs for it where there are any.
pub(super) struct Subject {
    pub(super) name: String,
    pub(super) file: PathBuf,
    pub(super) samples: Vec<Vec<Tensor>>,
}

/// `wanted`, or all there are.
pub(super) fn chosen(wanted: &[String]) -> Result<Vec<String>> {
    let mut known = zoo::names(&zoo::folder()?)?;
    known.extend(TABLES.map(|(name, _)| name.to_owned()));
    for name in wanted {
        ensure!(
            known.contains(name),
            "no model `{name}`; there are: {}",
            known.join(", ")
        );
    }
    Ok(if wanted.is_empty() { known } else { wanted.to_vec() })
}

impl Subject {
    pub(super) fn find(name: &str, rival: &Rival) -> Result<Self> {
        match TABLES.iter().find(|(table, _)| *table == name) {
            Some((_, file)) => Self::table(name, file, rival),
            None => Self::of_the_zoo(name),
        }
    }

    /// A file of no recipe, called as it is called; its inputs are made up.
    pub(super) fn of_file(file: &Path) -> Result<Self> {
        let name = file
            .file_stem()
            .with_context(|| format!("{} names no file", file.display()))?;
        Ok(Self {
            name: name.to_string_lossy().into_owned(),
            file: file.to_owned(),
            samples: Vec::new(),
        })
    }

    fn of_the_zoo(name: &str) -> Result<Self> {
        let recipe = zoo::read(&zoo::folder()?, name)?;
        let fetched = zoo::fetch(&recipe, &zoo::fetch::cache_folder()?)?;
        let file = fetched.files.into_iter().find(|(file, _)| *file == recipe.model.file);
        let (_, file) = file.with_context(|| format!("{name} has no file {}", recipe.model.file))?;
        let golden = zoo::bundled_golden(name)?;
        Ok(Self {
            name: name.to_owned(),
            file,
            samples: golden.into_iter().map(|vector| vector.inputs).collect(),
        })
    }

    fn table(name: &str, file: &str, rival: &Rival) -> Result<Self> {
        let folder = rival.kept.join("trees");
        let (model, table) = (folder.join(file), folder.join("rows.f32"));
        if !(model.is_file() && table.is_file()) {
            eprintln!("·· training models of tables");
            let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../models/engine/tests/trees/sizes.py");
            let mut command = Command::new(&rival.python);
            let status = command
                .env("PYTHONDONTWRITEBYTECODE", "1")
                .arg(script)
                .arg(&folder)
                .status()?;
            ensure!(status.success(), "sizes.py made no models; what it said stands above");
        }
        let data = std::fs::read(&table)?;
        let row = Tensor {
            name: if file == "nothing.onnx" { "x" } else { "X" }.to_owned(),
            datatype: DataType::Fp32,
            shape: vec![data.len() / 4 / COLUMNS, COLUMNS],
            data,
        };
        if row.shape.iter().product::<usize>() * 4 != row.data.len() {
            bail!(
                "{} does not hold rows of {COLUMNS} columns: remove {}",
                table.display(),
                folder.display()
            );
        }
        Ok(Self {
            name: name.to_owned(),
            file: model,
            samples: vec![vec![row]],
        })
    }

    /// What static quantization may look at: real inputs, and the rows that are measured.
    pub(super) fn calibration(&self, specs: &[TensorSpec]) -> Result<Vec<Vec<Tensor>>> {
        let mut calls = rows::calls(
            specs,
            &self.samples,
            if rows::any_number(specs) { CALIBRATION_ROWS } else { 1 },
        )?;
        calls.extend(rows::fitting(specs, &self.samples).cloned());
        Ok(calls)
    }
}
