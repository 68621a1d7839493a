//! ONNX Runtime in a process of its own: `tests/load/onnxruntime_rival.py`, which says what is asked and answered.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result};
use fleet::zoo::fetch;
use proto::ids::ContentHash;
use proto::manifest::DataType;
use proto::oip::Tensor;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::ours::TURN;
use super::rows::Call;
use super::subject::Subject;

/// Its forms, as it calls them.
pub(super) const F32: &str = "f32";
pub(super) const DYNAMIC: &str = "dynamic";
pub(super) const STATIC: &str = "static";

/// Samples of one form, microseconds a call.
#[derive(Default, Deserialize)]
pub(super) struct Times {
    pub(super) cpu: Vec<f64>,
    pub(super) wall: Vec<f64>,
}

/// The outputs of a call.
pub(super) type Answer = Vec<Tensor>;

/// The process, and where things lie.
pub(super) struct Rival {
    child: Child,
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
    scratch: PathBuf,
    /// Its Python.
    pub(super) python: PathBuf,
    /// What is kept for further runs.
    pub(super) kept: PathBuf,
    /// Files of the forms of the model that was given last.
    pub(super) forms: BTreeMap<String, PathBuf>,
}

/// A tensor whose bytes lie in a file.
#[derive(Serialize, Deserialize)]
pub(super) struct Stored {
    name: String,
    dtype: String,
    shape: Vec<usize>,
    file: PathBuf,
}

#[derive(Deserialize)]
struct Forms {
    forms: BTreeMap<String, PathBuf>,
    refused: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Answers {
    answers: BTreeMap<String, Vec<Vec<Stored>>>,
    refused: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Products {
    products: f64,
}

impl Rival {
    pub(super) fn start(kept: &Path, scratch: &Path) -> Result<Self> {
        let requires = std::fs::read_to_string(script().with_file_name("requirements.txt"))?;
        let requires: Vec<String> = requires.lines().map(str::to_owned).collect();
        std::fs::create_dir_all(kept)?;
        let python = fetch::environment(&requires, kept)?.join("bin/python");
        let mut child = Command::new(&python)
            .arg(script())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let ask = child.stdin.take().context("a pipe to the rival")?;
        let answers = BufReader::new(child.stdout.take().context("a pipe from the rival")?);
        Ok(Self {
            child,
            ask,
            answers,
            scratch: scratch.to_owned(),
            python,
            kept: kept.to_owned(),
            forms: BTreeMap::new(),
        })
    }

    fn answer<A: DeserializeOwned>(&mut self, ask: &Value) -> Result<A> {
        writeln!(self.ask, "{ask}")?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        serde_json::from_str(&line).context("ONNX Runtime gave up; what it said stands above")
    }

    /// Takes up a model, with int8 forms where there is something to calibrate with. Forms that it cannot make count as absent.
    pub(super) fn model(&mut self, subject: &Subject, calibration: Option<&[Call]>) -> Result<()> {
        let calibration = calibration.unwrap_or_default();
        // The path of its Python tells versions: another quantizer makes other files.
        let mut seen = self.python.as_os_str().as_encoded_bytes().to_vec();
        seen.extend(std::fs::read(&subject.file)?);
        seen.extend(calibration.iter().flatten().flat_map(|tensor| &tensor.data));
        let made = self
            .kept
            .join(format!("{}-{}", subject.name, ContentHash::of(&seen).short()));
        let calibration = stored_all(calibration, &self.scratch, "calibration")?;
        let told: Forms = self.answer(&json!({"model": subject.file, "made": made, "calibration": calibration}))?;
        self.forms = told.forms;
        self.without(&told.refused);
        Ok(())
    }

    /// Takes up calls; gives what each form answered to each of them.
    pub(super) fn calls(&mut self, calls: &[Call]) -> Result<BTreeMap<String, Vec<Answer>>> {
        let calls = stored_all(calls, &self.scratch, "call")?;
        let told: Answers = self.answer(&json!({"calls": calls, "to": self.scratch}))?;
        self.without(&told.refused);
        let answer = |outputs: &Vec<Stored>| outputs.iter().map(Stored::read).collect::<Result<Answer>>();
        let read = |(form, answers): (String, Vec<Vec<Stored>>)| {
            let answers = answers.iter().map(answer).collect::<Result<_>>()?;
            Ok((form, answers))
        };
        told.answers.into_iter().map(read).collect()
    }

    /// How many numbers f32 multiplies in the first of those calls.
    pub(super) fn products(&mut self) -> Result<f64> {
        let told: Products = self.answer(&json!({"products": true}))?;
        Ok(told.products)
    }

    fn without(&mut self, refused: &BTreeMap<String, String>) {
        for (form, why) in refused {
            eprintln!("·· without ONNX Runtime's {form} int8: {why}");
            self.forms.remove(form);
        }
    }

    /// The times of each form, on so many threads.
    pub(super) fn run(&mut self, threads: usize) -> Result<BTreeMap<String, Times>> {
        self.answer(&json!({"run": TURN.as_secs_f64(), "threads": threads}))
    }

    /// A process that loads `model` and answers once, on inputs that [`store`] has written.
    pub(super) fn fresh(&self, model: &Path, inputs: &Path) -> Command {
        let mut command = Command::new(&self.python);
        command.arg(script()).arg("--fresh").arg(model).arg(inputs);
        command
    }
}

impl Drop for Rival {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("load/onnxruntime_rival.py")
}

fn stored_all(calls: &[Call], folder: &Path, what: &str) -> Result<Vec<Vec<Stored>>> {
    let stored = |(at, call): (usize, &Call)| store(call, folder, &format!("{what}-{at}"));
    calls.iter().enumerate().map(stored).collect()
}

/// Writes inputs into files that both sides read.
pub(super) fn store(call: &Call, folder: &Path, prefix: &str) -> Result<Vec<Stored>> {
    let one = |(at, tensor): (usize, &Tensor)| -> Result<Stored> {
        let file = folder.join(format!("{prefix}-{at}.bin"));
        std::fs::write(&file, &tensor.data)?;
        let dtype = DTYPES.iter().find(|(_, datatype)| *datatype == tensor.datatype);
        let (dtype, _) = dtype.with_context(|| format!("`{}` is {}", tensor.name, tensor.datatype.as_str()))?;
        Ok(Stored {
            name: tensor.name.clone(),
            dtype: (*dtype).to_owned(),
            shape: tensor.shape.clone(),
            file,
        })
    };
    call.iter().enumerate().map(one).collect()
}

/// numpy's names of what models here take and give.
const DTYPES: [(&str, DataType); 3] = [
    ("<f4", DataType::Fp32),
    ("<i4", DataType::Int32),
    ("<i8", DataType::Int64),
];

impl Stored {
    /// The tensor.
    pub(super) fn read(&self) -> Result<Tensor> {
        let datatype = DTYPES.iter().find(|(dtype, _)| *dtype == self.dtype);
        let (_, datatype) = datatype.with_context(|| format!("`{}` is {}", self.name, self.dtype))?;
        Ok(Tensor {
            name: self.name.clone(),
            datatype: *datatype,
            shape: self.shape.clone(),
            data: std::fs::read(&self.file)?,
        })
    }
}
