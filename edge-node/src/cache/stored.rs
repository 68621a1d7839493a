//! The form in which an answer lies on disk: format byte, expiry, postcard of the tensors.

use proto::ids::UnixMs;
use proto::manifest::DataType;
use proto::oip::Tensor;
use serde::{Deserialize, Serialize};

/// Leading byte; another one is not read.
const FORMAT: u8 = 1;

#[derive(Serialize)]
struct Written<'a> {
    name: &'a str,
    datatype: DataType,
    shape: &'a [usize],
    data: &'a [u8],
}

impl<'a> From<&'a Tensor> for Written<'a> {
    fn from(
        Tensor {
            name,
            datatype,
            shape,
            data,
        }: &'a Tensor,
    ) -> Self {
        Self {
            name,
            datatype: *datatype,
            shape,
            data,
        }
    }
}

#[derive(Deserialize)]
struct Read {
    name: String,
    datatype: DataType,
    shape: Vec<usize>,
    data: Vec<u8>,
}

/// Bytes that `outputs` take in memory, bookkeeping included.
pub(super) fn weight(outputs: &[Tensor]) -> usize {
    let one = |t: &Tensor| t.data.len() + t.name.len() + t.shape.len() * size_of::<usize>() + size_of::<Tensor>();
    outputs.iter().map(one).sum::<usize>() + 128
}

/// The bytes of an answer.
pub(super) fn write(outputs: &[Tensor], expires: UnixMs) -> Vec<u8> {
    let tensors: Vec<Written<'_>> = outputs.iter().map(Written::from).collect();
    let body = postcard::to_stdvec(&tensors).expect("names, numbers and bytes are all that postcard needs to write");
    [&[FORMAT], expires.to_le_bytes().as_slice(), &body].concat()
}

/// When the answer in `bytes` expires; `None` for anything this version did not write.
pub(super) fn expires(bytes: &[u8]) -> Option<UnixMs> {
    let (&[FORMAT], rest) = bytes.split_first_chunk::<1>()? else {
        return None;
    };
    Some(u64::from_le_bytes(*rest.first_chunk()?))
}

/// The answer in `bytes`; `None` for anything this version did not write.
pub(super) fn read(bytes: &[u8]) -> Option<Vec<Tensor>> {
    expires(bytes)?;
    let tensors: Vec<Read> = postcard::from_bytes(bytes.get(9..)?).ok()?;
    let read = |t: Read| Tensor {
        name: t.name,
        datatype: t.datatype,
        shape: t.shape,
        data: t.data,
    };
    Some(tensors.into_iter().map(read).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::fp32;

    #[test]
    fn an_answer_lies_on_disk_as_these_bytes() {
        let bytes = write(&[fp32("y", &[1, 2], &[1.0, -2.0])], 0x0102);
        let hex = "0102010000000000000101790a02010208\
                   0000803f000000c0";
        assert_eq!(proto::ids::hex(&bytes), hex);
        assert_eq!(read(&bytes).unwrap(), [fp32("y", &[1, 2], &[1.0, -2.0])]);
        assert_eq!(expires(&bytes), Some(0x0102));
    }

    proptest! {
        #[test]
        fn no_bytes_on_disk_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = read(&bytes);
        }
    }
}
