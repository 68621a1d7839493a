//! Convolutions turned round whose windows lie side by side: each pixel becomes a square of them.
//!
//! Where channels lie side by side, a row of what pixels become is the product of a row of pixels with a matrix, for each row of
//! the window.

use std::sync::{Arc, OnceLock};

use kernels::{Isa, Matrix};
use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_hir::infer::{check_input_arity, check_output_arity};
use tract_onnx::tract_hir::internal::{Expansion, InferenceOp, InferenceResult, Solver, TensorProxy, expand};

use super::slide;
use super::write::{self, Input, Output, Write};

pub(super) fn parse(_: &ParsingContext<'_>, node: &NodeProto) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let op = Parsed {
        biased: node.input.get(2).is_some_and(|name| !name.is_empty()),
        layer: Arc::default(),
    };
    Ok((expand(op), vec![]))
}

/// FP32 weights, and maybe a bias, are inputs. Packed when the first plan is made; all plans of a model share it.
#[derive(Clone, Debug)]
struct Parsed {
    biased: bool,
    layer: Arc<OnceLock<Arc<Layer>>>,
}

/// A matrix for each row of the window.
#[derive(Debug)]
struct Layer {
    rows: Vec<Matrix>,
    columns: usize,
    /// Of a pixel, before and after.
    channels: [usize; 2],
}

impl Layer {
    /// Packs weights `[input, output, row, column]`.
    fn new(weights: &Tensor, bias: Option<&[f32]>) -> TractResult<Self> {
        let &[inputs, outputs, rows, columns] = weights.shape() else {
            bail!("weights of {:?}", weights.shape());
        };
        let bias = bias.map(|bias| bias.repeat(columns));
        // [row, input, column, output]
        let turned = weights.clone().permute_axes(&[2, 0, 3, 1])?;
        let plain = turned.try_as_plain_ram()?;
        let packed = plain
            .as_slice::<f32>()?
            .chunks_exact((inputs * columns * outputs).max(1))
            .map(|weights| Matrix::new(weights, columns * outputs, bias.as_deref()));
        let packed = packed.collect::<Result<Vec<_>, _>>()?;
        ensure!(packed.len() == rows, "weights of {:?}", weights.shape());
        Ok(Self {
            rows: packed,
            columns,
            channels: [inputs, outputs],
        })
    }
}

impl Parsed {
    fn layer(&self, model: &TypedModel, inputs: &[OutletId]) -> TractResult<Arc<Layer>> {
        if let Some(layer) = self.layer.get() {
            return Ok(Arc::clone(layer));
        }
        let constant = |at: usize| super::constant(model, inputs[at], "weights and bias of a convolution");
        let bias = if self.biased { Some(constant(2)?) } else { None };
        let bias = bias.as_ref().map(|bias| bias.try_as_plain_ram()).transpose()?;
        let bias = bias.as_ref().map(|bias| bias.as_slice::<f32>()).transpose()?;
        let layer = Arc::new(Layer::new(&*constant(1)?, bias)?);
        Ok(Arc::clone(self.layer.get_or_init(|| layer)))
    }
}

impl Expansion for Parsed {
    fn name(&self) -> StaticName {
        "MeridianUpConv".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_input_arity(inputs, 2 + usize::from(self.biased))?;
        check_output_arity(outputs, 1)?;
        for tensor in [&inputs[0], &inputs[1], &outputs[0]] {
            s.equals(&tensor.datum_type, f32::datum_type())?;
            s.equals(&tensor.rank, 4)?;
        }
        s.equals(&outputs[0].shape[0], &inputs[0].shape[0])?;
        s.equals(&inputs[0].shape[1], &inputs[1].shape[0])?;
        s.equals(&outputs[0].shape[1], &inputs[1].shape[1])?;
        for axis in [2, 3] {
            s.given_2(&inputs[0].shape[axis], &inputs[1].shape[axis], move |s, size, side| {
                s.equals(&outputs[0].shape[axis], size * side.to_i64()?)
            })?;
        }
        Ok(())
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let layer = self.layer(model, inputs)?;
        slide::wire(prefix, model, inputs[0], Enlarge { layer })
    }
}

/// The operator, on images whose channels lie side by side.
#[derive(Clone, Debug)]
pub(super) struct Enlarge {
    layer: Arc<Layer>,
}

impl PartialEq for Enlarge {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.layer, &other.layer)
    }
}
impl Eq for Enlarge {}

impl Op for Enlarge {
    fn name(&self) -> StaticName {
        "MeridianUpConv".into()
    }
    op_as_typed_op!();
}

write::evaluates!(Enlarge);

impl Write for Enlarge {
    fn write(&self, inputs: &[Input<'_>], outputs: &mut [Output<'_>]) -> TractResult<()> {
        let ([x], [y]) = (inputs, outputs) else {
            bail!("an image and one result");
        };
        let Layer {
            rows,
            columns,
            channels,
        } = &*self.layer;
        let [images, height, width, given] = *<&[usize; 4]>::try_from(x.shape)?;
        let made = [images, height * rows.len(), width * columns, channels[1]];
        ensure!(
            given == channels[0] && *y.shape == made,
            "{:?} becomes {:?}",
            x.shape,
            y.shape
        );
        let (from, to) = (width * given, width * columns * channels[1]);
        let x = x.elements::<f32>()?.chunks_exact(from.max(1));
        let y = y.elements::<f32>()?.chunks_exact_mut((to * rows.len()).max(1));
        for (x, y) in x.zip(y) {
            for (matrix, y) in rows.iter().zip(y.chunks_exact_mut(to)) {
                matrix.run(Isa::best(), x, y);
            }
        }
        Ok(())
    }
}

impl TypedOp for Enlarge {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let shape = &inputs[0].shape;
        ensure!(shape.rank() == 4, "an image of {shape:?}");
        let Layer {
            rows,
            columns,
            channels,
        } = &*self.layer;
        let rows = shape[1].clone() * rows.len();
        let columns = shape[2].clone() * *columns;
        Ok(tvec![f32::fact([
            shape[0].clone(),
            rows,
            columns,
            channels[1].to_dim()
        ])])
    }
    as_op!();
}

#[cfg(test)]
mod tests {
    use crate::graph::Graph;
    use crate::onnx::{UP_CONV, decode, fuse, values};
    use crate::testing::{floats, model, node, ramp, with_ints};

    const NAMES: [&str; 3] = ["x", "w", "b"];

    fn file(inputs: &[&str], attributes: &[(&str, &[i64])]) -> Vec<u8> {
        let mut of = node("ConvTranspose", inputs, "y");
        for (name, values) in attributes {
            of = with_ints(of, name, values);
        }
        let weights = values::of_floats("w", vec![5, 3, 2, 3], &ramp(90));
        let bias = values::of_floats("b", vec![3], &ramp(3));
        model(
            &[("x", &[-1, 5, 4, 6])],
            &[("y", &[-1, 3, -1, -1])],
            vec![of],
            vec![weights, bias],
        )
    }

    #[test]
    fn each_pixel_becomes_the_window_times_its_channels() {
        for inputs in [&NAMES[..], &NAMES[..2]] {
            let decoded = decode(&file(inputs, &[("strides", &[2, 3])])).unwrap();
            let x = ramp(2 * 5 * 24);
            let given = [crate::tensor::of_f32s("x", vec![2, 5, 4, 6], &x)];
            let y = Graph::new(decoded).unwrap().run(&given).unwrap().remove(0);
            assert_eq!(y.shape, [2, 3, 8, 18]);
            let (weights, bias) = (ramp(90), if inputs.len() == 3 { ramp(3) } else { vec![0.0; 3] });
            for (at, y) in floats(&y).iter().enumerate() {
                let (image, channel, row, column) = (at / 432, at / 144 % 3, at / 18 % 8, at % 18);
                let products = (0..5).map(|input| {
                    let pixel = ((image * 5 + input) * 4 + row / 2) * 6 + column / 3;
                    x[pixel] * weights[((input * 3 + channel) * 2 + row % 2) * 3 + column % 3]
                });
                let exact = bias[channel] + products.sum::<f32>();
                assert!((y - exact).abs() < 1e-5, "{y} and {exact} at {at}");
            }
        }
    }

    #[test]
    fn windows_that_overlap_or_are_cut_stay_with_tract() {
        let fused = |attributes: &[(&str, &[i64])]| {
            let mut graph = decode(&file(&NAMES, attributes)).unwrap().graph.unwrap();
            fuse(&mut graph, true);
            graph.node[0].op_type.clone()
        };
        assert_eq!(fused(&[("strides", &[2, 3])]), UP_CONV);
        assert_eq!(fused(&[("strides", &[2, 3]), ("kernel_shape", &[2, 3])]), UP_CONV);
        let others: [&[(&str, &[i64])]; 6] = [
            &[],
            &[("strides", &[1, 3])],
            &[("strides", &[2, 3]), ("pads", &[0, 1, 0, 0])],
            &[("strides", &[2, 3]), ("output_padding", &[1, 0])],
            &[("strides", &[2, 3]), ("dilations", &[1, 2])],
            &[("strides", &[2, 3]), ("output_shape", &[8, 18])],
        ];
        assert!(others.iter().all(|attributes| fused(attributes) == "ConvTranspose"));
    }
}
