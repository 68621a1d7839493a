//! Convolutions of a file: with weights of 8 bits, or with FP32 weights.

use std::sync::{Arc, OnceLock};

use kernels::{Activation, Chain, Conv, Depthwise, ExactConv, Isa, Layer, Matrix, Stage};
use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_hir::infer::{check_input_arity, check_output_arity};
use tract_onnx::tract_hir::internal::{Expansion, InferenceOp, InferenceResult, Solver, TensorProxy, expand};

use super::chain::Convolve;
use super::slide::{self, Slide};
use crate::onnx::{ACTIVATION, CHANNELS, CLIP, CONV, EXACT_CONV, HARD_SWISH, HIGH, LOW, SILU};

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
    let slide = Slide::parse(node)?;
    let weights = if node.op_type == CONV {
        let channels = usize::try_from(attribute(CHANNELS).map_or(0, |a| a.i))?;
        let sides = slide::sizes(node, "kernel_shape")?;
        let conv = Conv::new(slide.window(&sides)?, channels, super::linear_weights(node)?)?;
        Weights::Mixed {
            rank: sides.len() + 2,
            layer: Arc::new(Layer::Mixed(conv)),
        }
    } else {
        Weights::Plain {
            mixes: node.op_type == EXACT_CONV,
            biased: node.input.len() == 3,
            layer: Arc::default(),
        }
    };
    let op = Parsed {
        slide,
        weights,
        activation,
    };
    Ok((expand(op), vec![]))
}

#[derive(Clone, Debug)]
struct Parsed {
    slide: Slide,
    weights: Weights,
    activation: Activation,
}

#[derive(Clone, Debug)]
enum Weights {
    /// Codes, packed already.
    Mixed { rank: usize, layer: Arc<Layer> },
    /// FP32 weights, and maybe a bias, are inputs. Packed when the first plan is made; all plans of a model share it.
    Plain {
        /// Every channel takes part in every sum; otherwise each is summed by itself.
        mixes: bool,
        biased: bool,
        layer: Arc<OnceLock<Arc<Layer>>>,
    },
}

impl Parsed {
    fn layer(&self, model: &TypedModel, inputs: &[OutletId]) -> TractResult<Arc<Layer>> {
        let (mixes, biased, kept) = match &self.weights {
            Weights::Mixed { layer, .. } => return Ok(Arc::clone(layer)),
            Weights::Plain { mixes, biased, layer } => (*mixes, *biased, layer),
        };
        if let Some(layer) = kept.get() {
            return Ok(Arc::clone(layer));
        }
        let constant = |at: usize| super::constant(model, inputs[at], "weights and bias of a convolution");
        let weights = constant(1)?;
        let bias = if biased { Some(constant(2)?) } else { None };
        let bias = bias.as_ref().map(|bias| bias.try_as_plain_ram()).transpose()?;
        let bias = bias.as_ref().map(|bias| bias.as_slice::<f32>()).transpose()?;
        let shape: TVec<usize> = weights.shape().into();
        let [outputs, channels, sides @ ..] = shape.as_slice() else {
            bail!("weights of {shape:?}");
        };
        let window = self.slide.window(sides)?;
        // [output, channel, tap..] -> [tap.., channel, output]
        let order: Vec<usize> = (2..shape.len()).chain([1, 0]).collect();
        let weights = weights.into_tensor().permute_axes(&order)?;
        let weights = weights.try_as_plain_ram()?;
        let weights = weights.as_slice::<f32>()?;
        let layer = if mixes {
            let matrix = Matrix::new(weights, *outputs, bias)?;
            Layer::Exact(ExactConv::new(window, *channels, matrix)?)
        } else {
            Layer::Apart(Depthwise::new(window, weights, *outputs, bias)?)
        };
        Ok(Arc::clone(kept.get_or_init(|| Arc::new(layer))))
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
        check_output_arity(outputs, 1)?;
        s.equals(&inputs[0].datum_type, f32::datum_type())?;
        s.equals(&outputs[0].datum_type, f32::datum_type())?;
        s.equals(&inputs[0].rank, &outputs[0].rank)?;
        s.equals(&outputs[0].shape[0], &inputs[0].shape[0])?;
        match &self.weights {
            Weights::Mixed { rank, layer } => {
                check_input_arity(inputs, 1)?;
                s.equals(&inputs[0].rank, i64::try_from(*rank)?)?;
                let [from, to] = layer.channels();
                s.equals(&inputs[0].shape[1], from.to_dim())?;
                s.equals(&outputs[0].shape[1], to.to_dim())?;
                s.given(&inputs[0].shape, move |s, image| {
                    slide::places_equal(s, &outputs[0], &image, layer.window())
                })
            }
            Weights::Plain { mixes, biased, .. } => {
                check_input_arity(inputs, 2 + usize::from(*biased))?;
                s.equals(&inputs[0].rank, &inputs[1].rank)?;
                s.equals(&outputs[0].shape[1], &inputs[1].shape[0])?;
                s.equals(&inputs[0].shape[1], &inputs[1].shape[usize::from(*mixes)])?;
                s.given_2(&inputs[0].shape, &inputs[1].shape, move |s, image, kernel| {
                    let sides = kernel
                        .iter()
                        .skip(2)
                        .map(TDim::to_usize)
                        .collect::<Result<Vec<_>, _>>()?;
                    slide::places_equal(s, &outputs[0], &image, &self.slide.window(&sides)?)
                })
            }
        }
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let stage = Stage {
            layer: self.layer(model, inputs)?,
            activation: self.activation,
        };
        slide::wire(prefix, model, inputs[0], Convolve::new(Chain::of(stage), Isa::best()))
    }
}
