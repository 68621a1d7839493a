//! Faster forms of operators that tract has: GELU, and softmax of the last axis.

use kernels::Isa;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::element_wise::ElementWiseOp;
use tract_onnx::tract_core::ops::nn::gelu_approximate::GeluApproximate;
use tract_onnx::tract_core::ops::nn::gelu_exact::GeluExact;
use tract_onnx::tract_core::ops::nn::{Softmax, SoftmaxKind};

use super::dense::Dense;
use super::layer_norm::LayerNorm;
use super::product::Product;
use super::write::{self, Input, Output, Write};

/// Replaces them and small layers in a decluttered graph, and joins sums with the normalisation that follows.
pub(crate) fn vectorise(model: &mut TypedModel) -> TractResult<()> {
    for id in 0..model.nodes().len() {
        let node = &model.nodes()[id];
        let fact = &node.outputs[0].fact;
        if fact.datum_type != f32::datum_type() {
            continue;
        }
        let mini = node.op_as::<ElementWiseOp>().map(|op| &op.0);
        let gelu = mini.is_some_and(|op| op.is::<GeluExact>());
        let by_tanh = mini.is_some_and(|op| op.is::<GeluApproximate>());
        let shares = node.op_as::<Softmax>().is_some_and(|op| {
            let last = fact.rank().checked_sub(1);
            op.kind == SoftmaxKind::Softmax && last.is_some_and(|last| op.axes.as_slice() == [last])
        });
        let fast = match (gelu, by_tanh, shares) {
            (true, ..) => Fast::Gelu,
            (_, true, _) => Fast::GeluTanh,
            (.., true) => Fast::Softmax,
            _ => continue,
        };
        model.node_mut(id).op = Box::new(fast);
    }
    for id in 0..model.nodes().len() {
        if let Some(patch) = shares_of_any_axis(model, &model.nodes()[id])? {
            patch.apply(model)?;
        }
    }
    for id in 0..model.nodes().len() {
        let node = &model.nodes()[id];
        let mut patch = LayerNorm::with_sum(model, node)?;
        for of in [Dense::of, Product::of] {
            if patch.is_none() {
                patch = of(model, node)?;
            }
        }
        if let Some(patch) = patch {
            patch.apply(model)?;
        }
    }
    Ok(())
}

/// Where `node` makes shares along another axis than the last: the change that moves the axis there and back, which costs far less
/// than shares whose elements lie apart.
fn shares_of_any_axis(model: &TypedModel, node: &TypedNode) -> TractResult<Option<TypedModelPatch>> {
    let fact = &node.outputs[0].fact;
    let Some(op) = node.op_as::<Softmax>().filter(|op| op.kind == SoftmaxKind::Softmax) else {
        return Ok(None);
    };
    let (&[axis], true) = (op.axes.as_slice(), fact.datum_type == f32::datum_type()) else {
        return Ok(None);
    };
    let last = fact.rank() - 1;
    if axis == last {
        return Ok(None);
    }
    let mut patch = TypedModelPatch::default();
    let mut wire: TVec<OutletId> = tvec![patch.tap_model(model, node.inputs[0])?];
    wire = patch.wire_node(format!("{}.turned", node.name), AxisOp::Move(axis, last), &wire)?;
    wire = patch.wire_node(format!("{}.shares", node.name), Fast::Softmax, &wire)?;
    wire = patch.wire_node(format!("{}.back", node.name), AxisOp::Move(last, axis), &wire)?;
    patch.shunt_outside(model, node.id.into(), wire[0])?;
    Ok(Some(patch))
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fast {
    Gelu,
    GeluTanh,
    Softmax,
}

impl Op for Fast {
    fn name(&self) -> StaticName {
        match self {
            Self::Gelu => "MeridianGelu".into(),
            Self::GeluTanh => "MeridianGeluTanh".into(),
            Self::Softmax => "MeridianSoftmax".into(),
        }
    }
    op_as_typed_op!();
}

write::evaluates!(Fast);

impl Write for Fast {
    fn changes(&self) -> Option<usize> {
        Some(0)
    }

    fn write(&self, _: &[Input<'_>], outputs: &mut [Output<'_>]) -> TractResult<()> {
        let [x] = outputs else {
            bail!("one result");
        };
        let width = x.shape.last().copied().unwrap_or(1);
        let values = x.elements::<f32>()?;
        match self {
            Self::Gelu => kernels::gelu(Isa::best(), values),
            Self::GeluTanh => kernels::gelu_tanh(Isa::best(), values),
            Self::Softmax => kernels::softmax_rows(Isa::best(), values, width),
        }
        Ok(())
    }
}

impl TypedOp for Fast {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec![f32::fact(inputs[0].shape.clone())])
    }
    as_op!();
}
