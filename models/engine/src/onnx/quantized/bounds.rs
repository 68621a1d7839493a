//! Activations that are coded and made FP32 again at once: what is left of that is that codes have a least and a greatest number.

use std::collections::{BTreeMap, BTreeSet};

use tract_onnx::pb::tensor_proto::DataType as OnnxType;
use tract_onnx::pb::{GraphProto, NodeProto, TensorProto};

use super::{constants, node, small};
use crate::onnx::values;

/// Writes codes and back of activations as the bounds that they have.
pub(super) fn clip(graph: &mut GraphProto) -> bool {
    let known = constants(graph);
    let makers: BTreeMap<&str, &NodeProto> = graph
        .node
        .iter()
        .flat_map(|n| n.output.iter().map(move |o| (o.as_str(), n)))
        .collect();
    let outputs: BTreeSet<&str> = graph.output.iter().map(|info| info.name.as_str()).collect();
    let (mut replaced, mut bounds) = (BTreeMap::new(), Vec::new());
    // What stands for the clipped form of a tensor, and for other names of the same.
    let (mut clipped, mut renamed) = (BTreeMap::new(), BTreeMap::new());
    for (at, back) in graph
        .node
        .iter()
        .enumerate()
        .filter(|(_, n)| n.op_type == "DequantizeLinear")
    {
        let coded = back.input.first().and_then(|name| makers.get(name.as_str()));
        let Some(coded) = coded.filter(|n| n.op_type == "QuantizeLinear" && n.input.get(1..) == back.input.get(1..))
        else {
            continue;
        };
        let ([x, ..], [y], Some((low, high))) = (coded.input.as_slice(), back.output.as_slice(), reach(coded, &known))
        else {
            continue;
        };
        let maker = makers.get(x.as_str()).map_or("", |n| n.op_type.as_str());
        let matters = low == 0.0 || ["Conv", "ConvTranspose", "Gemm", "BatchNormalization"].contains(&maker);
        let stands = if matters {
            clipped.get(&(x.as_str(), low.to_bits(), high.to_bits())).copied()
        } else {
            Some(x.as_str())
        };
        match stands.filter(|_| !outputs.contains(y.as_str())) {
            Some(name) => {
                renamed.insert(y.clone(), name.to_owned());
                replaced.insert(at, None);
            }
            None => {
                let [low_name, high_name] = ["low", "high"].map(|end| format!("{y}.{end}"));
                replaced.insert(at, Some(node("Clip", &[x, &low_name, &high_name], y)));
                bounds.push(values::of_floats(&low_name, vec![], &[low]));
                bounds.push(values::of_floats(&high_name, vec![], &[high]));
                clipped.insert((x.as_str(), low.to_bits(), high.to_bits()), y.as_str());
            }
        }
    }
    let any = !replaced.is_empty();
    let mut nodes: Vec<NodeProto> = Vec::with_capacity(graph.node.len());
    for (at, node) in graph.node.iter().enumerate() {
        nodes.extend(replaced.remove(&at).unwrap_or_else(|| Some(node.clone())));
    }
    for input in nodes.iter_mut().flat_map(|node| &mut node.input) {
        // A name may stand for one that another stands for.
        for _ in 0..renamed.len() {
            let Some(name) = renamed.get(input) else { break };
            input.clone_from(name);
        }
    }
    graph.node = nodes;
    graph.initializer.extend(bounds);
    any
}

/// The least and the greatest number that codes of one reach can be.
fn reach(coded: &NodeProto, known: &BTreeMap<&str, &TensorProto>) -> Option<(f32, f32)> {
    let [_, scale, zero] = <&[String; 3]>::try_from(coded.input.as_slice()).ok()?;
    let zero = known.get(zero.as_str())?;
    let (least, greatest) = match OnnxType::try_from(zero.data_type).ok()? {
        OnnxType::Uint8 => (0, 255),
        OnnxType::Int8 => (-128, 127),
        _ => return None,
    };
    let (scale, zero) = (values::floats(known.get(scale.as_str())?)?, values::integers(zero)?);
    match (scale.as_slice(), zero.as_slice()) {
        ([scale], [zero]) if scale.is_finite() && *scale > 0.0 => {
            Some((small(least - zero) * scale, small(greatest - zero) * scale))
        }
        _ => None,
    }
}
