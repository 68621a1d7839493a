//! Elements of tensors: from JSON numbers to little-endian bytes and back, and the lengths in front of BYTES.

use serde::de::{DeserializeSeed, Error, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::limits::RANK_MAX;
use crate::manifest::DataType;

/// The elements of BYTES data. `None` when a length does not fit.
#[must_use]
pub fn bytes_elements(mut data: &[u8]) -> Option<Vec<&[u8]>> {
    let mut elements = Vec::new();
    while !data.is_empty() {
        let (length, rest) = data.split_first_chunk::<4>()?;
        let (element, rest) = rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
        elements.push(element);
        data = rest;
    }
    Some(elements)
}

/// Appends one element with its length to BYTES data. `None`, with nothing written, for one of 4 GiB and more.
pub fn write_bytes_element(data: &mut Vec<u8>, element: &[u8]) -> Option<()> {
    let length = u32::try_from(element.len()).ok()?;
    data.extend_from_slice(&length.to_le_bytes());
    data.extend_from_slice(element);
    Some(())
}

/// Reads a `data` array, nested or flat, into bytes and the number of elements.
pub(super) fn from_json(json: &RawValue, datatype: DataType) -> Result<(Vec<u8>, usize), String> {
    if datatype == DataType::Fp16 {
        return Err("FP16 has no JSON form in the protocol: send it as binary data".to_owned());
    }
    let mut out = Elements {
        data: Vec::with_capacity(json.get().len()),
        count: 0,
        datatype,
    };
    let mut deserializer = serde_json::Deserializer::from_str(json.get());
    Level {
        out: &mut out,
        depth: 0,
    }
    .deserialize(&mut deserializer)
    .map_err(|e| e.to_string())?;
    Ok((out.data, out.count))
}

struct Elements {
    data: Vec<u8>,
    count: usize,
    datatype: DataType,
}

impl Elements {
    fn integer(&mut self, n: i128) -> Result<(), String> {
        let wide = self.datatype;
        let outside = |_| format!("{n} does not fit {}", wide.as_str());
        let out = &mut self.data;
        match wide {
            DataType::Uint8 => out.extend(u8::try_from(n).map_err(outside)?.to_le_bytes()),
            DataType::Uint16 => out.extend(u16::try_from(n).map_err(outside)?.to_le_bytes()),
            DataType::Uint32 => out.extend(u32::try_from(n).map_err(outside)?.to_le_bytes()),
            DataType::Uint64 => out.extend(u64::try_from(n).map_err(outside)?.to_le_bytes()),
            DataType::Int8 => out.extend(i8::try_from(n).map_err(outside)?.to_le_bytes()),
            DataType::Int16 => out.extend(i16::try_from(n).map_err(outside)?.to_le_bytes()),
            DataType::Int32 => out.extend(i32::try_from(n).map_err(outside)?.to_le_bytes()),
            DataType::Int64 => out.extend(i64::try_from(n).map_err(outside)?.to_le_bytes()),
            DataType::Bool => out.push(u8::from(bool_of(n).ok_or_else(|| format!("{n} is not a BOOL"))?)),
            DataType::Fp32 | DataType::Fp64 => return self.float(nearest(n)),
            DataType::Fp16 | DataType::Bytes => return Err(self.unfit("a number")),
        }
        self.count += 1;
        Ok(())
    }
    fn float(&mut self, x: f64) -> Result<(), String> {
        match self.datatype {
            DataType::Fp64 => self.data.extend(x.to_le_bytes()),
            DataType::Fp32 => {
                let narrow = narrowed(x);
                if !narrow.is_finite() {
                    return Err(format!("{x:e} does not fit FP32"));
                }
                self.data.extend(narrow.to_le_bytes());
            }
            _ => return Err(self.unfit("a fraction")),
        }
        self.count += 1;
        Ok(())
    }
    fn unfit(&self, what: &str) -> String {
        format!("{what} is not an element of {}", self.datatype.as_str())
    }
}

fn bool_of(n: i128) -> Option<bool> {
    match n {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

#[allow(
    clippy::as_conversions,
    reason = "rounding to the nearest is what JSON numbers ask for"
)]
fn nearest(n: i128) -> f64 {
    n as f64
}
#[allow(
    clippy::as_conversions,
    reason = "rounding to the nearest is what JSON numbers ask for"
)]
fn narrowed(x: f64) -> f32 {
    x as f32
}

/// One level of nesting.
struct Level<'a> {
    out: &'a mut Elements,
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for Level<'_> {
    type Value = ();
    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Level<'_> {
    type Value = ();
    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "an array of {}", self.out.datatype.as_str())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        if self.depth >= RANK_MAX {
            return Err(A::Error::custom(format!("more than {RANK_MAX} levels of arrays")));
        }
        while seq
            .next_element_seed(Level {
                out: self.out,
                depth: self.depth + 1,
            })?
            .is_some()
        {}
        Ok(())
    }
    fn visit_bool<E: Error>(self, v: bool) -> Result<(), E> {
        if self.out.datatype != DataType::Bool {
            return Err(E::custom(self.out.unfit("a truth value")));
        }
        self.element(|out| out.integer(i128::from(v)))
    }
    fn visit_u64<E: Error>(self, v: u64) -> Result<(), E> {
        self.element(|out| out.integer(i128::from(v)))
    }
    fn visit_i64<E: Error>(self, v: i64) -> Result<(), E> {
        self.element(|out| out.integer(i128::from(v)))
    }
    fn visit_f64<E: Error>(self, v: f64) -> Result<(), E> {
        self.element(|out| out.float(v))
    }
    fn visit_str<E: Error>(self, v: &str) -> Result<(), E> {
        self.element(|out| {
            if out.datatype != DataType::Bytes {
                return Err(out.unfit("a text"));
            }
            write_bytes_element(&mut out.data, v.as_bytes()).ok_or("an element of 4 GiB")?;
            out.count += 1;
            Ok(())
        })
    }
}

impl Level<'_> {
    /// Elements stand inside the array, never in place of it.
    fn element<E: Error>(self, put: impl FnOnce(&mut Elements) -> Result<(), String>) -> Result<(), E> {
        if self.depth == 0 {
            return Err(E::custom("`data` is not an array"));
        }
        put(self.out).map_err(E::custom)
    }
}

/// Writes `data` as a flat JSON array.
pub(super) fn to_json(out: &mut Vec<u8>, data: &[u8], datatype: DataType) -> Result<(), String> {
    macro_rules! each {
        ($type:ty) => {
            each_of(out, data.chunks_exact(size_of::<$type>()), |out, bytes| {
                let number = <$type>::from_le_bytes(bytes.try_into().map_err(|_| "an element cut short")?);
                write(out, &number)
            })
        };
    }
    match datatype {
        DataType::Bool => each_of(out, data.iter(), |out, byte| write(out, &(*byte != 0))),
        DataType::Uint8 => each!(u8),
        DataType::Uint16 => each!(u16),
        DataType::Uint32 => each!(u32),
        DataType::Uint64 => each!(u64),
        DataType::Int8 => each!(i8),
        DataType::Int16 => each!(i16),
        DataType::Int32 => each!(i32),
        DataType::Int64 => each!(i64),
        DataType::Fp32 => each_of(out, data.chunks_exact(4), |out, bytes| {
            let x = f32::from_le_bytes(bytes.try_into().map_err(|_| "an element cut short")?);
            if x.is_finite() {
                write(out, &x)
            } else {
                Err(format!("{x} has no JSON form: ask for binary data"))
            }
        }),
        DataType::Fp64 => each_of(out, data.chunks_exact(8), |out, bytes| {
            let x = f64::from_le_bytes(bytes.try_into().map_err(|_| "an element cut short")?);
            if x.is_finite() {
                write(out, &x)
            } else {
                Err(format!("{x} has no JSON form: ask for binary data"))
            }
        }),
        DataType::Fp16 => Err("FP16 has no JSON form in the protocol: ask for binary data".to_owned()),
        DataType::Bytes => {
            let elements = bytes_elements(data).ok_or("lengths that do not fit")?;
            each_of(out, elements.into_iter(), |out, element| {
                let text = std::str::from_utf8(element).map_err(|_| "an element is not text: ask for binary data")?;
                write(out, text)
            })
        }
    }
}

fn each_of<T>(
    out: &mut Vec<u8>,
    elements: impl Iterator<Item = T>,
    mut write: impl FnMut(&mut Vec<u8>, T) -> Result<(), String>,
) -> Result<(), String> {
    out.push(b'[');
    for (i, element) in elements.enumerate() {
        if i > 0 {
            out.push(b',');
        }
        write(out, element)?;
    }
    out.push(b']');
    Ok(())
}

fn write<T: serde::Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) -> Result<(), String> {
    serde_json::to_writer(out, value).map_err(|e| e.to_string())
}
