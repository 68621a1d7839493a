//! The model configuration extension's document: what gRPC says of a model, in JSON's words.

use proto::manifest::DataType;
use proto::oip::grpc::data_type;
use serde::Serialize;

use super::grpc::model;
use crate::serving::ModelSlot;

#[derive(Serialize)]
pub(super) struct Config {
    name: String,
    platform: String,
    backend: String,
    version_policy: Policy,
    max_batch_size: i32,
    input: Vec<Tensor>,
    output: Vec<Tensor>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dynamic_batching: Option<Batching>,
    response_cache: Cache,
    default_model_filename: String,
    model_transaction_policy: Transactions,
}

#[derive(Serialize)]
struct Policy {
    latest: Latest,
}

#[derive(Serialize)]
struct Latest {
    num_versions: u32,
}

#[derive(Serialize)]
struct Tensor {
    name: String,
    data_type: &'static str,
    /// Without the batch; -1 where the request chooses.
    dims: Vec<i64>,
}

#[derive(Serialize)]
struct Batching {
    max_queue_delay_microseconds: u64,
}

#[derive(Serialize)]
struct Cache {
    enable: bool,
}

#[derive(Serialize)]
struct Transactions {
    decoupled: bool,
}

/// The configuration of `slot` as it is in force.
pub(super) fn document(slot: &ModelSlot) -> Config {
    let config = model::config(slot);
    let tensor = |name, number, dims| Tensor {
        name,
        data_type: type_name(number),
        dims,
    };
    Config {
        name: config.name,
        platform: config.platform,
        backend: config.backend,
        version_policy: Policy {
            latest: Latest { num_versions: 1 },
        },
        max_batch_size: config.max_batch_size,
        input: config
            .input
            .into_iter()
            .map(|i| tensor(i.name, i.data_type, i.dims))
            .collect(),
        output: config
            .output
            .into_iter()
            .map(|o| tensor(o.name, o.data_type, o.dims))
            .collect(),
        dynamic_batching: config.dynamic_batching.map(|batching| Batching {
            max_queue_delay_microseconds: batching.max_queue_delay_microseconds,
        }),
        response_cache: Cache { enable: true },
        default_model_filename: config.default_model_filename,
        model_transaction_policy: Transactions { decoupled: false },
    }
}

/// The name of `number` in the enumeration `inference.DataType`.
fn type_name(number: i32) -> &'static str {
    const NAMES: [(DataType, &str); 13] = [
        (DataType::Bool, "TYPE_BOOL"),
        (DataType::Uint8, "TYPE_UINT8"),
        (DataType::Uint16, "TYPE_UINT16"),
        (DataType::Uint32, "TYPE_UINT32"),
        (DataType::Uint64, "TYPE_UINT64"),
        (DataType::Int8, "TYPE_INT8"),
        (DataType::Int16, "TYPE_INT16"),
        (DataType::Int32, "TYPE_INT32"),
        (DataType::Int64, "TYPE_INT64"),
        (DataType::Fp16, "TYPE_FP16"),
        (DataType::Fp32, "TYPE_FP32"),
        (DataType::Fp64, "TYPE_FP64"),
        // Triton's one name that differs from the protocol's.
        (DataType::Bytes, "TYPE_STRING"),
    ];
    let found = NAMES.iter().find(|(datatype, _)| data_type(*datatype) == number);
    found.map_or("TYPE_INVALID", |(_, name)| name)
}
