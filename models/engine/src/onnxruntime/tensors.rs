//! Between the tensors of requests and those of ONNX Runtime: same elements, same order, little-endian.

use ort::session::SessionInputValue;
use ort::value::{DynValue, PrimitiveTensorElementType, TensorElementType};
use proto::manifest::DataType;
use proto::oip;

/// An element that both sides know.
trait Element: PrimitiveTensorElementType + Copy + std::fmt::Debug + 'static {
    fn read(bytes: &[u8]) -> Vec<Self>;
    fn write(values: &[Self]) -> Vec<u8>;
}

macro_rules! elements {
    ($($type:ty),*) => { $(
        impl Element for $type {
            fn read(bytes: &[u8]) -> Vec<Self> {
                bytes.as_chunks().0.iter().map(|one| Self::from_le_bytes(*one)).collect()
            }
            fn write(values: &[Self]) -> Vec<u8> {
                values.iter().flat_map(|value| value.to_le_bytes()).collect()
            }
        }
    )* };
}
elements!(u8, u16, u32, u64, i8, i16, i32, i64, half::f16, f32, f64);

impl Element for bool {
    fn read(bytes: &[u8]) -> Vec<Self> {
        bytes.iter().map(|byte| *byte != 0).collect()
    }
    fn write(values: &[Self]) -> Vec<u8> {
        values.iter().map(|value| u8::from(*value)).collect()
    }
}

/// Copies a request's tensor. The caller has checked type and length.
pub(super) fn to_runtime(tensor: &oip::Tensor) -> Result<SessionInputValue<'static>, String> {
    match tensor.datatype {
        DataType::Bool => given::<bool>(tensor),
        DataType::Uint8 => given::<u8>(tensor),
        DataType::Uint16 => given::<u16>(tensor),
        DataType::Uint32 => given::<u32>(tensor),
        DataType::Uint64 => given::<u64>(tensor),
        DataType::Int8 => given::<i8>(tensor),
        DataType::Int16 => given::<i16>(tensor),
        DataType::Int32 => given::<i32>(tensor),
        DataType::Int64 => given::<i64>(tensor),
        DataType::Fp16 => given::<half::f16>(tensor),
        DataType::Fp32 => given::<f32>(tensor),
        DataType::Fp64 => given::<f64>(tensor),
        DataType::Bytes => Err(format!("`{}` holds byte strings, which no graph takes", tensor.name)),
    }
}

fn given<T: Element>(tensor: &oip::Tensor) -> Result<SessionInputValue<'static>, String> {
    let value = ort::value::Tensor::from_array((tensor.shape.clone(), T::read(&tensor.data)));
    // The binding says that the shape does not fit the length, and quotes both.
    Ok(value.map_err(|e| format!("`{}`: {e}", tensor.name))?.into())
}

/// Copies a tensor of ONNX Runtime for an answer.
pub(super) fn from_runtime(name: &str, value: &DynValue) -> Result<oip::Tensor, String> {
    match value.dtype().tensor_type() {
        Some(TensorElementType::Bool) => made::<bool>(name, DataType::Bool, value),
        Some(TensorElementType::Uint8) => made::<u8>(name, DataType::Uint8, value),
        Some(TensorElementType::Uint16) => made::<u16>(name, DataType::Uint16, value),
        Some(TensorElementType::Uint32) => made::<u32>(name, DataType::Uint32, value),
        Some(TensorElementType::Uint64) => made::<u64>(name, DataType::Uint64, value),
        Some(TensorElementType::Int8) => made::<i8>(name, DataType::Int8, value),
        Some(TensorElementType::Int16) => made::<i16>(name, DataType::Int16, value),
        Some(TensorElementType::Int32) => made::<i32>(name, DataType::Int32, value),
        Some(TensorElementType::Int64) => made::<i64>(name, DataType::Int64, value),
        Some(TensorElementType::Float16) => made::<half::f16>(name, DataType::Fp16, value),
        Some(TensorElementType::Float32) => made::<f32>(name, DataType::Fp32, value),
        Some(TensorElementType::Float64) => made::<f64>(name, DataType::Fp64, value),
        other => Err(format!("output `{name}` is {other:?}, which answers cannot carry")),
    }
}

fn made<T: Element>(name: &str, datatype: DataType, value: &DynValue) -> Result<oip::Tensor, String> {
    let unread = |why: &dyn std::fmt::Display| format!("output `{name}`: {why}");
    let (shape, values) = value.try_extract_tensor::<T>().map_err(|e| unread(&e))?;
    let shape = shape
        .iter()
        .map(|size| usize::try_from(*size))
        .collect::<Result<_, _>>();
    Ok(oip::Tensor {
        name: name.to_owned(),
        datatype,
        shape: shape.map_err(|e| unread(&e))?,
        data: T::write(values),
    })
}
