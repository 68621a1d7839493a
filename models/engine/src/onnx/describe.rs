//! What a graph takes and gives, in the words of a manifest.

use std::collections::BTreeSet;

use proto::limits::{RANK_MAX, TENSORS_MAX};
use proto::manifest::{DataType, Dim, TensorSpec};
use tract_onnx::pb::tensor_proto::DataType as OnnxType;
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension};
use tract_onnx::pb::{GraphProto, ModelProto, ValueInfoProto, type_proto};

use super::{OnnxError, decode};

/// What the publisher writes into the manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// Inputs of the graph that a request must give.
    pub inputs: Vec<TensorSpec>,
    /// Outputs of the graph.
    pub outputs: Vec<TensorSpec>,
    /// Version of the default operator set.
    pub opset: u32,
}

/// Reads inputs, outputs and operator set of an ONNX file.
///
/// Where every input lets the request choose axis 0 under one name, that name becomes `batch`, which is what the
/// batcher joins; other free axes keep their names or are called after their tensor.
///
/// # Errors
/// Those of [`decode`]; [`OnnxError::Tensor`] for an input or output that requests cannot carry.
pub fn describe(onnx: &[u8]) -> Result<Described, OnnxError> {
    describe_model(&decode(onnx)?)
}

pub(crate) fn describe_model(model: &ModelProto) -> Result<Described, OnnxError> {
    let graph = model.graph.as_ref().ok_or(OnnxError::NoGraph)?;
    let constants: BTreeSet<&str> = graph.initializer.iter().map(|t| t.name.as_str()).collect();
    let given = graph
        .input
        .iter()
        .filter(|input| !constants.contains(input.name.as_str()));
    let mut inputs = given.map(|info| spec("input", info)).collect::<Result<Vec<_>, _>>()?;
    let mut outputs = graph
        .output
        .iter()
        .map(|info| spec("output", info))
        .collect::<Result<Vec<_>, _>>()?;
    if inputs.len() > TENSORS_MAX || outputs.len() > TENSORS_MAX || outputs.is_empty() {
        let name = graph.name.clone();
        let why = format!(
            "has {} inputs and {} outputs, allowed are 1 to {TENSORS_MAX}",
            inputs.len(),
            outputs.len()
        );
        return Err(OnnxError::Tensor {
            what: "graph",
            name,
            why,
        });
    }
    free_the_labels(graph, &inputs, &mut outputs);
    name_the_batch(graph, &mut inputs, &mut outputs);
    let default = model
        .opset_import
        .iter()
        .find(|set| set.domain.is_empty() || set.domain == "ai.onnx");
    let opset = default.and_then(|set| u32::try_from(set.version).ok()).unwrap_or(0);
    Ok(Described { inputs, outputs, opset })
}

/// Whether rows on axis 0 are independent requests for every input and output.
pub(crate) fn batched(inputs: &[TensorSpec], outputs: &[TensorSpec]) -> bool {
    let batch = |spec: &TensorSpec| matches!(spec.shape.first(), Some(Dim::Named(name)) if name == "batch");
    !inputs.is_empty() && inputs.iter().chain(outputs).all(batch)
}

fn spec(what: &'static str, info: &ValueInfoProto) -> Result<TensorSpec, OnnxError> {
    let wrong = |why: String| OnnxError::Tensor {
        what,
        name: info.name.clone(),
        why,
    };
    let Some(type_proto::Value::TensorType(tensor)) = info.r#type.as_ref().and_then(|t| t.value.as_ref()) else {
        return Err(wrong(
            "is not a tensor; export the model without sequences and maps (skl2onnx: `zipmap=False`)".into(),
        ));
    };
    let datatype = datatype(tensor.elem_type).ok_or_else(|| {
        wrong(format!(
            "has the element type {}, which requests cannot carry",
            tensor.elem_type
        ))
    })?;
    let dims = tensor.shape.as_ref().map_or(&[][..], |shape| &shape.dim);
    if dims.len() > RANK_MAX {
        return Err(wrong(format!("has {} dimensions, allowed are {RANK_MAX}", dims.len())));
    }
    if what == "input" && tensor.shape.is_none() {
        return Err(wrong(
            "has no declared shape; declare it, with names for the free axes".into(),
        ));
    }
    let shape = dims
        .iter()
        .enumerate()
        .map(|(axis, dim)| self::dim(&info.name, axis, dim))
        .collect::<Option<_>>();
    let shape = shape.ok_or_else(|| wrong("has a dimension that is negative or too large".into()))?;
    Ok(TensorSpec {
        name: info.name.clone(),
        datatype,
        shape,
    })
}

fn dim(tensor: &str, axis: usize, dim: &Dimension) -> Option<Dim> {
    match &dim.value {
        Some(dimension::Value::DimValue(size)) if *size > 0 => u32::try_from(*size).ok().map(Dim::Fixed),
        Some(dimension::Value::DimValue(size)) if *size < -1 => None,
        Some(dimension::Value::DimParam(name)) if !name.is_empty() => Some(Dim::Named(name.clone())),
        // No name, and the sizes 0 and -1 that some exporters write for "any".
        _ => Some(Dim::Named(format!("{tensor}.{axis}"))),
    }
}

/// Exporters of boosted trees (onnxmltools 1.16) declare one label however many rows there are; a classifier gives one for each.
fn free_the_labels(graph: &GraphProto, inputs: &[TensorSpec], outputs: &mut [TensorSpec]) {
    /// Steps that exporters put between a classifier and the label that it makes; a hostile file may hold more, or a circle.
    const STEPS_MAX: usize = 8;
    if inputs
        .iter()
        .any(|spec| !matches!(spec.shape.first(), Some(Dim::Named(_))))
    {
        return;
    }
    let maker = |name: &str| {
        graph
            .node
            .iter()
            .find(|node| node.output.iter().any(|made| made == name))
    };
    for spec in outputs.iter_mut().filter(|spec| spec.shape == [Dim::Fixed(1)]) {
        let mut node = maker(&spec.name);
        for _ in 0..STEPS_MAX {
            let passes_on = node.filter(|node| matches!(node.op_type.as_str(), "Identity" | "Cast"));
            let Some(source) = passes_on.and_then(|node| node.input.first()) else {
                break;
            };
            node = maker(source);
        }
        let from = node.map_or("", |node| node.op_type.as_str());
        if matches!(from, "TreeEnsembleClassifier" | "LinearClassifier") {
            spec.shape = vec![Dim::Named(format!("{}.0", spec.name))];
        }
    }
}

/// Calls axis 0 `batch` where each input leaves it free. Exporters call it `N`, `unk__214`, or nothing at all, and name the
/// output's axis differently although it is the same.
fn name_the_batch(graph: &GraphProto, inputs: &mut [TensorSpec], outputs: &mut [TensorSpec]) {
    let free = |spec: &TensorSpec| matches!(spec.shape.first(), Some(Dim::Named(_)));
    let first = inputs.first().and_then(|spec| spec.shape.first()).cloned();
    let invented =
        |dim: &Dim| matches!(dim, Dim::Named(n) if graph.input.iter().any(|i| *n == format!("{}.0", i.name)));
    let one_name = inputs
        .iter()
        .filter_map(|spec| spec.shape.first())
        .all(|dim| Some(dim) == first.as_ref() || invented(dim));
    let elsewhere = inputs
        .iter()
        .any(|spec| spec.shape.iter().skip(1).any(|dim| Some(dim) == first.as_ref()));
    if inputs.is_empty() || !inputs.iter().all(free) || !one_name || elsewhere || !outputs.iter().all(free) {
        return;
    }
    for shape in inputs.iter_mut().chain(outputs).map(|spec| &mut spec.shape) {
        shape[0] = Dim::Named("batch".to_owned());
    }
}

/// ONNX element types that requests can carry.
pub(crate) fn datatype(onnx: i32) -> Option<DataType> {
    Some(match OnnxType::try_from(onnx).ok()? {
        OnnxType::Bool => DataType::Bool,
        OnnxType::Uint8 => DataType::Uint8,
        OnnxType::Uint16 => DataType::Uint16,
        OnnxType::Uint32 => DataType::Uint32,
        OnnxType::Uint64 => DataType::Uint64,
        OnnxType::Int8 => DataType::Int8,
        OnnxType::Int16 => DataType::Int16,
        OnnxType::Int32 => DataType::Int32,
        OnnxType::Int64 => DataType::Int64,
        OnnxType::Float16 => DataType::Fp16,
        OnnxType::Float => DataType::Fp32,
        OnnxType::Double => DataType::Fp64,
        _ => return None,
    })
}
