//! `y = x W + b` with rows of `x` coded to 8 bits as they come, and `W` packed once.

use std::cell::RefCell;
use std::sync::Arc;

use kernels::{Isa, Linear, QuantizedRows};
use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_hir::infer::{check_input_arity, check_output_arity};
use tract_onnx::tract_hir::internal::{Expansion, InferenceOp, InferenceResult, Solver, TensorProxy, expand};

use super::write::{self, Input, Output, Write};

thread_local! {
    /// Coded rows of the layer that runs on this thread; as large as the largest so far.
    static ROWS: RefCell<QuantizedRows> = RefCell::default();
}

pub(super) fn parse(_: &ParsingContext<'_>, node: &NodeProto) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let layer = super::linear_weights(node)?;
    Ok((expand(Parsed { layer }), vec![]))
}

#[derive(Clone, Debug)]
struct Parsed {
    layer: Arc<Linear>,
}

impl Expansion for Parsed {
    fn name(&self) -> StaticName {
        "MeridianLinear".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_input_arity(inputs, 1)?;
        check_output_arity(outputs, 1)?;
        s.equals(&inputs[0].datum_type, f32::datum_type())?;
        s.equals(&outputs[0].datum_type, f32::datum_type())?;
        s.equals(&inputs[0].rank, &outputs[0].rank)?;
        s.given(&inputs[0].rank, move |s, rank| {
            let last = usize::try_from(rank)?.checked_sub(1).context("a scalar has no rows")?;
            for axis in 0..last {
                s.equals(&inputs[0].shape[axis], &outputs[0].shape[axis])?;
            }
            s.equals(&inputs[0].shape[last], self.layer.inputs().to_dim())?;
            s.equals(&outputs[0].shape[last], self.layer.outputs().to_dim())
        })
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let op = Packed {
            layer: Arc::clone(&self.layer),
            isa: Isa::best(),
        };
        model.wire_node(prefix, op, inputs)
    }
}

/// A layer that is ready to run.
#[derive(Clone, Debug)]
pub(super) struct Packed {
    layer: Arc<Linear>,
    isa: Isa,
}

impl PartialEq for Packed {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.layer, &other.layer)
    }
}
impl Eq for Packed {}

impl Op for Packed {
    fn name(&self) -> StaticName {
        "MeridianLinear".into()
    }
    fn info(&self) -> TractResult<Vec<String>> {
        let (inputs, outputs) = (self.layer.inputs(), self.layer.outputs());
        Ok(vec![format!("{inputs} x {outputs} codes, {}", self.isa.name())])
    }
    op_as_typed_op!();
}

write::evaluates!(Packed);

impl Write for Packed {
    fn write(&self, inputs: &[Input<'_>], outputs: &mut [Output<'_>]) -> TractResult<()> {
        let ([x], [y]) = (inputs, outputs) else {
            bail!("one input and one result");
        };
        let (wide, narrow) = (self.layer.inputs(), self.layer.outputs());
        ensure!(
            x.shape.last() == Some(&wide),
            "rows of {:?} for a layer of {wide} inputs",
            x.shape
        );
        let (x, y) = (x.elements::<f32>()?, y.elements::<f32>()?);
        ensure!(
            y.len() / narrow == x.len() / wide,
            "{} elements become {}",
            x.len(),
            y.len()
        );
        ROWS.with_borrow_mut(|rows| {
            rows.quantize(self.isa, x, wide);
            self.layer.run(self.isa, rows, y);
        });
        Ok(())
    }
}

impl TypedOp for Packed {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let mut shape = inputs[0].shape.to_tvec();
        if let Some(last) = shape.last_mut() {
            *last = self.layer.outputs().to_dim();
        }
        Ok(tvec![f32::fact(shape)])
    }

    fn cost(&self, inputs: &[&TypedFact]) -> TractResult<TVec<(Cost, TDim)>> {
        let products = inputs[0].shape.volume() * self.layer.outputs().to_dim();
        Ok(tvec![(Cost::FMA(i8::datum_type()), products)])
    }

    as_op!();
}
