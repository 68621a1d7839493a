//! Elements of tensors: little-endian bytes to numbers, JSON numbers to bytes and back.
#![allow(clippy::as_conversions)] // rounding to the element type is what a conversion to a float means here

use proto::manifest::DataType;
use serde_json::{Number, Value};

/// Elements of a tensor of this shape; `None` where the count does not fit memory.
pub(super) fn count(shape: &[usize]) -> Option<usize> {
    shape
        .iter()
        .try_fold(1_usize, |n, d| n.checked_mul(*d))
        .filter(|n| *n <= isize::MAX as usize / 8)
}

/// Appends one number in its little-endian form. A number that the type cannot hold is refused, never wrapped.
pub(super) fn push_number(datatype: DataType, value: &Value, data: &mut Vec<u8>) -> Result<(), String> {
    let wrong = || format!("{value} is not {}", datatype.as_str());
    macro_rules! int {
        ($t:ty, $get:ident) => {{
            let n = value.$get().and_then(|n| <$t>::try_from(n).ok()).ok_or_else(wrong)?;
            data.extend_from_slice(&n.to_le_bytes());
        }};
    }
    match datatype {
        DataType::Bool => data.push(u8::from(value.as_bool().ok_or_else(wrong)?)),
        DataType::Uint8 => int!(u8, as_u64),
        DataType::Uint16 => int!(u16, as_u64),
        DataType::Uint32 => int!(u32, as_u64),
        DataType::Uint64 => int!(u64, as_u64),
        DataType::Int8 => int!(i8, as_i64),
        DataType::Int16 => int!(i16, as_i64),
        DataType::Int32 => int!(i32, as_i64),
        DataType::Int64 => int!(i64, as_i64),
        DataType::Fp32 => {
            let n = value.as_f64().ok_or_else(wrong)? as f32;
            if !n.is_finite() {
                return Err(wrong());
            }
            data.extend_from_slice(&n.to_le_bytes());
        }
        DataType::Fp64 => data.extend_from_slice(&value.as_f64().ok_or_else(wrong)?.to_le_bytes()),
        DataType::Fp16 | DataType::Bytes => return Err(format!("{} has no JSON number", datatype.as_str())),
    }
    Ok(())
}

/// Appends one element of BYTES: its length, then itself.
pub(super) fn push_bytes(element: &[u8], data: &mut Vec<u8>) -> Result<(), String> {
    let len = u32::try_from(element.len()).map_err(|_| "an element of BYTES over 4 GiB".to_owned())?;
    data.extend_from_slice(&len.to_le_bytes());
    data.extend_from_slice(element);
    Ok(())
}

/// The elements of a BYTES tensor; `None` where the lengths do not fit the data.
pub(super) fn byte_strings(mut data: &[u8]) -> Option<Vec<&[u8]>> {
    let mut elements = Vec::new();
    while !data.is_empty() {
        let (len, rest) = data.split_first_chunk::<4>()?;
        let (element, rest) = rest.split_at_checked(usize::try_from(u32::from_le_bytes(*len)).ok()?)?;
        elements.push(element);
        data = rest;
    }
    Some(elements)
}

macro_rules! each {
    ($t:ty, $data:expr, $map:expr) => {{
        let (elements, rest) = $data.as_chunks();
        if !rest.is_empty() {
            return None;
        }
        elements.iter().map(|e| $map(<$t>::from_le_bytes(*e))).collect()
    }};
}

/// All elements as `f64`, exact but for 64-bit integers beyond 2^53; `None` for BYTES and for data cut short.
pub(super) fn as_f64(datatype: DataType, data: &[u8]) -> Option<Vec<f64>> {
    Some(match datatype {
        DataType::Bool | DataType::Uint8 => data.iter().map(|b| f64::from(*b)).collect(),
        DataType::Int8 => each!(i8, data, f64::from),
        DataType::Uint16 => each!(u16, data, f64::from),
        DataType::Int16 => each!(i16, data, f64::from),
        DataType::Uint32 => each!(u32, data, f64::from),
        DataType::Int32 => each!(i32, data, f64::from),
        DataType::Uint64 => each!(u64, data, |n| n as f64),
        DataType::Int64 => each!(i64, data, |n| n as f64),
        DataType::Fp16 => each!(u16, data, half),
        DataType::Fp32 => each!(f32, data, f64::from),
        DataType::Fp64 => each!(f64, data, |n| n),
        DataType::Bytes => return None,
    })
}

/// IEEE 754 binary16 to f64, exact.
fn half(bits: u16) -> f64 {
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let fraction = f64::from(bits & 0x3ff);
    match (bits >> 10) & 0x1f {
        0 => sign * fraction * 2_f64.powi(-24),
        31 if fraction == 0.0 => sign * f64::INFINITY,
        31 => f64::NAN,
        exponent => sign * (1024.0 + fraction) * 2_f64.powi(i32::from(exponent) - 25),
    }
}

/// Numbers in JSON, in the shortest text that reads back to the same element.
pub(super) fn numbers_to_json(datatype: DataType, data: &[u8]) -> Result<Vec<Value>, String> {
    let values = to_values(datatype, data).ok_or_else(|| format!("{} data cut short", datatype.as_str()))?;
    if values.contains(&Value::Null) {
        return Err("NaN, infinity and FP16 have no JSON form".to_owned());
    }
    Ok(values)
}

fn to_values(datatype: DataType, data: &[u8]) -> Option<Vec<Value>> {
    let float = |n: f64| Number::from_f64(n).map_or(Value::Null, Value::Number);
    Some(match datatype {
        DataType::Bool => data.iter().map(|b| Value::Bool(*b != 0)).collect(),
        DataType::Uint8 => data.iter().map(|b| Value::from(*b)).collect(),
        DataType::Int8 => each!(i8, data, Value::from),
        DataType::Uint16 => each!(u16, data, Value::from),
        DataType::Int16 => each!(i16, data, Value::from),
        DataType::Uint32 => each!(u32, data, Value::from),
        DataType::Int32 => each!(i32, data, Value::from),
        DataType::Uint64 => each!(u64, data, Value::from),
        DataType::Int64 => each!(i64, data, Value::from),
        // The shortest text of the f32, not of the f64 it widens to.
        DataType::Fp32 => each!(f32, data, |n: f32| n.to_string().parse().map_or(Value::Null, float)),
        DataType::Fp64 => each!(f64, data, float),
        DataType::Fp16 | DataType::Bytes => vec![Value::Null],
    })
}

#[cfg(test)]
mod tests {
    use super::half;

    #[test]
    fn half_precision_reads_its_corner_values() {
        let cases = [
            (0x3c00, 1.0),
            (0xc000, -2.0),
            (0x7bff, 65504.0),
            (0x0001, 2_f64.powi(-24)),
            (0x0400, 2_f64.powi(-14)),
        ];
        for (bits, value) in cases {
            assert_eq!(half(bits), value);
        }
        assert!(half(0x7e00).is_nan());
        assert_eq!(half(0xfc00), f64::NEG_INFINITY);
    }
}
