//! Fields of a protobuf message, one after the other, without keeping any.

/// Why bytes are no protobuf of the expected shape.
pub(super) type Broken = &'static str;

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Varint(u64),
    Fixed64([u8; 8]),
    Fixed32([u8; 4]),
    Bytes(&'a [u8]),
}

impl<'a> Value<'a> {
    pub(super) fn varint(self) -> Result<u64, Broken> {
        match self {
            Self::Varint(value) => Ok(value),
            _ => Err("a number has another wire type"),
        }
    }
    pub(super) fn bytes(self) -> Result<&'a [u8], Broken> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            _ => Err("a text, list or message has another wire type"),
        }
    }
    pub(super) fn text(self) -> Result<&'a str, Broken> {
        std::str::from_utf8(self.bytes()?).map_err(|_| "a text is not UTF-8")
    }
}

/// The rest of a message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    /// The next field's number and value.
    pub(super) fn next(&mut self) -> Result<Option<(u64, Value<'a>)>, Broken> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = varint(&mut self.0)?;
        let cut = "it ends inside a field";
        let value = match tag & 7 {
            0 => Value::Varint(varint(&mut self.0)?),
            1 => Value::Fixed64(fixed(&mut self.0).ok_or(cut)?),
            2 => {
                let length = usize::try_from(varint(&mut self.0)?).map_err(|_| cut)?;
                let (field, rest) = self.0.split_at_checked(length).ok_or(cut)?;
                self.0 = rest;
                Value::Bytes(field)
            }
            5 => Value::Fixed32(fixed(&mut self.0).ok_or(cut)?),
            _ => return Err("a field has no known wire type"),
        };
        match tag >> 3 {
            0 => Err("a field has the number 0"),
            number => Ok(Some((number, value))),
        }
    }
}

/// Takes a number of variable length from the front of `bytes`.
pub(super) fn varint(bytes: &mut &[u8]) -> Result<u64, Broken> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first().ok_or("it ends inside a number")?;
        *bytes = rest;
        if shift == 63 && byte > 1 {
            break;
        }
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err("a number is longer than 64 bits")
}

/// Takes `N` bytes from the front of `bytes`.
pub(super) fn fixed<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (&taken, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(taken)
}

/// Appends a number of variable length.
pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

/// How many bytes [`put_varint`] appends.
pub(super) fn varint_bytes(value: u64) -> usize {
    usize::try_from((64 - (value | 1).leading_zeros()).div_ceil(7)).unwrap_or(10)
}

/// Appends a field's number and the length of its bytes, which follow.
pub(super) fn put_head(out: &mut Vec<u8>, field: u64, bytes: usize) {
    put_varint(out, field << 3 | 2);
    put_varint(out, u64::try_from(bytes).unwrap_or(u64::MAX));
}

/// Appends a field of bytes.
pub(super) fn put_bytes(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    put_head(out, field, bytes.len());
    out.extend_from_slice(bytes);
}
