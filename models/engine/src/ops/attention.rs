//! Attention of several heads in one operator: nothing is turned, and no score leaves the processor's cache.

use std::cell::RefCell;

use kernels::{Attention, AttentionScratch, AttentionShape, Isa, Mask};
use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_hir::infer::{check_input_arity, check_output_arity};
use tract_onnx::tract_hir::internal::{Expansion, InferenceOp, InferenceResult, Solver, TensorProxy, expand};

use super::write::{self, Input, Output, Write};
use crate::onnx::SCALE;

thread_local! {
    /// Scores of the call that runs on this thread, and scores to add that were widened; as large as the largest so far.
    static SCRATCH: RefCell<(AttentionScratch, Vec<f32>)> = RefCell::default();
}

pub(super) fn parse(_: &ParsingContext<'_>, node: &NodeProto) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let scale = node.attribute.iter().find(|a| a.name == SCALE).map_or(1.0, |a| a.f);
    let op = Heads {
        scale_bits: scale.to_bits(),
        masked: node.input.len() == 4,
    };
    Ok((expand(op), vec![]))
}

/// Takes queries, keys and values of `[batch, token, head, element]` and scores to add that broadcast to
/// `[batch, head, query, key]`; gives what queries are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Heads {
    scale_bits: u32,
    masked: bool,
}

impl Expansion for Heads {
    fn name(&self) -> StaticName {
        "MeridianAttention".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_input_arity(inputs, 3 + usize::from(self.masked))?;
        check_output_arity(outputs, 1)?;
        for input in inputs {
            s.equals(&input.datum_type, f32::datum_type())?;
        }
        s.equals(&outputs[0].datum_type, f32::datum_type())?;
        s.equals(&inputs[0].rank, 4)?;
        s.equals(&outputs[0].shape, &inputs[0].shape)
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let mut inputs: TVec<OutletId> = inputs.into();
        if let Some(mask) = inputs.get_mut(3) {
            for axis in model.outlet_fact(*mask)?.rank()..4 {
                let name = format!("{prefix}.mask-axis-{axis}");
                *mask = model.wire_node(name, AxisOp::Add(0), &[*mask])?[0];
            }
        }
        model.wire_node(prefix, self.clone(), &inputs)
    }
}

impl Op for Heads {
    fn name(&self) -> StaticName {
        "MeridianAttention".into()
    }
    op_as_typed_op!();
}

write::evaluates!(Heads);

impl Write for Heads {
    fn write(&self, inputs: &[Input<'_>], outputs: &mut [Output<'_>]) -> TractResult<()> {
        let ([q, k, v, mask @ ..], [y]) = (inputs, outputs) else {
            bail!("queries, keys, values and one result");
        };
        let &[batch, queries, heads, width] = q.shape else {
            bail!("queries of shape {:?}", q.shape);
        };
        let keys = k.shape.get(1).copied().unwrap_or(0);
        let asked = [batch, keys, heads, width];
        ensure!(
            *k.shape == asked && *v.shape == asked && y.shape == q.shape,
            "keys {:?} and values {:?}",
            k.shape,
            v.shape
        );
        let (q, k, v, y) = (
            q.elements::<f32>()?,
            k.elements::<f32>()?,
            v.elements::<f32>()?,
            y.elements::<f32>()?,
        );
        if q.is_empty() || keys == 0 {
            y.fill(0.0);
            return Ok(());
        }
        let shape = AttentionShape {
            queries,
            keys,
            heads,
            width,
        };
        let (asking, asked) = (queries * heads * width, keys * heads * width);
        let parts = q
            .chunks_exact(asking)
            .zip(k.chunks_exact(asked))
            .zip(v.chunks_exact(asked));
        SCRATCH.with_borrow_mut(|(scratch, widened)| {
            let scores = [batch, heads, queries, keys];
            let added = mask.first().map(|mask| Added::of(mask, scores, widened)).transpose()?;
            for (row, (((q, k), v), y)) in parts.zip(y.chunks_exact_mut(asking)).enumerate() {
                let mask = added.as_ref().map(|added| added.of_row(row));
                let scale = f32::from_bits(self.scale_bits);
                Attention {
                    shape,
                    q,
                    k,
                    v,
                    mask,
                    scale,
                }
                .run(Isa::best(), scratch, y);
            }
            Ok(())
        })
    }
}

/// Scores to add, and how far it is from one to the next; 0 where they are shared.
struct Added<'a> {
    values: &'a [f32],
    steps: [usize; 3],
}

impl<'a> Added<'a> {
    /// Axes of size 1 serve all, but the last one is made as long as there are keys, in `widened`.
    fn of(mask: &Input<'a>, scores: [usize; 4], widened: &'a mut Vec<f32>) -> TractResult<Self> {
        let fits = mask.shape.len() == 4
            && mask
                .shape
                .iter()
                .zip(scores)
                .all(|(have, want)| *have == want || *have == 1);
        ensure!(fits, "scores to add of shape {:?} for {scores:?}", mask.shape);
        let &[batch, heads, queries, last] = mask.shape else {
            bail!("scores to add of shape {:?}", mask.shape);
        };
        let keys = scores[3];
        let mut values = mask.elements::<f32>()?;
        if last != keys {
            widened.clear();
            widened.extend(values.iter().flat_map(|value| std::iter::repeat_n(*value, keys)));
            values = widened;
        }
        let step = |size: usize, inner: usize| if size == 1 { 0 } else { inner };
        Ok(Self {
            values,
            steps: [
                step(batch, heads * queries * keys),
                step(heads, queries * keys),
                step(queries, keys),
            ],
        })
    }

    fn of_row(&self, row: usize) -> Mask<'a> {
        Mask {
            values: &self.values[row * self.steps[0]..],
            head_step: self.steps[1],
            query_step: self.steps[2],
        }
    }
}

impl TypedOp for Heads {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec![f32::fact(inputs[0].shape.clone())])
    }
    as_op!();
}
