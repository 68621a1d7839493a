//! The elements of a tensor that are written as protobuf numbers: `InferTensorContents`.

use super::super::write_bytes_element;
use super::wire::{Fields, Value, fixed, varint};
use crate::manifest::DataType;

/// The field of `InferTensorContents` that holds elements of `datatype`, and its name; FP16 has none.
const fn field_of(datatype: DataType) -> Option<(u64, &'static str)> {
    Some(match datatype {
        DataType::Bool => (1, "bool_contents"),
        DataType::Int8 | DataType::Int16 | DataType::Int32 => (2, "int_contents"),
        DataType::Int64 => (3, "int64_contents"),
        DataType::Uint8 | DataType::Uint16 | DataType::Uint32 => (4, "uint_contents"),
        DataType::Uint64 => (5, "uint64_contents"),
        DataType::Fp32 => (6, "fp32_contents"),
        DataType::Fp64 => (7, "fp64_contents"),
        DataType::Bytes => (8, "bytes_contents"),
        DataType::Fp16 => return None,
    })
}

/// Reads `contents` into little-endian bytes and the number of elements. Takes no more than `left` bytes, and takes what
/// it has used from that.
pub(super) fn elements(contents: &[u8], datatype: DataType, left: &mut usize) -> Result<(Vec<u8>, usize), String> {
    let Some((field, name)) = field_of(datatype) else {
        return Err("FP16 has no typed contents in the protocol: send it in raw_input_contents".to_owned());
    };
    let mut out = Elements {
        data: Vec::with_capacity(contents.len().min(*left)),
        count: 0,
        datatype,
        left: *left,
    };
    let mut fields = Fields(contents);
    while let Some((number, value)) = fields.next()? {
        if number == field {
            out.field(value)?;
        } else if number <= 8 && value != Value::Bytes(&[]) {
            return Err(format!("{} is read from `{name}` alone", datatype.as_str()));
        }
    }
    *left = out.left;
    Ok((out.data, out.count))
}

struct Elements {
    data: Vec<u8>,
    count: usize,
    datatype: DataType,
    left: usize,
}

impl Elements {
    /// One element, or a packed list of them.
    fn field(&mut self, value: Value<'_>) -> Result<(), String> {
        let cut = || "a list of numbers ends inside one".to_owned();
        match (self.datatype, value) {
            (DataType::Bytes, Value::Bytes(element)) => {
                self.spend(element.len().saturating_add(4))?;
                write_bytes_element(&mut self.data, element).ok_or("an element of 4 GiB")?;
                self.count += 1;
            }
            (DataType::Fp32, Value::Fixed32(number)) => self.put(&number)?,
            (DataType::Fp64, Value::Fixed64(number)) => self.put(&number)?,
            (DataType::Fp32, Value::Bytes(mut list)) => {
                while !list.is_empty() {
                    self.put(&fixed::<4>(&mut list).ok_or_else(cut)?)?;
                }
            }
            (DataType::Fp64, Value::Bytes(mut list)) => {
                while !list.is_empty() {
                    self.put(&fixed::<8>(&mut list).ok_or_else(cut)?)?;
                }
            }
            (DataType::Fp32 | DataType::Fp64 | DataType::Bytes, _) => {
                return Err(format!("a number is not an element of {}", self.datatype.as_str()));
            }
            (_, Value::Varint(number)) => self.integer(number)?,
            (_, Value::Bytes(mut list)) => {
                while !list.is_empty() {
                    let number = varint(&mut list)?;
                    self.integer(number)?;
                }
            }
            _ => return Err(format!("a fraction is not an element of {}", self.datatype.as_str())),
        }
        Ok(())
    }

    /// An integer as it travels: of 32 bits, and signed ones stretched to 64, or of 64.
    fn integer(&mut self, wire: u64) -> Result<(), String> {
        // Protobuf takes the low half of a number that is too long for its field.
        let [a, b, c, d, ..] = wire.to_le_bytes();
        let (unsigned, signed) = (u32::from_le_bytes([a, b, c, d]), i32::from_le_bytes([a, b, c, d]));
        let datatype = self.datatype;
        let outside = |number: &dyn std::fmt::Display| format!("{number} does not fit {}", datatype.as_str());
        match datatype {
            DataType::Bool => self.put(&[u8::from(wire != 0)]),
            DataType::Int8 => self.put(&i8::try_from(signed).map_err(|_| outside(&signed))?.to_le_bytes()),
            DataType::Int16 => self.put(&i16::try_from(signed).map_err(|_| outside(&signed))?.to_le_bytes()),
            DataType::Uint8 => self.put(&u8::try_from(unsigned).map_err(|_| outside(&unsigned))?.to_le_bytes()),
            DataType::Uint16 => self.put(&u16::try_from(unsigned).map_err(|_| outside(&unsigned))?.to_le_bytes()),
            DataType::Int32 | DataType::Uint32 => self.put(&[a, b, c, d]),
            _ => self.put(&wire.to_le_bytes()),
        }
    }

    fn put(&mut self, element: &[u8]) -> Result<(), String> {
        self.spend(element.len())?;
        self.data.extend_from_slice(element);
        self.count += 1;
        Ok(())
    }

    fn spend(&mut self, bytes: usize) -> Result<(), String> {
        self.left = self
            .left
            .checked_sub(bytes)
            .ok_or("the tensors of this request take more bytes than a request may have")?;
        Ok(())
    }
}
