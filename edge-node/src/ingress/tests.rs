//! The door over real sockets.

mod bounds;
mod fleet;
mod grpc;
mod harness;
mod manage;
mod protocol;
mod tenants;
