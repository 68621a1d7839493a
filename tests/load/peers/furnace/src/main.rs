//! furnace-server around ONNX Runtime: one model of one f32 tensor in and one out, over the Open Inference Protocol.
//!
//! `furnace-peer NAME MODEL PORT`, with `ORT_DYLIB_PATH` at the library of ONNX Runtime. Listens on 127.0.0.1.

use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use furnace::{HostTensor, IoSpec, Model, ModelError, Server, TensorModel, Values};
use ort::environment::Environment;
use ort::session::Session;
use ort::value::{TensorRef, ValueType};

/// A graph in ONNX Runtime. A session takes one run at a time, so there are as many as runs ever went at once: none waits.
#[derive(Debug)]
struct Graph {
    environment: Environment,
    file: String,
    name: String,
    input: IoSpec,
    output: IoSpec,
    idle: Mutex<Vec<Session>>,
}

impl Graph {
    fn load(environment: Environment, name: &str, file: &str) -> Result<Self> {
        let first = session(&environment, file)?;
        let [input] = first.inputs() else {
            anyhow::bail!("{file} takes other than one tensor")
        };
        let [output] = first.outputs() else {
            anyhow::bail!("{file} gives other than one tensor")
        };
        let (input, output) = (spec(input.name(), input.dtype())?, spec(output.name(), output.dtype())?);
        Ok(Self {
            environment,
            file: file.to_owned(),
            name: name.to_owned(),
            input,
            output,
            idle: Mutex::new(vec![first]),
        })
    }

    fn answer(&self, input: &HostTensor) -> Result<HostTensor> {
        let idle = || self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let free = idle().pop();
        let mut taken = free.map_or_else(|| session(&self.environment, &self.file), Ok)?;
        let output = self.run_in(&mut taken, input);
        idle().push(taken);
        output
    }

    fn run_in(&self, session: &mut Session, input: &HostTensor) -> Result<HostTensor> {
        let Values::F32(values) = &input.values else {
            anyhow::bail!("not f32")
        };
        let input = TensorRef::from_array_view((input.shape.clone(), values.as_slice())).map_err(said)?;
        let outputs = session
            .run(ort::inputs![self.input.name.as_str() => input])
            .map_err(said)?;
        let (shape, values) = outputs[0].try_extract_tensor::<f32>().map_err(said)?;
        Ok(HostTensor {
            shape: shape
                .iter()
                .map(|size| Ok(usize::try_from(*size)?))
                .collect::<Result<_>>()?,
            values: Values::F32(values.to_vec()),
        })
    }
}

fn session(environment: &Environment, file: &str) -> Result<Session> {
    let builder = Session::builder(environment)
        .map_err(said)?
        .with_intra_threads(1)
        .map_err(said)?;
    builder
        .with_inter_threads(1)
        .map_err(said)?
        .commit_from_file(file)
        .map_err(said)
}

/// The binding's errors differ by what was tried; here their words suffice.
fn said<T>(error: ort::Error<T>) -> anyhow::Error {
    anyhow::anyhow!("{error}")
}

/// A tensor as furnace describes it: without the batch.
fn spec(name: &str, of: &ValueType) -> Result<IoSpec> {
    let shape = of.tensor_shape().with_context(|| format!("`{name}` is no tensor"))?;
    let item = shape.iter().skip(1).map(|size| usize::try_from(*size));
    let item = item
        .collect::<Result<Vec<_>, _>>()
        .with_context(|| format!("`{name}` has free sides"))?;
    Ok(IoSpec::fp32(name, &item))
}

impl TensorModel for Graph {
    fn name(&self) -> &str {
        &self.name
    }
    fn backend(&self) -> &str {
        "cpu"
    }
    fn inputs(&self) -> Vec<IoSpec> {
        vec![self.input.clone()]
    }
    fn outputs(&self) -> Vec<IoSpec> {
        vec![self.output.clone()]
    }
    fn run(&self, inputs: Vec<HostTensor>) -> furnace::Result<Vec<HostTensor>> {
        let output = inputs.first().context("no input").and_then(|input| self.answer(input));
        Ok(vec![
            output.map_err(|error| ModelError::InferenceFailed(error.to_string()))?,
        ])
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [name, file, port] = args.as_slice() else {
        anyhow::bail!("furnace-peer NAME MODEL PORT")
    };
    let library = std::env::var("ORT_DYLIB_PATH").context("ORT_DYLIB_PATH names the library of ONNX Runtime")?;
    let environment = ort::init_from(&library)?.with_telemetry(false).build().map_err(said)?;
    let graph = Graph::load(environment, name, file)?;
    let server = Server::new()
        .host("127.0.0.1")
        .port(port.parse()?)
        .model(Model::custom(graph));
    // Its bound of 100 inferences at once stays: the suite has at most 64 connections.
    server.serve().await.map_err(|error| anyhow::anyhow!("{error}"))
}
