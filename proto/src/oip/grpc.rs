//! The Open Inference Protocol v2 over gRPC: service `inference.GRPCInferenceService`.
//!
//! ```text
//!   HTTP/2 body = message | message ..     message = compressed? (1 byte) | length (4 bytes, big-endian) | protobuf
//! ```
//! Messages of bounded length whose fields are few are `prost` structs. Requests for inference are not: two bytes of
//! protobuf can ask for hundreds of bytes of memory (an empty tensor in a list of tensors), and megabytes of them are
//! lawful. [`read_infer`] therefore reads them by hand, counts before it keeps, and never holds more than the bounds of
//! this crate allow; [`write_infer`] writes answers without a copy in between.
//!
//! Source: `grpc_service.proto` and `model_config.proto` of github.com/triton-inference-server/common, of which
//! github.com/open-inference/open-inference-protocol (`specification/protocol/open_inference_grpc.proto`) is the core.

mod config;
mod frame;
mod messages;
mod read;
mod statistics;
mod status;
mod typed;
mod wire;
mod write;

pub use config::{
    Latest, ModelConfig, ModelConfigResponse, ModelDynamicBatching, ModelInput, ModelOutput, ModelTransactionPolicy,
    ModelVersionPolicy, data_type,
};
pub use frame::{PREFIX_BYTES, Prefix, prefix};
pub use messages::*;
pub use read::{Addressed, read_infer};
pub use statistics::{
    InferBatchStatistics, InferStatistics, ModelStatistics, ModelStatisticsResponse, StatisticDuration,
};
pub use status::{is_content_type, status, status_message};
pub use write::{write_infer, write_stream_answer, write_stream_error};

/// The paths of gRPC's own health service begin with this.
pub const HEALTH: &str = "/grpc.health.v1.Health/";
/// The paths of the service's calls begin with this.
pub const SERVICE: &str = "/inference.GRPCInferenceService/";

#[cfg(test)]
mod tests;
