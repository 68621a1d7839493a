//! The largest number under a window, where channels lie side by side.

use std::sync::Arc;

use kernels::{Activation, Chain, Isa, Layer, MaxPool, Stage, Window};
use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_hir::infer::{check_input_arity, check_output_arity};
use tract_onnx::tract_hir::internal::{Expansion, InferenceOp, InferenceResult, Solver, TensorProxy, expand};

use super::chain::Convolve;
use super::slide::{self, Slide};
use crate::onnx::CHANNELS;

pub(super) fn parse(_: &ParsingContext<'_>, node: &NodeProto) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let channels = node.attribute.iter().find(|a| a.name == CHANNELS);
    let op = Parsed {
        window: Slide::parse(node)?.window(&slide::sizes(node, "kernel_shape")?)?,
        channels: usize::try_from(channels.context("a pool without channels")?.i)?,
    };
    Ok((expand(op), vec![]))
}

#[derive(Clone, Debug)]
struct Parsed {
    window: Window,
    channels: usize,
}

impl Expansion for Parsed {
    fn name(&self) -> StaticName {
        "MeridianMaxPool".into()
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
        s.equals(&outputs[0].rank, &inputs[0].rank)?;
        s.equals(&outputs[0].shape[0], &inputs[0].shape[0])?;
        s.equals(&inputs[0].shape[1], self.channels.to_dim())?;
        s.equals(&outputs[0].shape[1], self.channels.to_dim())?;
        s.given(&inputs[0].shape, move |s, image| {
            slide::places_equal(s, &outputs[0], &image, &self.window)
        })
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let stage = Stage {
            layer: Arc::new(Layer::Pooled(MaxPool::new(self.window, self.channels))),
            activation: Activation::None,
        };
        slide::wire(prefix, model, inputs[0], Convolve::new(Chain::of(stage), Isa::best()))
    }
}
