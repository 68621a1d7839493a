//! Plans of the engine: how a parsed graph becomes something that runs, and what a run may take.
//!
//! Every call into the engine passes [`guarded`], so a panic inside it is an error here.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use proto::limits::{GRAPH_TENSOR_BYTES_MAX, RUN_ROWS_MAX};
use proto::manifest::{Dim, TensorSpec};
use proto::oip;
use tract_onnx::pb::ModelProto;
use tract_onnx::prelude::{
    Datum, InferenceFact, InferenceModel, InferenceModelExt, IntoRunnable, Symbol, SymbolValues, TDim, TValue, TVec,
    TractResult, TypedModel, TypedRunnableModel,
};
use tract_onnx::tract_core::internal::bail;

use crate::ops::Told;
use crate::{LoadError, tensor};

/// About half of the second-level cache of a server's core.
const CACHED_BYTES: usize = 512 << 10;

pub(super) type Plan = Arc<TypedRunnableModel>;

/// A plan for every shape, and the sizes that its tensors take by the sizes that a request chooses.
pub(super) struct AnyPlan {
    pub(super) plan: Plan,
    /// For each free axis of the inputs, in order, its symbol.
    symbols: Vec<Symbol>,
    /// Distinct sizes of tensors, in bytes, that depend on the symbols.
    sizes: Vec<TDim>,
}

/// Parses a decoded model for the engine.
pub(super) fn parse(model: &ModelProto, inputs: &[TensorSpec]) -> Result<InferenceModel, LoadError> {
    let parsed = guarded(|| {
        let parsed = crate::ops::register(tract_onnx::onnx())
            .with_ignore_value_info(true)
            .parse(model, None)?
            .model;
        let outlets = parsed.input_outlets()?.iter();
        let names: Vec<String> = outlets.map(|outlet| parsed.node(outlet.node).name.clone()).collect();
        Ok((parsed, names))
    });
    let (parsed, names) = parsed?;
    if names.iter().eq(inputs.iter().map(|spec| &spec.name)) {
        return Ok(parsed);
    }
    let declared: Vec<&str> = inputs.iter().map(|spec| spec.name.as_str()).collect();
    let detail = format!(
        "the graph needs [{}] but declares [{}]",
        names.join(", "),
        declared.join(", ")
    );
    Err(LoadError::Plan { detail })
}

/// Makes one plan for every shape; free axes of one name share a symbol.
pub(super) fn for_any(mut model: InferenceModel, inputs: &[TensorSpec]) -> Result<AnyPlan, LoadError> {
    guarded(|| {
        let scope = model.symbols.clone();
        let mut symbols = Vec::new();
        for (i, spec) in inputs.iter().enumerate() {
            let dims = spec.shape.iter().map(|dim| match dim {
                Dim::Fixed(size) => TDim::Val(i64::from(*size)),
                Dim::Named(name) => {
                    let symbol = scope.sym(name);
                    symbols.push(symbol.clone());
                    symbol.into()
                }
            });
            let shape: TVec<TDim> = dims.collect();
            let datum = tensor::datum_of(spec.datatype).unwrap_or(f32::datum_type());
            model.set_input_fact(i, InferenceFact::dt_shape(datum, shape))?;
        }
        let typed = model.into_typed()?;
        let sizes = sizes(&typed)?;
        Ok(AnyPlan {
            plan: optimized(typed)?.into_runnable()?,
            symbols,
            sizes,
        })
    })
}

/// Makes a plan for exactly these shapes.
pub(super) fn for_shapes(
    model: &InferenceModel,
    inputs: &[TensorSpec],
    shapes: &[Vec<usize>],
) -> Result<Plan, LoadError> {
    guarded(|| {
        let mut model = model.clone();
        for (i, (spec, shape)) in inputs.iter().zip(shapes).enumerate() {
            let datum = tensor::datum_of(spec.datatype).unwrap_or(f32::datum_type());
            model.set_input_fact(i, InferenceFact::dt_shape(datum, shape))?;
        }
        let typed = model.into_typed()?;
        sizes(&typed)?;
        optimized(typed)?.into_runnable()
    })
}

fn optimized(typed: TypedModel) -> TractResult<TypedModel> {
    let mut typed = typed.into_decluttered()?;
    crate::ops::vectorise(&mut typed)?;
    typed.into_optimized()
}

impl AnyPlan {
    /// The largest tensor, in bytes, that a run of these inputs would make, if that is more than allowed.
    pub(super) fn too_large(&self, specs: &[TensorSpec], inputs: &[oip::Tensor]) -> Option<u64> {
        let bytes = self.largest(specs, inputs, |_, size| size)?;
        (bytes > GRAPH_TENSOR_BYTES_MAX).then_some(bytes)
    }

    /// Rows whose largest tensor stays in the processor's own cache. More at once cost more each: what one operator writes
    /// the next has to fetch from memory.
    pub(super) fn rows_in_cache(&self, specs: &[TensorSpec], inputs: &[oip::Tensor]) -> usize {
        let bytes = self.largest(specs, inputs, |axis, size| if axis == 0 { 1 } else { size });
        let row_bytes = bytes.and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(1);
        (CACHED_BYTES / row_bytes.max(1)).clamp(1, RUN_ROWS_MAX)
    }

    /// The largest tensor of a run in bytes, where the free axis `axis` of an input has `sized(axis, its size)` elements.
    fn largest(
        &self,
        specs: &[TensorSpec],
        inputs: &[oip::Tensor],
        sized: impl Fn(usize, usize) -> usize,
    ) -> Option<u64> {
        let axes = |(spec, input): (&TensorSpec, &oip::Tensor)| {
            let axes = spec.shape.iter().zip(&input.shape).enumerate();
            let free = axes.filter(|(_, (dim, _))| matches!(dim, Dim::Named(_)));
            free.map(|(axis, (_, size))| sized(axis, *size)).collect::<Vec<_>>()
        };
        let mut values = SymbolValues::default();
        for (symbol, size) in self.symbols.iter().zip(specs.iter().zip(inputs).flat_map(axes)) {
            values.set(symbol, i64::try_from(size).unwrap_or(i64::MAX));
        }
        let sizes = self.sizes.iter().filter_map(|size| size.eval_to_i64(&values).ok());
        sizes.max().and_then(|bytes| u64::try_from(bytes).ok())
    }
}

/// Sizes of all tensors in bytes, those that depend on symbols. Shapes are known before anything is folded or run, so what a
/// small file blows up to is refused here.
fn sizes(model: &TypedModel) -> TractResult<Vec<TDim>> {
    let mut distinct = BTreeMap::new();
    for node in model.nodes() {
        for fact in node.outputs.iter().map(|outlet| &outlet.fact) {
            let bytes = fact.shape.volume() * i64::try_from(fact.datum_type.size_of())?;
            match bytes.to_i64() {
                Ok(bytes) if u64::try_from(bytes)? > GRAPH_TENSOR_BYTES_MAX => {
                    bail!(
                        "node `{}` makes a tensor of {bytes} bytes, allowed are {GRAPH_TENSOR_BYTES_MAX}",
                        node.name
                    )
                }
                Ok(_) => {}
                Err(_) => drop(distinct.insert(bytes.to_string(), bytes)),
            }
        }
    }
    Ok(distinct.into_values().collect())
}

/// Runs a plan. What failed is told by its node alone, for causes and panics of the engine may quote the request.
pub(super) fn run(plan: &Plan, inputs: TVec<TValue>) -> Result<TVec<TValue>, String> {
    match catch_unwind(AssertUnwindSafe(|| plan.run(inputs))) {
        Ok(Ok(outputs)) => Ok(outputs),
        Ok(Err(error)) => Err(match error.downcast_ref::<Told>() {
            Some(told) => format!("{error}: {told}"),
            None => error.to_string(),
        }),
        Err(_) => Err("the engine panicked".to_owned()),
    }
}

/// Runs engine code that sees no request; a panic or an error becomes text that names the node.
pub(super) fn guarded<T>(work: impl FnOnce() -> TractResult<T>) -> Result<T, LoadError> {
    let detail = match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(error)) => format!("{error:#}"),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            format!("the engine panicked: {}", text.unwrap_or("without a message"))
        }
    };
    /// Enough for a cause and the node it names.
    const CHARS_MAX: usize = 600;
    Err(LoadError::Plan {
        detail: detail.chars().take(CHARS_MAX).collect(),
    })
}
