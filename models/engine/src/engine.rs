//! What runs a graph: tract with our operators in it, or ONNX Runtime.

use proto::oip::Tensor;

use crate::RunError;
use crate::onnx::Described;

/// A graph that is ready. Threads share it. Each call is told what the graph takes and gives (`io`), and gets inputs in that order, types and
/// shapes already checked.
pub(crate) trait Engine: Send + Sync {
    /// Whether sizes that requests choose cost nothing the first time; otherwise each new length of a sequence costs a plan.
    fn any_shape(&self) -> bool;

    /// How many of such rows one run should take: more at once would cost more each.
    fn rows_worth_joining(&self, io: &Described, inputs: &[Tensor]) -> usize;

    /// Runs the graph once.
    ///
    /// # Errors
    /// [`RunError::Engine`], which names the node and nothing of the request; [`RunError::BadInput`] for what would take too much memory. A
    /// panic inside is an error too.
    fn run(&self, io: &Described, inputs: &[Tensor]) -> Result<Vec<Tensor>, RunError>;
}
