//! The inputs of a measured call: real rows where there are any of this shape, else made up.

use anyhow::{Result, bail};
use proto::manifest::{DataType, Dim, TensorSpec};
use proto::oip::Tensor;

/// Tokens of a row, where rows have any number of them.
const TOKENS: usize = 64;
/// Pixels along a side of any length: golden pictures are small and repeated to fill it.
const PIXELS: usize = 320;
/// Different calls of one measurement: enough that no branch is learnt by heart.
const CALLS_MAX: usize = 64;

/// The inputs of a graph, in its order.
pub(super) type Call = Vec<Tensor>;

/// Whether calls may have any number of rows.
pub(super) fn any_number(specs: &[TensorSpec]) -> bool {
    specs
        .iter()
        .all(|spec| matches!(spec.shape.first(), Some(Dim::Named(_))))
}

/// Axes of a row that may have any length.
fn free_axes(specs: &[TensorSpec]) -> impl Iterator<Item = (usize, usize)> + '_ {
    specs.iter().enumerate().flat_map(|(input, spec)| {
        let named = |(_, dim): &(usize, &Dim)| matches!(dim, Dim::Named(_));
        spec.shape
            .iter()
            .enumerate()
            .skip(1)
            .filter(named)
            .map(move |(axis, _)| (input, axis))
    })
}

/// Rows and the length of a row, as names of figures have them.
pub(super) fn shape(specs: &[TensorSpec], calls: &[Call]) -> String {
    let first = |input: usize, axis: usize| calls.first()?.get(input)?.shape.get(axis).copied();
    let rows = first(0, 0).unwrap_or(0);
    match free_axes(specs).last().and_then(|(input, axis)| first(input, axis)) {
        Some(length) => format!("b{rows}s{length}"),
        None => format!("b{rows}"),
    }
}

/// The samples that the graph itself takes: others pass steps before it.
pub(super) fn fitting<'a>(specs: &'a [TensorSpec], samples: &'a [Call]) -> impl Iterator<Item = &'a Call> {
    samples.iter().filter(move |sample| {
        let same = |(spec, tensor): (&TensorSpec, &Tensor)| spec.name == tensor.name;
        sample.len() == specs.len() && specs.iter().zip(sample.iter()).all(same)
    })
}

/// Different calls of `rows` rows each: as many as the samples have rows for, at least one.
pub(super) fn calls(specs: &[TensorSpec], samples: &[Call], rows: usize) -> Result<Vec<Call>> {
    // Sentences of golden vectors are short: token ids are made up at the length that rivals are measured with.
    let tokens = specs.iter().any(|spec| spec.datatype == DataType::Int64) && free_axes(specs).next().is_some();
    let Some(sample) = fitting(specs, samples).next().filter(|_| !tokens) else {
        return Ok(vec![
            specs.iter().map(|spec| made_up(spec, rows)).collect::<Result<_>>()?,
        ]);
    };
    let have = rows_of(sample).max(1);
    let count = (have / rows).clamp(1, CALLS_MAX);
    let wide: Call = specs
        .iter()
        .zip(sample)
        .map(|(spec, tensor)| widened(spec, tensor))
        .collect();
    let call = |at: usize| wide.iter().map(|tensor| repeated(tensor, 0, at * rows, rows)).collect();
    Ok((0..count).map(call).collect())
}

fn rows_of(call: &Call) -> usize {
    call.first()
        .and_then(|tensor| tensor.shape.first())
        .copied()
        .unwrap_or(0)
}

/// Fills the free axes of a row with what is there, again and again.
fn widened(spec: &TensorSpec, tensor: &Tensor) -> Tensor {
    let free = |axis: &usize| matches!(spec.shape[*axis], Dim::Named(_));
    let axes = (1..spec.shape.len()).filter(free);
    axes.fold(tensor.clone(), |tensor, axis| repeated(&tensor, axis, 0, PIXELS))
}

/// `count` places of an axis from `start` on; after the last comes the first again.
fn repeated(tensor: &Tensor, axis: usize, start: usize, count: usize) -> Tensor {
    let have = tensor.shape[axis].max(1);
    let whole: usize = tensor.shape.iter().take(axis).product();
    let bytes = tensor.data.len() / (whole * have).max(1);
    let place = |outer: usize, at: usize| &tensor.data[(outer * have + at % have) * bytes..][..bytes];
    let data = (0..whole).flat_map(|outer| (start..start + count).flat_map(move |at| place(outer, at)));
    let mut shape = tensor.shape.clone();
    shape[axis] = count;
    Tensor {
        name: tensor.name.clone(),
        datatype: tensor.datatype,
        data: data.copied().collect(),
        shape,
    }
}

/// The first and the second half of a call's rows; a single row is in both.
pub(super) fn halves(call: &Call) -> (Call, Call) {
    let rows = call
        .first()
        .and_then(|tensor| tensor.shape.first())
        .copied()
        .unwrap_or(0);
    let (first, second) = (rows.div_ceil(2), (rows / 2).max(1));
    let part = |start, rows| call.iter().map(|tensor| repeated(tensor, 0, start, rows)).collect();
    (part(0, first), part(rows - second, second))
}

/// Numbers without meaning but of the right kind: token ids, masks of ones, bytes, pixels.
fn made_up(spec: &TensorSpec, rows: usize) -> Result<Tensor> {
    let size = |(axis, dim): (usize, &Dim)| match dim {
        Dim::Fixed(size) => usize::try_from(*size),
        Dim::Named(_) => Ok(match axis {
            0 => rows,
            2.. if spec.shape.len() == 4 => PIXELS,
            _ => TOKENS,
        }),
    };
    let shape: Vec<usize> = spec.shape.iter().enumerate().map(size).collect::<Result<_, _>>()?;
    let count: usize = shape.iter().product();
    let whole = |i: usize| -> i64 {
        let spread = i64::try_from(i * 7919 % 20_011).unwrap_or(0);
        match spec.name.as_str() {
            name if name.contains("mask") => 1,
            name if name.contains("type") => 0,
            _ if spec.datatype == DataType::Int64 => 1000 + spread,
            _ => spread % 256,
        }
    };
    let data = match spec.datatype {
        DataType::Int64 => (0..count).flat_map(|i| whole(i).to_le_bytes()).collect(),
        DataType::Int32 => (0..count)
            .flat_map(|i| i32::try_from(whole(i)).unwrap_or(0).to_le_bytes())
            .collect(),
        DataType::Fp32 => (0..count)
            .flat_map(|i| (f32::from(u16::try_from(i * 7919 % 2003).unwrap_or(0)) / 1001.0 - 1.0).to_le_bytes())
            .collect(),
        other => bail!("`{}` is {}, which nothing is made up for", spec.name, other.as_str()),
    };
    Ok(Tensor {
        name: spec.name.clone(),
        datatype: spec.datatype,
        shape,
        data,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(rows: usize) -> Call {
        let numbers = (0..rows * 2).map(|i| u8::try_from(i).unwrap());
        vec![Tensor {
            name: "x".to_owned(),
            datatype: DataType::Uint8,
            shape: vec![rows, 2],
            data: numbers.collect(),
        }]
    }

    fn spec() -> [TensorSpec; 1] {
        [TensorSpec {
            name: "x".to_owned(),
            datatype: DataType::Uint8,
            shape: vec![Dim::Named("rows".to_owned()), Dim::Fixed(2)],
        }]
    }

    #[test]
    fn calls_go_through_all_real_rows_and_repeat_them_where_there_are_too_few() {
        let calls = calls(&spec(), &[table(3)], 1).unwrap();
        let seen: Vec<_> = calls.iter().map(|call| call[0].data.clone()).collect();
        assert_eq!(seen, [[0, 1], [2, 3], [4, 5]]);
        let wide = super::calls(&spec(), &[table(3)], 4).unwrap();
        assert_eq!(wide[0][0].data, [0, 1, 2, 3, 4, 5, 0, 1]);
        assert_eq!(shape(&spec(), &wide), "b4");
    }

    #[test]
    fn pictures_of_any_size_are_made_up_as_large_as_golden_ones_are_repeated() {
        let free = |name: &str| Dim::Named(name.to_owned());
        let picture = TensorSpec {
            datatype: DataType::Fp32,
            shape: vec![free("rows"), Dim::Fixed(3), free("height"), free("width")],
            ..spec()[0].clone()
        };
        let calls = calls(std::slice::from_ref(&picture), &[], 2).unwrap();
        assert_eq!(calls[0][0].shape, [2, 3, PIXELS, PIXELS]);
    }

    #[test]
    fn free_axes_of_a_row_are_filled_with_what_is_there() {
        let (batch, width) = (Dim::Named("rows".to_owned()), Dim::Named("width".to_owned()));
        let wide = [TensorSpec {
            shape: vec![batch, width],
            ..spec()[0].clone()
        }];
        let calls = calls(&wide, &[table(2)], 2).unwrap();
        assert_eq!(shape(&wide, &calls), format!("b2s{PIXELS}"));
        assert_eq!(calls[0][0].data[..3], [0, 1, 0]);
        assert_eq!(calls[0][0].data[PIXELS..][..3], [2, 3, 2]);
    }

    #[test]
    fn two_threads_share_the_rows_and_a_single_one_is_asked_twice() {
        let (first, second) = halves(&table(5));
        assert_eq!((first[0].shape[0], second[0].shape[0]), (3, 2));
        assert_eq!(second[0].data, [6, 7, 8, 9]);
        let (first, second) = halves(&table(1));
        assert_eq!(first[0].data, second[0].data);
    }
}
