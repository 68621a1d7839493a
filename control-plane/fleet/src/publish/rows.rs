//! Whether the rows of a request are answered each by itself, proven by asking: only then may a node join the rows of
//! different people into one run. A recurrent model whose first axis is time looks batched and is not.

use engine::LoadedModel;
use models::golden::{Vector, judge};
use proto::manifest::{Check, DataType};
use proto::oip::{Tensor, bytes_elements, write_bytes_element};

/// Another order of summation in a larger matrix may show in the last digits, no more.
const CHECK: [Check; 1] = [Check::Close { abs: 1e-3, rel: 1e-2 }];

/// Whether each of the `vectors` with two or more rows gives its last row the same answer alone as among the others.
/// `false` where no vector has two rows, or the model refuses one: not proven.
pub fn independent(model: &LoadedModel, vectors: &[Vector]) -> bool {
    let mut proven = false;
    for vector in vectors {
        let Some(alone) = vector.inputs.iter().map(last_row).collect::<Option<Vec<_>>>() else {
            continue;
        };
        let (Ok(together), Ok(alone)) = (model.run(&vector.inputs), model.run(&alone)) else {
            return false;
        };
        let Some(expected) = together.iter().map(last_row).collect::<Option<Vec<_>>>() else {
            return false;
        };
        match judge(&CHECK, [(alone.as_slice(), expected.as_slice())]) {
            Ok(agreement) if agreement.passed() => proven = true,
            _ => return false,
        }
    }
    proven
}

/// The last of two or more rows on axis 0.
fn last_row(tensor: &Tensor) -> Option<Tensor> {
    let (rows, inner) = tensor.shape.split_first()?;
    if *rows < 2 {
        return None;
    }
    let data = if tensor.datatype == DataType::Bytes {
        let elements = bytes_elements(&tensor.data)?;
        let mut data = Vec::new();
        for element in &elements[elements.len() - elements.len() / rows..] {
            write_bytes_element(&mut data, element)?;
        }
        data
    } else {
        tensor.data[tensor.data.len() - tensor.data.len() / rows..].to_vec()
    };
    let shape = [&[1], inner].concat();
    Some(Tensor {
        name: tensor.name.clone(),
        datatype: tensor.datatype,
        shape,
        data,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_row_is_cut_out_of_numbers_and_of_texts() {
        let numbers = Tensor {
            name: "x".into(),
            datatype: DataType::Uint8,
            shape: vec![2, 2],
            data: vec![1, 2, 3, 4],
        };
        let row = last_row(&numbers).unwrap();
        assert_eq!((row.shape, row.data), (vec![1, 2], vec![3, 4]));
        let mut data = Vec::new();
        for text in ["a", "bc", "def"] {
            write_bytes_element(&mut data, text.as_bytes()).unwrap();
        }
        let texts = Tensor {
            name: "t".into(),
            datatype: DataType::Bytes,
            shape: vec![3],
            data,
        };
        assert_eq!(last_row(&texts).unwrap().data, [3, 0, 0, 0, b'd', b'e', b'f']);
        assert!(last_row(&last_row(&texts).unwrap()).is_none());
    }
}
