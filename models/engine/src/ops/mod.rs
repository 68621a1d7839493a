//! The engine's own operators inside tract's graphs: linear layers and tables of 8-bit codes, and fast forms of what stands between.
//!
//! [`crate::onnx`] names the first ones in a decoded file, [`register`] teaches tract's parser those names, and
//! [`vectorise`] replaces operators of a decluttered graph. Their arithmetic is in `kernels`. Files themselves name the
//! operators for tables, whose arithmetic is in [`crate::trees`].

mod attention;
mod chain;
mod conv;
mod counted;
mod dense;
mod embedding;
mod layer_norm;
mod linear;
mod plain;
mod pool;
mod product;
mod slide;
mod tables;
mod unary;
mod up;
mod write;

use std::cell::RefCell;
use std::sync::Arc;

use kernels::Linear;
use tract_onnx::Onnx;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::{
    Tensor, TractErrorContext as _, TractResult, TypedModel, TypedNode, TypedOp, bail, format_err,
};
use tract_onnx::tract_hir::internal::OutletId;

use crate::onnx::{ATTENTION, CONV, DEPTHWISE, EMBEDDING, EXACT_CONV, LAYER_NORM, LINEAR, MAX_POOL, UP_CONV};
use crate::pack::{WEIGHTS as WEIGHTS_ATTRIBUTE, Weights};

pub(crate) use tables::{TABLES, judge};
pub(crate) use unary::vectorise;
pub(crate) use write::{INPUTS_MAX, Input, OUTPUTS_MAX, Output, Write};

/// The form of an operator that writes its results where it is told, if there is one: ours, and the common ones of tract's.
pub(crate) fn writes(model: &TypedModel, node: &TypedNode) -> TractResult<Option<Box<dyn Write>>> {
    if node.inputs.len() > INPUTS_MAX || node.outputs.len() > OUTPUTS_MAX {
        return Ok(None);
    }
    fn same<O: Write + TypedOp + Clone>(node: &TypedNode) -> Option<Box<dyn Write>> {
        node.op_as::<O>().map(|op| write::boxed(op.clone()))
    }
    let ours = same::<chain::Convolve>(node)
        .or_else(|| same::<linear::Packed>(node))
        .or_else(|| same::<dense::Dense>(node))
        .or_else(|| same::<product::Product>(node))
        .or_else(|| same::<up::Enlarge>(node))
        .or_else(|| same::<embedding::Embedding>(node))
        .or_else(|| same::<attention::Heads>(node))
        .or_else(|| same::<layer_norm::LayerNorm>(node))
        .or_else(|| same::<unary::Fast>(node))
        .or_else(|| same::<tables::Table>(node));
    if ours.is_some() {
        return Ok(ours);
    }
    let [output] = &*node.outputs else {
        return Ok(None);
    };
    let inputs = model.node_input_facts(node.id)?;
    Ok(plain::of(node, &inputs, &output.fact))
}

/// Lets the parser build the operators that a fused graph names.
pub(crate) fn register(mut onnx: Onnx) -> Onnx {
    onnx.op_register.insert(LINEAR, linear::parse);
    onnx.op_register.insert(CONV, conv::parse);
    onnx.op_register.insert(DEPTHWISE, conv::parse);
    onnx.op_register.insert(EXACT_CONV, conv::parse);
    onnx.op_register.insert(UP_CONV, up::parse);
    onnx.op_register.insert(MAX_POOL, pool::parse);
    onnx.op_register.insert(EMBEDDING, embedding::parse);
    onnx.op_register.insert(ATTENTION, attention::parse);
    onnx.op_register.insert(LAYER_NORM, layer_norm::parse);
    for name in TABLES {
        onnx.op_register.insert(name, tables::parse);
    }
    counted::register(&mut onnx.op_register);
    onnx
}

thread_local! {
    /// Weights of the graph that is being parsed: what tract hands to the functions below is the graph alone.
    static WEIGHTS: RefCell<Vec<Weights>> = const { RefCell::new(Vec::new()) };
}

/// Does `work`, which parses a graph with these weights.
pub(crate) fn with_weights<T>(weights: Vec<Weights>, work: impl FnOnce() -> T) -> T {
    WEIGHTS.set(weights);
    let done = work();
    WEIGHTS.take();
    done
}

/// The weights that an operator names.
fn weights(node: &NodeProto) -> TractResult<Weights> {
    let place = node
        .attribute
        .iter()
        .find(|a| a.name == WEIGHTS_ATTRIBUTE)
        .map(|a| usize::try_from(a.i));
    let place = place.transpose()?.unwrap_or(usize::MAX);
    let weights = WEIGHTS.with_borrow(|all| all.get(place).cloned());
    weights.with_context(|| format!("node `{}` ({}) has no packed weights", node.name, node.op_type))
}

/// The weights of a layer or convolution.
fn linear_weights(node: &NodeProto) -> TractResult<Arc<Linear>> {
    match weights(node)? {
        Weights::Linear(layer) => Ok(layer),
        Weights::Table(_) => bail!("node `{}` ({}) names a table", node.name, node.op_type),
    }
}

/// What a request did wrong, in words that hold nothing of the request: other causes of a failed run are never told, because
/// the engine writes values into them.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Told(String);

/// The constant that an input must be.
fn constant(model: &TypedModel, input: OutletId, what: &str) -> TractResult<Arc<Tensor>> {
    let constant = model.outlet_fact(input)?.konst.clone();
    constant.ok_or_else(|| format_err!("{what} must be constants"))
}
