//! A graph that is ready to run: one plan for every shape where that is fast, else one plan per shape.
//!
//! tract runs convolutions about five times slower when the batch is a symbol, and up to twice slower a row when rows are
//! joined, so such graphs run row by row, with a plan made when it is first needed. Other graphs run one plan for all shapes, with as
//! many rows as the cache holds, and fall back to plans per shape when tract cannot make one.
//!
//! Invariant: equal input gives equal output shape and rows in the order they came, however they were cut.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use proto::limits::PLANS_MAX;
use proto::manifest::{Dim, TensorSpec};
use proto::oip;
use tract_onnx::pb::ModelProto;
use tract_onnx::prelude::{InferenceModel, IntoTValue, IntoTensor, TVec};

use crate::pack::Prepared;
use crate::{LoadError, RunError, onnx, tensor};

mod plan;
use plan::{AnyPlan, Plan};

type Shapes = Vec<Vec<usize>>;
/// A plan being made or made: threads that want the same one wait for the first.
type Slot = Arc<Mutex<Option<Plan>>>;

/// A loaded graph. Shared by threads; each call makes its own scratch state.
pub struct Graph {
    inputs: Vec<TensorSpec>,
    outputs: Vec<TensorSpec>,
    batched: bool,
    plans: Plans,
}

enum Plans {
    /// One plan for all shapes.
    Any(AnyPlan),
    /// Plans per shape, the least recently used first.
    Exact {
        model: Box<InferenceModel>,
        kept: Mutex<VecDeque<(Shapes, Slot)>>,
    },
}

impl Graph {
    /// Prepares a decoded model and chooses how it runs.
    ///
    /// # Errors
    /// [`LoadError::Onnx`] for inputs or outputs that requests cannot carry, [`LoadError::Plan`] when tract refuses.
    pub fn new(model: ModelProto) -> Result<Self, LoadError> {
        Self::of(Prepared::of(model)?)
    }

    /// Chooses how a prepared model runs.
    ///
    /// # Errors
    /// Those of [`Graph::new`].
    pub fn of(prepared: Prepared) -> Result<Self, LoadError> {
        let Prepared { model, weights } = prepared;
        let described = onnx::describe_model(&model)?;
        let graph = model.graph.as_ref().ok_or(onnx::OnnxError::NoGraph)?;
        let convolves = graph.node.iter().any(|node| node.op_type.contains("Conv"));
        let batched = onnx::batched(&described.inputs, &described.outputs);
        let parsed = crate::ops::with_weights(weights, || plan::parse(&model, &described.inputs))?;
        drop(model);
        let symbolic = if convolves || !has_free_axes(&described.inputs) {
            None
        } else {
            plan::for_any(parsed.clone(), &described.inputs).ok()
        };
        let plans = match symbolic {
            Some(plan) => Plans::Any(plan),
            None => Plans::Exact {
                model: Box::new(parsed),
                kept: Mutex::default(),
            },
        };
        Ok(Self {
            inputs: described.inputs,
            outputs: described.outputs,
            batched,
            plans,
        })
    }

    /// What the graph takes.
    #[must_use]
    pub fn inputs(&self) -> &[TensorSpec] {
        &self.inputs
    }
    /// What the graph gives.
    #[must_use]
    pub fn outputs(&self) -> &[TensorSpec] {
        &self.outputs
    }
    /// Whether rows of different requests may be joined on axis 0.
    #[must_use]
    pub const fn batched(&self) -> bool {
        self.batched
    }
    /// Whether one plan serves every shape; otherwise each new length of a sequence costs a plan.
    #[must_use]
    pub const fn any_shape(&self) -> bool {
        matches!(self.plans, Plans::Any(_))
    }

    /// Runs the graph on inputs in the order of [`Graph::inputs`], types and shapes already checked.
    ///
    /// # Errors
    /// [`RunError::Engine`]; a panic inside the engine is one too.
    pub fn run(&self, inputs: &[oip::Tensor]) -> Result<Vec<oip::Tensor>, RunError> {
        let rows = inputs.first().and_then(|t| t.shape.first()).copied().unwrap_or(0);
        let single = self
            .inputs
            .iter()
            .all(|spec| spec.shape.first() == Some(&Dim::Fixed(1)));
        let run_rows = match &self.plans {
            _ if !self.batched => 1,
            Plans::Any(any) => any.rows_worth_joining(&self.inputs, inputs),
            Plans::Exact { .. } => 1,
        };
        if !(self.batched || single) || rows <= run_rows || inputs.iter().any(|t| t.shape.first() != Some(&rows)) {
            return self.run_once(inputs);
        }
        let mut parts: Vec<Vec<oip::Tensor>> = vec![Vec::new(); self.outputs.len()];
        for start in (0..rows).step_by(run_rows) {
            let end = rows.min(start + run_rows);
            let cut: Vec<_> = inputs.iter().map(|t| tensor::rows(t, start..end)).collect();
            for (output, part) in self.run_once(&cut)?.into_iter().zip(&mut parts) {
                let (given, made) = (end - start, output.shape.first());
                if made != Some(&given) {
                    let detail = format!("output `{}` has {made:?} rows for {given} given", output.name);
                    return Err(RunError::Engine { detail });
                }
                part.push(output);
            }
        }
        Ok(parts.into_iter().filter_map(tensor::join_rows).collect())
    }

    /// Runs a row of zeros: makes the plan of a first call, and shows whether the graph runs at all.
    pub(crate) fn try_zeros(&self) -> Result<(), RunError> {
        let zeros: Option<Vec<oip::Tensor>> = self.inputs.iter().map(zeros).collect();
        zeros.map_or(Ok(()), |zeros| self.run(&zeros).map(drop))
    }

    fn run_once(&self, inputs: &[oip::Tensor]) -> Result<Vec<oip::Tensor>, RunError> {
        let engine = |detail: String| RunError::Engine { detail };
        let plan = match &self.plans {
            Plans::Any(any) => match any.too_large(&self.inputs, inputs) {
                Some(bytes) => return Err(self.too_large(bytes)),
                None => any.plan.clone(),
            },
            Plans::Exact { model, kept } => self
                .exact_plan(model, kept, inputs)
                .map_err(|e| engine(e.to_string()))?,
        };
        let given = inputs.iter().map(|t| tensor::to_engine(t).map(IntoTValue::into_tvalue));
        let given: TVec<_> = given.collect::<Result<_, _>>().map_err(engine)?;
        let results = plan::run(&plan, given).map_err(engine)?;
        let named = self.outputs.iter().zip(results);
        named
            .map(|(spec, value)| tensor::from_engine(&spec.name, value.into_tensor()))
            .collect::<Result<_, _>>()
            .map_err(engine)
    }

    fn too_large(&self, bytes: u64) -> RunError {
        let free = |spec: &&TensorSpec| spec.shape.iter().any(|dim| matches!(dim, Dim::Named(_)));
        let input = self.inputs.iter().find(free).map_or("", |spec| spec.name.as_str());
        RunError::input(
            input,
            format!("is so long that the model would make a tensor of {bytes} bytes; send shorter rows"),
        )
    }

    fn exact_plan(
        &self,
        model: &InferenceModel,
        kept: &Mutex<VecDeque<(Shapes, Slot)>>,
        inputs: &[oip::Tensor],
    ) -> Result<Plan, LoadError> {
        let shapes: Shapes = inputs.iter().map(|t| t.shape.clone()).collect();
        let slot = slot_for(&mut lock(kept), &shapes);
        let mut made = lock(&slot);
        if let Some(plan) = made.as_ref() {
            return Ok(plan.clone());
        }
        let plan = plan::for_shapes(model, &self.inputs, &shapes)?;
        *made = Some(plan.clone());
        Ok(plan)
    }
}

fn zeros(spec: &TensorSpec) -> Option<oip::Tensor> {
    /// A length that sequences commonly have.
    const LENGTH: usize = 16;
    let size = |(axis, dim): (usize, &Dim)| match dim {
        Dim::Fixed(size) => usize::try_from(*size).ok(),
        Dim::Named(_) => Some(if axis == 0 { 1 } else { LENGTH }),
    };
    let shape = spec.shape.iter().enumerate().map(size).collect::<Option<Vec<_>>>()?;
    let bytes = tensor::elements(&shape)?.checked_mul(spec.datatype.element_bytes()?)?;
    Some(oip::Tensor {
        name: spec.name.clone(),
        datatype: spec.datatype,
        shape,
        data: vec![0; bytes],
    })
}

/// Finds or adds the slot of these shapes and makes it the most recently used.
fn slot_for(kept: &mut VecDeque<(Shapes, Slot)>, shapes: &Shapes) -> Slot {
    if let Some(found) = kept
        .iter()
        .position(|(key, _)| key == shapes)
        .and_then(|at| kept.remove(at))
    {
        let slot = found.1.clone();
        kept.push_back(found);
        return slot;
    }
    let slot = Slot::default();
    kept.push_back((shapes.clone(), slot.clone()));
    if kept.len() > PLANS_MAX {
        kept.pop_front();
    }
    slot
}

/// A panic elsewhere must not take the plans with it: what the lock guards is whole at every moment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn has_free_axes(inputs: &[TensorSpec]) -> bool {
    inputs
        .iter()
        .flat_map(|spec| &spec.shape)
        .any(|dim| matches!(dim, Dim::Named(_)))
}

#[cfg(test)]
mod tests;
