//! The engine's own operators inside tract's graphs: linear layers and tables of 8-bit codes, and fast forms of what stands between.
//!
//! [`crate::onnx`] names the first ones in a decoded file, [`register`] teaches tract's parser those names, and
//! [`vectorise`] replaces operators of a decluttered graph. Their arithmetic is in `kernels`. Files themselves name the
//! operators for tables, whose arithmetic is in [`crate::trees`].

mod attention;
mod chain;
mod conv;
mod embedding;
mod layer_norm;
mod linear;
mod pool;
mod slide;
mod tables;
mod unary;

use tract_onnx::Onnx;
use tract_onnx::tract_core::internal::{TValue, TVec, Tensor, TractResult, TypedModel, format_err};
use tract_onnx::tract_hir::internal::OutletId;

use crate::onnx::{ATTENTION, CONV, DEPTHWISE, EMBEDDING, LAYER_NORM, LINEAR, MAX_POOL};

pub(crate) use tables::{TABLES, judge};
pub(crate) use unary::vectorise;

/// Lets the parser build the operators that a fused graph names.
pub(crate) fn register(mut onnx: Onnx) -> Onnx {
    onnx.op_register.insert(LINEAR, linear::parse);
    onnx.op_register.insert(CONV, conv::parse);
    onnx.op_register.insert(DEPTHWISE, conv::parse);
    onnx.op_register.insert(MAX_POOL, pool::parse);
    onnx.op_register.insert(EMBEDDING, embedding::parse);
    onnx.op_register.insert(ATTENTION, attention::parse);
    onnx.op_register.insert(LAYER_NORM, layer_norm::parse);
    for name in TABLES {
        onnx.op_register.insert(name, tables::parse);
    }
    onnx
}

/// What a request did wrong, in words that hold nothing of the request: other causes of a failed run are never told, because
/// the engine writes values into them.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Told(String);

/// The one input of an operator.
fn only(inputs: TVec<TValue>) -> TractResult<TValue> {
    let mut inputs = inputs.into_iter();
    inputs.next().ok_or_else(|| format_err!("no input"))
}

/// The constant that an input must be.
fn constant(model: &TypedModel, input: OutletId, what: &str) -> TractResult<std::sync::Arc<Tensor>> {
    let constant = model.outlet_fact(input)?.konst.clone();
    constant.ok_or_else(|| format_err!("{what} must be constants"))
}
