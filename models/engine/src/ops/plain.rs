//! tract's own operators that graphs hold around ours, written in place: to the same bits as tract's, which the executor's tests hold
//! them to. What is missing here tract runs itself, at the price of a tensor for each result.

mod combine;
mod copies;
mod reduce;

use kernels::Isa;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::cast::Cast;
use tract_onnx::tract_core::ops::element_wise::ElementWiseOp;
use tract_onnx::tract_core::ops::math::{Exp, Recip, Rsqrt, Sqrt, Square, Tanh};
use tract_onnx::tract_core::ops::nn::{HardSwish, RmsNorm, Sigmoid, Silu};
use tract_onnx::tract_core::tract_linalg::element_wise::ElementWise;
use tract_onnx::tract_core::tract_linalg::routines::{Func, rms_norm_f32};

use super::write::{Input, Output, Write};

/// The form of an operator of tract's that writes where it is told, if there is one.
pub(super) fn of(node: &TypedNode, inputs: &[&TypedFact], output: &TypedFact) -> Option<Box<dyn Write>> {
    if let Some(op) = node.op_as::<ElementWiseOp>() {
        return each(op, inputs, output);
    }
    if let Some(op) = node.op_as::<RmsNorm>() {
        let last = inputs[0].rank().checked_sub(1) == Some(op.axis) && floats(inputs[0]);
        let epsilon = op.eps.cast_to_scalar::<f32>().ok().filter(|_| last)?;
        return Some(Box::new(RmsRows {
            run: rms_norm_f32().ok()?,
            epsilon,
        }));
    }
    if node.op_is::<Cast>() {
        let to_floats = floats(output);
        return match inputs[0].datum_type {
            DatumType::I64 if to_floats => Some(Box::new(ToFloats::OfI64)),
            DatumType::I32 if to_floats => Some(Box::new(ToFloats::OfI32)),
            DatumType::Bool if to_floats => Some(Box::new(ToFloats::OfBool)),
            _ => None,
        };
    }
    combine::of(node, inputs, output)
        .or_else(|| reduce::of(node, inputs, output))
        .or_else(|| copies::of(node, inputs, output))
}

fn floats(fact: &TypedFact) -> bool {
    fact.datum_type == f32::datum_type()
}

fn each(op: &ElementWiseOp, inputs: &[&TypedFact], output: &TypedFact) -> Option<Box<dyn Write>> {
    if op.1.is_some() || !floats(inputs[0]) || !floats(output) {
        return None;
    }
    let op = &op.0;
    let kernel = if op.is::<Exp>() {
        Func::Exp
    } else if op.is::<Silu>() {
        Func::Silu
    } else if op.is::<Sigmoid>() {
        Func::Sigmoid
    } else if op.is::<Tanh>() {
        Func::Tanh
    } else if op.is::<HardSwish>() {
        Func::Hardswish
    } else {
        let each = if op.is::<Square>() {
            Each::Square
        } else if op.is::<Sqrt>() {
            Each::Sqrt
        } else if op.is::<Recip>() {
            Each::Recip
        } else if op.is::<Rsqrt>() {
            Each::Rsqrt
        } else {
            return None;
        };
        return Some(Box::new(each));
    };
    Some(Box::new(Each::Kernel(kernel.ew_f32().ok()?)))
}

/// What is done to each number by itself.
#[derive(Debug)]
enum Each {
    Square,
    Sqrt,
    Recip,
    Rsqrt,
    Kernel(Box<dyn ElementWise<f32>>),
}

impl Write for Each {
    fn changes(&self) -> Option<usize> {
        Some(0)
    }

    fn write(&self, _: &[Input<'_>], outputs: &mut [Output<'_>]) -> TractResult<()> {
        let values = outputs.first_mut().context("no result")?.elements::<f32>()?;
        match self {
            Self::Square => kernels::square(Isa::best(), values),
            Self::Sqrt => values.iter_mut().for_each(|x| *x = x.sqrt()),
            Self::Recip => values.iter_mut().for_each(|x| *x = x.recip()),
            Self::Rsqrt => values.iter_mut().for_each(|x| *x = x.sqrt().recip()),
            Self::Kernel(kernel) => kernel.run(values)?,
        }
        Ok(())
    }
}

/// Rows of a root mean square of 1.
#[derive(Debug)]
struct RmsRows {
    run: fn(&mut [f32], f32),
    epsilon: f32,
}

impl Write for RmsRows {
    fn changes(&self) -> Option<usize> {
        Some(0)
    }

    fn write(&self, _: &[Input<'_>], outputs: &mut [Output<'_>]) -> TractResult<()> {
        let rows = outputs.first_mut().context("no result")?;
        let width = rows.shape.last().copied().unwrap_or(0).max(1);
        for row in rows.elements::<f32>()?.chunks_exact_mut(width) {
            (self.run)(row, self.epsilon);
        }
        Ok(())
    }
}

/// Whole numbers and truths as FP32.
#[derive(Debug)]
enum ToFloats {
    OfI64,
    OfI32,
    OfBool,
}

impl Write for ToFloats {
    fn write(&self, inputs: &[Input<'_>], outputs: &mut [Output<'_>]) -> TractResult<()> {
        let ([x], [y]) = (inputs, outputs) else {
            bail!("one input and one result");
        };
        let y = y.elements::<f32>()?;
        match self {
            Self::OfI64 => kernels::floats_of_i64(Isa::best(), x.elements()?, y),
            Self::OfI32 => kernels::floats_of_i32(Isa::best(), x.elements()?, y),
            Self::OfBool => y.iter_mut().zip(x.bytes).for_each(|(y, x)| *y = f32::from(*x)),
        }
        Ok(())
    }
}
