//! Rows of several requests as one tensor, and back. Axis 0 is the row axis; nothing else may differ.

use proto::ids::ContentHash;
use proto::manifest::{Dim, Manifest, Signature, TensorSpec};
use proto::oip::Tensor;

/// The signature that takes inputs of these names, in any order.
#[must_use]
pub fn signature_of<'m>(manifest: &'m Manifest, inputs: &[Tensor]) -> Option<&'m Signature> {
    let fits = |signature: &&Signature| {
        signature.inputs.len() == inputs.len()
            && signature
                .inputs
                .iter()
                .all(|spec| inputs.iter().any(|t| t.name == spec.name))
    };
    manifest.signatures.iter().find(fits)
}

/// Whether rows of different requests may share a run: every input and output counts its rows on axis 0 by one name.
#[must_use]
pub fn is_joinable(signature: &Signature) -> bool {
    let mut axes = signature
        .inputs
        .iter()
        .chain(&signature.outputs)
        .map(|spec| spec.shape.first());
    match axes.next() {
        Some(Some(Dim::Named(rows))) => axes.all(|axis| matches!(axis, Some(Dim::Named(name)) if name == rows)),
        _ => false,
    }
}

/// Size of axis 0.
#[must_use]
pub fn rows(inputs: &[Tensor]) -> usize {
    inputs.first().and_then(|t| t.shape.first()).copied().unwrap_or(1)
}

/// Equal for requests that may be joined: same weights, names, types and sizes beyond axis 0.
#[must_use]
pub fn key(weights: &ContentHash, inputs: &[Tensor]) -> ContentHash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(weights.as_bytes());
    for tensor in sorted(inputs) {
        hasher.update(format!("{}\0{}\0", tensor.name, tensor.datatype.as_str()).as_bytes());
        let tail = tensor.shape.get(1..).unwrap_or_default();
        hasher.update(format!("{tail:?}").as_bytes());
    }
    hasher.finalize().into()
}

/// The [`key`] of all requests of `signature` where it fixes every size beyond axis 0.
#[must_use]
pub fn fixed_key(weights: &ContentHash, signature: &Signature) -> Option<ContentHash> {
    let one = |spec: &TensorSpec| {
        let size = |(axis, dim): (usize, &Dim)| match dim {
            Dim::Fixed(size) => usize::try_from(*size).ok(),
            Dim::Named(_) => (axis == 0).then_some(1),
        };
        Some(Tensor {
            name: spec.name.clone(),
            datatype: spec.datatype,
            shape: spec.shape.iter().enumerate().map(size).collect::<Option<_>>()?,
            data: Vec::new(),
        })
    };
    let inputs: Vec<Tensor> = signature.inputs.iter().map(one).collect::<Option<_>>()?;
    Some(key(weights, &inputs))
}

/// By name, so that two spellings of one request meet.
pub fn sorted(inputs: &[Tensor]) -> Vec<&Tensor> {
    let mut sorted: Vec<&Tensor> = inputs.iter().collect();
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    sorted
}

/// One tensor set with the rows of all `parts`, in order. All parts have the same [`key`].
#[must_use]
pub fn join(parts: &[&[Tensor]]) -> Vec<Tensor> {
    let Some(first) = parts.first() else { return Vec::new() };
    let joined = |like: &Tensor| {
        let same = || {
            parts
                .iter()
                .filter_map(|part| part.iter().find(|t| t.name == like.name))
        };
        let mut shape = like.shape.clone();
        if let Some(rows) = shape.first_mut() {
            *rows = same().filter_map(|t| t.shape.first()).sum();
        }
        let mut data = Vec::with_capacity(same().map(|t| t.data.len()).sum());
        same().for_each(|t| data.extend_from_slice(&t.data));
        Tensor {
            name: like.name.clone(),
            datatype: like.datatype,
            shape,
            data,
        }
    };
    first.iter().map(joined).collect()
}

/// Takes `outputs` apart into sets of `rows[i]` rows each. `None` when they do not have that many rows in all.
#[must_use]
pub fn split(outputs: &[Tensor], rows: &[usize]) -> Option<Vec<Vec<Tensor>>> {
    let total: usize = rows.iter().sum();
    let mut parts: Vec<Vec<Tensor>> = rows.iter().map(|_| Vec::with_capacity(outputs.len())).collect();
    for tensor in outputs {
        if tensor.shape.first() != Some(&total) {
            return None;
        }
        let mut rest = tensor.data.as_slice();
        for (part, &rows) in parts.iter_mut().zip(rows) {
            let (data, tail) = rest.split_at_checked(row_bytes(tensor, rest, rows, total)?)?;
            rest = tail;
            let mut shape = tensor.shape.clone();
            shape[0] = rows;
            part.push(Tensor {
                name: tensor.name.clone(),
                datatype: tensor.datatype,
                shape,
                data: data.to_vec(),
            });
        }
    }
    Some(parts)
}

/// Bytes of each of the `rows` rows, of all `inputs` together. `None` when they do not have that many rows.
#[must_use]
pub fn sizes(inputs: &[Tensor], rows: usize) -> Option<Vec<usize>> {
    let mut sizes = vec![0; rows];
    for tensor in inputs.iter().filter(|tensor| tensor.shape.first() == Some(&rows)) {
        let mut rest = tensor.data.as_slice();
        for size in &mut sizes {
            let (row, tail) = rest.split_at_checked(row_bytes(tensor, rest, 1, rows)?)?;
            (rest, *size) = (tail, *size + row.len());
        }
    }
    Some(sizes)
}

/// Bytes of the first `rows` rows of `rest`; `tensor` has `total` rows.
fn row_bytes(tensor: &Tensor, rest: &[u8], rows: usize, total: usize) -> Option<usize> {
    if tensor.datatype.element_bytes().is_some() {
        return Some(tensor.data.len() / total.max(1) * rows);
    }
    // BYTES: elements differ in length, so their length prefixes are walked.
    let elements: usize = tensor.shape[1..].iter().product::<usize>() * rows;
    let mut at = 0_usize;
    for _ in 0..elements {
        let prefix = rest.get(at..at + 4)?.try_into().ok()?;
        at = at
            .checked_add(4)?
            .checked_add(usize::try_from(u32::from_le_bytes(prefix)).ok()?)?;
    }
    (at <= rest.len()).then_some(at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proto::manifest::DataType;

    use super::*;

    fn tensor(datatype: DataType, rows: &[Vec<Vec<u8>>], width: usize) -> Tensor {
        let mut data = Vec::new();
        for cell in rows.iter().flatten() {
            if datatype == DataType::Bytes {
                data.extend_from_slice(&u32::try_from(cell.len()).unwrap().to_le_bytes());
            }
            data.extend_from_slice(cell);
        }
        Tensor {
            name: "x".to_owned(),
            datatype,
            shape: vec![rows.len(), width],
            data,
        }
    }

    proptest! {
        #[test]
        fn what_is_joined_splits_into_the_same_rows(
            parts in prop::collection::vec(prop::collection::vec(prop::collection::vec(any::<u32>(), 3), 1..4), 1..5),
            text in any::<bool>(),
        ) {
            let datatype = if text { DataType::Bytes } else { DataType::Fp32 };
            let cell = |v: &u32| if text { v.to_string().into_bytes() } else { v.to_le_bytes().to_vec() };
            let sets: Vec<Vec<Tensor>> = parts.iter().map(|rows| {
                let rows: Vec<Vec<Vec<u8>>> = rows.iter().map(|row| row.iter().map(cell).collect()).collect();
                vec![tensor(datatype, &rows, 3)]
            }).collect();
            let joined = join(&sets.iter().map(Vec::as_slice).collect::<Vec<_>>());
            let rows: Vec<usize> = parts.iter().map(Vec::len).collect();
            prop_assert_eq!(split(&joined, &rows), Some(sets.clone()));
            let total: usize = rows.iter().sum();
            let apart = split(&joined, &vec![1; total]).unwrap();
            let sizes: Vec<usize> = apart.iter().map(|row| row[0].data.len()).collect();
            prop_assert_eq!(super::sizes(&joined, total), Some(sizes));
        }
    }

    #[test]
    fn an_output_without_a_row_for_each_row_is_not_split() {
        let scalar = Tensor {
            name: "y".to_owned(),
            datatype: DataType::Fp32,
            shape: vec![1],
            data: vec![0; 4],
        };
        assert_eq!(split(&[scalar], &[1, 1]), None);
    }

    #[test]
    fn a_key_that_is_known_ahead_is_that_of_each_request() {
        let weights = ContentHash::of(b"w");
        let spec = |name: &str, tail: Dim| TensorSpec {
            name: name.to_owned(),
            datatype: DataType::Fp32,
            shape: vec![Dim::Named("batch".to_owned()), tail],
        };
        let signature = |tail: Dim| Signature {
            name: "tensors".to_owned(),
            inputs: vec![spec("b", Dim::Fixed(3)), spec("a", tail)],
            outputs: Vec::new(),
            pre: Vec::new(),
            post: Vec::new(),
        };
        let asked = |name: &str, rows: usize, tail: usize| Tensor {
            name: name.to_owned(),
            datatype: DataType::Fp32,
            shape: vec![rows, tail],
            data: Vec::new(),
        };
        let ahead = fixed_key(&weights, &signature(Dim::Fixed(4)));
        assert_eq!(ahead, Some(key(&weights, &[asked("a", 7, 4), asked("b", 7, 3)])));
        assert_ne!(ahead, Some(key(&weights, &[asked("a", 7, 5), asked("b", 7, 3)])));
        assert_eq!(fixed_key(&weights, &signature(Dim::Named("length".to_owned()))), None);
    }

    #[test]
    fn rows_are_joined_only_where_every_tensor_counts_them_by_one_name() {
        let spec = |dim: Dim| TensorSpec {
            name: "x".to_owned(),
            datatype: DataType::Fp32,
            shape: vec![dim],
        };
        let batch = || Dim::Named("batch".to_owned());
        let signature = |input: Dim, output: Dim| Signature {
            name: "tensors".to_owned(),
            inputs: vec![spec(input)],
            outputs: vec![spec(output)],
            pre: Vec::new(),
            post: Vec::new(),
        };
        assert!(is_joinable(&signature(batch(), batch())));
        assert!(!is_joinable(&signature(batch(), Dim::Fixed(1))));
        assert!(!is_joinable(&signature(Dim::Fixed(4), Dim::Fixed(4))));
    }
}
