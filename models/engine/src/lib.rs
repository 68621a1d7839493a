//! Runs the ONNX packages that a manifest describes, and refuses those that would harm their host.
//!
//! Read in the order a model travels: an ONNX file is decoded within bounds ([`onnx`]), judged before
//! anything is executed ([`preflight`]) and in a child process after that ([`child`], [`leisure`]); at load our operators are found ([`onnx`]), their
//! weights packed and kept for the next time ([`pack`]), and plans made per shape ([`graph`]), or the file is handed to
//! [`onnxruntime`] where its variant says so; a request passes the
//! steps before ([`pre`]), the graph, and the steps after ([`post`]). [`quantize`] and [`measure`] serve
//! the publisher.
//!
//! Everything here blocks: call it from threads of your own, never from an async task. Nothing here opens a socket,
//! and no input or output of a model is ever written to a log.

pub mod onnx;
pub mod preflight;

mod engine;
pub mod graph;
pub mod onnxruntime;
pub(crate) mod ops;
pub mod pack;
mod tensor;
mod trees;

mod error;
mod model;
mod package;
pub mod post;
pub mod pre;

pub mod child;
pub mod leisure;
pub mod measure;
pub mod quantize;

#[cfg(test)]
mod testing;

pub use error::{LoadError, RunError};
pub use model::{LoadedModel, load};
pub use package::PackageFiles;

/// What makes and runs plans, as manifests name it.
pub const ENGINE: &str = "tract-0.23.9+kernels-7";
