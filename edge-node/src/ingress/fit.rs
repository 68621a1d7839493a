//! Whether a request fits a model, before it may wait in a queue.

use std::collections::BTreeMap;

use proto::manifest::{Dim, Manifest, Signature, TensorSpec};
use proto::oip::{InferRequest, Tensor};

use super::reply::Problem;
use crate::batch::join;

/// The signature that `request` calls. All inputs have its types and shapes, and all outputs asked for are its own.
pub(super) fn signature<'m>(manifest: &'m Manifest, request: &InferRequest) -> Result<&'m Signature, Problem> {
    let signature = join::signature_of(manifest, &request.inputs).ok_or_else(|| unknown_inputs(manifest, request))?;
    let mut sizes = BTreeMap::new();
    for spec in &signature.inputs {
        let input = request.inputs.iter().find(|input| input.name == spec.name);
        let input = input.ok_or_else(|| unknown_inputs(manifest, request))?;
        check(spec, input, &mut sizes)
            .map_err(|why| Problem::bad_request(format!("input `{}` of `{}`: {why}", spec.name, manifest.model)))?;
    }
    if let Some(output) = request
        .outputs
        .iter()
        .find(|o| !signature.outputs.iter().any(|spec| spec.name == o.name))
    {
        let name: String = output.name.chars().take(64).collect();
        let known = names(&signature.outputs);
        return Err(Problem::bad_request(format!(
            "unknown output `{name}` of `{}`, it gives {known}",
            manifest.model
        )));
    }
    Ok(signature)
}

fn check<'m>(spec: &'m TensorSpec, input: &Tensor, sizes: &mut BTreeMap<&'m str, usize>) -> Result<(), String> {
    if input.datatype != spec.datatype {
        return Err(format!(
            "{} was sent, it takes {}",
            input.datatype.as_str(),
            spec.datatype.as_str()
        ));
    }
    let wrong = || format!("shape {:?} was sent, it takes {}", input.shape, shape(spec));
    if input.shape.len() != spec.shape.len() {
        return Err(wrong());
    }
    for (&size, dim) in input.shape.iter().zip(&spec.shape) {
        let want = match dim {
            Dim::Fixed(want) => usize::try_from(*want).unwrap_or(usize::MAX),
            Dim::Named(name) => *sizes.entry(name).or_insert(size),
        };
        if size != want || size == 0 {
            return Err(wrong());
        }
    }
    Ok(())
}

fn shape(spec: &TensorSpec) -> String {
    let dims = spec.shape.iter().map(|dim| match dim {
        Dim::Fixed(size) => size.to_string(),
        Dim::Named(name) => name.clone(),
    });
    format!("[{}]", dims.collect::<Vec<_>>().join(", "))
}

fn names(specs: &[TensorSpec]) -> String {
    specs
        .iter()
        .map(|spec| format!("`{}`", spec.name))
        .collect::<Vec<_>>()
        .join(", ")
}

fn unknown_inputs(manifest: &Manifest, request: &InferRequest) -> Problem {
    let sent = request
        .inputs
        .iter()
        .take(8)
        .map(|t| format!("`{}`", t.name.chars().take(64).collect::<String>()));
    let sent = sent.collect::<Vec<_>>().join(", ");
    let takes = manifest
        .signatures
        .iter()
        .map(|s| format!("{} ({})", names(&s.inputs), s.name));
    let takes = takes.collect::<Vec<_>>().join(" or ");
    Problem::bad_request(format!(
        "unexpected inference inputs {sent} for model `{}`, it takes {takes}",
        manifest.model
    ))
}
