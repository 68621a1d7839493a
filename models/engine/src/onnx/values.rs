//! The elements of constants inside an ONNX file, whichever of protobuf's fields holds them.

use proto::manifest::DataType;
use tract_onnx::pb::TensorProto;
use tract_onnx::pb::tensor_proto::DataType as OnnxType;

use super::describe::datatype;

/// Number of elements that the shape promises; `None` when a dimension is negative or the product overflows.
pub(crate) fn count(tensor: &TensorProto) -> Option<usize> {
    tensor
        .dims
        .iter()
        .try_fold(1usize, |all, &dim| all.checked_mul(usize::try_from(dim).ok()?))
}

/// Number of elements that the file holds; `None` for a type that the engine cannot hold.
pub(crate) fn held(tensor: &TensorProto) -> Option<usize> {
    let one = match datatype(tensor.data_type) {
        Some(DataType::Bytes) | None if tensor.data_type == onnx(OnnxType::String) => {
            return Some(tensor.string_data.len());
        }
        Some(kind) => kind.element_bytes()?,
        None => return None,
    };
    if !tensor.raw_data.is_empty() {
        return tensor
            .raw_data
            .len()
            .is_multiple_of(one)
            .then(|| tensor.raw_data.len() / one);
    }
    Some(match OnnxType::try_from(tensor.data_type).ok()? {
        OnnxType::Float => tensor.float_data.len(),
        OnnxType::Double => tensor.double_data.len(),
        OnnxType::Int64 => tensor.int64_data.len(),
        OnnxType::Uint32 | OnnxType::Uint64 => tensor.uint64_data.len(),
        _ => tensor.int32_data.len(),
    })
}

/// What one element takes; 1 where that is not fixed.
pub(crate) fn element_bytes(tensor: &TensorProto) -> usize {
    datatype(tensor.data_type)
        .and_then(|kind| kind.element_bytes())
        .unwrap_or(1)
}

/// The elements of an FP32 constant.
pub(crate) fn floats(tensor: &TensorProto) -> Option<Vec<f32>> {
    if tensor.data_type != onnx(OnnxType::Float) || held(tensor)? != count(tensor)? {
        return None;
    }
    if tensor.raw_data.is_empty() {
        return Some(tensor.float_data.clone());
    }
    Some(
        tensor
            .raw_data
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect(),
    )
}

/// The elements of an integer or boolean constant, widened.
pub(crate) fn integers(tensor: &TensorProto) -> Option<Vec<i64>> {
    if held(tensor)? != count(tensor)? {
        return None;
    }
    let raw = &tensor.raw_data;
    let typed = raw.is_empty();
    let narrow = |field: &[i32]| field.iter().map(|&v| i64::from(v)).collect();
    Some(match OnnxType::try_from(tensor.data_type).ok()? {
        OnnxType::Int64 if typed => tensor.int64_data.clone(),
        OnnxType::Uint32 | OnnxType::Uint64 if typed => tensor
            .uint64_data
            .iter()
            .map(|&v| i64::try_from(v).unwrap_or(i64::MAX))
            .collect(),
        OnnxType::Int8 | OnnxType::Uint8 | OnnxType::Int16 | OnnxType::Uint16 | OnnxType::Int32 | OnnxType::Bool
            if typed =>
        {
            narrow(&tensor.int32_data)
        }
        OnnxType::Int8 => raw.iter().map(|&b| i64::from(i8::from_le_bytes([b]))).collect(),
        OnnxType::Uint8 | OnnxType::Bool => raw.iter().map(|&b| i64::from(b)).collect(),
        OnnxType::Int16 => raw
            .chunks_exact(2)
            .map(|b| i64::from(i16::from_le_bytes([b[0], b[1]])))
            .collect(),
        OnnxType::Uint16 => raw
            .chunks_exact(2)
            .map(|b| i64::from(u16::from_le_bytes([b[0], b[1]])))
            .collect(),
        OnnxType::Int32 => raw
            .chunks_exact(4)
            .map(|b| i64::from(i32::from_le_bytes([b[0], b[1], b[2], b[3]])))
            .collect(),
        OnnxType::Uint32 => raw
            .chunks_exact(4)
            .map(|b| i64::from(u32::from_le_bytes([b[0], b[1], b[2], b[3]])))
            .collect(),
        OnnxType::Int64 => raw.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b)).collect(),
        OnnxType::Uint64 => raw
            .as_chunks::<8>()
            .0
            .iter()
            .map(|b| i64::try_from(u64::from_le_bytes(*b)).unwrap_or(i64::MAX))
            .collect(),
        _ => return None,
    })
}

/// The elements of an INT8 constant.
pub(crate) fn bytes(tensor: &TensorProto) -> Option<Vec<i8>> {
    if tensor.data_type != onnx(OnnxType::Int8) || held(tensor)? != count(tensor)? {
        return None;
    }
    if tensor.raw_data.is_empty() {
        return tensor.int32_data.iter().map(|&v| i8::try_from(v).ok()).collect();
    }
    Some(tensor.raw_data.iter().map(|&b| i8::from_le_bytes([b])).collect())
}

/// An FP32 constant.
pub(crate) fn of_floats(name: &str, dims: Vec<i64>, values: &[f32]) -> TensorProto {
    let raw_data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    TensorProto {
        name: name.to_owned(),
        dims,
        data_type: onnx(OnnxType::Float),
        raw_data,
        ..TensorProto::default()
    }
}

/// An INT8 constant.
pub(crate) fn of_bytes(name: &str, dims: Vec<i64>, values: &[i8]) -> TensorProto {
    let raw_data = values.iter().map(|v| v.to_le_bytes()[0]).collect();
    TensorProto {
        name: name.to_owned(),
        dims,
        data_type: onnx(OnnxType::Int8),
        raw_data,
        ..TensorProto::default()
    }
}

/// The number that ONNX writes for an element type.
pub(crate) const fn onnx(kind: OnnxType) -> i32 {
    #[allow(clippy::as_conversions, reason = "the enum's numbers are the format's numbers")]
    {
        kind as i32
    }
}
