//! The Open Inference Protocol v2, as end users speak it. Over REST: JSON tensors and the binary tensor extension. Over
//! gRPC: see [`grpc`].
//!
//! ```text
//!   body = JSON                                     every tensor's `data` in it
//!   body = JSON | tensor bytes | tensor bytes ..    `Inference-Header-Content-Length` says where the JSON ends;
//!                                                   `binary_data_size` of each tensor says how many bytes are its own
//!   body = tensor bytes                             header length 0: the model has one input, and this is it
//! ```
//! Reading is bounded and never panics; what is wrong is said in a sentence. Nothing here knows a loaded model.
//!
//! Source: github.com/open-inference/open-inference-protocol (`specification/protocol/inference_rest.md`) and Triton's
//! `extension_binary_data.md`, `extension_classification.md` and `extension_parameters.md`.

pub mod grpc;

mod elements;
mod embeddings;
mod generate;
mod read;
mod write;

use std::collections::BTreeMap;

use crate::manifest::DataType;

pub use elements::{bytes_elements, write_bytes_element};
pub use embeddings::{EmbeddingsRequest, embeds, read_embeddings};
pub use generate::{generates, read_generate, write_generate};
pub use read::{read_infer, read_raw};
pub use write::{Answered, InferAnswer, write_infer};

/// A tensor with its values as they travel in binary: little-endian elements, row-major. BYTES elements each carry a
/// 4-byte little-endian length in front.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// Name in the request or answer.
    pub name: String,
    /// Element type.
    pub datatype: DataType,
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// Elements.
    pub data: Vec<u8>,
}

/// One output that a request names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestedOutput {
    /// Which one.
    pub name: String,
    /// Whether it is answered in binary; `None` leaves it to the request's own setting.
    pub binary: Option<bool>,
    /// Answer the so many highest classes instead of the tensor.
    pub classification: Option<usize>,
}

/// A request that reads well. Whether it fits a model is not known yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InferRequest {
    /// Echoed in the answer.
    pub id: Option<String>,
    /// At least one; names are unique and every tensor has as many elements as its shape says.
    pub inputs: Vec<Tensor>,
    /// Empty: all.
    pub outputs: Vec<RequestedOutput>,
    /// Outputs that do not say otherwise are answered in binary.
    pub binary_output: bool,
    /// How long the client waits.
    pub timeout_us: Option<u64>,
    /// Other parameters, each value as its JSON text.
    pub parameters: BTreeMap<String, String>,
}

/// Why bytes are not a request, or tensors not an answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OipError {
    /// Not JSON of the protocol's shape.
    #[error("failed to read the inference request: {reason}")]
    Json {
        /// Line, column and what is wrong.
        reason: String,
    },
    /// The header length or a binary size does not fit the body.
    #[error("{what}")]
    Frame {
        /// Which size, found and allowed.
        what: String,
    },
    /// One tensor breaks a rule.
    #[error("tensor `{name}`: {what}")]
    Tensor {
        /// Which one, cut to a printable length.
        name: String,
        /// Which rule.
        what: String,
    },
}

impl OipError {
    fn tensor(name: &str, what: impl Into<String>) -> Self {
        Self::Tensor {
            name: name.chars().take(80).collect(),
            what: what.into(),
        }
    }
}

#[cfg(test)]
mod tests;
