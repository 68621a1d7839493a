//! What a model is in the messages of the service.

use proto::manifest::{Dim, TensorSpec};
use proto::oip::grpc::{
    Latest, ModelConfig, ModelDynamicBatching, ModelInput, ModelMetadataResponse, ModelOutput, ModelTransactionPolicy,
    ModelVersionPolicy, TensorMetadata, data_type,
};

use super::super::metadata;
use crate::serving::ModelSlot;

/// What REST says of the model too.
pub(super) fn metadata(slot: &ModelSlot) -> ModelMetadataResponse {
    let tensors = |tensors: Vec<metadata::Tensor<'_>>| {
        let tensor = |tensor: metadata::Tensor<'_>| TensorMetadata {
            name: tensor.name.to_owned(),
            datatype: tensor.datatype.to_owned(),
            shape: tensor.shape,
        };
        tensors.into_iter().map(tensor).collect()
    };
    let model = metadata::model(slot);
    ModelMetadataResponse {
        name: model.name.to_owned(),
        versions: model.versions.to_vec(),
        platform: model.platform.to_owned(),
        inputs: tensors(model.inputs),
        outputs: tensors(model.outputs),
    }
}

/// The model as Triton's configuration describes one. Where every tensor of the first signature begins with the same
/// axis that the request chooses, that axis is the batch, and `dims` leave it out.
pub(in super::super) fn config(slot: &ModelSlot) -> ModelConfig {
    let manifest = &slot.manifest;
    let (inputs, outputs) = manifest
        .signatures
        .first()
        .map_or((&[][..], &[][..]), |first| (&first.inputs, &first.outputs));
    let batched = batched(inputs.iter().chain(outputs));
    let dims = |spec: &TensorSpec| spec.shape.iter().skip(usize::from(batched)).map(size).collect();
    let rows_max = i32::try_from(slot.rows_max()).unwrap_or(i32::MAX);
    ModelConfig {
        name: manifest.model.to_string(),
        platform: "onnx".to_owned(),
        version_policy: Some(ModelVersionPolicy {
            latest: Some(Latest { num_versions: 1 }),
        }),
        max_batch_size: if batched { rows_max } else { 0 },
        input: inputs
            .iter()
            .map(|spec| ModelInput {
                name: spec.name.clone(),
                data_type: data_type(spec.datatype),
                dims: dims(spec),
            })
            .collect(),
        output: outputs
            .iter()
            .map(|spec| ModelOutput {
                name: spec.name.clone(),
                data_type: data_type(spec.datatype),
                dims: dims(spec),
            })
            .collect(),
        default_model_filename: slot.variant.file.clone(),
        dynamic_batching: batched.then(ModelDynamicBatching::default),
        backend: manifest.engine.clone(),
        model_transaction_policy: Some(ModelTransactionPolicy { decoupled: false }),
    }
}

fn batched<'s>(specs: impl Iterator<Item = &'s TensorSpec>) -> bool {
    let mut names = specs.map(|spec| match spec.shape.first() {
        Some(Dim::Named(name)) => Some(name),
        _ => None,
    });
    let Some(Some(first)) = names.next() else {
        return false;
    };
    names.all(|name| name == Some(first))
}

fn size(dim: &Dim) -> i64 {
    match dim {
        Dim::Fixed(size) => i64::from(*size),
        Dim::Named(_) => -1,
    }
}
