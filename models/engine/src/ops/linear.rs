//! `y = x W + b` with rows of `x` coded to 8 bits as they come, and `W` packed once.

use std::cell::RefCell;
use std::sync::{Arc, OnceLock};

use kernels::{Isa, Linear, QuantizedRows};
use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_hir::infer::{check_input_arity, check_output_arity};
use tract_onnx::tract_hir::internal::{Expansion, InferenceOp, InferenceResult, Solver, TensorProxy, expand};

use crate::onnx::TRANSPOSED;

thread_local! {
    /// Coded rows of the layer that runs on this thread; as large as the largest so far.
    static ROWS: RefCell<QuantizedRows> = RefCell::default();
}

pub(super) fn parse(_: &ParsingContext<'_>, node: &NodeProto) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let transposed = node.attribute.iter().any(|a| a.name == TRANSPOSED && a.i != 0);
    let biased = node.input.len() == 4;
    let op = Parsed {
        transposed,
        biased,
        packed: Arc::default(),
    };
    Ok((expand(op), vec![]))
}

#[derive(Clone, Debug)]
struct Parsed {
    transposed: bool,
    biased: bool,
    /// Packed when the first plan is made; all plans of a model share it.
    packed: Arc<OnceLock<Arc<Linear>>>,
}

impl Parsed {
    fn packed(&self, model: &TypedModel, inputs: &[OutletId]) -> TractResult<Arc<Linear>> {
        if let Some(layer) = self.packed.get() {
            return Ok(Arc::clone(layer));
        }
        let constant = |at: usize| super::constant(model, inputs[at], "codes, scales and bias of a linear layer");
        let (codes, scales) = (constant(1)?, constant(2)?);
        let bias = if self.biased { Some(constant(3)?) } else { None };
        let codes = if self.transposed {
            codes.into_tensor().permute_axes(&[1, 0])?.into_arc_tensor()
        } else {
            codes
        };
        let (codes, scales) = (codes.try_as_plain_ram()?, scales.try_as_plain_ram()?);
        let bias = bias.as_ref().map(|bias| bias.try_as_plain_ram()).transpose()?;
        let bias = bias.as_ref().map(|bias| bias.as_slice::<f32>()).transpose()?;
        let layer = Linear::pack(
            codes.as_slice::<i8>()?,
            codes.shape()[0],
            scales.as_slice::<f32>()?,
            bias,
        )?;
        Ok(Arc::clone(self.packed.get_or_init(|| Arc::new(layer))))
    }
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
        check_input_arity(inputs, 3 + usize::from(self.biased))?;
        check_output_arity(outputs, 1)?;
        s.equals(&inputs[0].datum_type, f32::datum_type())?;
        s.equals(&outputs[0].datum_type, f32::datum_type())?;
        s.equals(&inputs[0].rank, &outputs[0].rank)?;
        s.equals(&inputs[1].rank, 2)?;
        let (taken, given) = if self.transposed { (1, 0) } else { (0, 1) };
        s.given(&inputs[0].rank, move |s, rank| {
            let last = usize::try_from(rank)?.checked_sub(1).context("a scalar has no rows")?;
            for axis in 0..last {
                s.equals(&inputs[0].shape[axis], &outputs[0].shape[axis])?;
            }
            s.equals(&inputs[0].shape[last], &inputs[1].shape[taken])?;
            s.equals(&outputs[0].shape[last], &inputs[1].shape[given])
        })
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let op = Packed {
            layer: self.packed(model, inputs)?,
            isa: Isa::best(),
        };
        model.wire_node(prefix, op, &inputs[..1])
    }
}

/// A layer that is ready to run.
#[derive(Clone, Debug)]
struct Packed {
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

impl EvalOp for Packed {
    op_out_of_plan!();

    fn eval(&self, _: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let x = super::only(inputs)?;
        let mut shape: TVec<usize> = x.shape().into();
        let Some(last) = shape.last_mut().filter(|last| **last == self.layer.inputs()) else {
            bail!("rows of {:?} for a layer of {} inputs", x.shape(), self.layer.inputs());
        };
        *last = self.layer.outputs();
        let mut y = Tensor::zero::<f32>(&shape)?;
        ROWS.with_borrow_mut(|rows| -> TractResult<()> {
            rows.quantize(self.isa, x.try_as_plain_ram()?.as_slice::<f32>()?, self.layer.inputs());
            self.layer
                .run(self.isa, rows, y.try_as_plain_ram_mut()?.as_slice_mut::<f32>()?);
            Ok(())
        })?;
        Ok(tvec![y.into_tvalue()])
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
