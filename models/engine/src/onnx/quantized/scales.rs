//! Constants that are codes: biases become FP32, weights get the form that our quantizer writes.

use std::collections::BTreeMap;

use tract_onnx::pb::tensor_proto::DataType as OnnxType;
use tract_onnx::pb::{GraphProto, NodeProto, TensorProto};

use super::{axis, constants};
use crate::onnx::expand::dequantized;
use crate::onnx::values;

/// Makes FP32 of constant codes of one axis at most: biases, and what normalisation scales and shifts by.
pub(super) fn expand_vectors(graph: &mut GraphProto) {
    let known = constants(graph);
    let vector = |node: &NodeProto| {
        let codes = known.get(node.input.first()?.as_str())?;
        (node.op_type == "DequantizeLinear" && codes.dims.len() < 2).then(|| dequantized(node, &known))?
    };
    let (mut kept, mut expanded) = (Vec::new(), Vec::new());
    for node in &graph.node {
        match vector(node) {
            Some(tensor) => expanded.push(tensor),
            None => kept.push(node.clone()),
        }
    }
    graph.node = kept;
    graph.initializer.extend(expanded);
}

/// Writes codes of weights as our quantizer does, where their zeros are the middle.
pub(super) fn channel_scales(graph: &mut GraphProto) {
    let known = constants(graph);
    let mut made = Vec::new();
    let mut changed = Vec::new();
    for (at, node) in graph
        .node
        .iter()
        .enumerate()
        .filter(|(_, n)| n.op_type == "DequantizeLinear")
    {
        if let Some((codes, scales, of)) = symmetric(node, graph, &known) {
            let mut plain = super::node("DequantizeLinear", &[&codes.name, &scales.name], &node.output[0]);
            plain.attribute.push(axis(of));
            changed.push((at, plain));
            made.extend([codes, scales]);
        }
    }
    for (at, node) in changed {
        graph.node[at] = node;
    }
    graph.initializer.extend(made);
}

fn symmetric(
    node: &NodeProto,
    graph: &GraphProto,
    known: &BTreeMap<&str, &TensorProto>,
) -> Option<(TensorProto, TensorProto, i64)> {
    let constant = |at: usize| {
        known
            .get(node.input.get(at).filter(|name| !name.is_empty())?.as_str())
            .copied()
    };
    let output = node.output.first()?;
    let (codes, scales) = (constant(0)?, values::floats(constant(1)?)?);
    let middle = match OnnxType::try_from(codes.data_type).ok()? {
        OnnxType::Int8 => 0,
        OnnxType::Uint8 => 128,
        _ => return None,
    };
    let zeros = match node.input.get(2) {
        Some(_) => values::integers(constant(2)?)?,
        None => vec![0],
    };
    let blocks = node.attribute.iter().any(|a| a.name == "block_size" && a.i != 0);
    if blocks || zeros.iter().any(|zero| *zero != middle) {
        return None;
    }
    let given = node.attribute.iter().find(|a| a.name == "axis").map_or(1, |a| a.i);
    let rank = i64::try_from(codes.dims.len()).ok()?;
    let of = if scales.len() == 1 {
        outputs_axis(graph, output, rank)?
    } else {
        given
    };
    let all = values::integers(codes)?;
    let scales = if let [scale] = scales.as_slice() {
        let at = usize::try_from(if of < 0 { of.checked_add(rank)? } else { of }).ok()?;
        // Where another size is 0, one may be anything.
        let channels = usize::try_from(*codes.dims.get(at)?).ok();
        vec![*scale; channels.filter(|channels| *channels <= all.len())?]
    } else {
        scales
    };
    let plain = all
        .iter()
        .map(|code| i8::try_from(code - middle))
        .collect::<Result<Vec<_>, _>>();
    let codes = values::of_bytes(&format!("{output}.s8"), codes.dims.clone(), &plain.ok()?);
    let scales = values::of_floats(
        &format!("{output}.scales"),
        vec![i64::try_from(scales.len()).ok()?],
        &scales,
    );
    Some((codes, scales, of))
}

/// The axis along which all who take a weight would have its scales.
fn outputs_axis(graph: &GraphProto, weight: &str, rank: i64) -> Option<i64> {
    let flag = |node: &NodeProto, name: &str| node.attribute.iter().find(|a| a.name == name).map_or(0, |a| a.i);
    let mut wanted = None;
    for (node, at) in graph.node.iter().flat_map(|n| {
        n.input
            .iter()
            .enumerate()
            .filter(|(_, i)| *i == weight)
            .map(move |(at, _)| (n, at))
    }) {
        let of = match (node.op_type.as_str(), at) {
            ("MatMul", 1) if rank >= 2 => rank - 1,
            ("Gemm", 1) => i64::from(flag(node, "transB") == 0),
            ("Conv", 1) | ("Gather", 0) => 0,
            _ => return None,
        };
        if wanted.is_some_and(|wanted| wanted != of) {
            return None;
        }
        wanted = Some(of);
    }
    wanted
}
