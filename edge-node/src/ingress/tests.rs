//! The door over real sockets.

mod bounds;
mod embeddings;
mod fleet;
mod grpc;
mod harness;
mod manage;
mod protocol;
mod tenants;
