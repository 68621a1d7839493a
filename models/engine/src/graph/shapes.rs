//! Graphs that run fast only when all sizes are known: a plan for each shape, made when it is first asked for.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use proto::limits::PLANS_MAX;
use proto::oip;
use tract_onnx::prelude::InferenceModel;

use super::layout::Layout;
use super::plan::{self, Ready, recent};
use crate::engine::{Call, Engine};
use crate::onnx::Described;
use crate::{LoadError, RunError};

type Shapes = Vec<Vec<usize>>;

/// A plan being made or made: threads that want the same one wait for the first.
#[derive(Default)]
struct Slot {
    shapes: Shapes,
    made: Mutex<Option<Arc<Ready>>>,
    layout: OnceLock<Option<Layout>>,
}

/// Plans per shape, the least recently used first.
pub(super) struct PlanPerShape {
    pub(super) model: Box<InferenceModel>,
    kept: Mutex<VecDeque<Arc<Slot>>>,
}

impl PlanPerShape {
    pub(super) fn new(model: InferenceModel) -> Self {
        Self {
            model: Box::new(model),
            kept: Mutex::default(),
        }
    }

    fn slot(&self, call: &Call<'_>) -> Arc<Slot> {
        let fits = |slot: &Arc<Slot>| call.has_shapes(&slot.shapes);
        let make = || {
            Arc::new(Slot {
                shapes: call.shapes(),
                ..Slot::default()
            })
        };
        recent(&self.kept, PLANS_MAX, fits, make)
    }

    fn plan(&self, io: &Described, slot: &Slot) -> Result<Arc<Ready>, LoadError> {
        let mut made = lock(&slot.made);
        if let Some(plan) = made.as_ref() {
            return Ok(Arc::clone(plan));
        }
        let plan = Arc::new(plan::for_shapes(&self.model, &io.inputs, &slot.shapes)?);
        *made = Some(Arc::clone(&plan));
        Ok(plan)
    }
}

impl Engine for PlanPerShape {
    fn any_shape(&self) -> bool {
        false
    }

    fn rows_worth_joining(&self, _: &Described, _: &Call<'_>) -> usize {
        1
    }

    fn run(&self, io: &Described, call: &Call<'_>) -> Result<Vec<oip::Tensor>, RunError> {
        let slot = self.slot(call);
        let plan = self.plan(io, &slot);
        let plan = plan.map_err(|e| RunError::Engine { detail: e.to_string() })?;
        plan.run(&slot.layout, io, call)
    }
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
        let kept = Mutex::default();
        let ask = |size: usize| recent(&kept, PLANS_MAX, |kept| *kept == size, || size);
        (1..=PLANS_MAX).for_each(|size| assert_eq!(ask(size), size));
        assert_eq!((ask(1), ask(99)), (1, 99));
        let kept = lock(&kept);
        assert_eq!(kept.len(), PLANS_MAX);
        assert!(kept.contains(&1) && !kept.contains(&2), "{kept:?}");
    }
}
