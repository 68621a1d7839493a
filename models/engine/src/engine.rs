//! What runs a graph: our executor with tract's graph, or ONNX Runtime.

#[cfg(feature = "onnxruntime")]
use std::borrow::Cow;
use std::ops::Range;

use proto::oip::Tensor;

use crate::onnx::Described;
use crate::{RunError, tensor};

/// A graph that is ready. Threads share it. Each call is told what the graph takes and gives (`io`), and gets inputs in that order, types and
/// shapes already checked.
pub(crate) trait Engine: Send + Sync {
    /// Whether sizes that requests choose cost nothing the first time; otherwise each new length of a sequence costs a plan.
    fn any_shape(&self) -> bool;

    /// How many of such rows one run should take: more at once would cost more each.
    fn rows_worth_joining(&self, io: &Described, call: &Call<'_>) -> usize;

    /// Runs the graph once.
    ///
    /// # Errors
    /// [`RunError::Engine`], which names the node and nothing of the request; [`RunError::BadInput`] for what would take too much memory. A
    /// panic inside is an error too.
    fn run(&self, io: &Described, call: &Call<'_>) -> Result<Vec<Tensor>, RunError>;
}

/// What a run is given: all of the inputs, or some rows of each, which lie there.
#[derive(Clone, Debug)]
pub(crate) struct Call<'a> {
    inputs: &'a [Tensor],
    rows: Option<Range<usize>>,
}

/// One input of a call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Given<'a> {
    pub(crate) tensor: &'a Tensor,
    pub(crate) data: &'a [u8],
    rows: Option<usize>,
}

impl<'a> Call<'a> {
    /// All of the inputs.
    pub(crate) const fn whole(inputs: &'a [Tensor]) -> Self {
        Self { inputs, rows: None }
    }

    /// These rows of inputs of numbers that have as many.
    pub(crate) const fn rows(inputs: &'a [Tensor], rows: Range<usize>) -> Self {
        Self {
            inputs,
            rows: Some(rows),
        }
    }

    /// Its inputs.
    pub(crate) fn given(&self) -> impl ExactSizeIterator<Item = Given<'a>> + Clone {
        self.inputs.iter().map(|tensor| {
            let (rows, data) = match &self.rows {
                Some(rows) => (Some(rows.len()), tensor::bytes_of_rows(tensor, rows)),
                None => (None, &*tensor.data),
            };
            Given { tensor, data, rows }
        })
    }

    /// Whether its inputs have these shapes.
    pub(crate) fn has_shapes(&self, shapes: &[Vec<usize>]) -> bool {
        let same = |(given, shape): (Given<'a>, &Vec<usize>)| given.shape().eq(shape.iter().copied());
        shapes.len() == self.inputs.len() && self.given().zip(shapes).all(same)
    }

    /// The shapes of its inputs.
    pub(crate) fn shapes(&self) -> Vec<Vec<usize>> {
        self.given().map(|given| given.shape().collect()).collect()
    }

    /// Its inputs as tensors of their own.
    #[cfg(feature = "onnxruntime")]
    pub(crate) fn tensors(&self) -> Cow<'a, [Tensor]> {
        match &self.rows {
            Some(rows) => Cow::Owned(
                self.inputs
                    .iter()
                    .map(|input| tensor::rows(input, rows.clone()))
                    .collect(),
            ),
            None => Cow::Borrowed(self.inputs),
        }
    }
}

impl<'a> Given<'a> {
    /// Its sizes.
    pub(crate) fn shape(&self) -> impl Iterator<Item = usize> + use<'a> {
        let rows = self.rows;
        let sizes = self.tensor.shape.iter().enumerate();
        sizes.map(move |(axis, size)| rows.filter(|_| axis == 0).unwrap_or(*size))
    }
}
