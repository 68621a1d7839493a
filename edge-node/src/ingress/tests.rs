//! The door over real sockets.

mod bounds;
mod fleet;
mod harness;
mod protocol;
mod tenants;
