use super::*;
use serde_json::json;

fn variant(numerics: &str) -> Variant {
    serde_json::from_value(json!({
        "id": "f32", "class": "cpu", "file": "m.onnx", "numerics": numerics, "batch_rows_max": 1, "checks": [],
        "measured": {"cosine_min": 0.0, "top1_share": 0.0, "abs_max": 0.0, "row_us": 0, "rows8_us": 0, "load_us": 0}
    }))
    .unwrap()
}

#[test]
fn numerics_name_version_and_provider_and_others_are_the_engines_own() {
    let wanted = |numerics: &str| Wanted::of(&variant(numerics)).map(|w| w.map(|w| (w.version.to_owned(), w.provider)));
    assert_eq!(wanted(crate::ENGINE), Ok(None));
    let cpu = Some(("1.32.0".to_owned(), Provider::Cpu));
    assert_eq!(wanted("onnxruntime-1.32.0+cpu/f32"), Ok(cpu));
    let cuda = Some(("1.32.0".to_owned(), Provider::Cuda));
    assert_eq!(wanted("onnxruntime-1.32.0+cuda/f32"), Ok(cuda));
    for unknown in [
        "onnxruntime-1.32.0+npu/f32",
        "onnxruntime-1.32.0/f32",
        "onnxruntime-1.32.0+cpu",
    ] {
        assert!(
            matches!(wanted(unknown), Err(RuntimeError::Numerics { .. })),
            "{unknown}"
        );
    }
}

#[test]
#[cfg(not(feature = "onnxruntime"))]
fn a_program_without_it_says_how_to_build_one_with_it() {
    assert_eq!(Library::at(Path::new("/nowhere")), Err(RuntimeError::NotBuilt));
    let variant = variant("onnxruntime-1.32.0+cpu/f32");
    let wanted = Wanted::of(&variant).unwrap().unwrap();
    assert_eq!(wanted.permitted(&variant, None), Err(RuntimeError::NotBuilt));
}
