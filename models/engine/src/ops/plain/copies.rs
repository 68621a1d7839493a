//! Elements that only change their place, and numbers one after another.

use kernels::exchange_axes;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::array::{Gather, Range, Slice, TypedConcat};
use tract_onnx::tract_core::ops::nn::NearestUpsample;

use super::super::write::{INPUTS_MAX, Input, Output, Write, boxed};

pub(super) fn of(node: &TypedNode, inputs: &[&TypedFact], output: &TypedFact) -> Option<Box<dyn Write>> {
    if node.op_is::<Range>() {
        let integer = |at: usize| inputs[at].konst.as_ref()?.cast_to_scalar::<i64>().ok();
        let i64s = output.datum_type == i64::datum_type();
        let (start, step) = (integer(0)?, integer(2)?);
        return i64s.then(|| boxed(Count { start, step }));
    }
    if !matches!(output.datum_type.size_of(), 1 | 4 | 8)
        || output.datum_type == TDim::datum_type()
        || !output.datum_type.is_copy()
    {
        return None;
    }
    if let Some(AxisOp::Move(from, to)) = node.op_as::<AxisOp>() {
        return Some(Box::new(Moved {
            from: *from,
            to: *to,
            bytes: output.datum_type.size_of(),
        }));
    }
    if let Some(op) = node.op_as::<Gather>() {
        let whole = inputs
            .get(1)
            .is_some_and(|places| places.datum_type == i64::datum_type());
        let plain = inputs[0].is_plain() && inputs[0].datum_type == output.datum_type;
        return (whole && plain).then(|| boxed(Looked { axis: op.axis }));
    }
    if let Some(op) = node.op_as::<Slice>() {
        let start = op.start.to_usize().ok()?;
        return Some(Box::new(Part { axis: op.axis, start }));
    }
    if let Some(op) = node.op_as::<TypedConcat>() {
        return (inputs.len() <= INPUTS_MAX).then(|| boxed(Joined { axis: op.axis }));
    }
    let op = node.op_as::<NearestUpsample>()?;
    let [1, 1, rows, columns] = op.scales[..] else {
        return None;
    };
    (output.datum_type == f32::datum_type()).then(|| boxed(Enlarged { rows, columns }))
}

/// `start, start + step, ..`, as many as there is room for.
#[derive(Debug)]
struct Count {
    start: i64,
    step: i64,
}

impl Write for Count {
    fn write(&self, _: &[Input<'_>], outputs: &mut [Output<'_>]) -> TractResult<()> {
        let numbers = outputs.first_mut().context("no result")?.elements::<i64>()?;
        let mut next = self.start;
        for number in numbers {
            *number = next;
            next = next.wrapping_add(self.step);
        }
        Ok(())
    }
}

/// An axis elsewhere among the others.
#[derive(Debug)]
struct Moved {
    from: usize,
    to: usize,
    bytes: usize,
}

impl Write for Moved {
    fn write(&self, inputs: &[Input<'_>], outputs: &mut [Output<'_>]) -> TractResult<()> {
        let ([x], [y]) = (inputs, outputs) else {
            bail!("one input and one result");
        };
        let (low, high) = (self.from.min(self.to), self.from.max(self.to));
        ensure!(
            high < x.shape.len() && x.bytes.len() == y.bytes.len(),
            "{:?} has no axis {high}",
            x.shape
        );
        let size = |axes: &[usize]| axes.iter().product::<usize>();
        let (outer, inner) = (size(&x.shape[..low]), size(&x.shape[high + 1..]));
        let shape = if self.from < self.to {
            [outer, x.shape[low], size(&x.shape[low + 1..=high]), inner]
        } else {
            [outer, size(&x.shape[low..high]), x.shape[high], inner]
        };
        match self.bytes {
            8 => exchange_axes(x.elements::<u64>()?, shape, y.elements::<u64>()?),
            4 => exchange_axes(x.elements::<u32>()?, shape, y.elements::<u32>()?),
            _ => exchange_axes(x.bytes, shape, y.bytes),
        }
        Ok(())
    }
}

/// How many runs of bytes a tensor is along an axis, and how long a step of the axis is.
fn runs(shape: &[usize], bytes: usize, axis: usize) -> TractResult<[usize; 2]> {
    ensure!(axis < shape.len(), "{shape:?} has no axis {axis}");
    let outer: usize = shape[..axis].iter().product();
    let steps = outer * shape[axis];
    Ok([outer, bytes.checked_div(steps).unwrap_or(0)])
}

/// Steps of an axis that numbers name; negative ones count from its end.
#[derive(Debug)]
struct Looked {
    axis: usize,
}

impl Write for Looked {
    fn write(&self, inputs: &[Input<'_>], outputs: &mut [Output<'_>]) -> TractResult<()> {
        let ([table, places], [y]) = (inputs, outputs) else {
            bail!("a table, places and one result");
        };
        let [outer, step] = runs(table.shape, table.bytes.len(), self.axis)?;
        let (size, places) = (table.shape[self.axis], places.elements::<i64>()?);
        ensure!(
            y.bytes.len() == outer * places.len() * step,
            "{} places in {:?} make {:?}",
            places.len(),
            table.shape,
            y.shape
        );
        let from = table.bytes.chunks_exact((size * step).max(1));
        let to = y.bytes.chunks_exact_mut((places.len() * step).max(1));
        for (table, y) in from.zip(to) {
            for (place, y) in places.iter().zip(y.chunks_exact_mut(step.max(1))) {
                let end = i64::try_from(size)?;
                let place = if *place < 0 { place.saturating_add(end) } else { *place };
                let place = usize::try_from(place).ok().filter(|place| *place < size);
                let first = place.context("a place outside the table")? * step;
                y.copy_from_slice(&table[first..first + step]);
            }
        }
        Ok(())
    }
}

/// Some steps of an axis.
#[derive(Debug)]
struct Part {
    axis: usize,
    start: usize,
}

impl Write for Part {
    fn write(&self, inputs: &[Input<'_>], outputs: &mut [Output<'_>]) -> TractResult<()> {
        let ([x], [y]) = (inputs, outputs) else {
            bail!("one input and one result");
        };
        let [outer, step] = runs(x.shape, x.bytes.len(), self.axis)?;
        let (given, taken) = (x.shape[self.axis] * step, y.bytes.len().checked_div(outer).unwrap_or(0));
        let first = self.start * step;
        ensure!(first + taken <= given, "{taken} bytes from {first} on of {given}");
        if taken == 0 {
            return Ok(());
        }
        for (x, y) in x.bytes.chunks_exact(given).zip(y.bytes.chunks_exact_mut(taken)) {
            y.copy_from_slice(&x[first..first + taken]);
        }
        Ok(())
    }
}

/// Tensors one after another along an axis.
#[derive(Debug)]
struct Joined {
    axis: usize,
}

impl Write for Joined {
    fn write(&self, inputs: &[Input<'_>], outputs: &mut [Output<'_>]) -> TractResult<()> {
        let y = outputs.first_mut().context("no result")?;
        let [outer, step] = runs(y.shape, y.bytes.len(), self.axis)?;
        let whole = y.shape[self.axis] * step;
        let mut first = 0;
        for x in inputs {
            let given = x.bytes.len().checked_div(outer).unwrap_or(0);
            ensure!(first + given <= whole, "{given} bytes from {first} on of {whole}");
            if given == 0 {
                continue;
            }
            for (x, y) in x.bytes.chunks_exact(given).zip(y.bytes.chunks_exact_mut(whole)) {
                y[first..first + given].copy_from_slice(x);
            }
            first += given;
        }
        ensure!(first == whole, "{first} bytes of {whole}");
        Ok(())
    }
}

/// Each pixel of planes several times.
#[derive(Debug)]
struct Enlarged {
    rows: usize,
    columns: usize,
}

impl Write for Enlarged {
    fn write(&self, inputs: &[Input<'_>], outputs: &mut [Output<'_>]) -> TractResult<()> {
        let ([x], [y]) = (inputs, outputs) else {
            bail!("one input and one result");
        };
        let width = x.shape.last().copied().unwrap_or(0).max(1);
        let (x, y) = (x.elements::<f32>()?, y.elements::<f32>()?);
        ensure!(
            y.len() == x.len() * self.rows * self.columns,
            "{} elements become {}",
            x.len(),
            y.len()
        );
        let wide = width * self.columns;
        for (row, made) in x.chunks_exact(width).zip(y.chunks_exact_mut((wide * self.rows).max(1))) {
            let (first, others) = made.split_at_mut(wide);
            for (x, pixels) in row.iter().zip(first.chunks_exact_mut(self.columns.max(1))) {
                pixels.fill(*x);
            }
            others
                .chunks_exact_mut(wide)
                .for_each(|other| other.copy_from_slice(first));
        }
        Ok(())
    }
}
