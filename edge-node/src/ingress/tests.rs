//! The door over real sockets.

mod bounds;
mod device;
mod elsewhere;
mod embeddings;
mod fleet;
mod grpc;
mod harness;
mod jobs;
mod manage;
mod protocol;
mod purge;
mod receipts;
mod rows;
mod tenants;
