//! Graphs that tract runs: by one plan for every shape, or by a plan for each shape.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use proto::limits::PLANS_MAX;
use proto::manifest::{Dim, TensorSpec};
use proto::oip;
use tract_onnx::prelude::{InferenceModel, IntoTValue, IntoTensor, TVec};

use super::plan::{self, AnyPlan, Plan};
use crate::engine::Engine;
use crate::onnx::Described;
use crate::{LoadError, RunError, tensor};

type Shapes = Vec<Vec<usize>>;
/// A plan being made or made: threads that want the same one wait for the first.
type Slot = Arc<Mutex<Option<Plan>>>;

impl Engine for AnyPlan {
    fn any_shape(&self) -> bool {
        true
    }

    fn rows_worth_joining(&self, io: &Described, inputs: &[oip::Tensor]) -> usize {
        self.rows_in_cache(&io.inputs, inputs)
    }

    fn run(&self, io: &Described, inputs: &[oip::Tensor]) -> Result<Vec<oip::Tensor>, RunError> {
        match self.too_large(&io.inputs, inputs) {
            Some(bytes) => Err(too_large(io, bytes)),
            None => run(&self.plan, io, inputs),
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

/// Plans per shape, the least recently used first.
pub(super) struct PlanPerShape {
    pub(super) model: Box<InferenceModel>,
    kept: Mutex<VecDeque<(Shapes, Slot)>>,
}

impl PlanPerShape {
    pub(super) fn new(model: InferenceModel) -> Self {
        Self {
            model: Box::new(model),
            kept: Mutex::default(),
        }
    }

    fn plan(&self, io: &Described, inputs: &[oip::Tensor]) -> Result<Plan, LoadError> {
        let shapes: Shapes = inputs.iter().map(|t| t.shape.clone()).collect();
        let slot = slot_for(&mut lock(&self.kept), &shapes);
        let mut made = lock(&slot);
        if let Some(plan) = made.as_ref() {
            return Ok(plan.clone());
        }
        let plan = plan::for_shapes(&self.model, &io.inputs, &shapes)?;
        *made = Some(plan.clone());
        Ok(plan)
    }
}

impl Engine for PlanPerShape {
    fn any_shape(&self) -> bool {
        false
    }

    fn rows_worth_joining(&self, _: &Described, _: &[oip::Tensor]) -> usize {
        1
    }

    fn run(&self, io: &Described, inputs: &[oip::Tensor]) -> Result<Vec<oip::Tensor>, RunError> {
        let plan = self.plan(io, inputs);
        let plan = plan.map_err(|e| RunError::Engine { detail: e.to_string() })?;
        run(&plan, io, inputs)
    }
}

fn run(plan: &Plan, io: &Described, inputs: &[oip::Tensor]) -> Result<Vec<oip::Tensor>, RunError> {
    let engine = |detail: String| RunError::Engine { detail };
    let given = inputs.iter().map(|t| tensor::to_engine(t).map(IntoTValue::into_tvalue));
    let given: TVec<_> = given.collect::<Result<_, _>>().map_err(engine)?;
    let results = plan::run(plan, given).map_err(engine)?;
    let named = io.outputs.iter().zip(results);
    named
        .map(|(spec, value)| tensor::from_engine(&spec.name, value.into_tensor()))
        .collect::<Result<_, _>>()
        .map_err(engine)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_are_bounded_and_the_least_recently_used_goes_first() {
        let mut kept = VecDeque::new();
        for size in 1..=PLANS_MAX {
            slot_for(&mut kept, &vec![vec![size]]);
        }
        slot_for(&mut kept, &vec![vec![1]]);
        slot_for(&mut kept, &vec![vec![99]]);
        assert_eq!(kept.len(), PLANS_MAX);
        let keys: Vec<_> = kept.iter().map(|(shapes, _)| shapes[0][0]).collect();
        assert!(keys.contains(&1) && !keys.contains(&2), "{keys:?}");
    }
}
