//! Operators that write their results where they are told, and so make nothing at a run.
//!
//! The executor of [`crate::graph`] calls [`Write::write`] with places in one memory; tract, which folds constants and runs what the
//! executor cannot, calls the same through [`evaluated`] with tensors of its own. Elements go as bytes, for one memory holds all types.

use std::fmt::Debug;

use tract_onnx::tract_core::internal::*;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Most inputs and results of such an operator; others stay tract's.
pub(crate) const INPUTS_MAX: usize = 8;
pub(crate) const OUTPUTS_MAX: usize = 2;

/// What an operator reads.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Input<'a> {
    pub(crate) shape: &'a [usize],
    pub(crate) bytes: &'a [u8],
}

/// Where an operator writes.
#[derive(Debug, Default)]
pub(crate) struct Output<'a> {
    pub(crate) shape: &'a [usize],
    pub(crate) bytes: &'a mut [u8],
}

impl<'a> Input<'a> {
    /// All of a tensor.
    pub(crate) fn of(tensor: &'a Tensor) -> TractResult<Self> {
        ensure!(tensor.is_plain_ram(), "a packed tensor where its elements are needed");
        Ok(Self {
            shape: tensor.shape(),
            bytes: tensor.as_bytes(),
        })
    }

    /// Its elements.
    pub(crate) fn elements<T: FromBytes + Immutable + KnownLayout>(&self) -> TractResult<&'a [T]> {
        // No bytes may lie anywhere.
        if self.bytes.is_empty() {
            return Ok(&[]);
        }
        <[T]>::ref_from_bytes(self.bytes).map_err(|_| format_err!("elements of another type"))
    }
}

impl Output<'_> {
    /// Its elements, as the operator before left them.
    pub(crate) fn elements<T: FromBytes + IntoBytes + KnownLayout>(&mut self) -> TractResult<&mut [T]> {
        if self.bytes.is_empty() {
            return Ok(&mut []);
        }
        <[T]>::mut_from_bytes(self.bytes).map_err(|_| format_err!("elements of another type"))
    }
}

/// An operator that writes all of its results. Types and ranks are those of its facts; sizes it checks itself.
pub(crate) trait Write: Debug + Send + Sync {
    /// The input that the first result takes the place of: its elements lie there when [`Write::write`] is called, which is not
    /// given that input.
    fn changes(&self) -> Option<usize> {
        None
    }

    /// Writes the results. Of `inputs`, the changed one is empty.
    ///
    /// # Errors
    /// Sizes that do not fit, and what a request did wrong.
    fn write(&self, inputs: &[Input<'_>], outputs: &mut [Output<'_>]) -> TractResult<()>;
}

/// One of them, of any kind.
pub(super) fn boxed<O: Write + 'static>(op: O) -> Box<dyn Write> {
    Box::new(op)
}

/// Has tract evaluate an operator by what it writes.
macro_rules! evaluates {
    ($op:ty) => {
        impl EvalOp for $op {
            op_out_of_plan!();

            fn eval(&self, _: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
                $crate::ops::write::evaluated(self, inputs)
            }
        }
    };
}
pub(super) use evaluates;

/// Does the same with tensors of tract's.
pub(super) fn evaluated<O: Write + TypedOp>(op: &O, mut inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
    let facts: Vec<TypedFact> = inputs
        .iter()
        .map(|input| TypedFact::dt_shape(input.datum_type(), input.shape()))
        .collect();
    let facts = op.output_facts(&facts.iter().collect::<Vec<_>>())?;
    let mut changed = match op.changes() {
        Some(at) => {
            ensure!(at < inputs.len(), "too few inputs");
            let none = Tensor::zero::<f32>(&[0])?.into_tvalue();
            Some(std::mem::replace(&mut inputs[at], none).into_tensor())
        }
        None => None,
    };
    let mut results: TVec<Tensor> = tvec![];
    for fact in &facts {
        let shape = fact.shape.eval_to_usize(&SymbolValues::default())?;
        let result = match changed.take() {
            Some(changed) => changed,
            None => Tensor::zero_dt(fact.datum_type, &shape)?,
        };
        ensure!(
            result.shape() == &**shape && result.datum_type() == fact.datum_type,
            "{:?} is changed into {:?}",
            result.shape(),
            shape
        );
        results.push(result);
    }
    {
        let given: TVec<Input<'_>> = inputs
            .iter()
            .map(|input| Input::of(input))
            .collect::<TractResult<_>>()?;
        let shapes: TVec<TVec<usize>> = results.iter().map(|result| result.shape().into()).collect();
        let mut written: TVec<Output<'_>> = results
            .iter_mut()
            .zip(&shapes)
            .map(|(result, shape)| Output {
                shape,
                bytes: result.as_bytes_mut(),
            })
            .collect();
        op.write(&given, &mut written)?;
    }
    Ok(results.into_iter().map(IntoTValue::into_tvalue).collect())
}
