//! Makes the int8 form of a model: the same graph with weights of one byte.
//!
//! Weights of `MatMul`, `Gemm`, `Conv` and embedding tables become symmetric s8 codes with one scale per output channel
//! (per row of a table), written as standard ONNX: the codes, their scales and a `DequantizeLinear` that gives the old tensor its old
//! name. Any ONNX runtime executes it, with activations in FP32. A note in the file's metadata lets our engine code the
//! activations of linear layers and convolutions too, and compute them in integers (`docs/decisions/0013-integer-layers.md`, 0014).
#![allow(
    clippy::as_conversions,
    reason = "rounding f32 to codes of -127..=127 is what this module is for"
)]

use std::collections::BTreeMap;

use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::{AttributeProto, GraphProto, NodeProto, TensorProto};

use crate::onnx::{OnnxError, decode, encode, lift_constants, mark_rows_coded, strip_notes, values};

mod fold;

/// Smaller tensors stay FP32: they hold little of the size and often much of the accuracy.
const ELEMENTS_MIN: usize = 256;
/// Fewer weights to a scale would not pay for the scale.
const PER_SCALE_MIN: usize = 16;
/// `DequantizeLinear` knows an axis from here on.
const OPSET_MIN: i64 = 13;

/// Why there is no int8 form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QuantizeError {
    /// Not an ONNX model.
    #[error(transparent)]
    Onnx(#[from] OnnxError),
    /// The operator set is too old to name a channel axis.
    #[error("int8 weights need operator set {OPSET_MIN}, the model has {opset}; export it with a newer one")]
    Opset {
        /// The model's.
        opset: i64,
    },
    /// Nothing in it is large enough.
    #[error(
        "no weight of {ELEMENTS_MIN} elements or more is used by MatMul, Gemm, Conv or Gather; int8 would save nothing"
    )]
    Nothing,
}

/// Gives the int8 form of an ONNX file.
///
/// Per channel `c`: `scale[c] = max|w[c]| / 127`, `code = round(w / scale[c])`, halves away from zero; a channel of
/// zeros has scale 1. So `|w - code * scale[c]| <= scale[c] / 2`. Deterministic: equal files give equal files.
///
/// # Errors
/// [`QuantizeError`]; the model itself is not judged, [`crate::preflight`] does that.
pub fn weights_int8(onnx: &[u8]) -> Result<Vec<u8>, QuantizeError> {
    let mut model = decode(onnx)?;
    let opset = model
        .opset_import
        .iter()
        .find(|set| set.domain.is_empty() || set.domain == "ai.onnx")
        .map_or(0, |set| set.version);
    if opset < OPSET_MIN {
        return Err(QuantizeError::Opset { opset });
    }
    let graph = model.graph.as_mut().ok_or(OnnxError::NoGraph)?;
    strip_notes(graph);
    lift_constants(graph);
    fold::fold_normalization(graph);
    let axes = channel_axes(graph);
    let mut nodes = Vec::new();
    let mut constants = Vec::with_capacity(graph.initializer.len() + axes.len());
    for tensor in std::mem::take(&mut graph.initializer) {
        match axes
            .get(&tensor.name)
            .and_then(|&axis| quantized(&tensor, axis).map(|q| (axis, q)))
        {
            Some((axis, (codes, scales))) => {
                nodes.push(dequantize(&tensor.name, &codes.name, &scales.name, axis));
                constants.extend([codes, scales]);
            }
            None => constants.push(tensor),
        }
    }
    if nodes.is_empty() {
        return Err(QuantizeError::Nothing);
    }
    // Old exporters list constants among the inputs too; these are now made by nodes.
    graph
        .input
        .retain(|info| !nodes.iter().any(|node| node.output[0] == info.name));
    nodes.append(&mut graph.node);
    graph.node = nodes;
    graph.initializer = constants;
    mark_rows_coded(&mut model);
    Ok(encode(&model))
}

/// The channel axis of each weight whose uses all agree on it.
fn channel_axes(graph: &GraphProto) -> BTreeMap<String, usize> {
    let ranks: BTreeMap<&str, usize> = graph
        .initializer
        .iter()
        .map(|t| (t.name.as_str(), t.dims.len()))
        .collect();
    let mut axes: BTreeMap<&str, Option<usize>> = BTreeMap::new();
    for node in &graph.node {
        let flag = |name: &str| node.attribute.iter().find(|a| a.name == name).map_or(0, |a| a.i);
        for (at, input) in node.input.iter().enumerate() {
            let Some(&rank) = ranks.get(input.as_str()) else {
                continue;
            };
            let axis = match (node.op_type.as_str(), at) {
                ("MatMul", 1) if rank >= 2 => Some(rank - 1),
                ("Gemm", 1) if rank == 2 => Some(usize::from(flag("transB") == 0)),
                ("Conv", 1) if rank >= 3 => Some(0),
                ("Gather", 0) if rank == 2 && flag("axis") == 0 => Some(0),
                _ => None,
            };
            let agreed = axes.entry(input).or_insert(axis);
            // A table tied to the last layer is used in two ways: any axis is right, the first one found is kept.
            if axis.is_none() || agreed.is_none() {
                *agreed = None;
            }
        }
    }
    axes.into_iter()
        .filter_map(|(name, axis)| axis.map(|axis| (name.to_owned(), axis)))
        .collect()
}

/// Codes and scales of a weight; `None` where FP32 should stay.
fn quantized(tensor: &TensorProto, axis: usize) -> Option<(TensorProto, TensorProto)> {
    let weights = values::floats(tensor)?;
    let dims: Vec<usize> = tensor
        .dims
        .iter()
        .map(|&d| usize::try_from(d).ok())
        .collect::<Option<_>>()?;
    let channels = *dims.get(axis)?;
    let inner: usize = dims[axis + 1..].iter().product();
    if weights.len() < ELEMENTS_MIN
        || weights.len() / channels.max(1) < PER_SCALE_MIN
        || weights.iter().any(|w| !w.is_finite())
    {
        return None;
    }
    let channel = |at: usize| at / inner % channels;
    let mut scales = vec![0f32; channels];
    for (at, weight) in weights.iter().enumerate() {
        let scale = &mut scales[channel(at)];
        *scale = scale.max(weight.abs() / 127.0);
    }
    // Subnormal scales would make the division overflow; such a channel is as good as zero.
    scales
        .iter_mut()
        .filter(|scale| **scale < f32::MIN_POSITIVE)
        .for_each(|scale| *scale = 1.0);
    let code = |(at, weight): (usize, &f32)| (weight / scales[channel(at)]).round().clamp(-127.0, 127.0) as i8;
    let codes: Vec<i8> = weights.iter().enumerate().map(code).collect();
    let codes = values::of_bytes(&format!("{}.s8", tensor.name), tensor.dims.clone(), &codes);
    let scales = values::of_floats(&format!("{}.scale", tensor.name), vec![tensor.dims[axis]], &scales);
    Some((codes, scales))
}

fn dequantize(weight: &str, codes: &str, scales: &str, axis: usize) -> NodeProto {
    let kind = AttributeType::Int as i32;
    NodeProto {
        name: format!("{weight}.dequantize"),
        op_type: "DequantizeLinear".to_owned(),
        input: vec![codes.to_owned(), scales.to_owned()],
        output: vec![weight.to_owned()],
        attribute: vec![AttributeProto {
            name: "axis".to_owned(),
            r#type: kind,
            i: axis as i64,
            ..AttributeProto::default()
        }],
        ..NodeProto::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Graph;
    use crate::testing::{self, floats, ramp};
    use crate::{onnx, tensor};

    fn linear() -> Vec<u8> {
        let weight = values::of_floats("w", vec![32, 64], &ramp(32 * 64));
        testing::model(
            &[("x", &[-1, 32])],
            &[("y", &[-1, 64])],
            vec![testing::node("MatMul", &["x", "w"], "y")],
            vec![weight],
        )
    }

    #[test]
    fn weights_that_a_node_holds_are_coded_like_any() {
        let mut model = decode(&linear()).unwrap();
        let graph = model.graph.as_mut().unwrap();
        let weight = graph.initializer.remove(0);
        let mut held = testing::node("Constant", &[], "w");
        held.attribute.push(AttributeProto {
            name: "value".to_owned(),
            r#type: AttributeType::Tensor.into(),
            t: Some(TensorProto {
                name: String::new(),
                ..weight
            }),
            ..AttributeProto::default()
        });
        graph.node.insert(0, held);
        assert_eq!(weights_int8(&encode(&model)), weights_int8(&linear()));
    }

    #[test]
    fn the_int8_file_is_about_a_quarter_and_answers_almost_the_same() {
        let f32_file = linear();
        let int8_file = weights_int8(&f32_file).unwrap();
        assert!(
            int8_file.len() * 3 < f32_file.len(),
            "{} of {}",
            int8_file.len(),
            f32_file.len()
        );
        let input = tensor::of_f32s("x", vec![2, 32], &ramp(64));
        let answer = |file: &[u8]| {
            Graph::new(onnx::decode(file).unwrap())
                .unwrap()
                .run(std::slice::from_ref(&input))
                .unwrap()
        };
        let (exact, close) = (floats(&answer(&f32_file)[0]), floats(&answer(&int8_file)[0]));
        let norm = |v: &[f32]| v.iter().map(|x| x * x).sum::<f32>().sqrt();
        let dot: f32 = exact.iter().zip(&close).map(|(a, b)| a * b).sum();
        assert!(dot / norm(&exact) / norm(&close) > 0.9999);
        assert_ne!(exact, close, "the weights were not changed at all");
    }

    #[test]
    fn every_weight_is_within_half_a_step_of_its_code() {
        let weights = ramp(32 * 64);
        let tensor = values::of_floats("w", vec![32, 64], &weights);
        let (codes, scales) = quantized(&tensor, 1).unwrap();
        let (codes, scales) = (values::integers(&codes).unwrap(), values::floats(&scales).unwrap());
        for (at, weight) in weights.iter().enumerate() {
            let scale = scales[at % 64];
            assert!((weight - codes[at] as f32 * scale).abs() <= scale * 0.5001);
        }
    }

    #[test]
    fn a_channel_of_zeros_and_weights_that_are_no_numbers_do_no_harm() {
        let zeros = values::of_floats("w", vec![32, 64], &[0.0; 32 * 64]);
        let (codes, scales) = quantized(&zeros, 0).unwrap();
        assert!(values::integers(&codes).unwrap().iter().all(|c| *c == 0));
        assert!(values::floats(&scales).unwrap().iter().all(|s| *s == 1.0));
        let nan = values::of_floats("w", vec![32, 64], &[f32::NAN; 32 * 64]);
        assert!(quantized(&nan, 0).is_none());
    }

    #[test]
    fn a_model_without_large_weights_or_of_an_old_operator_set_is_told_so() {
        let weight = values::of_floats("w", vec![4, 4], &ramp(16));
        let small = testing::model(
            &[("x", &[-1, 4])],
            &[("y", &[-1, 4])],
            vec![testing::node("MatMul", &["x", "w"], "y")],
            vec![weight],
        );
        assert_eq!(weights_int8(&small), Err(QuantizeError::Nothing));
        let mut old = onnx::decode(&linear()).unwrap();
        old.opset_import[0].version = 11;
        assert_eq!(
            weights_int8(&onnx::encode(&old)),
            Err(QuantizeError::Opset { opset: 11 })
        );
    }

    #[test]
    fn quantizing_twice_gives_equal_bytes() {
        assert_eq!(weights_int8(&linear()), weights_int8(&linear()));
    }
}
