//! Between the tensors of requests and those of the engine: same elements, same order, little-endian.

use std::ops::Range;

use proto::manifest::DataType;
use proto::oip;
use tract_onnx::prelude::{DatumType, Tensor};

use crate::engine::Given;

#[cfg(target_endian = "big")]
compile_error!("request tensors are little-endian and are handed to the engine as they are");

/// The engine's name of a request's element type; `None` for byte strings, which no graph takes.
pub(crate) const fn datum_of(datatype: DataType) -> Option<DatumType> {
    Some(match datatype {
        DataType::Bool => DatumType::Bool,
        DataType::Uint8 => DatumType::U8,
        DataType::Uint16 => DatumType::U16,
        DataType::Uint32 => DatumType::U32,
        DataType::Uint64 => DatumType::U64,
        DataType::Int8 => DatumType::I8,
        DataType::Int16 => DatumType::I16,
        DataType::Int32 => DatumType::I32,
        DataType::Int64 => DatumType::I64,
        DataType::Fp16 => DatumType::F16,
        DataType::Fp32 => DatumType::F32,
        DataType::Fp64 => DatumType::F64,
        DataType::Bytes => return None,
    })
}

fn datatype_of(datum: DatumType) -> Option<DataType> {
    Some(match datum.unquantized() {
        DatumType::Bool => DataType::Bool,
        DatumType::U8 => DataType::Uint8,
        DatumType::U16 => DataType::Uint16,
        DatumType::U32 => DataType::Uint32,
        DatumType::U64 => DataType::Uint64,
        DatumType::I8 => DataType::Int8,
        DatumType::I16 => DataType::Int16,
        DatumType::I32 => DataType::Int32,
        DatumType::I64 | DatumType::TDim => DataType::Int64,
        DatumType::F16 => DataType::Fp16,
        DatumType::F32 => DataType::Fp32,
        DatumType::F64 => DataType::Fp64,
        _ => return None,
    })
}

/// Elements in a tensor of this shape; `None` when they cannot be counted.
pub(crate) fn elements(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |count, &dim| count.checked_mul(dim))
}

/// Copies a request's tensor for the engine. The caller has checked type and length.
pub(crate) fn to_engine(given: Given<'_>) -> Result<Tensor, String> {
    let tensor = given.tensor;
    let datum = datum_of(tensor.datatype)
        .ok_or_else(|| format!("`{}` holds byte strings, which no graph takes", tensor.name))?;
    let shape: Vec<usize> = given.shape().collect();
    let mut out = Tensor::zero_dt(datum, &shape).map_err(|e| e.to_string())?;
    copy_to_engine(given, out.as_bytes_mut())?;
    Ok(out)
}

/// Copies its elements to where the engine has room for them.
pub(crate) fn copy_to_engine(given: Given<'_>, to: &mut [u8]) -> Result<(), String> {
    let Given { tensor, data, .. } = given;
    if to.len() != data.len() {
        return Err(format!(
            "`{}` holds {} bytes, its shape needs {}",
            tensor.name,
            data.len(),
            to.len()
        ));
    }
    if tensor.datatype == DataType::Bool {
        // A `bool` other than 0 or 1 is undefined behaviour, so every other value is made true.
        to.iter_mut()
            .zip(data)
            .for_each(|(to, from)| *to = u8::from(*from != 0));
    } else {
        to.copy_from_slice(data);
    }
    Ok(())
}

/// Copies the engine's tensor for an answer.
pub(crate) fn from_engine(name: &str, tensor: &Tensor) -> Result<oip::Tensor, String> {
    if tensor.datum_type() == DatumType::TDim {
        let plain = tensor.cast_to::<i64>().map_err(|e| e.to_string())?;
        return from_bytes(name, DatumType::I64, tensor.shape(), plain.as_bytes());
    }
    from_bytes(name, tensor.datum_type(), tensor.shape(), tensor.as_bytes())
}

/// Copies elements for an answer.
pub(crate) fn from_bytes(name: &str, datum: DatumType, shape: &[usize], bytes: &[u8]) -> Result<oip::Tensor, String> {
    let datatype = datatype_of(datum)
        .ok_or_else(|| format!("output `{name}` has the type {datum:?}, which answers cannot carry"))?;
    Ok(oip::Tensor {
        name: name.to_owned(),
        datatype,
        shape: shape.to_vec(),
        data: bytes.to_vec(),
    })
}

/// Where some rows of a tensor of numbers lie.
pub(crate) fn bytes_of_rows<'a>(tensor: &'a oip::Tensor, range: &Range<usize>) -> &'a [u8] {
    let row_bytes = tensor.data.len() / tensor.shape[0].max(1);
    &tensor.data[range.start * row_bytes..range.end * row_bytes]
}

/// Some rows of a tensor of numbers.
pub(crate) fn rows(tensor: &oip::Tensor, range: Range<usize>) -> oip::Tensor {
    let data = bytes_of_rows(tensor, &range).to_vec();
    let mut shape = tensor.shape.clone();
    shape[0] = range.len();
    oip::Tensor {
        name: tensor.name.clone(),
        datatype: tensor.datatype,
        shape,
        data,
    }
}

/// The first `columns` places of axis 1 of each row of a tensor of numbers, or all where there are fewer.
pub(crate) fn first_columns(tensor: &oip::Tensor, columns: usize) -> oip::Tensor {
    let &[rows, all, ..] = tensor.shape.as_slice() else {
        return tensor.clone();
    };
    let (kept, row_bytes) = (columns.min(all), tensor.data.len() / rows.max(1));
    let kept_bytes = row_bytes / all.max(1) * kept;
    let mut shape = tensor.shape.clone();
    shape[1] = kept;
    let data = tensor.data.chunks_exact(row_bytes.max(1));
    oip::Tensor {
        name: tensor.name.clone(),
        datatype: tensor.datatype,
        shape,
        data: data.flat_map(|row| &row[..kept_bytes]).copied().collect(),
    }
}

/// The first row of a tensor, `times` times; a tensor without rows as it is.
pub(crate) fn first_row_times(tensor: &oip::Tensor, times: usize) -> oip::Tensor {
    let Some(&rows @ 1..) = tensor.shape.first() else {
        return tensor.clone();
    };
    if tensor.datatype != DataType::Bytes {
        let mut first = self::rows(tensor, 0..1);
        first.data = first.data.repeat(times);
        first.shape[0] = times;
        return first;
    }
    let row: Vec<&[u8]> = byte_strings(tensor)
        .map(|all| all[..all.len() / rows].to_vec())
        .unwrap_or_default();
    let mut shape = tensor.shape.clone();
    shape[0] = times;
    of_byte_strings(&tensor.name, shape, (0..times).flat_map(|_| row.iter().copied()))
}

/// The elements of an FP32 tensor.
pub(crate) fn f32s(tensor: &oip::Tensor) -> Option<Vec<f32>> {
    let exact = elements(&tensor.shape)?.checked_mul(4)? == tensor.data.len();
    (tensor.datatype == DataType::Fp32 && exact).then(|| {
        tensor
            .data
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect()
    })
}

/// An FP32 tensor of these elements.
pub(crate) fn of_f32s(name: &str, shape: Vec<usize>, values: &[f32]) -> oip::Tensor {
    let data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    oip::Tensor {
        name: name.to_owned(),
        datatype: DataType::Fp32,
        shape,
        data,
    }
}

/// An INT64 tensor of these elements.
pub(crate) fn of_i64s(name: &str, shape: Vec<usize>, values: &[i64]) -> oip::Tensor {
    let data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    oip::Tensor {
        name: name.to_owned(),
        datatype: DataType::Int64,
        shape,
        data,
    }
}

/// An INT32 tensor of these elements.
pub(crate) fn of_i32s(name: &str, shape: Vec<usize>, values: &[i32]) -> oip::Tensor {
    let data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    oip::Tensor {
        name: name.to_owned(),
        datatype: DataType::Int32,
        shape,
        data,
    }
}

/// The elements of a BYTES tensor: each has its length, 4 bytes little-endian, in front.
pub(crate) fn byte_strings(tensor: &oip::Tensor) -> Result<Vec<&[u8]>, String> {
    let want = elements(&tensor.shape).ok_or("has a shape that cannot be counted")?;
    let mut rest = tensor.data.as_slice();
    let mut strings = Vec::with_capacity(want.min(tensor.data.len() / 4));
    while let Some((length, tail)) = rest.split_first_chunk::<4>() {
        let length =
            usize::try_from(u32::from_le_bytes(*length)).map_err(|_| "has an element too long for this machine")?;
        let string = tail.get(..length).ok_or("ends inside an element")?;
        strings.push(string);
        rest = &tail[length..];
    }
    if !rest.is_empty() || strings.len() != want {
        return Err(format!("holds {} byte strings, its shape needs {want}", strings.len()));
    }
    Ok(strings)
}

/// A BYTES tensor of these elements.
pub(crate) fn of_byte_strings<'a>(
    name: &str,
    shape: Vec<usize>,
    strings: impl Iterator<Item = &'a [u8]>,
) -> oip::Tensor {
    let mut data = Vec::new();
    for string in strings {
        let length = u32::try_from(string.len()).unwrap_or(u32::MAX);
        data.extend_from_slice(&length.to_le_bytes());
        data.extend(string.iter().take(usize::try_from(length).unwrap_or(usize::MAX)));
    }
    oip::Tensor {
        name: name.to_owned(),
        datatype: DataType::Bytes,
        shape,
        data,
    }
}

/// Joins tensors of one name along axis 0.
pub(crate) fn join_rows(parts: Vec<oip::Tensor>) -> Option<oip::Tensor> {
    parts.into_iter().reduce(|mut all, part| {
        all.shape[0] += part.shape[0];
        all.data.extend_from_slice(&part.data);
        all
    })
}
