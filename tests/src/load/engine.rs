//! The engine beside ONNX Runtime: every zoo model, f32 and int8, one thread, CPU time, round by round in turn.
//!
//! The rival is the `onnxruntime` wheel in a Python of its own, as f32 and as its own dynamic int8. `ort-best` is the faster
//! of its forms whose answers are at least as close to its f32 as ours; `ort-int8` is its int8, however close. Inputs are made
//! up: cosines say how much arithmetic differs, not how well a model does its work.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use engine::graph::Graph;
use engine::{onnx, quantize};
use fleet::zoo;
use proto::manifest::{DataType, Dim, TensorSpec};
use proto::oip::Tensor;
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

use super::{Figure, median};

const SUITE: &str = "engine";
const ROWS: [usize; 3] = [1, 8, 32];
/// Tokens of a row, where rows have any number of them.
const TOKENS: usize = 64;
/// Each form runs so long in each round.
const TURN: Duration = Duration::from_millis(400);
/// How far cosines may differ and count as equal.
const SAME: f64 = 1e-5;

/// Measures every zoo model in `rounds` rounds. Downloads models and ONNX Runtime where they are not there yet.
///
/// # Errors
/// No Python 3, no package index, or a model that either side refuses.
pub fn run(rounds: u32) -> Result<Vec<Figure>> {
    let cache = zoo::fetch::cache_folder()?;
    let mut rival = Rival::start(&cache.join("engine-rival"))?;
    let folder = zoo::folder()?;
    let mut figures = Vec::new();
    for name in zoo::names(&folder)? {
        let recipe = zoo::read(&folder, &name)?;
        let file = recipe.model.file.clone();
        let fetched = zoo::fetch(&recipe, &cache)?;
        let path = fetched.files.iter().find(|(name, _)| *name == file);
        let (_, path) = path.with_context(|| format!("{name} has no file {file}"))?;
        let ours = Ours::load(path).with_context(|| name.clone())?;
        for rows in ROWS {
            eprintln!("·· {name}, {rows} rows");
            let case = Case::new(&ours, &mut rival, path, rows).with_context(|| format!("{name}, {rows} rows"))?;
            figures.extend(case.measure(&name, &ours, &mut rival, rounds)?);
        }
    }
    Ok(figures)
}

/// Our two forms of one model; no int8 where nothing in it can be int8.
struct Ours {
    f32: Graph,
    int8: Option<Graph>,
}

impl Ours {
    fn load(path: &Path) -> Result<Self> {
        let file = std::fs::read(path)?;
        let graph = |file: &[u8]| -> Result<Graph> { Ok(Graph::new(onnx::decode(file)?)?) };
        let int8 = quantize::weights_int8(&file).ok();
        Ok(Self {
            f32: graph(&file)?,
            int8: int8.as_deref().map(graph).transpose()?,
        })
    }
}

/// One model and one number of rows.
struct Case {
    inputs: Vec<Tensor>,
    /// Rows and tokens, as names of figures have them.
    shape: String,
    f32_cosine: f64,
    int8_cosine: f64,
    rival_int8_cosine: f64,
}

impl Case {
    fn new(ours: &Ours, rival: &mut Rival, model: &Path, rows: usize) -> Result<Self> {
        let inputs: Vec<Tensor> = ours
            .f32
            .inputs()
            .iter()
            .map(|spec| made_up(spec, rows))
            .collect::<Result<_>>()?;
        let named = |dim: &Dim| matches!(dim, Dim::Named(_));
        let tokens = ours
            .f32
            .inputs()
            .iter()
            .any(|spec| spec.shape.iter().skip(1).any(named));
        let exact = rival.open(model, &inputs)?;
        let close =
            |graph: &Graph| -> Result<f64> { Ok(cosine(&first_output(graph, &inputs)?, &exact.output, exact.width)) };
        Ok(Self {
            f32_cosine: close(&ours.f32)?,
            int8_cosine: ours.int8.as_ref().map_or(Ok(0.0), close)?,
            rival_int8_cosine: exact.int8_cosine,
            shape: if tokens {
                format!("b{rows}s{TOKENS}")
            } else {
                format!("b{rows}")
            },
            inputs,
        })
    }

    fn measure(&self, name: &str, ours: &Ours, rival: &mut Rival, rounds: u32) -> Result<Vec<Figure>> {
        let forms = [
            ("f32", Some(&ours.f32), self.f32_cosine),
            ("int8", ours.int8.as_ref(), self.int8_cosine),
        ];
        let mut taken = vec![Vec::new(); forms.len()];
        let (mut rival_f32, mut rival_int8) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            for ((_, graph, _), taken) in forms.iter().zip(&mut taken) {
                if let Some(graph) = graph {
                    taken.extend(times(graph, &self.inputs)?);
                }
            }
            let (f32, int8) = rival.run()?;
            rival_f32.extend(f32);
            rival_int8.extend(int8);
        }
        let (rival_f32, rival_int8) = (median(&mut rival_f32), median(&mut rival_int8));
        let mut figures = Vec::new();
        for ((form, graph, cosine), mut taken) in forms.into_iter().zip(taken) {
            if graph.is_none() {
                continue;
            }
            let us = median(&mut taken);
            let as_close = self.rival_int8_cosine + SAME >= cosine;
            let best = if as_close { rival_int8.min(rival_f32) } else { rival_f32 };
            let name = format!("{name}/{form}/{}/t1", self.shape);
            figures.push(Figure::alone(SUITE, name.clone(), us, "us").beside("ort-best", best));
            figures.push(Figure::alone(SUITE, format!("{name}/ort-int8"), us, "us").beside("ort-int8", rival_int8));
            let agreement = Figure::alone(SUITE, format!("{name}/cosine"), cosine, "");
            figures.push(agreement.beside("ort-int8", self.rival_int8_cosine));
        }
        Ok(figures)
    }
}

/// CPU time of runs on this thread, microseconds each.
fn times(graph: &Graph, inputs: &[Tensor]) -> Result<Vec<f64>> {
    let now = || {
        let now = clock_gettime(ClockId::ThreadCPUTime);
        Duration::try_from(now).unwrap_or_default()
    };
    let (mut taken, began) = (Vec::new(), now());
    while taken.is_empty() || now() - began < TURN {
        let start = now();
        graph.run(inputs)?;
        taken.push((now() - start).as_secs_f64() * 1e6);
    }
    Ok(taken)
}

/// Numbers without meaning but of the right kind: token ids, masks of ones, bytes, pixels.
fn made_up(spec: &TensorSpec, rows: usize) -> Result<Tensor> {
    let size = |(axis, dim): (usize, &Dim)| match dim {
        Dim::Fixed(size) => usize::try_from(*size),
        Dim::Named(_) => Ok(if axis == 0 { rows } else { TOKENS }),
    };
    let shape: Vec<usize> = spec.shape.iter().enumerate().map(size).collect::<Result<_, _>>()?;
    let count: usize = shape.iter().product();
    let whole = |i: usize| -> i64 {
        let spread = i64::try_from(i * 7919 % 20_011).unwrap_or(0);
        match spec.name.as_str() {
            name if name.contains("mask") => 1,
            name if name.contains("type") => 0,
            _ if spec.datatype == DataType::Int64 => 1000 + spread,
            _ => spread % 256,
        }
    };
    let data = match spec.datatype {
        DataType::Int64 => (0..count).flat_map(|i| whole(i).to_le_bytes()).collect(),
        DataType::Int32 => (0..count)
            .flat_map(|i| i32::try_from(whole(i)).unwrap_or(0).to_le_bytes())
            .collect(),
        DataType::Fp32 => (0..count)
            .flat_map(|i| (f32::from(u16::try_from(i * 7919 % 2003).unwrap_or(0)) / 1001.0 - 1.0).to_le_bytes())
            .collect(),
        other => bail!("`{}` is {}, which nothing is made up for", spec.name, other.as_str()),
    };
    Ok(Tensor {
        name: spec.name.clone(),
        datatype: spec.datatype,
        shape,
        data,
    })
}

fn first_output(graph: &Graph, inputs: &[Tensor]) -> Result<Vec<f32>> {
    let outputs = graph.run(inputs)?;
    Ok(floats(&outputs.first().context("a graph gives something")?.data))
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

/// The mean cosine over rows of `width` numbers.
fn cosine(ours: &[f32], exact: &[f32], width: usize) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let rows = ours.chunks_exact(width).zip(exact.chunks_exact(width));
    let cosines: Vec<f64> = rows
        .map(|(a, b)| dot(a, b) / (dot(a, a) * dot(b, b)).sqrt().max(1e-30))
        .collect();
    let count = u32::try_from(cosines.len()).unwrap_or(u32::MAX);
    cosines.iter().sum::<f64>() / f64::from(count.max(1))
}

/// ONNX Runtime in a process of its own.
struct Rival {
    child: Child,
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
    folder: PathBuf,
}

/// What its f32 form answered.
struct Exact {
    output: Vec<f32>,
    width: usize,
    int8_cosine: f64,
}

impl Rival {
    fn start(folder: &Path) -> Result<Self> {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("load");
        let wanted = std::fs::read_to_string(source.join("requirements.txt"))?;
        let (python, marker) = (folder.join("bin/python"), folder.join("installed.txt"));
        if std::fs::read_to_string(&marker).ok().as_deref() != Some(&wanted) {
            eprintln!("·· installing ONNX Runtime into {}", folder.display());
            let made = Command::new("python3")
                .args(["-m", "venv", "--clear"])
                .arg(folder)
                .status();
            ensure!(
                made.context("python3 does not start: install Python 3 with venv")?
                    .success(),
                "python3 -m venv failed"
            );
            let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"];
            let installed = Command::new(&python)
                .args(pip)
                .arg(source.join("requirements.txt"))
                .status()?;
            ensure!(
                installed.success(),
                "pip cannot install tests/load/requirements.txt: is a package index reachable?"
            );
            std::fs::write(&marker, &wanted)?;
        }
        let mut child = Command::new(&python)
            .arg(source.join("onnxruntime_rival.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let ask = child.stdin.take().context("a pipe to the rival")?;
        let answers = BufReader::new(child.stdout.take().context("a pipe from the rival")?);
        Ok(Self {
            child,
            ask,
            answers,
            folder: folder.to_owned(),
        })
    }

    fn answer(&mut self, ask: &Value) -> Result<Value> {
        writeln!(self.ask, "{ask}")?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        serde_json::from_str(&line).context("ONNX Runtime gave up; what it said stands above")
    }

    fn open(&mut self, model: &Path, inputs: &[Tensor]) -> Result<Exact> {
        let digest = proto::ids::ContentHash::of(&std::fs::read(model)?);
        let mut told = Vec::new();
        for (at, input) in inputs.iter().enumerate() {
            let file = self.folder.join(format!("input-{at}.bin"));
            std::fs::write(&file, &input.data)?;
            let dtype = match input.datatype {
                DataType::Int64 => "<i8",
                DataType::Int32 => "<i4",
                _ => "<f4",
            };
            told.push(json!({"name": input.name, "dtype": dtype, "shape": input.shape, "file": file}));
        }
        let output = self.folder.join("output.bin");
        let int8 = self.folder.join(format!("{digest:?}.onnx").replace(':', "-"));
        let told = self.answer(&json!({"open": model, "int8": int8, "inputs": told, "output": output}))?;
        Ok(Exact {
            output: floats(&std::fs::read(&output)?),
            width: told["width"]
                .as_u64()
                .and_then(|w| usize::try_from(w).ok())
                .context("a width")?,
            int8_cosine: told["int8_cosine"].as_f64().context("a cosine")?,
        })
    }

    fn run(&mut self) -> Result<(Vec<f64>, Vec<f64>)> {
        let told = self.answer(&json!({"run": TURN.as_secs_f64()}))?;
        let times = |form: &str| -> Result<Vec<f64>> { Ok(serde_json::from_value(told[form].clone())?) };
        Ok((times("f32")?, times("int8")?))
    }
}

impl Drop for Rival {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
