//! The HTTPS front: finds out who asks and from where, takes the decision, and carries it out.
//!
//! ```text
//!   request -> door: route, key -> tenant, address -> place -> steering -> content -> proxy    stream to the node and back
//!                 | 401, 404, 400                                 | 451 503   redirect 307, explain, or an error
//! ```
//! It authenticates nobody: a key only says which boundary holds, and the node checks it again. Bodies stream and are
//! never looked into, logged or kept beyond what a replay needs; a digest of what is asked may choose among equal nodes.

mod client_address;
mod content;
mod door;
mod front;
mod grpc;
mod headers;
mod proxy;
mod reply;
mod status;
mod timing;

mod replay;

pub use front::Front;
pub(crate) use front::first_request;
pub use proxy::Proxy;
pub use replay::Budget;
