//! Plans of the engine: how a parsed graph becomes something that runs, and what a run may take.
//!
//! Every call into the engine passes [`guarded`], so a panic inside it is an error here.

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use proto::limits::{GRAPH_TENSOR_BYTES_MAX, LAYOUTS_MAX, RUN_ROWS_MAX};
use proto::manifest::{Dim, TensorSpec};
use proto::oip;
use tract_onnx::pb::ModelProto;
use tract_onnx::prelude::{
    Datum, InferenceFact, InferenceModel, InferenceModelExt, IntoRunnable, IntoTValue, Symbol, SymbolValues, TDim,
    TVec, TractResult, TypedModel, TypedRunnableModel,
};
use tract_onnx::tract_core::internal::bail;

use super::layout::Layout;
use super::program::Program;
use crate::engine::{Call, Engine, Given};
use crate::onnx::Described;
use crate::ops::Told;
use crate::{LoadError, RunError, tensor};

/// About half of the second-level cache of a server's core.
const CACHED_BYTES: usize = 512 << 10;

pub(super) type Plan = Arc<TypedRunnableModel>;

/// A plan for every shape, and the sizes that its tensors take by the sizes that a request chooses.
pub(super) struct AnyPlan {
    pub(super) ready: Ready,
    known: Mutex<VecDeque<Arc<Known>>>,
    /// For each free axis of the inputs, in order, its symbol.
    symbols: Vec<Symbol>,
    /// Distinct sizes of tensors, in bytes, that depend on the symbols.
    sizes: Vec<TDim>,
}

/// What is known of one choice of sizes.
struct Known {
    shapes: Vec<Vec<usize>>,
    /// The largest tensor, in bytes, that a run makes.
    largest: Option<u64>,
    rows_in_cache: usize,
    layout: OnceLock<Option<Layout>>,
}

/// A plan as it runs: by our executor, or by tract where that cannot.
pub(super) struct Ready {
    pub(super) plan: Plan,
    pub(super) program: Option<Program>,
}

impl Ready {
    fn of(plan: Plan) -> TractResult<Self> {
        let program = Program::of(&plan)?;
        Ok(Self { plan, program })
    }

    /// Runs it; `layout` is that of inputs of these sizes, once it was made.
    pub(super) fn run(
        &self,
        layout: &OnceLock<Option<Layout>>,
        io: &Described,
        call: &Call<'_>,
    ) -> Result<Vec<oip::Tensor>, RunError> {
        let engine = |detail: String| RunError::Engine { detail };
        if let Some(program) = &self.program {
            // Where sizes contradict each other tract says which.
            let layout = layout.get_or_init(|| told(|| Layout::of(program, call)).ok());
            if let Some(layout) = layout {
                let answer = told(|| super::run::run(program, layout, io, call)).map_err(engine);
                #[cfg(test)]
                super::tests::agrees_with_tract(self, io, call, &answer);
                return answer;
            }
        }
        self.run_in_tract(io, call)
    }

    /// Runs it in tract's own executor.
    pub(super) fn run_in_tract(&self, io: &Described, call: &Call<'_>) -> Result<Vec<oip::Tensor>, RunError> {
        let engine = |detail: String| RunError::Engine { detail };
        let given = call
            .given()
            .map(|given| tensor::to_engine(given).map(IntoTValue::into_tvalue));
        let given: TVec<_> = given.collect::<Result<_, _>>().map_err(engine)?;
        let results = told(|| self.plan.run(given)).map_err(engine)?;
        let named = io.outputs.iter().zip(results);
        named
            .map(|(spec, value)| tensor::from_engine(&spec.name, &value))
            .collect::<Result<_, _>>()
            .map_err(engine)
    }
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
            ready: Ready::of(optimized(typed)?.into_runnable()?)?,
            known: Mutex::default(),
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
) -> Result<Ready, LoadError> {
    guarded(|| {
        let mut model = model.clone();
        for (i, (spec, shape)) in inputs.iter().zip(shapes).enumerate() {
            let datum = tensor::datum_of(spec.datatype).unwrap_or(f32::datum_type());
            model.set_input_fact(i, InferenceFact::dt_shape(datum, shape))?;
        }
        let typed = model.into_typed()?;
        sizes(&typed)?;
        Ready::of(optimized(typed)?.into_runnable()?)
    })
}

fn optimized(typed: TypedModel) -> TractResult<TypedModel> {
    let mut typed = typed.into_decluttered()?;
    crate::ops::vectorise(&mut typed)?;
    typed.into_optimized()
}

impl AnyPlan {
    /// What is known of requests of this size.
    fn known(&self, specs: &[TensorSpec], call: &Call<'_>) -> Arc<Known> {
        let make = || {
            let rows = self.largest(specs, call, |axis, size| if axis == 0 { 1 } else { size });
            let row_bytes = rows.and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(1);
            Arc::new(Known {
                shapes: call.shapes(),
                largest: self.largest(specs, call, |_, size| size),
                rows_in_cache: (CACHED_BYTES / row_bytes.max(1)).clamp(1, RUN_ROWS_MAX),
                layout: OnceLock::new(),
            })
        };
        recent(&self.known, LAYOUTS_MAX, |known| call.has_shapes(&known.shapes), make)
    }

    /// The largest tensor of a run in bytes, where the free axis `axis` of an input has `sized(axis, its size)` elements.
    fn largest(&self, specs: &[TensorSpec], call: &Call<'_>, sized: impl Fn(usize, usize) -> usize) -> Option<u64> {
        let axes = |(spec, given): (&TensorSpec, Given<'_>)| {
            let axes = spec.shape.iter().zip(given.shape()).enumerate();
            let free = axes.filter(|(_, (dim, _))| matches!(dim, Dim::Named(_)));
            free.map(|(axis, (_, size))| sized(axis, size)).collect::<Vec<_>>()
        };
        let mut values = SymbolValues::default();
        for (symbol, size) in self.symbols.iter().zip(specs.iter().zip(call.given()).flat_map(axes)) {
            values.set(symbol, i64::try_from(size).unwrap_or(i64::MAX));
        }
        let sizes = self.sizes.iter().filter_map(|size| size.eval_to_i64(&values).ok());
        sizes.max().and_then(|bytes| u64::try_from(bytes).ok())
    }
}

impl Engine for AnyPlan {
    fn any_shape(&self) -> bool {
        true
    }

    /// Rows whose largest tensor stays in the processor's own cache. More at once cost more each: what one operator writes
    /// the next has to fetch from memory.
    fn rows_worth_joining(&self, io: &Described, call: &Call<'_>) -> usize {
        self.known(&io.inputs, call).rows_in_cache
    }

    fn run(&self, io: &Described, call: &Call<'_>) -> Result<Vec<oip::Tensor>, RunError> {
        let known = self.known(&io.inputs, call);
        match known.largest.filter(|bytes| *bytes > GRAPH_TENSOR_BYTES_MAX) {
            Some(bytes) => Err(too_large(io, bytes)),
            None => self.ready.run(&known.layout, io, call),
        }
    }
}

fn too_large(io: &Described, bytes: u64) -> RunError {
    let free = |spec: &&TensorSpec| spec.shape.iter().any(|dim| matches!(dim, Dim::Named(_)));
    let input = io.inputs.iter().find(free).map_or("", |spec| spec.name.as_str());
    RunError::input(
        input,
        format!("is so long that the model would make a tensor of {bytes} bytes; send shorter rows"),
    )
}

/// What `fits`, made the most recently used, or what `make` gives in place of what was used the longest ago.
pub(super) fn recent<T: Clone>(
    kept: &Mutex<VecDeque<T>>,
    most: usize,
    fits: impl Fn(&T) -> bool,
    make: impl FnOnce() -> T,
) -> T {
    // A panic elsewhere must not take these with it: what the lock guards is whole at every moment.
    let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
    // Nearly always the last one.
    if let Some(at) = kept.iter().rposition(fits) {
        if at + 1 != kept.len()
            && let Some(found) = kept.remove(at)
        {
            kept.push_back(found);
        }
    } else {
        if kept.len() >= most {
            kept.pop_front();
        }
        kept.push_back(make());
    }
    kept[kept.len() - 1].clone()
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

/// Runs engine code that sees a request. What failed is told by its node alone, for causes and panics may quote the request.
pub(super) fn told<T>(work: impl FnOnce() -> TractResult<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(done)) => Ok(done),
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
