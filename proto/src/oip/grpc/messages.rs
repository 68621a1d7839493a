//! The messages of the service that are about servers and models. Names, fields and numbers are the protocol's; fields
//! that this implementation neither reads nor writes are left out.
#![allow(missing_docs, reason = "the protocol describes its fields")]

use std::collections::HashMap;

use prost::{Enumeration, Message, Oneof};

#[derive(Clone, PartialEq, Eq, Message)]
pub struct ServerLiveResponse {
    #[prost(bool, tag = "1")]
    pub live: bool,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct ServerReadyResponse {
    #[prost(bool, tag = "1")]
    pub ready: bool,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct ModelReadyResponse {
    #[prost(bool, tag = "1")]
    pub ready: bool,
}

/// The request of `ModelReady`, `ModelMetadata`, `ModelConfig` and `ModelStatistics`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ModelRequest {
    #[prost(string, tag = "1")]
    pub name: String,
    /// Empty: the one that is served.
    #[prost(string, tag = "2")]
    pub version: String,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct ServerMetadataResponse {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub version: String,
    #[prost(string, repeated, tag = "3")]
    pub extensions: Vec<String>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct ModelMetadataResponse {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, repeated, tag = "2")]
    pub versions: Vec<String>,
    #[prost(string, tag = "3")]
    pub platform: String,
    #[prost(message, repeated, tag = "4")]
    pub inputs: Vec<TensorMetadata>,
    #[prost(message, repeated, tag = "5")]
    pub outputs: Vec<TensorMetadata>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct TensorMetadata {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub datatype: String,
    /// -1 where the request chooses.
    #[prost(int64, repeated, tag = "3")]
    pub shape: Vec<i64>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct RepositoryIndexRequest {
    #[prost(string, tag = "1")]
    pub repository_name: String,
    /// Only models that are ready.
    #[prost(bool, tag = "2")]
    pub ready: bool,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct RepositoryIndexResponse {
    #[prost(message, repeated, tag = "1")]
    pub models: Vec<ModelIndex>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct ModelIndex {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub version: String,
    #[prost(string, tag = "3")]
    pub state: String,
    #[prost(string, tag = "4")]
    pub reason: String,
}

/// The request of `RepositoryModelLoad` and `RepositoryModelUnload`; their answers are empty.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct RepositoryModelRequest {
    #[prost(string, tag = "1")]
    pub repository_name: String,
    #[prost(string, tag = "2")]
    pub model_name: String,
}

/// Request and answer of `TraceSetting`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct TraceSettings {
    #[prost(map = "string, message", tag = "1")]
    pub settings: HashMap<String, TraceValue>,
    #[prost(string, tag = "2")]
    pub model_name: String,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct TraceValue {
    #[prost(string, repeated, tag = "1")]
    pub value: Vec<String>,
}

/// Request and answer of `LogSettings`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct LogSettings {
    #[prost(map = "string, message", tag = "1")]
    pub settings: HashMap<String, LogValue>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct LogValue {
    #[prost(oneof = "LogChoice", tags = "1, 2, 3")]
    pub choice: Option<LogChoice>,
}

#[derive(Clone, PartialEq, Eq, Oneof)]
pub enum LogChoice {
    #[prost(bool, tag = "1")]
    Bool(bool),
    #[prost(uint32, tag = "2")]
    Uint32(u32),
    #[prost(string, tag = "3")]
    String(String),
}

/// The request of both calls of `grpc.health.v1.Health`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct HealthRequest {
    /// Empty: the server as a whole.
    #[prost(string, tag = "1")]
    pub service: String,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct HealthResponse {
    #[prost(enumeration = "Serves", tag = "1")]
    pub status: i32,
}

/// `HealthCheckResponse.ServingStatus`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum Serves {
    Unknown = 0,
    Serving = 1,
    NotServing = 2,
    /// Only in a watch.
    ServiceUnknown = 3,
}
