//! Pictures that are not decoded twice.

use std::collections::HashMap;
use std::io::Cursor;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use ::image::{ImageFormat, Rgb, RgbImage};

use super::*;
use crate::pre::KeptRows;

type Seen = HashMap<(String, Vec<u8>), Arc<[u8]>>;

/// Keeps everything, and counts what was made.
#[derive(Default)]
struct Kept {
    rows: Mutex<Seen>,
    made: AtomicUsize,
}

impl KeptRows for Kept {
    fn made(
        &self,
        _row: usize,
        stage: &str,
        from: &[u8],
        make: &mut dyn FnMut() -> Result<Vec<u8>, String>,
    ) -> Result<Arc<[u8]>, String> {
        let key = (stage.to_owned(), from.to_vec());
        if let Some(found) = self.rows.lock().unwrap().get(&key) {
            return Ok(Arc::clone(found));
        }
        self.made.fetch_add(1, Ordering::SeqCst);
        let made: Arc<[u8]> = make()?.into();
        self.rows.lock().unwrap().insert(key, Arc::clone(&made));
        Ok(made)
    }
}

/// A model that doubles the pixels of pictures of `side`, shifted by `mean`.
fn doubles(folder: &std::path::Path, side: u32, mean: f32) -> LoadedModel {
    let two = values::of_floats("two", vec![1], &[2.0]);
    let dims = [-1, 3, i64::from(side), i64::from(side)];
    let file = model(
        &[("x", &dims)],
        &[("y", &dims)],
        vec![node("Mul", &["x", "two"], "y")],
        vec![two],
    );
    std::fs::write(folder.join("m.onnx"), file).unwrap();
    let pixels = |name: &str| json!({"name": name, "datatype": "FP32", "shape": [{"Named": "batch"}, {"Fixed": 3}, {"Fixed": side}, {"Fixed": side}]});
    let manifest: Manifest = serde_json::from_value(json!({
        "model": "tiny", "version": 1, "description": "", "licence": "Apache-2.0", "source": "test", "opset": 17,
        "engine": crate::ENGINE, "files": [], "golden_file": "g", "parent": null, "provenance": [], "proposals": [],
        "inputs": [pixels("x")], "outputs": [pixels("y")],
        "signatures": [{"name": "image", "inputs": [{"name": "image", "datatype": "BYTES", "shape": [{"Named": "batch"}]}],
            "outputs": [pixels("y")], "post": [],
            "pre": [{"image": {"from": "image", "to": "x", "width": side, "height": side, "resize_shorter": null, "scale": 1.0,
                "mean": [mean, mean, mean], "std": [1.0, 1.0, 1.0], "channels_first": true, "bgr": false}}]}],
        "variants": [{"id": "cpu-f32", "class": "cpu", "file": "m.onnx", "numerics": "t", "batch_rows_max": 8, "checks": [],
            "measured": {"cosine_min": 0.0, "top1_share": 0.0, "abs_max": 0.0, "row_us": 0, "rows8_us": 0, "load_us": 0}}]
    }))
    .unwrap();
    let files: PackageFiles = [("m.onnx", folder.join("m.onnx"))].into_iter().collect();
    load(&manifest, &manifest.variants[0], &files).unwrap()
}

fn picture(seed: u8) -> Vec<u8> {
    let picture = RgbImage::from_fn(24, 16, |x, y| {
        Rgb([u8::try_from(x * 9).unwrap(), u8::try_from(y * 13).unwrap(), seed])
    });
    let mut out = Cursor::new(Vec::new());
    picture.write_to(&mut out, ImageFormat::Png).unwrap();
    out.into_inner()
}

fn of(pictures: &[&[u8]]) -> Tensor {
    of_byte_strings("image", vec![pictures.len()], pictures.iter().copied())
}

/// Goal: what is found gives the bits that what is made gives, for this model and for any other that scales to the same size,
/// whatever it does with the pixels then.
#[test]
fn a_picture_is_decoded_once_for_all_models_of_its_size_and_their_answers_are_the_same_bits() {
    let folders = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let shifted = doubles(folders[0].path(), 8, 3.0);
    let plain = doubles(folders[1].path(), 8, 0.0);
    let larger = doubles(folders[2].path(), 12, 0.0);
    let (a, b) = (picture(1), picture(200));
    let kept = Kept::default();
    let asked = |model: &LoadedModel, pictures: &[&[u8]]| {
        let input = [of(pictures)];
        let answer = model.run_keeping(&input, &kept).unwrap();
        assert_eq!(answer, model.run(&input).unwrap());
        kept.made.load(Ordering::SeqCst)
    };
    assert_eq!(asked(&shifted, &[&a]), 1);
    assert_eq!(asked(&shifted, &[&a, &b, &a]), 2);
    assert_eq!(asked(&plain, &[&b, &a]), 2);
    assert_eq!(asked(&larger, &[&a]), 3, "another size is another stage");
    assert_eq!(asked(&plain, &[&a]), 3);
}

#[test]
fn what_cannot_be_decoded_is_the_clients_fault_by_its_row_also_where_rows_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let model = doubles(folder.path(), 8, 0.0);
    let good = picture(1);
    let error = model
        .run_keeping(&[of(&[&good, b"no picture"])], &Kept::default())
        .unwrap_err();
    assert!(error.is_clients() && error.to_string().contains("row 1"), "{error}");
    assert_eq!(error, model.run(&[of(&[&good, b"no picture"])]).unwrap_err());
}
