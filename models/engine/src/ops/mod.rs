//! The engine's own operators inside tract's graphs: linear layers and tables of 8-bit codes, and fast forms of what stands between.
//!
//! [`crate::onnx`] names the first three in a decoded file, [`register`] teaches tract's parser those names, and
//! [`vectorise`] replaces operators of a decluttered graph. Their arithmetic is in `kernels`. Files themselves name the
//! operators for tables, whose arithmetic is in [`crate::trees`].

mod embedding;
mod layer_norm;
mod linear;
mod tables;
mod unary;

use tract_onnx::Onnx;
use tract_onnx::tract_core::internal::{Tensor, TractResult, TypedModel, ensure};
use tract_onnx::tract_hir::internal::OutletId;

use crate::onnx::{EMBEDDING, LAYER_NORM, LINEAR};

pub(crate) use tables::{TABLES, judge};
pub(crate) use unary::vectorise;

/// Lets the parser build the operators that a fused graph names.
pub(crate) fn register(mut onnx: Onnx) -> Onnx {
    onnx.op_register.insert(LINEAR, linear::parse);
    onnx.op_register.insert(EMBEDDING, embedding::parse);
    onnx.op_register.insert(LAYER_NORM, layer_norm::parse);
    for name in TABLES {
        onnx.op_register.insert(name, tables::parse);
    }
    onnx
}

/// The constant that an input must be.
fn constant(model: &TypedModel, input: OutletId, what: &str) -> TractResult<std::sync::Arc<Tensor>> {
    let constant = model.outlet_fact(input)?.konst.clone();
    ensure!(constant.is_some(), "{what} must be constants");
    constant.ok_or_else(|| tract_onnx::tract_core::internal::format_err!("{what} must be constants"))
}
