//! An answer as bytes: postcard of its tensors. `seal` says how they lie on disk.

use proto::manifest::DataType;
use proto::oip::Tensor;
use serde::{Deserialize, Serialize};

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
pub(super) fn write(outputs: &[Tensor]) -> Vec<u8> {
    let tensors: Vec<Written<'_>> = outputs.iter().map(Written::from).collect();
    postcard::to_stdvec(&tensors).expect("names, numbers and bytes are all that postcard needs to write")
}

/// The answer in `bytes`; `None` for anything this version did not write.
pub(super) fn read(bytes: &[u8]) -> Option<Vec<Tensor>> {
    let tensors: Vec<Read> = postcard::from_bytes(bytes).ok()?;
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
    fn an_answer_is_these_bytes() {
        let bytes = write(&[fp32("y", &[1, 2], &[1.0, -2.0])]);
        assert_eq!(proto::ids::hex(&bytes), "0101790a020102080000803f000000c0");
        assert_eq!(read(&bytes).unwrap(), [fp32("y", &[1, 2], &[1.0, -2.0])]);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = read(&bytes);
        }
    }
}
