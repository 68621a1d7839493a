//! The form for the processor that a form for a graphics processor is checked by, and that answers when the device does not.

use proto::manifest::{Manifest, Variant};

use super::{PREFIX, Provider, RuntimeError, Wanted};

/// What stands in for `variant`: of the same release the form of the same file, in the same version of ONNX Runtime with the same
/// arithmetic, for the processor. Nobody chooses it: a release has one at most, and its publisher proved, measured and signed it.
/// `None` for a variant that needs no device.
///
/// # Errors
/// [`RuntimeError::NoStandIn`] where the release has none, [`RuntimeError::Numerics`].
pub fn stand_in<'m>(manifest: &'m Manifest, variant: &Variant) -> Result<Option<&'m Variant>, RuntimeError> {
    let Some(wanted) = Wanted::of(variant)?.filter(|wanted| wanted.provider == Provider::Cuda) else {
        return Ok(None);
    };
    let arithmetic = variant.numerics.split_once('/').map_or("", |(_, rest)| rest);
    let numerics = format!("{PREFIX}{}+{}/{arithmetic}", wanted.version, Provider::Cpu);
    let same = |other: &&Variant| other.file == variant.file && other.numerics == numerics;
    let found = manifest.variants.iter().find(same);
    found.map(Some).ok_or_else(|| RuntimeError::NoStandIn {
        variant: variant.id.to_string(),
        numerics,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn manifest(variants: &[(&str, &str, &str)]) -> Manifest {
        let variant = |(id, file, numerics): &(&str, &str, &str)| {
            json!({"id": id, "class": "cuda", "file": file, "numerics": numerics, "batch_rows_max": 1, "checks": [],
                "measured": {"cosine_min": 0.0, "top1_share": 0.0, "abs_max": 0.0, "row_us": 0, "rows8_us": 0, "load_us": 0}})
        };
        let variants: Vec<_> = variants.iter().map(variant).collect();
        serde_json::from_value(json!({
            "model": "m", "version": 1, "description": "", "licence": "MIT", "source": "", "opset": 17, "engine": "", "files": [],
            "inputs": [], "outputs": [], "signatures": [], "variants": variants, "proposals": [], "golden_file": "g",
            "parent": null, "provenance": []
        }))
        .unwrap()
    }

    #[test]
    fn the_same_file_version_and_arithmetic_on_the_processor_stand_in_and_nothing_else() {
        let device = ("gpu", "m.onnx", "onnxruntime-1.32.0+cuda/f32");
        let right = ("cpu", "m.onnx", "onnxruntime-1.32.0+cpu/f32");
        let all = manifest(&[device, right]);
        let found = |manifest: &Manifest| {
            let found = stand_in(manifest, &manifest.variants[0]);
            found.map(|found| found.map(|variant| variant.id.to_string()))
        };
        assert_eq!(found(&all), Ok(Some("cpu".to_owned())));
        assert_eq!(
            stand_in(&all, &all.variants[1]),
            Ok(None),
            "who needs no device needs no stand-in"
        );
        for other in [
            ("cpu", "other.onnx", "onnxruntime-1.32.0+cpu/f32"),
            ("cpu", "m.onnx", "onnxruntime-1.31.0+cpu/f32"),
            ("cpu", "m.onnx", "onnxruntime-1.32.0+cpu/f16"),
            ("cpu", "m.onnx", "onnxruntime-1.32.0+cuda/f32"),
            ("cpu", "m.onnx", crate::ENGINE),
        ] {
            let told = found(&manifest(&[("gpu", "m.onnx", "onnxruntime-1.32.0+cuda/f32"), other]));
            let none = matches!(told, Err(RuntimeError::NoStandIn { .. }));
            // A second form for the device is not the first one's stand-in, and is not found by accident either.
            assert!(none, "{other:?}: {told:?}");
        }
    }
}
