//! Whether two forms of a model answer alike: the check that a graphics processor is believed by.

use models::golden::{Agreement, Vector, judge};
use proto::manifest::{Check, Manifest, Variant};
use proto::oip::Tensor;

use super::{MeasureError, agreement};
use crate::{LoadedModel, PackageFiles, load};

/// Why a form on a device is not believed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ParityError {
    /// One of both does not load or answer.
    #[error(transparent)]
    Measure(#[from] MeasureError),
    /// The form that it is held against is itself wrong here.
    #[error("variant `{stand_in}`, which stands in for `{variant}`, does not reproduce its golden vectors: {found}")]
    StandIn {
        /// The form on the device.
        variant: String,
        /// The form on the processor.
        stand_in: String,
        /// Figures.
        found: String,
    },
    /// Both are close to the golden outputs, or not, and they are not close to each other.
    #[error(
        "the device strays from the processor: variant `{variant}` answers the golden inputs otherwise than `{stand_in}` does here: \
         {found}; look at the device and its driver, or plan `{stand_in}` for this class of nodes"
    )]
    Strays {
        /// The form on the device.
        variant: String,
        /// The form on the processor.
        stand_in: String,
        /// Figures.
        found: String,
    },
}

/// How close the answers of `model` are to those of `judge_by`, on the inputs of `vectors`.
///
/// # Errors
/// [`MeasureError::Run`], [`MeasureError::Compare`], [`MeasureError::NoVectors`].
pub fn parity(
    model: &LoadedModel,
    judged_by: &LoadedModel,
    checks: &[Check],
    vectors: &[Vector],
) -> Result<Agreement, MeasureError> {
    if vectors.is_empty() {
        return Err(MeasureError::NoVectors);
    }
    let answers = |model: &LoadedModel| {
        let answer = |(at, vector): (usize, &Vector)| {
            let failed = |source| MeasureError::Run { vector: at + 1, source };
            model.run(&vector.inputs).map_err(failed)
        };
        vectors
            .iter()
            .enumerate()
            .map(answer)
            .collect::<Result<Vec<Vec<Tensor>>, _>>()
    };
    let (got, want) = (answers(model)?, answers(judged_by)?);
    let pairs = got.iter().zip(&want).map(|(g, w)| (g.as_slice(), w.as_slice()));
    Ok(judge(checks, pairs)?)
}

/// Loads `variant` and what stands in for it, and holds them against each other by the checks of `variant`. The stand-in must also
/// reproduce the golden vectors by its own: `variant` itself is held to them elsewhere.
///
/// # Errors
/// [`ParityError`], each a sentence with the figures.
pub fn beside(
    manifest: &Manifest,
    variant: &Variant,
    stand_in: &Variant,
    files: &PackageFiles,
    vectors: &[Vector],
) -> Result<Agreement, ParityError> {
    let loaded = |variant: &Variant| load(manifest, variant, files).map_err(MeasureError::from);
    let (model, other) = (loaded(variant)?, loaded(stand_in)?);
    let names = || (variant.id.to_string(), stand_in.id.to_string());
    let golden = agreement(&other, &stand_in.checks, vectors)?;
    if !golden.passed() {
        let ((variant, stand_in), found) = (names(), failed(&golden));
        return Err(ParityError::StandIn {
            variant,
            stand_in,
            found,
        });
    }
    let alike = parity(&model, &other, &variant.checks, vectors)?;
    if alike.passed() {
        return Ok(alike);
    }
    let ((variant, stand_in), found) = (names(), failed(&alike));
    Err(ParityError::Strays {
        variant,
        stand_in,
        found,
    })
}

/// The checks that did not pass, with what they found.
#[must_use]
pub fn failed(agreement: &Agreement) -> String {
    let failed = agreement.verdicts.iter().filter(|verdict| !verdict.passed);
    let told = failed.map(|verdict| format!("{:?} found {}", verdict.check, verdict.figure));
    told.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::{Value, json};

    use super::*;
    use crate::onnx::values;
    use crate::tensor::of_f32s;
    use crate::testing::{model, node};

    /// Three forms of a model that doubles `x [batch, 3]`: one that does, one that is a little off, one that is far off.
    fn package(folder: &Path, checks: &Value) -> (Manifest, PackageFiles) {
        let names = ["right", "near", "far"];
        let mut files = PackageFiles::default();
        for (name, by) in names.into_iter().zip([2.0, 2.001, 3.0]) {
            let by = values::of_floats("by", vec![1], &[by]);
            let bytes = model(
                &[("x", &[-1, 3])],
                &[("y", &[-1, 3])],
                vec![node("Mul", &["x", "by"], "y")],
                vec![by],
            );
            std::fs::write(folder.join(name), bytes).unwrap();
            files.insert(name, folder.join(name));
        }
        let row = |name: &str| json!({"name": name, "datatype": "FP32", "shape": [{"Named": "batch"}, {"Fixed": 3}]});
        let variant = |name: &str| {
            json!({"id": name, "class": "cpu", "file": name, "numerics": "t", "batch_rows_max": 8, "checks": checks,
                "measured": {"cosine_min": 0.0, "top1_share": 0.0, "abs_max": 0.0, "row_us": 0, "rows8_us": 0, "load_us": 0}})
        };
        let manifest = json!({
            "model": "tiny", "version": 1, "description": "", "licence": "MIT", "source": "test", "opset": 17,
            "engine": crate::ENGINE, "files": [], "golden_file": "g", "parent": null, "provenance": [], "proposals": [],
            "inputs": [row("x")], "outputs": [row("y")],
            "signatures": [{"name": "tensors", "pre": [], "post": [], "inputs": [row("x")], "outputs": [row("y")]}],
            "variants": names.map(variant)
        });
        (serde_json::from_value(manifest).unwrap(), files)
    }

    fn golden() -> Vec<Vector> {
        vec![Vector {
            inputs: vec![of_f32s("x", vec![1, 3], &[1.0, -2.0, 3.0])],
            outputs: vec![of_f32s("y", vec![1, 3], &[2.0, -4.0, 6.0])],
        }]
    }

    /// Goal: a device whose answers are off by more than the manifest allows is refused by a sentence that names both forms, also
    /// where its answers alone would do; one that is within is believed.
    #[test]
    fn a_form_that_strays_from_its_stand_in_by_more_than_the_manifest_allows_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (manifest, files) = package(folder.path(), &json!([{"close": {"abs": 0.0, "rel": 0.002}}]));
        let [right, near, far] = [0, 1, 2].map(|at| &manifest.variants[at]);
        let held = |a: &Variant, b: &Variant| beside(&manifest, a, b, &files, &golden());
        assert!(held(near, right).unwrap().passed());
        let told = held(far, right).unwrap_err().to_string();
        assert!(
            told.contains("`far`") && told.contains("`right`") && told.contains("device strays"),
            "{told}"
        );
        let told = held(near, far).unwrap_err().to_string();
        assert!(told.contains("`far`, which stands in for `near`"), "{told}");

        // Each within 0.00025 of what is golden, and 0.0005 from each other.
        let (manifest, files) = package(folder.path(), &json!([{"close": {"abs": 0.0, "rel": 0.0004}}]));
        let other = vec![Vector {
            outputs: vec![of_f32s("y", vec![1, 3], &[2.0005, -4.001, 6.0015])],
            ..golden().remove(0)
        }];
        let [right, near] = [0, 1].map(|at| &manifest.variants[at]);
        for variant in [right, near] {
            let alone = load(&manifest, variant, &files).unwrap();
            assert!(agreement(&alone, &variant.checks, &other).unwrap().passed());
        }
        let told = beside(&manifest, near, right, &files, &other).unwrap_err();
        assert!(matches!(told, ParityError::Strays { .. }), "{told}");
    }
}
