//! Inputs by which the weights of an int8 form are rounded: f32 answers them, and what its layers see on the way is counted.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use engine::LoadedModel;
use engine::quantize::Calibration;
use models::golden::Vector;
use models::golden::judging::{self, Questions};
use proto::ids::ContentHash;
use proto::limits::STEP_FILE_BYTES_MAX;

/// Where calibration inputs come from.
#[derive(Clone, Debug)]
pub struct Calibrate {
    /// The file.
    pub path: PathBuf,
    /// Who made it and of what.
    pub from: String,
}

/// Calibration inputs that were read.
#[derive(Debug, Default)]
pub struct Samples {
    /// As if they were golden: what a form was made with is not what it may be judged by.
    pub vectors: Vec<Vector>,
    /// Where they come from, and their digest.
    pub by: String,
}

impl Calibrate {
    /// Reads the inputs.
    ///
    /// # Errors
    /// The file does not read or is too long.
    pub fn read(&self) -> Result<Samples> {
        let bytes = read_bounded(&self.path)?;
        let questions = judging::read(&bytes).with_context(|| self.path.display().to_string())?;
        let Questions::Plain(lines) = questions else {
            bail!(
                "{} holds pairs: calibration needs one JSON object {{\"inputs\": [..]}} a line",
                self.path.display()
            );
        };
        let vector = |inputs| Vector {
            inputs,
            outputs: Vec::new(),
        };
        Ok(Samples {
            vectors: lines.into_iter().map(vector).collect(),
            by: format!("{}, {}", self.from, ContentHash::of(&bytes)),
        })
    }
}

impl Samples {
    /// Has the f32 model, whose file is `onnx`, answer all of them.
    ///
    /// # Errors
    /// It does not answer one.
    pub(super) fn gather(&self, onnx: &[u8], f32: &LoadedModel) -> Result<Calibration> {
        let given = |(at, vector): (usize, &Vector)| {
            let given = f32.graph_inputs(&vector.inputs);
            given.with_context(|| format!("calibration inputs, line {}", at + 1))
        };
        let given = self.vectors.iter().enumerate().map(given).collect::<Result<Vec<_>>>()?;
        Ok(Calibration::gather(onnx, &given)?)
    }
}

/// A file of inputs, as long as a package's files may be.
pub(super) fn read_bounded(path: &Path) -> Result<Vec<u8>> {
    let failed = || format!("read {}", path.display());
    let bytes = std::fs::metadata(path).with_context(failed)?.len();
    ensure!(
        bytes <= STEP_FILE_BYTES_MAX,
        "{} has {bytes} bytes, allowed is {STEP_FILE_BYTES_MAX}",
        path.display()
    );
    std::fs::read(path).with_context(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calibration_inputs_are_plain_and_told_by_their_digest() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let calibrate = Calibrate {
            path: file.path().to_owned(),
            from: "a test".to_owned(),
        };
        let tensor = r#"[{"name":"x","datatype":"FP32","shape":[1],"data":[1]}]"#;
        std::fs::write(file.path(), format!("{{\"inputs\":{tensor}}}\n")).unwrap();
        let samples = calibrate.read().unwrap();
        assert_eq!(samples.vectors.len(), 1);
        assert!(samples.by.starts_with("a test, b3:"), "{}", samples.by);
        std::fs::write(file.path(), format!("{{\"query\":{tensor},\"answer\":{tensor}}}\n")).unwrap();
        let error = calibrate.read().unwrap_err().to_string();
        assert!(error.contains("holds pairs"), "{error}");
    }
}
