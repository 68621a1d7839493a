//! Graphs made ready for the engine: its operators named, and their weights packed as the kernels take them, apart from the graph.
//!
//! ```text
//!   file --decode, preflight--> graph --fuse, pack--> Prepared { small graph, weights } --ops--> plans
//!                                                         |  ^
//!                                                    keep v  | open: hashed, then mapped
//!                                              PackedFolder: one file for each model file
//! ```
//! A graph that was prepared once on this machine is not decoded, judged and packed again: its weights lie in the file as kernels read
//! them, and only what a run touches is ever in memory.

mod file;
mod table;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use kernels::Linear;
use proto::ids::ContentHash;
use proto::limits::ONNX_BYTES_MAX;
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::{AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto};

pub use file::PackedFolder;
pub(crate) use table::Table;

use crate::onnx::values;
use crate::onnx::{self, CHANNELS, CONV, DEPTHWISE, EMBEDDING, LINEAR, TRANSPOSED};
use crate::package::map_bounded;
use crate::{LoadError, preflight, quantize};

/// Attribute of an operator whose weights are packed: their place in [`Prepared::weights`].
pub(crate) const WEIGHTS: &str = "weights";

/// A graph that the parser takes together with its weights.
#[derive(Debug)]
pub struct Prepared {
    pub(crate) model: ModelProto,
    pub(crate) weights: Vec<Weights>,
}

/// Weights of one operator or, where they share them, of several.
#[derive(Clone, Debug)]
pub(crate) enum Weights {
    /// Of a linear layer, or of a convolution that mixes channels.
    Linear(Arc<Linear>),
    /// Of an embedding.
    Table(Arc<Table>),
}

/// Prepares the model file at `path`, or takes what `kept` holds of it: a folder, and the file's identity. What was not there yet is there
/// afterwards; where it cannot be written, the model is loaded all the same.
///
/// # Errors
/// [`LoadError`], naming the file, the node or the operator.
pub fn prepare(path: &Path, kept: Option<(&PackedFolder, &ContentHash)>) -> Result<Prepared, LoadError> {
    if let Some(prepared) = kept.and_then(|(folder, file)| folder.open(file)) {
        return Ok(prepared);
    }
    let model = onnx::decode_shared(map_bounded(path, ONNX_BYTES_MAX)?)?;
    preflight::check(&model)?;
    let prepared = Prepared::of(model)?;
    let Some((folder, file)) = kept.filter(|_| !prepared.weights.is_empty()) else {
        return Ok(prepared);
    };
    if let Err(error) = folder.keep(file, &prepared) {
        tracing::warn!(%error, "packed weights cannot be kept: the next start will pack them again");
    }
    Ok(folder.open(file).unwrap_or(prepared))
}

impl Prepared {
    /// Names the engine's operators in a decoded model, packs their weights and expands what stays FP32.
    ///
    /// # Errors
    /// [`LoadError::Onnx`] without a graph, [`LoadError::Plan`] for weights that do not fit their operator.
    pub fn of(mut model: ModelProto) -> Result<Self, LoadError> {
        let rows_coded = onnx::rows_coded(&model);
        let graph = model.graph.as_mut().ok_or(onnx::OnnxError::NoGraph)?;
        onnx::strip_notes(graph);
        onnx::lift_constants(graph);
        let relaxed = onnx::relax(graph);
        quantize::fold_normalization(graph);
        onnx::fuse(graph, rows_coded || relaxed);
        let weights = packed(graph)?;
        onnx::expand_weights(graph);
        onnx::drop_unused(graph);
        onnx::name_apart(graph);
        Ok(Self { model, weights })
    }
}

/// Packs the weights of all operators that take them packed; nodes then name them by number. Such graphs have no subgraphs.
fn packed(graph: &mut GraphProto) -> Result<Vec<Weights>, LoadError> {
    let constants: BTreeMap<&str, &TensorProto> = graph.initializer.iter().map(|t| (t.name.as_str(), t)).collect();
    let mut weights = Vec::new();
    let mut places = BTreeMap::new();
    let mut expanded = Vec::new();
    for node in &mut graph.node {
        let misfit = |name: &str, operator: &str| LoadError::Plan {
            detail: format!("node `{name}` ({operator}): its weights do not fit it"),
        };
        if node.op_type == CONV && group(node) > 1 {
            let tensor = apart(node, &constants).ok_or_else(|| misfit(&node.name, &node.op_type))?;
            DEPTHWISE.clone_into(&mut node.op_type);
            node.input.splice(1..3, [tensor.name.clone()]);
            expanded.push(tensor);
            continue;
        }
        if ![CONV, LINEAR, EMBEDDING].contains(&node.op_type.as_str()) {
            continue;
        }
        // The same constants make the same weights, but for a convolution and a layer that both take them.
        let key = (node.op_type.clone(), flag(node, TRANSPOSED), node.input[1..].to_vec());
        let place = match places.get(&key) {
            Some(place) => *place,
            None => {
                weights.push(pack(node, &constants).ok_or_else(|| misfit(&node.name, &node.op_type))?);
                places.insert(key, weights.len() - 1);
                weights.len() - 1
            }
        };
        if node.op_type == CONV {
            let dims = constants
                .get(node.input[1].as_str())
                .map_or(&[][..], |codes| &codes.dims);
            let [_, channels, sides @ ..] = dims else {
                return Err(misfit(&node.name, &node.op_type));
            };
            set(node, integer(CHANNELS, *channels));
            set(node, integers("kernel_shape", sides));
        }
        set(node, integer(WEIGHTS, i64::try_from(place).unwrap_or(i64::MAX)));
        node.input.truncate(1);
    }
    graph.initializer.extend(expanded);
    Ok(weights)
}

/// The weights of one operator, packed; `None` where its constants do not fit each other.
fn pack(node: &NodeProto, constants: &BTreeMap<&str, &TensorProto>) -> Option<Weights> {
    let constant = |at: usize| constants.get(node.input.get(at)?.as_str()).copied();
    let (codes_of, scales) = (constant(1)?, values::floats(constant(2)?)?);
    let codes = values::bytes(codes_of)?;
    let dims: Vec<usize> = codes_of
        .dims
        .iter()
        .map(|&d| usize::try_from(d).ok())
        .collect::<Option<_>>()?;
    if node.op_type == EMBEDDING {
        let table = Table::new(codes, scales).filter(|table| dims.first() == Some(&table.rows()))?;
        return Some(Weights::Table(Arc::new(table)));
    }
    let bias = match node.input.get(3) {
        Some(_) => Some(values::floats(constant(3)?)?),
        None => None,
    };
    // [output, channel, tap..] or [output, input] -> [tap.., channel, output]
    let (codes, inputs) = match dims.as_slice() {
        [inputs, _] if node.op_type == LINEAR && flag(node, TRANSPOSED) == 0 => (codes, *inputs),
        [outputs, inputs, sides @ ..] => {
            let taps = sides.iter().try_fold(1_usize, |all, side| all.checked_mul(*side))?;
            (
                outputs_last(&codes, *outputs, *inputs, taps)?,
                taps.checked_mul(*inputs)?,
            )
        }
        _ => return None,
    };
    let layer = Linear::pack(&codes, inputs, &scales, bias.as_deref()).ok()?;
    Some(Weights::Linear(Arc::new(layer)))
}

/// `[output, channel, tap]` as `[tap, channel, output]`.
fn outputs_last(codes: &[i8], outputs: usize, channels: usize, taps: usize) -> Option<Vec<i8>> {
    if outputs.checked_mul(channels)?.checked_mul(taps)? != codes.len() {
        return None;
    }
    let mut turned = Vec::with_capacity(codes.len());
    for row in 0..taps * channels {
        let (tap, channel) = (row / channels, row % channels);
        turned.extend((0..outputs).map(|output| codes[(output * channels + channel) * taps + tap]));
    }
    Some(turned)
}

/// The FP32 weights of a convolution of codes that keeps channels apart: those run in FP32.
fn apart(node: &NodeProto, constants: &BTreeMap<&str, &TensorProto>) -> Option<TensorProto> {
    let constant = |at: usize| constants.get(node.input.get(at)?.as_str()).copied();
    let (codes_of, scales) = (constant(1)?, values::floats(constant(2)?)?);
    let codes = values::bytes(codes_of)?;
    if codes_of.dims.first() != Some(&i64::try_from(scales.len()).ok()?) {
        return None;
    }
    let taps = codes.len() / scales.len().max(1);
    let weights: Vec<f32> = codes
        .iter()
        .enumerate()
        .map(|(at, code)| f32::from(*code) * scales[at / taps])
        .collect();
    // Named after its operator too: two may share codes and nothing else.
    let name = format!("{}.{}", node.input[1], node.output.first()?);
    Some(values::of_floats(&name, codes_of.dims.clone(), &weights))
}

fn group(node: &NodeProto) -> i64 {
    node.attribute.iter().find(|a| a.name == "group").map_or(1, |a| a.i)
}

fn flag(node: &NodeProto, name: &str) -> i64 {
    node.attribute.iter().find(|a| a.name == name).map_or(0, |a| a.i)
}

fn set(node: &mut NodeProto, attribute: AttributeProto) {
    node.attribute.retain(|a| a.name != attribute.name);
    node.attribute.push(attribute);
}

fn integer(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        r#type: AttributeType::Int.into(),
        i: value,
        ..AttributeProto::default()
    }
}

fn integers(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        r#type: AttributeType::Ints.into(),
        ints: values.to_vec(),
        ..AttributeProto::default()
    }
}

#[cfg(test)]
mod tests;
