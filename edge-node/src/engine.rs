//! The last stage before the answer: what runs a batch.
//!
//! Inference is blocking and runs on the threads of this stage only, never on the async runtime.

use proto::oip::Tensor;

/// Why a run gave no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The caller can mend it: the inputs do not fit the model.
    #[error("{0}")]
    Input(String),
    /// The fault is ours. The text is for our log; callers are told only that it happened.
    #[error("{0}")]
    Internal(String),
}

/// A loaded model, as the batcher needs it: tensors in, tensors out, rows on axis 0.
///
/// The engine's `LoadedModel` is one; tests have slow, failing and counting ones.
pub trait Model: Send + Sync + 'static {
    /// Runs one batch on the calling thread. Input names select the signature.
    ///
    /// # Errors
    /// [`Fault::Input`] when the inputs do not fit, [`Fault::Internal`] for everything else.
    fn run(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>, Fault>;
}
