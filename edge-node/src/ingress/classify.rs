//! The classification extension: the highest classes of a row as BYTES `score:index`, best first.

use proto::manifest::DataType;
use proto::oip::{Tensor, write_bytes_element};

/// The `count` highest of the last axis of `tensor`, FP32 `[.., classes]`, as BYTES `[.., count]`. Equal scores keep
/// class order; NaN comes last.
///
/// # Source
/// Triton's `extension_classification.md`; scores are printed with six decimals, as `%f` does.
pub(super) fn highest(tensor: &Tensor, count: usize) -> Result<Tensor, String> {
    let Some((&classes, outer)) = tensor.shape.split_last() else {
        return Err("a single number has no classes".to_owned());
    };
    if tensor.datatype != DataType::Fp32 || classes == 0 {
        return Err(format!(
            "classes are told of FP32 outputs, this one is {}",
            tensor.datatype.as_str()
        ));
    }
    let count = count.min(classes);
    let mut data = Vec::new();
    for row in tensor.data.chunks_exact(classes * 4) {
        let number = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().unwrap_or_default());
        let mut scores: Vec<(usize, f32)> = row.chunks_exact(4).map(number).enumerate().collect();
        scores.sort_by(|(_, a), (_, b)| a.is_nan().cmp(&b.is_nan()).then(b.total_cmp(a)));
        for (class, score) in &scores[..count] {
            write_bytes_element(&mut data, format!("{score:.6}:{class}").as_bytes()).ok_or("too long")?;
        }
    }
    let shape = outer.iter().copied().chain([count]).collect();
    Ok(Tensor {
        name: tensor.name.clone(),
        datatype: DataType::Bytes,
        shape,
        data,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::fp32;

    #[test]
    fn the_best_classes_of_each_row_come_first_with_score_and_index() {
        let tensor = fp32("y", &[2, 3], &[0.1, 0.7, 0.2, f32::NAN, 1.0, 1.0]);
        let told = highest(&tensor, 2).unwrap();
        let elements = proto::oip::bytes_elements(&told.data).unwrap();
        assert_eq!(
            elements,
            [&b"0.700000:1"[..], b"0.200000:2", b"1.000000:1", b"1.000000:2"]
        );
        assert_eq!(
            (told.shape.as_slice(), told.datatype),
            ([2, 2].as_slice(), DataType::Bytes)
        );
        assert_eq!(highest(&tensor, 9).unwrap().shape, [2, 3]);
    }
}
