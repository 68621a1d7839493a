//! Small layers of FP32 weights: a few rows times a matrix that stays in the nearest cache, without packing what comes.

use kernels::Isa;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::einsum::EinSum;

use super::write::{self, Input, Output, Write};

/// Weights of larger layers are better packed, as tract does.
const WEIGHTS_MAX: usize = 4096;

/// `y = x W`.
#[derive(Clone, Debug)]
pub(super) struct Dense {
    /// A row for each input.
    weights: Arc<[f32]>,
    inputs: usize,
}

impl Dense {
    /// Where `node` multiplies rows by a small constant matrix: the change that makes it one of these.
    pub(super) fn of(model: &TypedModel, node: &TypedNode) -> TractResult<Option<TypedModelPatch>> {
        let Some(op) = node.op_as::<EinSum>().filter(|op| op.q_params.is_none()) else {
            return Ok(None);
        };
        let (facts, output) = (model.node_input_facts(node.id)?, &node.outputs[0].fact);
        let floats = |fact: &TypedFact| fact.datum_type == f32::datum_type();
        let [x, w] = &*facts else { return Ok(None) };
        let Some(constant) = w.konst.as_ref().filter(|_| floats(x) && floats(w) && floats(output)) else {
            return Ok(None);
        };
        if !(1..=WEIGHTS_MAX).contains(&constant.len()) || x.rank() != output.rank() || x.konst.is_some() {
            return Ok(None);
        }
        let Some([inputs, outputs]) = matrix(&op.axes, x.rank(), constant.shape()) else {
            return Ok(None);
        };
        let mut order: Vec<usize> = (0..constant.rank())
            .filter(|axis| ![inputs, outputs].contains(axis))
            .collect();
        order.extend([inputs, outputs]);
        let inputs = constant.shape()[inputs];
        let weights = constant.as_ref().clone().permute_axes(&order)?;
        let weights = weights.try_as_plain_ram()?.as_slice::<f32>()?.into();
        TypedModelPatch::replace_single_op(model, node, &node.inputs[..1], Self { weights, inputs }).map(Some)
    }
}

/// Which axes of the weights are those of inputs and of outputs, where rows of the last axis are multiplied and all other axes stay.
fn matrix(axes: &AxesMapping, rank: usize, weights: &[usize]) -> Option<[usize; 2]> {
    let (mut inputs, mut outputs) = (None, None);
    for axis in axes.iter_all_axes() {
        match (&*axis.inputs[0], &*axis.inputs[1], &*axis.outputs[0]) {
            ([x], [w], []) if x + 1 == rank && inputs.is_none() => inputs = Some(*w),
            ([], [w], [y]) if y + 1 == rank && outputs.is_none() => outputs = Some(*w),
            ([x], [], [y]) if x == y => {}
            ([x], [w], [y]) if x == y && weights[*w] == 1 => {}
            _ => return None,
        }
    }
    Some([inputs?, outputs?])
}

impl PartialEq for Dense {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.weights, &other.weights)
    }
}
impl Eq for Dense {}

impl Op for Dense {
    fn name(&self) -> StaticName {
        "MeridianDense".into()
    }
    op_as_typed_op!();
}

write::evaluates!(Dense);

impl Write for Dense {
    fn write(&self, inputs: &[Input<'_>], outputs: &mut [Output<'_>]) -> TractResult<()> {
        let ([x], [y]) = (inputs, outputs) else {
            bail!("one input and one result");
        };
        ensure!(
            x.shape.last() == Some(&self.inputs),
            "rows of {:?} for {} inputs",
            x.shape,
            self.inputs
        );
        let (x, y) = (x.elements::<f32>()?, y.elements::<f32>()?);
        let rows = x.len() / self.inputs;
        ensure!(
            y.len() == rows * (self.weights.len() / self.inputs),
            "{rows} rows become {}",
            y.len()
        );
        kernels::multiply_rows(Isa::best(), x, &self.weights, self.inputs, y);
        Ok(())
    }
}

impl TypedOp for Dense {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let mut shape = inputs[0].shape.to_tvec();
        if let Some(last) = shape.last_mut() {
            *last = (self.weights.len() / self.inputs).to_dim();
        }
        Ok(tvec![f32::fact(shape)])
    }
    as_op!();
}
