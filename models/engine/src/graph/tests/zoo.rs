//! Real models answer through our executor what they answer through tract's.

use std::path::{Path, PathBuf};

use proto::manifest::DataType;

use super::*;
use crate::tensor::{of_i32s, of_i64s};

/// Files of the zoo that lie in the repository, and those that `fleet zoo fetch` has got.
fn files() -> Vec<PathBuf> {
    let bundled = Path::new(env!("CARGO_MANIFEST_DIR")).join("../zoo");
    let cache = std::env::var_os("MERIDIAN_CACHE").map(PathBuf::from);
    let cache = cache.or_else(|| Some(std::env::home_dir()?.join(".cache/meridian")));
    let folders = [Some(bundled), cache.map(|cache| cache.join("zoo"))];
    let models = folders
        .into_iter()
        .flatten()
        .filter_map(|folder| std::fs::read_dir(folder).ok());
    let models = models.flatten().flatten().map(|model| model.path().join("model.onnx"));
    models.filter(|file| file.is_file()).collect()
}

fn made_up(spec: &TensorSpec, rows: usize, side: usize) -> oip::Tensor {
    let size = |(axis, dim): (usize, &Dim)| match dim {
        Dim::Fixed(size) => usize::try_from(*size).unwrap(),
        Dim::Named(_) => {
            if axis == 0 {
                rows
            } else {
                side
            }
        }
    };
    let shape: Vec<usize> = spec.shape.iter().enumerate().map(size).collect();
    let count: usize = shape.iter().product();
    let whole = |at: usize| match &*spec.name {
        name if name.contains("mask") => 1,
        name if name.contains("type") => 0,
        _ => i32::try_from(at * 7919 % 2003 % 257).unwrap(),
    };
    match spec.datatype {
        DataType::Fp32 => of_f32s(&spec.name, shape, &ramp(count)),
        DataType::Int32 => of_i32s(&spec.name, shape, &(0..count).map(whole).collect::<Vec<_>>()),
        DataType::Int64 => of_i64s(
            &spec.name,
            shape,
            &(0..count).map(|at| whole(at).into()).collect::<Vec<_>>(),
        ),
        other => panic!("no zoo model takes {other:?}"),
    }
}

/// Goal: f32 and int8, sizes one after another in the same memory. [`agrees_with_tract`] judges each run.
#[test]
fn every_model_of_the_zoo_answers_the_bits_that_tract_answers() {
    let files = files();
    assert!(files.len() >= 2, "two models lie in the repository");
    for file in files {
        let f32 = std::fs::read(&file).unwrap();
        for onnx in [crate::quantize::weights_int8(&f32).unwrap(), f32] {
            let graph = graph(&onnx);
            for (rows, side) in [(1, 64), (3, 96), (1, 64)] {
                let call: Vec<_> = graph.inputs().iter().map(|spec| made_up(spec, rows, side)).collect();
                let answer = graph.run(&call).unwrap();
                assert!(
                    answer.iter().all(|output| !output.data.is_empty()),
                    "{}",
                    file.display()
                );
            }
        }
    }
}
