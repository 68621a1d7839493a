//! What a node says about itself and its models in the protocol's own words.

use proto::manifest::{Dim, Signature, TensorSpec};
use serde::Serialize;

use crate::serving::ModelSlot;

#[derive(Serialize)]
pub(super) struct Server {
    pub(super) name: &'static str,
    pub(super) version: &'static str,
    pub(super) extensions: [&'static str; 9],
}

/// The protocol's server metadata.
pub(super) fn server() -> Server {
    let extensions = [
        "binary_tensor_data",
        "classification",
        "generate",
        "logging",
        "model_configuration",
        "model_repository",
        "parameters",
        "statistics",
        "trace",
    ];
    Server {
        name: "meridian",
        version: env!("CARGO_PKG_VERSION"),
        extensions,
    }
}

#[derive(Serialize)]
pub(super) struct Model<'a> {
    pub(super) name: &'a str,
    pub(super) versions: [String; 1],
    pub(super) platform: &'static str,
    pub(super) inputs: Vec<Tensor<'a>>,
    pub(super) outputs: Vec<Tensor<'a>>,
    /// Ours: further ways to call it. The names of a request's inputs select one.
    signatures: Vec<Call<'a>>,
    /// Ours: what exactly answers.
    manifest: String,
    variant: &'a str,
}

#[derive(Serialize)]
struct Call<'a> {
    name: &'a str,
    inputs: Vec<Tensor<'a>>,
    outputs: Vec<Tensor<'a>>,
}

#[derive(Serialize)]
pub(super) struct Tensor<'a> {
    pub(super) name: &'a str,
    pub(super) datatype: &'static str,
    /// -1 where the request chooses.
    pub(super) shape: Vec<i64>,
}

/// The protocol's model metadata; inputs and outputs are those of the first signature, the plain tensors.
pub(super) fn model(slot: &ModelSlot) -> Model<'_> {
    let manifest = &slot.manifest;
    let first = manifest.signatures.first();
    Model {
        name: manifest.model.as_str(),
        versions: [manifest.version.to_string()],
        platform: "onnx",
        inputs: first.map(|s| tensors(&s.inputs)).unwrap_or_default(),
        outputs: first.map(|s| tensors(&s.outputs)).unwrap_or_default(),
        signatures: manifest.signatures.iter().map(call).collect(),
        manifest: slot.manifest_id.to_string(),
        variant: slot.variant.id.as_str(),
    }
}

fn call(signature: &Signature) -> Call<'_> {
    Call {
        name: &signature.name,
        inputs: tensors(&signature.inputs),
        outputs: tensors(&signature.outputs),
    }
}

fn tensors(specs: &[TensorSpec]) -> Vec<Tensor<'_>> {
    let size = |dim: &Dim| match dim {
        Dim::Fixed(size) => i64::from(*size),
        Dim::Named(_) => -1,
    };
    let tensor = |spec: &TensorSpec| spec.shape.iter().map(size).collect();
    specs
        .iter()
        .map(|s| Tensor {
            name: &s.name,
            datatype: s.datatype.as_str(),
            shape: tensor(s),
        })
        .collect()
}
