//! Convolutions of a file: with weights of 8 bits, or with FP32 weights that keep channels apart.

use std::sync::{Arc, OnceLock};

use kernels::{Activation, Chain, Conv, Depthwise, Isa, Layer, Linear, Stage};
use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_hir::infer::{check_input_arity, check_output_arity};
use tract_onnx::tract_hir::internal::{Expansion, InferenceOp, InferenceResult, Solver, TensorProxy, expand};

use super::chain::Convolve;
use super::slide::{self, Slide};
use crate::onnx::{ACTIVATION, CLIP, CONV, HARD_SWISH, HIGH, LOW, SILU};

pub(super) fn parse(_: &ParsingContext<'_>, node: &NodeProto) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let attribute = |name: &str| node.attribute.iter().find(|a| a.name == name);
    let bound = |name: &str| attribute(name).map_or(0.0, |a| a.f);
    let activation = match attribute(ACTIVATION).map(|a| std::str::from_utf8(&a.s)).transpose()? {
        None => Activation::None,
        Some(CLIP) => Activation::Clip {
            low: bound(LOW),
            high: bound(HIGH),
        },
        Some(HARD_SWISH) => Activation::HardSwish,
        Some(SILU) => Activation::Silu,
        Some(other) => bail!("no activation is called `{other}`"),
    };
    let coded = node.op_type == CONV;
    let op = Parsed {
        slide: Slide::parse(node)?,
        apart: attribute("group").is_some_and(|a| a.i > 1),
        coded,
        biased: node.input.len() == 3 + usize::from(coded),
        activation,
        layer: Arc::default(),
    };
    Ok((expand(op), vec![]))
}

#[derive(Clone, Debug)]
struct Parsed {
    slide: Slide,
    /// Each channel is summed by itself.
    apart: bool,
    /// Weights are codes and scales.
    coded: bool,
    biased: bool,
    activation: Activation,
    /// Packed when the first plan is made; all plans of a model share it.
    layer: Arc<OnceLock<Arc<Layer>>>,
}

impl Parsed {
    fn layer(&self, model: &TypedModel, inputs: &[OutletId]) -> TractResult<Arc<Layer>> {
        if let Some(layer) = self.layer.get() {
            return Ok(Arc::clone(layer));
        }
        let constant = |at: usize| super::constant(model, inputs[at], "weights, scales and bias of a convolution");
        let weights = constant(1)?;
        let scales = if self.coded { Some(constant(2)?) } else { None };
        let bias = if self.biased {
            Some(constant(inputs.len() - 1)?)
        } else {
            None
        };
        let bias = bias.as_ref().map(|bias| bias.try_as_plain_ram()).transpose()?;
        let bias = bias.as_ref().map(|bias| bias.as_slice::<f32>()).transpose()?;
        let scales = scales.as_ref().map(|scales| scales.try_as_plain_ram()).transpose()?;
        let scales = scales.as_ref().map(|scales| scales.as_slice::<f32>()).transpose()?;
        let shape: TVec<usize> = weights.shape().into();
        let [outputs, channels, sides @ ..] = shape.as_slice() else {
            bail!("weights of {shape:?}");
        };
        let window = self.slide.window(sides)?;
        // [output, channel, tap..] -> [tap.., channel, output]
        let order: Vec<usize> = (2..shape.len()).chain([1, 0]).collect();
        let weights = weights.into_tensor().permute_axes(&order)?;
        let weights = weights.try_as_plain_ram()?;
        let layer = match scales {
            Some(scales) => {
                let codes = weights.as_slice::<i8>()?;
                ensure!(
                    scales.len() == *outputs,
                    "{} scales for {outputs} channels",
                    scales.len()
                );
                if self.apart {
                    let pairs = codes.iter().zip(scales.iter().cycle());
                    let weights: Vec<f32> = pairs.map(|(code, scale)| f32::from(*code) * scale).collect();
                    Layer::Apart(Depthwise::new(window, &weights, *outputs, bias)?)
                } else {
                    let linear = Linear::pack(codes, window.taps() * channels, scales, bias)?;
                    Layer::Mixed(Conv::new(window, *channels, linear)?)
                }
            }
            None => Layer::Apart(Depthwise::new(window, weights.as_slice::<f32>()?, *outputs, bias)?),
        };
        Ok(Arc::clone(self.layer.get_or_init(|| Arc::new(layer))))
    }
}

impl Expansion for Parsed {
    fn name(&self) -> StaticName {
        "MeridianConv".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_input_arity(inputs, 2 + usize::from(self.coded) + usize::from(self.biased))?;
        check_output_arity(outputs, 1)?;
        s.equals(&inputs[0].datum_type, f32::datum_type())?;
        s.equals(&outputs[0].datum_type, f32::datum_type())?;
        s.equals(&inputs[0].rank, &inputs[1].rank)?;
        s.equals(&outputs[0].rank, &inputs[1].rank)?;
        s.equals(&outputs[0].shape[0], &inputs[0].shape[0])?;
        s.equals(&outputs[0].shape[1], &inputs[1].shape[0])?;
        s.equals(&inputs[0].shape[1], &inputs[1].shape[usize::from(!self.apart)])?;
        s.given_2(&inputs[0].shape, &inputs[1].shape, move |s, image, kernel| {
            let sides = kernel
                .iter()
                .skip(2)
                .map(TDim::to_usize)
                .collect::<Result<Vec<_>, _>>()?;
            let window = self.slide.window(&sides)?;
            slide::places_equal(s, &outputs[0], &image, &window)
        })
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let stage = Stage {
            layer: self.layer(model, inputs)?,
            activation: self.activation,
        };
        slide::wire(prefix, model, inputs[0], Convolve::new(Chain::of(stage), Isa::best()))
    }
}
