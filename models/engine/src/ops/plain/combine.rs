//! Two tensors combined element by element, where the smaller is a row of the other, or has one number for each part of it.

use kernels::{Combine, Isa, combine_parts, combine_rows};
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::binary::{BinMiniOp, OptBinByScalar, OptBinChain, OptBinUnicast, TypedBinOp};
use tract_onnx::tract_core::ops::logic::CompEq;
use tract_onnx::tract_core::ops::math::{Add, Max, Min, Mul, Sub, SubF};
use tract_onnx::tract_core::tract_linalg::multithread::BShare;

use super::super::write::{INPUTS_MAX, Input, Output, Write, boxed};
use super::floats;

pub(super) fn of(node: &TypedNode, inputs: &[&TypedFact], output: &TypedFact) -> Option<Box<dyn Write>> {
    if let Some(op) = node.op_as::<TypedBinOp>().filter(|op| op.0.is::<CompEq>()) {
        return equal(op, inputs, output);
    }
    if inputs.len() > INPUTS_MAX || !floats(output) || !inputs.iter().all(|fact| floats(fact)) {
        return None;
    }
    if let Some(op) = node.op_as::<OptBinChain>() {
        let step = |(step, fact): (_, &&TypedFact)| Step::of(step, fact, inputs[0]);
        let steps = op.steps.iter().map(|step| (&*step.binop, Some(step.share)));
        let steps = steps.zip(&inputs[1..]).map(step).collect::<Option<_>>()?;
        return Some(Box::new(Combined { changed: 0, steps }));
    }
    let (binop, share) = if let Some(op) = node.op_as::<OptBinUnicast>() {
        (&*op.binop, Some(BShare::Lockstep))
    } else if let Some(op) = node.op_as::<OptBinByScalar>() {
        (&*op.binop, Some(BShare::PerBlock))
    } else {
        let op = node.op_as::<TypedBinOp>().filter(|op| op.1.is_none())?;
        (&*op.0, None)
    };
    let [a, b] = inputs else { return None };
    // What is changed must be as large as the result.
    let (changed, step) = if a.shape == output.shape {
        (0, Step::of((binop, share), b, a)?)
    } else if b.shape == output.shape && share.is_none() {
        let step = Step::of((binop, share), a, b)?;
        (1, step.swapped())
    } else {
        // The first has a number for each part of the result, the second is a row of it, or the other way round.
        let (first, second) = (parts(a, output)?, parts(b, output)?);
        let whole = output.shape.as_concrete().is_some() && first != second && share.is_none();
        let (spread, step) = if first {
            (0, Step::of((binop, Some(BShare::Lockstep)), b, output)?)
        } else {
            (1, Step::of((binop, Some(BShare::Lockstep)), a, output)?.swapped())
        };
        return whole.then(|| boxed(Spread { spread, step }));
    };
    let steps = vec![step];
    Some(Box::new(Combined { changed, steps }))
}

/// One combination after another, in place.
#[derive(Debug)]
struct Combined {
    changed: usize,
    steps: Vec<Step>,
}

#[derive(Clone, Copy, Debug)]
struct Step {
    combine: Combine,
    /// The other tensor has one number for each part of this one; otherwise it is a row.
    parts: bool,
}

impl Step {
    fn of((op, share): (&dyn BinMiniOp, Option<BShare>), b: &TypedFact, a: &TypedFact) -> Option<Self> {
        let combine = if op.is::<Add>() {
            Combine::Add
        } else if op.is::<Sub>() {
            Combine::Sub
        } else if op.is::<SubF>() {
            Combine::SubFrom
        } else if op.is::<Mul>() {
            Combine::Mul
        } else if op.is::<Min>() {
            Combine::Min
        } else if op.is::<Max>() {
            Combine::Max
        } else {
            return None;
        };
        let parts = match share {
            Some(share) => share == BShare::PerBlock,
            None => parts(b, a)?,
        };
        Some(Self { combine, parts })
    }

    /// With the tensors exchanged.
    fn swapped(self) -> Self {
        let combine = match self.combine {
            Combine::Sub => Combine::SubFrom,
            Combine::SubFrom => Combine::Sub,
            alike => alike,
        };
        Self { combine, ..self }
    }
}

/// Whether `b` has one number for each part of `a`; not, where it is a row of it; nothing where it is neither for all sizes.
fn parts(b: &TypedFact, a: &TypedFact) -> Option<bool> {
    if a.rank() != b.rank() {
        return None;
    }
    let axes = || b.shape.iter().zip(a.shape.iter());
    if axes().skip_while(|(b, _)| b.is_one()).all(|(b, a)| b == a) {
        return Some(false);
    }
    axes()
        .skip_while(|(b, a)| b == a)
        .all(|(b, _)| b.is_one())
        .then_some(true)
}

impl Write for Combined {
    fn changes(&self) -> Option<usize> {
        Some(self.changed)
    }

    fn write(&self, inputs: &[Input<'_>], outputs: &mut [Output<'_>]) -> TractResult<()> {
        let values = outputs.first_mut().context("no result")?.elements::<f32>()?;
        let others = inputs.iter().enumerate().filter(|(at, _)| *at != self.changed);
        for (step, (_, other)) in self.steps.iter().zip(others) {
            let other = other.elements::<f32>()?;
            ensure!(
                values.is_empty() || !other.is_empty() && values.len().is_multiple_of(other.len()),
                "{} and {} elements",
                values.len(),
                other.len()
            );
            if step.parts {
                combine_parts(Isa::best(), step.combine, values, other);
            } else {
                combine_rows(Isa::best(), step.combine, values, other);
            }
        }
        Ok(())
    }
}

/// A column combined with a row.
#[derive(Debug)]
struct Spread {
    /// Which input is the column.
    spread: usize,
    step: Step,
}

impl Write for Spread {
    fn write(&self, inputs: &[Input<'_>], outputs: &mut [Output<'_>]) -> TractResult<()> {
        let ([a, b], [y]) = (inputs, outputs) else {
            bail!("two inputs and one result");
        };
        let (column, row) = if self.spread == 0 { (a, b) } else { (b, a) };
        let (column, row, y) = (column.elements::<f32>()?, row.elements::<f32>()?, y.elements::<f32>()?);
        ensure!(
            !row.is_empty() && y.len() == column.len() * row.len(),
            "{} elements of {} and {}",
            y.len(),
            column.len(),
            row.len()
        );
        for (y, x) in y.chunks_exact_mut(row.len()).zip(column) {
            y.fill(*x);
        }
        combine_rows(Isa::best(), self.step.combine, y, row);
        Ok(())
    }
}

fn equal(op: &TypedBinOp, inputs: &[&TypedFact], output: &TypedFact) -> Option<Box<dyn Write>> {
    let whole = |fact: &TypedFact| fact.datum_type == i32::datum_type();
    let [a, b] = inputs else { return None };
    let (last, rank) = (output.shape.last()?, output.rank());
    // One number against each of a row.
    let one = whole(a)
        && a.rank() == rank
        && a.shape
            .iter()
            .zip(output.shape.iter())
            .take(rank - 1)
            .all(|(a, y)| a == y);
    let row = whole(b) && b.shape.volume() == *last && b.shape.last() == Some(last);
    let fits = op.1.is_none() && output.datum_type == bool::datum_type() && one && row && a.shape.last()?.is_one();
    fits.then(|| boxed(Equal))
}

/// Whether each number equals each of a row.
#[derive(Debug)]
struct Equal;

impl Write for Equal {
    fn write(&self, inputs: &[Input<'_>], outputs: &mut [Output<'_>]) -> TractResult<()> {
        let ([a, b], [y]) = (inputs, outputs) else {
            bail!("two inputs and one result");
        };
        let (a, b) = (a.elements::<i32>()?, b.elements::<i32>()?);
        ensure!(
            y.bytes.len() == a.len() * b.len(),
            "{} truths of {} and {}",
            y.bytes.len(),
            a.len(),
            b.len()
        );
        for (a, y) in a.iter().zip(y.bytes.chunks_exact_mut(b.len().max(1))) {
            y.iter_mut().zip(b).for_each(|(y, b)| *y = u8::from(a == b));
        }
        Ok(())
    }
}
