//! Makes the int8 form of a model: the same graph with weights of one byte.
//!
//! Weights of `MatMul`, `Gemm`, `Conv` and embedding tables become symmetric s8 codes with one scale per output channel
//! (per row of a table), written as standard ONNX: the codes, their scales and a `DequantizeLinear` that gives the old tensor its old
//! name. Any ONNX runtime executes it, with activations in FP32. A note in the file's metadata lets our engine code the
//! activations of linear layers and convolutions too, and compute them in integers (`docs/decisions/0013-integer-layers.md`, 0014).
//! Weights that are not to be coded are named; [`keep`] finds out which those should be. A [`Calibration`] tells what layers see, by
//! which their weights are rounded (`docs/decisions/0021-weights-rounded-together.md`).
#![allow(
    clippy::as_conversions,
    reason = "rounding f32 to codes of -127..=127 is what this module is for"
)]

use std::collections::{BTreeMap, BTreeSet};

use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::{AttributeProto, GraphProto, ModelProto, NodeProto};

use crate::onnx::{OnnxError, decode, encode, lift_constants, mark_rows_coded, strip_notes};

mod calibrate;
mod codes;
mod fold;
pub(crate) use fold::fold_normalization;
pub mod keep;

pub use calibrate::{CalibrateError, Calibration};
use codes::{Channels, ELEMENTS_MIN, quantized, scales};

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

/// A weight that can be coded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weight {
    /// Its tensor's name.
    pub name: String,
    /// Bytes that it takes more in FP32 than in codes and scales.
    pub saved_bytes: u64,
}

/// The weights that [`weights_int8`] codes where nothing is kept, in the order in which the graph uses them.
///
/// # Errors
/// Those of [`weights_int8`].
pub fn weights(onnx: &[u8]) -> Result<Vec<Weight>, QuantizeError> {
    let (mut model, axes) = prepared(onnx)?;
    let graph = model.graph.take().ok_or(OnnxError::NoGraph)?;
    let mut found: BTreeMap<&str, Weight> = BTreeMap::new();
    for tensor in &graph.initializer {
        let scales = axes.get(&tensor.name).and_then(|of| scales(tensor, of.axis));
        if let Some((weights, scales)) = scales {
            let (name, saved) = (tensor.name.clone(), weights.len() * 3 - scales.len() * 4);
            let saved_bytes = u64::try_from(saved).unwrap_or(u64::MAX);
            found.insert(&tensor.name, Weight { name, saved_bytes });
        }
    }
    let used = graph.node.iter().flat_map(|node| &node.input);
    let weights: Vec<Weight> = used.filter_map(|name| found.remove(name.as_str())).collect();
    if weights.is_empty() {
        return Err(QuantizeError::Nothing);
    }
    Ok(weights)
}

/// Gives the int8 form of an ONNX file.
///
/// Per channel `c`: `scale[c] = max|w[c]| / 127`, `code = round(w / scale[c])`, halves away from zero; a channel of
/// zeros has scale 1. In convolutions, the codes nearest to the other side of their rounding are then moved by one, as many as bring
/// the sum of the channel's codes to that of its weights: what a window sees has much in common (the light of a picture, what Relu
/// lets through), and that is multiplied by the sum of all errors (`docs/decisions/0019-sums-of-codes.md`).
/// So `|w - code * scale[c]| <= scale[c]`. Deterministic: equal files give equal files.
///
/// # Errors
/// [`QuantizeError`]; the model itself is not judged, [`crate::preflight`] does that.
pub fn weights_int8(onnx: &[u8]) -> Result<Vec<u8>, QuantizeError> {
    weights_int8_but(onnx, &BTreeSet::new(), &Calibration::default())
}

/// The same with the weights named in `keep` left as they are: their layers compute in FP32. The weights of layers whose inputs are
/// known by `calibration` are rounded together, so that what the layer gives on such inputs is close, not each weight.
///
/// # Errors
/// Those of [`weights_int8`]; [`QuantizeError::Nothing`] also where all are kept.
pub fn weights_int8_but(
    onnx: &[u8],
    keep: &BTreeSet<String>,
    calibration: &Calibration,
) -> Result<Vec<u8>, QuantizeError> {
    let (mut model, axes) = prepared(onnx)?;
    let graph = model.graph.as_mut().ok_or(OnnxError::NoGraph)?;
    let mut nodes = Vec::new();
    let mut constants = Vec::with_capacity(graph.initializer.len() + axes.len());
    for tensor in std::mem::take(&mut graph.initializer) {
        let of = axes.get(&tensor.name).filter(|_| !keep.contains(&tensor.name));
        match of.and_then(|&of| quantized(&tensor, of, calibration.of_weight(&tensor.name)).map(|q| (of, q))) {
            Some((of, (codes, scales))) => {
                nodes.push(dequantize(&tensor.name, &codes.name, &scales.name, of.axis));
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

/// The model with all weights among its constants and normalisation folded into them, and the channel axes of the weights.
fn prepared(onnx: &[u8]) -> Result<(ModelProto, BTreeMap<String, Channels>), QuantizeError> {
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
    fold_normalization(graph);
    let axes = channel_axes(graph);
    Ok((model, axes))
}

/// The channels of each weight whose uses all agree on them.
fn channel_axes(graph: &GraphProto) -> BTreeMap<String, Channels> {
    let ranks: BTreeMap<&str, usize> = graph
        .initializer
        .iter()
        .map(|t| (t.name.as_str(), t.dims.len()))
        .collect();
    let mut axes: BTreeMap<&str, Option<Channels>> = BTreeMap::new();
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
            let axis = axis.map(|axis| Channels {
                axis,
                image: node.op_type == "Conv",
            });
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
    use tract_onnx::pb::TensorProto;

    use super::*;
    use crate::graph::Graph;
    use crate::onnx::values;
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
    fn what_all_inputs_have_in_common_comes_through() {
        let weights: Vec<f32> = ramp(32 * 64).iter().map(|w| w - 0.3).collect();
        let weight = values::of_floats("w", vec![64, 32, 1, 1], &weights);
        let file = testing::model(
            &[("x", &[1, 32, 1, 1])],
            &[("y", &[1, 64, 1, 1])],
            vec![testing::node("Conv", &["x", "w"], "y")],
            vec![weight],
        );
        let graph = Graph::new(onnx::decode(&weights_int8(&file).unwrap()).unwrap()).unwrap();
        let ones = graph
            .run(&[tensor::of_f32s("x", vec![1, 32, 1, 1], &[1.0; 32])])
            .unwrap();
        for (y, weights) in floats(&ones[0]).iter().zip(weights.chunks(32)) {
            let sum: f32 = weights.iter().sum();
            // Half a step of a weight; each of 32 rounded to the nearest would be off by three of them.
            assert!((y - sum).abs() < 0.6 * 1.3 / 127.0, "{y} for {sum}");
        }
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
    fn a_weight_that_is_kept_stays_as_it_was_and_the_others_are_coded_as_ever() {
        let constants = vec![
            values::of_floats("first", vec![32, 64], &ramp(32 * 64)),
            values::of_floats("second", vec![64, 16], &ramp(64 * 16)),
        ];
        let nodes = vec![
            testing::node("MatMul", &["x", "first"], "h"),
            testing::node("MatMul", &["h", "second"], "y"),
        ];
        let file = testing::model(&[("x", &[-1, 32])], &[("y", &[-1, 16])], nodes, constants.clone());
        let found = weights(&file).unwrap();
        let named: Vec<_> = found.iter().map(|w| (w.name.as_str(), w.saved_bytes)).collect();
        assert_eq!(
            named,
            [("first", 32 * 64 * 3 - 64 * 4), ("second", 64 * 16 * 3 - 16 * 4)]
        );
        let kept =
            decode(&weights_int8_but(&file, &BTreeSet::from(["first".to_owned()]), &Calibration::default()).unwrap())
                .unwrap();
        let whole = decode(&weights_int8(&file).unwrap()).unwrap();
        let constant = |model: &ModelProto, name: &str| {
            let graph = model.graph.as_ref().unwrap();
            graph.initializer.iter().find(|t| t.name == name).cloned()
        };
        assert_eq!(constant(&kept, "first"), Some(constants[0].clone()));
        assert_eq!(constant(&kept, "second"), None);
        for made in ["second.s8", "second.scale"] {
            assert!(constant(&kept, made).is_some());
            assert_eq!(constant(&kept, made), constant(&whole, made));
        }
        let every = BTreeSet::from(["first".to_owned(), "second".to_owned()]);
        assert_eq!(
            weights_int8_but(&file, &every, &Calibration::default()),
            Err(QuantizeError::Nothing)
        );
        assert_eq!(
            weights_int8_but(&file, &BTreeSet::from(["no such".to_owned()]), &Calibration::default()),
            weights_int8(&file)
        );
    }

    #[test]
    fn quantizing_twice_gives_equal_bytes() {
        assert_eq!(weights_int8(&linear()), weights_int8(&linear()));
    }
}
