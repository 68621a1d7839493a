//! The Open Inference Protocol v2 over REST, as end users speak it: JSON tensors and the binary tensor extension.
//!
//! Reading is bounded and never panics; what is wrong is said in a sentence. Nothing here knows a model.

use crate::manifest::DataType;

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
