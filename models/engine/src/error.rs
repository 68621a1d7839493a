//! Why a model does not load or a call fails, told apart by who can do something about it.

use std::path::PathBuf;

use crate::onnx::OnnxError;
use crate::onnxruntime::RuntimeError;
use crate::preflight::PreflightError;

/// Why a package cannot be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The manifest names a file that was not handed over.
    #[error("the package has no file `{name}`; fetch it before loading")]
    MissingFile {
        /// Name inside the package.
        name: String,
    },
    /// A file could not be read.
    #[error("cannot read `{}`: {source}", path.display())]
    Read {
        /// Where it was looked for.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file of a step is larger than any real one.
    #[error("`{}` has {bytes} bytes, allowed is {bytes_max}", path.display())]
    TooLarge {
        /// Which file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
        /// The bound.
        bytes_max: u64,
    },
    /// The bytes are not an ONNX model within bounds.
    #[error(transparent)]
    Onnx(#[from] OnnxError),
    /// The graph was refused before anything was executed.
    #[error(transparent)]
    Preflight(#[from] PreflightError),
    /// A step of a signature cannot be prepared.
    #[error("signature `{signature}`: {why}")]
    Step {
        /// Which signature.
        signature: String,
        /// What is wrong with its step.
        why: String,
    },
    /// The manifest and the model file disagree.
    #[error("the manifest says {manifest}, the model file says {file}; publish the model again")]
    Mismatch {
        /// As signed.
        manifest: String,
        /// As found.
        file: String,
    },
    /// The engine refused the graph.
    #[error("the engine cannot plan this model: {detail}")]
    Plan {
        /// What the engine said, with the node it named.
        detail: String,
    },
    /// The variant runs in ONNX Runtime, and that cannot be.
    #[error(transparent)]
    OnnxRuntime(#[from] RuntimeError),
}

/// Why a call failed. [`RunError::is_clients`] tells whether asking differently would help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// No signature takes these inputs.
    #[error("no way to call this model takes the inputs [{given}]; it takes {known}")]
    UnknownInputs {
        /// What the request named.
        given: String,
        /// What each signature takes.
        known: String,
    },
    /// An input has the wrong type, shape, length or content.
    #[error("input `{input}` {why}")]
    BadInput {
        /// Which input.
        input: String,
        /// What is wrong and what would be right.
        why: String,
    },
    /// The engine failed on tensors that were well-formed.
    #[error("the model failed on this input: {detail}")]
    Engine {
        /// What the engine said; it holds no values of the request.
        detail: String,
    },
    /// A step after the model found a tensor that the manifest does not describe.
    #[error("step `{step}` after the model: {why}; the package is wrong, publish it again")]
    Step {
        /// Which step.
        step: &'static str,
        /// What it found.
        why: String,
    },
}

impl RunError {
    /// Whether the request is at fault (status 400) rather than the model or the node (status 500).
    #[must_use]
    pub const fn is_clients(&self) -> bool {
        matches!(self, Self::UnknownInputs { .. } | Self::BadInput { .. })
    }
    pub(crate) fn input(input: &str, why: impl Into<String>) -> Self {
        Self::BadInput {
            input: input.to_owned(),
            why: why.into(),
        }
    }
}
