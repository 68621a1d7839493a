//! Layer normalisation of the last axis, in one pass over each row instead of eight operators.

use std::sync::Arc;

use kernels::Isa;
use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::binary::TypedBinOp;
use tract_onnx::tract_core::ops::math::Add;
use tract_onnx::tract_hir::infer::{check_input_arity, check_output_arity};
use tract_onnx::tract_hir::internal::{Expansion, InferenceOp, InferenceResult, Solver, TensorProxy, expand};

use super::write::{self, Input, Output, Write};

pub(super) fn parse(_: &ParsingContext<'_>, node: &NodeProto) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let epsilon = node
        .attribute
        .iter()
        .find(|a| a.name == "epsilon")
        .map_or(1e-5, |a| a.f);
    Ok((expand(Parsed { epsilon }), vec![]))
}

#[derive(Clone, Debug)]
struct Parsed {
    epsilon: f32,
}

impl Expansion for Parsed {
    fn name(&self) -> StaticName {
        "MeridianLayerNorm".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_input_arity(inputs, 3)?;
        check_output_arity(outputs, 1)?;
        s.equals(&inputs[0].datum_type, f32::datum_type())?;
        s.equals(&outputs[0].datum_type, f32::datum_type())?;
        s.equals(&inputs[0].shape, &outputs[0].shape)
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let floats = |at: usize| -> TractResult<Arc<[f32]>> {
            let constant = super::constant(model, inputs[at], "scale and bias of a normalisation")?;
            Ok(constant.try_as_plain_ram()?.as_slice::<f32>()?.into())
        };
        let width = model
            .outlet_fact(inputs[0])?
            .shape
            .last()
            .and_then(|w| w.to_usize().ok());
        // One number for a whole row is allowed by the standard.
        let whole = |values: Arc<[f32]>| match (values.len(), width) {
            (1, Some(width)) => vec![values[0]; width].into(),
            _ => values,
        };
        let (scale, shift) = (whole(floats(1)?), whole(floats(2)?));
        let fits = width == Some(scale.len()) && scale.len() == shift.len() && !scale.is_empty();
        ensure!(
            fits,
            "rows of {width:?} with {} scales and {} shifts",
            scale.len(),
            shift.len()
        );
        let op = LayerNorm {
            scale,
            shift,
            epsilon_bits: self.epsilon.to_bits(),
            of_sum: false,
        };
        model.wire_node(prefix, op, &inputs[..1])
    }
}

#[derive(Clone, Debug)]
pub(super) struct LayerNorm {
    scale: Arc<[f32]>,
    shift: Arc<[f32]>,
    epsilon_bits: u32,
    /// Takes two tensors of one shape, and normalises their sum.
    of_sum: bool,
}

impl LayerNorm {
    /// Where `node` normalises a sum of equal shapes that nothing else takes: the change that makes both one operator.
    pub(super) fn with_sum(model: &TypedModel, node: &TypedNode) -> TractResult<Option<TypedModelPatch>> {
        let Some(op) = node.op_as::<Self>().filter(|op| !op.of_sum) else {
            return Ok(None);
        };
        let sum = model.node(node.inputs[0].node);
        let adds = sum.op_as::<TypedBinOp>().is_some_and(|op| op.0.is::<Add>());
        let alone = model.single_succ(sum.id)?.is_some_and(|taker| taker.id == node.id);
        if !adds || !alone || model.output_outlets()?.contains(&node.inputs[0]) {
            return Ok(None);
        }
        let facts = model.node_input_facts(sum.id)?;
        if facts[0].shape != facts[1].shape {
            return Ok(None);
        }
        let both = Self {
            of_sum: true,
            ..op.clone()
        };
        TypedModelPatch::replace_single_op(model, node, &sum.inputs, both).map(Some)
    }
}

impl PartialEq for LayerNorm {
    fn eq(&self, other: &Self) -> bool {
        let same = Arc::ptr_eq(&self.scale, &other.scale) && Arc::ptr_eq(&self.shift, &other.shift);
        same && self.epsilon_bits == other.epsilon_bits && self.of_sum == other.of_sum
    }
}
impl Eq for LayerNorm {}

impl Op for LayerNorm {
    fn name(&self) -> StaticName {
        "MeridianLayerNorm".into()
    }
    op_as_typed_op!();
}

write::evaluates!(LayerNorm);

impl Write for LayerNorm {
    fn changes(&self) -> Option<usize> {
        Some(0)
    }

    fn write(&self, inputs: &[Input<'_>], outputs: &mut [Output<'_>]) -> TractResult<()> {
        let [x] = outputs else {
            bail!("one result");
        };
        ensure!(x.shape.last() == Some(&self.scale.len()), "rows of {:?}", x.shape);
        let epsilon = f32::from_bits(self.epsilon_bits);
        let values = x.elements::<f32>()?;
        match inputs.get(1) {
            None => kernels::normalize_rows(Isa::best(), values, &self.scale, &self.shift, epsilon),
            Some(other) => {
                let other = other.elements::<f32>()?;
                ensure!(
                    other.len() == values.len(),
                    "{} and {} elements",
                    values.len(),
                    other.len()
                );
                kernels::add_and_normalize_rows(Isa::best(), values, other, &self.scale, &self.shift, epsilon);
            }
        }
        Ok(())
    }
}

impl TypedOp for LayerNorm {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec![f32::fact(inputs[0].shape.clone())])
    }
    as_op!();
}
