//! What a device is tried with: a golden input, and what the processor answers to it here.

use std::sync::Arc;

use models::golden::{Vector, judge};
use proto::manifest::Check;
use proto::oip::Tensor;

use crate::engine::Model;

/// A question whose answer is known.
#[derive(Clone, Debug)]
pub struct Question {
    pub(super) inputs: Arc<Vec<Tensor>>,
    answer: Vec<Tensor>,
    checks: Vec<Check>,
}

impl Question {
    /// The shortest of `vectors`, answered by `stand_in` now; another answer must be as close to that as `checks` say.
    ///
    /// # Errors
    /// There is no vector, or the stand-in does not answer it.
    pub fn of(vectors: Vec<Vector>, checks: Vec<Check>, stand_in: &dyn Model) -> Result<Self, String> {
        let bytes = |vector: &Vector| vector.inputs.iter().map(|tensor| tensor.data.len()).sum::<usize>();
        let shortest = vectors.into_iter().min_by_key(bytes);
        let inputs = shortest
            .ok_or("there are no golden vectors to try the device with")?
            .inputs;
        let answer = stand_in
            .run(&inputs)
            .map_err(|fault| format!("the processor does not answer what the device is tried with: {fault}"))?;
        Ok(Self {
            inputs: Arc::new(inputs),
            answer,
            checks,
        })
    }

    /// Whether `got` is an answer to it.
    pub(super) fn is_answered_by(&self, got: &[Tensor]) -> bool {
        judge(&self.checks, [(got, self.answer.as_slice())]).is_ok_and(|agreement| agreement.passed())
    }
}
