//! Golden vectors that a model makes of itself: seeded inputs, and what the f32 variant answers.

use anyhow::{Context, Result};
use engine::{LoadedModel, PackageFiles};
use models::golden::Vector;
use proto::ids::ContentHash;
use proto::manifest::{DataType, Dim, Manifest, TensorSpec, Variant};
use proto::oip::Tensor;

/// Vectors made.
const VECTORS: u32 = 4;
/// Size of an axis that requests choose, `batch` aside.
const FREE_AXIS: usize = 16;
const ROWS: usize = 2;

/// Runs `variant` on seeded inputs. The same model and engine give the same vectors.
///
/// # Errors
/// The model does not load or does not answer such inputs: it needs vectors from somebody who knows it.
pub fn of_itself(manifest: &Manifest, variant: &Variant, files: &PackageFiles) -> Result<Vec<Vector>> {
    let model: LoadedModel = engine::load(manifest, variant, files)?;
    let vector = |seed: u32| {
        let inputs: Vec<Tensor> = manifest.inputs.iter().map(|spec| seeded(spec, seed)).collect();
        let outputs = model
            .run(&inputs)
            .context("the model does not answer made-up inputs: give --golden FILE instead")?;
        Ok(Vector { inputs, outputs })
    };
    (0..VECTORS).map(vector).collect()
}

/// Floats in -1..1, small whole numbers in 0..=1 (safe as indices and masks), from a seed and the input's name.
fn seeded(spec: &TensorSpec, seed: u32) -> Tensor {
    let size = |dim: &Dim| match dim {
        Dim::Fixed(n) => usize::try_from(*n).unwrap_or(usize::MAX),
        Dim::Named(name) if name == "batch" => ROWS,
        Dim::Named(_) => FREE_AXIS,
    };
    let shape: Vec<usize> = spec.shape.iter().map(size).collect();
    let count = shape.iter().product();
    let mut random = vec![0; count];
    let key = ContentHash::of(format!("{seed} {}", spec.name).as_bytes());
    blake3::Hasher::new_keyed(key.as_bytes())
        .finalize_xof()
        .fill(&mut random);
    let unit = |byte: &u8| f32::from(*byte) / 128.0 - 1.0;
    let whole = |byte: &u8| byte & 1;
    let data: Vec<u8> = match spec.datatype {
        DataType::Fp32 => random.iter().flat_map(|b| unit(b).to_le_bytes()).collect(),
        DataType::Fp64 => random.iter().flat_map(|b| f64::from(unit(b)).to_le_bytes()).collect(),
        other => {
            let width = other.element_bytes().unwrap_or(4); // no raw model takes BYTES: the engine refuses it at load
            random
                .iter()
                .flat_map(|b| std::iter::once(whole(b)).chain(std::iter::repeat_n(0, width - 1)))
                .collect()
        }
    };
    Tensor {
        name: spec.name.clone(),
        datatype: spec.datatype,
        shape,
        data,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(datatype: DataType) -> TensorSpec {
        TensorSpec {
            name: "x".to_owned(),
            datatype,
            shape: vec![Dim::Named("batch".to_owned()), Dim::Fixed(3)],
        }
    }

    #[test]
    fn one_seed_makes_one_input_and_another_seed_another() {
        let made = seeded(&spec(DataType::Fp32), 1);
        assert_eq!(made, seeded(&spec(DataType::Fp32), 1));
        assert_ne!(made.data, seeded(&spec(DataType::Fp32), 2).data);
        assert_eq!((made.shape.as_slice(), made.data.len()), ([2, 3].as_slice(), 24));
    }

    #[test]
    fn whole_numbers_are_zero_or_one_in_their_own_width() {
        let made = seeded(&spec(DataType::Int64), 3);
        assert_eq!(made.data.len(), 48);
        assert!(made.data.chunks(8).all(|n| n[0] <= 1 && n[1..].iter().all(|b| *b == 0)));
    }
}
