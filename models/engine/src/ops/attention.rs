//! Attention of several heads in one operator: nothing is turned, and no score leaves the processor's cache.

use std::cell::RefCell;

use kernels::{Attention, AttentionScratch, AttentionShape, Isa, Mask};
use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_hir::infer::{check_input_arity, check_output_arity};
use tract_onnx::tract_hir::internal::{Expansion, InferenceOp, InferenceResult, Solver, TensorProxy, expand};

use crate::onnx::SCALE;

thread_local! {
    /// Scores of the call that runs on this thread; as large as the largest so far.
    static SCRATCH: RefCell<AttentionScratch> = RefCell::default();
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
struct Heads {
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

impl EvalOp for Heads {
    op_out_of_plan!();

    fn eval(&self, _: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let [q, k, v] = [0, 1, 2].map(|at: usize| &inputs[at]);
        let &[batch, queries, heads, width] = q.shape() else {
            bail!("queries of shape {:?}", q.shape());
        };
        let keys = k.shape().get(1).copied().unwrap_or(0);
        let asked = [batch, keys, heads, width];
        ensure!(
            k.shape() == asked && v.shape() == asked,
            "keys {:?} and values {:?}",
            k.shape(),
            v.shape()
        );
        let scores = [batch, heads, queries, keys];
        let mask = inputs.get(3).map(|mask| last_axis_whole(mask, &scores)).transpose()?;
        let mut y = Tensor::zero::<f32>(q.shape())?;
        if q.len() == 0 || keys == 0 {
            return Ok(tvec![y.into_tvalue()]);
        }
        let shape = AttentionShape {
            queries,
            keys,
            heads,
            width,
        };
        let (q, k, v) = (q.try_as_plain_ram()?, k.try_as_plain_ram()?, v.try_as_plain_ram()?);
        let (q, k, v) = (q.as_slice::<f32>()?, k.as_slice::<f32>()?, v.as_slice::<f32>()?);
        let (asking, asked) = (queries * heads * width, keys * heads * width);
        let added = mask.as_deref().map(Added::of).transpose()?;
        let mut plain = y.try_as_plain_ram_mut()?;
        let parts = q
            .chunks_exact(asking)
            .zip(k.chunks_exact(asked))
            .zip(v.chunks_exact(asked));
        SCRATCH.with_borrow_mut(|scratch| -> TractResult<()> {
            for (row, (((q, k), v), y)) in parts
                .zip(plain.as_slice_mut::<f32>()?.chunks_exact_mut(asking))
                .enumerate()
            {
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
        })?;
        Ok(tvec![y.into_tvalue()])
    }
}

/// Makes the last axis as long as there are keys; the other axes stay 1 where one row serves all.
fn last_axis_whole(mask: &TValue, scores: &[usize; 4]) -> TractResult<TValue> {
    let fits = mask.rank() == 4
        && mask
            .shape()
            .iter()
            .zip(scores)
            .all(|(have, want)| have == want || *have == 1);
    ensure!(fits, "scores to add of shape {:?} for {scores:?}", mask.shape());
    if mask.shape()[3] == scores[3] {
        return Ok(mask.clone());
    }
    let mut shape: TVec<usize> = mask.shape().into();
    shape[3] = scores[3];
    Ok(mask.broadcast_to_shape(&shape)?.into_tvalue())
}

/// Scores to add, and how far it is from one to the next; 0 where they are shared.
struct Added<'a> {
    values: &'a [f32],
    steps: [usize; 3],
}

impl<'a> Added<'a> {
    fn of(mask: &'a Tensor) -> TractResult<Self> {
        let &[batch, heads, queries, keys] = mask.shape() else {
            bail!("scores to add of shape {:?}", mask.shape());
        };
        let step = |size: usize, inner: usize| if size == 1 { 0 } else { inner };
        Ok(Self {
            values: mask.try_as_plain_ram()?.as_slice::<f32>()?,
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
