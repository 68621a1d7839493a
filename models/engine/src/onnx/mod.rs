//! ONNX files as data: decoding within bounds, reading what a graph takes and gives, changing weights.
//!
//! Nothing here executes a graph.

mod describe;
mod expand;
mod fuse;
mod names;
mod quantized;
pub(crate) mod values;
mod wire;

use bytes::Bytes;
use prost::{DecodeError, Message as _};
use proto::limits::{GRAPH_MESSAGES_MAX, ONNX_BYTES_MAX};
use tract_onnx::pb::{GraphProto, ModelProto};

pub use describe::{Described, describe};
pub(crate) use describe::{batched, describe_model};
pub(crate) use expand::{drop_unused, expand_weights, lift_constants};
pub(crate) use fuse::{
    ACTIVATION, ATTENTION, CHANNELS, CLIP, CONV, DEPTHWISE, EMBEDDING, EXACT_CONV, HARD_SWISH, HIGH, LAYER_NORM,
    LINEAR, LOW, MAX_POOL, SCALE, SILU, TRANSPOSED, UP_CONV, fuse, has_subgraphs, mark_rows_coded, rows_coded,
};
pub(crate) use names::name_apart;
pub(crate) use quantized::{OF_ONNX_RUNTIME, relax};

/// Why bytes are not an ONNX model that is worth looking at.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OnnxError {
    /// Longer than protobuf allows.
    #[error(
        "the file has {bytes} bytes, an ONNX file has at most {ONNX_BYTES_MAX}; keep the weights inside and quantize them"
    )]
    TooLarge {
        /// Its length.
        bytes: u64,
    },
    /// More parts than a real model has.
    #[error("the file holds more than {GRAPH_MESSAGES_MAX} nodes, attributes and tensors; simplify the graph")]
    TooMany,
    /// Not protobuf, cut short, or altered.
    #[error("this is not a whole ONNX file ({why}); export it again")]
    Malformed {
        /// What the decoder said.
        why: String,
    },
    /// Protobuf, but without a graph.
    #[error("the file holds no graph; export the model, not its weights alone")]
    NoGraph,
    /// An input or output that cannot be offered to clients.
    #[error("{what} `{name}` {why}")]
    Tensor {
        /// `input` or `output`.
        what: &'static str,
        /// Its name.
        name: String,
        /// What is wrong.
        why: String,
    },
}

/// Decodes an ONNX file after counting its parts: a few bytes of file can cost hundreds of bytes of memory.
///
/// # Errors
/// [`OnnxError::TooLarge`], [`OnnxError::TooMany`], [`OnnxError::Malformed`], [`OnnxError::NoGraph`].
pub fn decode(bytes: &[u8]) -> Result<ModelProto, OnnxError> {
    check_size(bytes)?;
    decoded(ModelProto::decode(bytes))
}

/// As [`decode`]; copies tensors once, where out of a slice they are copied twice.
pub(crate) fn decode_shared(bytes: Bytes) -> Result<ModelProto, OnnxError> {
    check_size(&bytes)?;
    decoded(ModelProto::decode(bytes))
}

fn check_size(bytes: &[u8]) -> Result<(), OnnxError> {
    let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    if length > ONNX_BYTES_MAX {
        return Err(OnnxError::TooLarge { bytes: length });
    }
    wire::check_parts(bytes)
}

fn decoded(model: Result<ModelProto, DecodeError>) -> Result<ModelProto, OnnxError> {
    let mut model = model.map_err(|e| OnnxError::Malformed { why: e.to_string() })?;
    if model
        .graph
        .as_ref()
        .is_none_or(|graph| graph.node.is_empty() && graph.output.is_empty())
    {
        return Err(OnnxError::NoGraph);
    }
    model.training_info.clear();
    Ok(model)
}

/// Encodes a model as an ONNX file.
#[must_use]
pub fn encode(model: &ModelProto) -> Vec<u8> {
    model.encode_to_vec()
}

/// Removes the shapes that exporters note for inner tensors: they fix the batch of export time and make other shapes
/// fail.
pub(crate) fn strip_notes(graph: &mut GraphProto) {
    graph.value_info.clear();
    graph.doc_string.clear();
    for node in &mut graph.node {
        node.doc_string.clear();
        for inner in node.attribute.iter_mut().filter_map(|a| a.g.as_mut()) {
            strip_notes(inner);
        }
    }
}
