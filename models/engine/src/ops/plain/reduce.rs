//! Sums, means of squares and largest numbers along axes, in the order in which tract makes them.

use std::cell::RefCell;

use kernels::{Isa, sum_rows};
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::cnn::OptSumPool;
use tract_onnx::tract_core::ops::nn::{Reduce, Reducer};
use tract_onnx::tract_core::tract_linalg::reduce::Reduce as Kernel;
use tract_onnx::tract_core::tract_linalg::routines::Func;

use super::super::write::{Input, Output, Write, boxed};
use super::floats;

thread_local! {
    /// Squares of the numbers that this thread sums.
    static SQUARES: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

pub(super) fn of(node: &TypedNode, inputs: &[&TypedFact], output: &TypedFact) -> Option<Box<dyn Write>> {
    if !floats(output) || !inputs.iter().all(|fact| floats(fact)) {
        return None;
    }
    if let Some(op) = node.op_as::<OptSumPool>() {
        return pool(op, inputs[0], output);
    }
    let op = node.op_as::<Reduce>()?;
    let (first, last) = (*op.axes.first()?, *op.axes.last()?);
    let rank = inputs[0].rank();
    // Sums that begin with the first axis are made in blocks.
    let together = op.axes.iter().copied().eq(first..=last) && last < rank;
    let begins = first == 0 && last + 1 < rank;
    if !together || begins && op.reducer != Reducer::Max {
        return None;
    }
    let how = match op.reducer {
        Reducer::Sum | Reducer::MeanOfSquares => {
            let alone = op.axes.len() == 1 && last + 1 == rank;
            How::Sum {
                squares: op.reducer == Reducer::MeanOfSquares,
                rows: if alone {
                    Some(Func::ReduceSum.reduce_f32().ok()?)
                } else {
                    None
                },
            }
        }
        Reducer::Max => How::Max(Func::ReduceMax.reduce_f32().ok()?),
        _ => return None,
    };
    Some(Box::new(Reduced { first, last, how }))
}

/// Axes `first` to `last` become one number.
#[derive(Debug)]
struct Reduced {
    first: usize,
    last: usize,
    how: How,
}

#[derive(Debug)]
enum How {
    Sum {
        /// Of squares, and divided by how many there are.
        squares: bool,
        /// How tract sums rows of the last axis alone.
        rows: Option<Box<dyn Kernel<f32>>>,
    },
    Max(Box<dyn Kernel<f32>>),
}

impl Write for Reduced {
    fn write(&self, inputs: &[Input<'_>], outputs: &mut [Output<'_>]) -> TractResult<()> {
        let ([x], [y]) = (inputs, outputs) else {
            bail!("one input and one result");
        };
        let size = |axes: &[usize]| axes.iter().product::<usize>();
        ensure!(self.last < x.shape.len(), "{:?} is reduced at {}", x.shape, self.last);
        let (reduced, inner) = (size(&x.shape[self.first..=self.last]), size(&x.shape[self.last + 1..]));
        let (x, y) = (x.elements::<f32>()?, y.elements::<f32>()?);
        ensure!(
            reduced > 0 && x.len() == y.len() * reduced,
            "{} elements become {}",
            x.len(),
            y.len()
        );
        match &self.how {
            How::Sum { squares: false, rows } => sum(rows.as_deref(), x, [reduced, inner], y),
            How::Sum { squares: true, rows } => SQUARES.with_borrow_mut(|squares| {
                squares.clear();
                squares.extend_from_slice(x);
                kernels::square(Isa::best(), squares);
                sum(rows.as_deref(), squares, [reduced, inner], y)?;
                let share = count(y.len()) / count(x.len());
                y.iter_mut().for_each(|y| *y *= share);
                Ok(())
            }),
            How::Max(kernel) => max(&**kernel, x, [reduced, inner], y),
        }
    }
}

#[allow(
    clippy::as_conversions,
    reason = "as tract counts; a tensor of more than 2^24 elements is counted roughly there too"
)]
fn count(elements: usize) -> f32 {
    elements as f32
}

fn sum(rows: Option<&dyn Kernel<f32>>, x: &[f32], [reduced, inner]: [usize; 2], y: &mut [f32]) -> TractResult<()> {
    if inner > 1 {
        let images = x.chunks_exact(reduced * inner);
        images
            .zip(y.chunks_exact_mut(inner))
            .for_each(|(x, y)| sum_rows(Isa::best(), x, y));
        return Ok(());
    }
    for (x, y) in x.chunks_exact(reduced).zip(y) {
        *y = match rows {
            Some(kernel) if reduced >= 4 => kernel.run_with_params(x, ())?,
            Some(_) => x.iter().sum(),
            None => by_eight(x),
        };
    }
    Ok(())
}

/// The sum in the order of `ndarray`, which sums other lanes for tract: eight running sums, then halves of them against each other.
fn by_eight(x: &[f32]) -> f32 {
    let (chunks, rest) = x.as_chunks::<8>();
    let mut sums = [0.0; 8];
    for chunk in chunks {
        sums.iter_mut().zip(chunk).for_each(|(sum, x)| *sum += x);
    }
    let (low, high) = sums.split_at(4);
    let whole = low.iter().zip(high).fold(0.0, |all, (a, b)| all + (a + b));
    rest.iter().fold(whole, |all, x| all + x)
}

fn max(kernel: &dyn Kernel<f32>, x: &[f32], [reduced, inner]: [usize; 2], y: &mut [f32]) -> TractResult<()> {
    if inner == 1 {
        for (x, y) in x.chunks_exact(reduced).zip(y) {
            *y = kernel.run(x)?;
        }
        return Ok(());
    }
    for (x, y) in x.chunks_exact(reduced * inner).zip(y.chunks_exact_mut(inner)) {
        y.fill(f32::MIN);
        for row in x.chunks_exact(inner) {
            y.iter_mut()
                .zip(row)
                .for_each(|(y, x)| *y = if *y > *x { *y } else { *x });
        }
    }
    Ok(())
}

fn pool(op: &OptSumPool, input: &TypedFact, output: &TypedFact) -> Option<Box<dyn Write>> {
    use tract_onnx::tract_core::ops::cnn::PaddingSpec;
    let (spec, shape) = (&op.pool_spec, input.shape.as_concrete()?);
    let first = matches!(spec.data_format, tract_onnx::tract_core::ops::nn::DataFormat::NCHW);
    let [_, _, sides @ ..] = shape else { return None };
    if !first || spec.padding != PaddingSpec::Valid || spec.dilations.is_some() {
        return None;
    }
    let ones = output.shape.iter().skip(2).all(|size| size.is_one());
    if ones && *spec.kernel_shape == *sides {
        let pixels = sides.iter().product();
        return Some(boxed(WholeImage {
            pixels,
            mean: op.normalize,
        }));
    }
    let sides = <[usize; 2]>::try_from(&*spec.kernel_shape).ok()?;
    let strides = spec
        .strides
        .as_ref()
        .map_or(Some([1; 2]), |strides| (&**strides).try_into().ok())?;
    Some(boxed(Windows {
        sides,
        strides,
        mean: op.normalize,
    }))
}

/// The sum or mean of what a window sees of a plane, none of it padding.
#[derive(Debug)]
struct Windows {
    sides: [usize; 2],
    strides: [usize; 2],
    mean: bool,
}

impl Write for Windows {
    fn write(&self, inputs: &[Input<'_>], outputs: &mut [Output<'_>]) -> TractResult<()> {
        let ([x], [y]) = (inputs, outputs) else {
            bail!("one input and one result");
        };
        let (&[.., height, width], &[.., rows, columns]) = (x.shape, y.shape) else {
            bail!("no planes: {:?}", x.shape);
        };
        let (from, to) = (x.elements::<f32>()?, y.elements::<f32>()?);
        let [sides, strides] = [self.sides, self.strides];
        let fits = |axis: usize, places: usize, size: usize| (places - 1) * strides[axis] + sides[axis] <= size;
        ensure!(
            to.is_empty()
                || from.len() / (height * width).max(1) == to.len() / (rows * columns)
                    && fits(0, rows, height)
                    && fits(1, columns, width),
            "{:?} becomes {:?}",
            x.shape,
            y.shape
        );
        let by = if self.mean {
            count(sides[0] * sides[1]).recip()
        } else {
            1.0
        };
        for (x, y) in from
            .chunks_exact((height * width).max(1))
            .zip(to.chunks_exact_mut((rows * columns).max(1)))
        {
            for (place, y) in y.iter_mut().enumerate() {
                let first = place / columns * strides[0] * width + place % columns * strides[1];
                let seen = (0..sides[0]).flat_map(|row| &x[first + row * width..][..sides[1]]);
                let sum: f32 = seen.copied().sum();
                *y = if self.mean { sum * by } else { sum };
            }
        }
        Ok(())
    }
}

/// The sum or mean of each plane.
#[derive(Debug)]
struct WholeImage {
    pixels: usize,
    mean: bool,
}

impl Write for WholeImage {
    fn write(&self, inputs: &[Input<'_>], outputs: &mut [Output<'_>]) -> TractResult<()> {
        let ([x], [y]) = (inputs, outputs) else {
            bail!("one input and one result");
        };
        let (x, y) = (x.elements::<f32>()?, y.elements::<f32>()?);
        ensure!(
            self.pixels > 0 && x.len() == y.len() * self.pixels,
            "{} elements become {}",
            x.len(),
            y.len()
        );
        let by = if self.mean { count(self.pixels).recip() } else { 1.0 };
        for (plane, y) in x.chunks_exact(self.pixels).zip(y) {
            let sum: f32 = plane.iter().copied().sum();
            *y = if self.mean { sum * by } else { sum };
        }
        Ok(())
    }
}
