//! Rows of a table of 8-bit codes, each with its scale: only the rows that are asked for become FP32.

use std::sync::Arc;

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_hir::infer::{IntoExp, check_input_arity, check_output_arity};
use tract_onnx::tract_hir::internal::{Expansion, InferenceOp, InferenceResult, Solver, TensorProxy, expand};

use super::Told;

pub(super) fn parse(_: &ParsingContext<'_>, _: &NodeProto) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    Ok((expand(Parsed), vec![]))
}

#[derive(Clone, Debug)]
struct Parsed;

impl Expansion for Parsed {
    fn name(&self) -> StaticName {
        "MeridianEmbedding".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_input_arity(inputs, 3)?;
        check_output_arity(outputs, 1)?;
        s.equals(&outputs[0].datum_type, f32::datum_type())?;
        s.equals(&inputs[1].rank, 2)?;
        s.equals(inputs[0].rank.bex() + 1, &outputs[0].rank)?;
        s.given(&inputs[0].rank, move |s, rank| {
            let rank = usize::try_from(rank)?;
            for axis in 0..rank {
                s.equals(&inputs[0].shape[axis], &outputs[0].shape[axis])?;
            }
            s.equals(&outputs[0].shape[rank], &inputs[1].shape[1])
        })
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let constant = |at: usize| super::constant(model, inputs[at], "codes and scales of a table");
        let (codes, scales) = (constant(1)?, constant(2)?);
        let (plain, scales) = (codes.try_as_plain_ram()?, scales.try_as_plain_ram()?);
        let scales: Arc<[f32]> = scales.as_slice::<f32>()?.into();
        let whole = codes.rank() == 2 && codes.shape()[0] == scales.len() && plain.as_slice::<i8>().is_ok();
        ensure!(whole, "a table of {:?} with {} scales", codes.shape(), scales.len());
        let ids = model.wire_node(
            format!("{prefix}.ids"),
            tract_onnx::tract_core::ops::cast::cast(i64::datum_type()),
            &inputs[..1],
        )?;
        model.wire_node(prefix, Table { codes, scales }, &ids)
    }
}

/// Codes of `rows` x `width`, and a scale a row.
#[derive(Clone, Debug)]
struct Table {
    codes: Arc<Tensor>,
    scales: Arc<[f32]>,
}

impl PartialEq for Table {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.codes, &other.codes) && Arc::ptr_eq(&self.scales, &other.scales)
    }
}
impl Eq for Table {}

impl Op for Table {
    fn name(&self) -> StaticName {
        "MeridianEmbedding".into()
    }
    fn info(&self) -> TractResult<Vec<String>> {
        Ok(vec![format!("{:?} codes", self.codes.shape())])
    }
    op_as_typed_op!();
}

impl EvalOp for Table {
    op_out_of_plan!();

    fn eval(&self, _: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let ids = super::only(inputs)?;
        let (rows, width) = (self.scales.len(), self.codes.shape()[1]);
        let mut shape: TVec<usize> = ids.shape().into();
        shape.push(width);
        let mut out = Tensor::zero::<f32>(&shape)?;
        let plain = self.codes.try_as_plain_ram()?;
        let codes = plain.as_slice::<i8>()?;
        let ids = ids.try_as_plain_ram()?.as_slice::<i64>()?;
        let mut plain_out = out.try_as_plain_ram_mut()?;
        let filled = plain_out.as_slice_mut::<f32>()?.chunks_exact_mut(width.max(1));
        for (id, out) in ids.iter().zip(filled) {
            // The standard counts negative indices from the end.
            let signed = if *id < 0 {
                id.saturating_add(i64::try_from(rows)?)
            } else {
                *id
            };
            let row = usize::try_from(signed).ok().filter(|row| *row < rows);
            let row = row.ok_or_else(|| Told(format!("an id is not among the {rows} rows of the table")))?;
            let scale = self.scales[row];
            for (out, code) in out.iter_mut().zip(&codes[row * width..][..width]) {
                *out = f32::from(*code) * scale;
            }
        }
        Ok(tvec![out.into_tvalue()])
    }
}

impl TypedOp for Table {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let mut shape = inputs[0].shape.to_tvec();
        shape.push(self.codes.shape()[1].to_dim());
        Ok(tvec![f32::fact(shape)])
    }
    as_op!();
}
