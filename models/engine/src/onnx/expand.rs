//! Constants of a graph: those that nodes hold are lifted, and coded weights that no operator of ours takes turn back into FP32.
//!
//! tract keeps `DequantizeLinear` of a large constant as work for every inference, so it is done here, once.

use std::collections::{BTreeMap, BTreeSet};

use tract_onnx::pb::{GraphProto, NodeProto, TensorProto};

use super::values;

/// Replaces each `DequantizeLinear` of constants by the constant it gives, and drops constants that nothing uses any more.
/// Nodes whose operands are not all constants of fitting shapes stay as they are.
pub(crate) fn expand_weights(graph: &mut GraphProto) {
    let constants: BTreeMap<&str, &TensorProto> = graph.initializer.iter().map(|t| (t.name.as_str(), t)).collect();
    let expanded: Vec<(usize, TensorProto)> = graph
        .node
        .iter()
        .enumerate()
        .filter(|(_, node)| node.op_type == "DequantizeLinear" && node.output.len() == 1)
        .filter_map(|(at, node)| dequantized(node, &constants).map(|tensor| (at, tensor)))
        .collect();
    if expanded.is_empty() {
        return;
    }
    let gone: BTreeSet<usize> = expanded.iter().map(|(at, _)| *at).collect();
    let mut at = 0;
    graph.node.retain(|_| {
        at += 1;
        !gone.contains(&(at - 1))
    });
    graph.initializer.extend(expanded.into_iter().map(|(_, tensor)| tensor));
    drop_unused(graph);
}

/// Makes `Constant` nodes that hold a tensor or one number constants of the graph, as other exporters write them.
pub(crate) fn lift_constants(graph: &mut GraphProto) {
    // What is an output stays made by a node.
    let asked = graph.output.iter().map(|info| info.name.clone());
    let mut names: BTreeSet<String> = asked.chain(graph.initializer.iter().map(|t| t.name.clone())).collect();
    let mut lifted = Vec::new();
    graph.node.retain(|node| {
        let constant = lifted_constant(node).filter(|tensor| names.insert(tensor.name.clone()));
        let keep = constant.is_none();
        lifted.extend(constant);
        keep
    });
    graph.initializer.extend(lifted);
}

fn lifted_constant(node: &NodeProto) -> Option<TensorProto> {
    let ([name], [attribute]) = (node.output.as_slice(), node.attribute.as_slice()) else {
        return None;
    };
    if node.op_type != "Constant" || name.is_empty() {
        return None;
    }
    match attribute.name.as_str() {
        "value" => attribute.t.clone().map(|tensor| TensorProto {
            name: name.clone(),
            ..tensor
        }),
        "value_float" => Some(values::of_floats(name, vec![], &[attribute.f])),
        _ => None,
    }
}

/// Drops constants that no node and no output names. Subgraphs may name constants of the outer graph, so a graph with
/// subgraphs keeps all.
pub(crate) fn drop_unused(graph: &mut GraphProto) {
    if graph
        .node
        .iter()
        .flat_map(|node| &node.attribute)
        .any(|a| a.g.is_some() || !a.graphs.is_empty())
    {
        return;
    }
    let nodes = graph.node.iter().flat_map(|node| &node.input);
    let used: BTreeSet<String> = nodes
        .chain(graph.output.iter().map(|info| &info.name))
        .cloned()
        .collect();
    let unused = |tensor: &TensorProto| (!used.contains(&tensor.name)).then(|| tensor.name.clone());
    let dropped: BTreeSet<String> = graph.initializer.iter().filter_map(unused).collect();
    graph.initializer.retain(|tensor| !dropped.contains(&tensor.name));
    // Old exporters list constants among the inputs too; one that lost its constant must not become a real input. A real one that
    // nothing uses stays: callers give it.
    graph.input.retain(|info| !dropped.contains(&info.name));
}

/// `(x - zero_point) * scale`, with one scale and zero point for all or one per index of `axis`.
pub(super) fn dequantized(node: &NodeProto, constants: &BTreeMap<&str, &TensorProto>) -> Option<TensorProto> {
    let operand = |i: usize| node.input.get(i).filter(|name| !name.is_empty());
    let codes_of = constants.get(operand(0)?.as_str())?;
    let scales_of = constants.get(operand(1)?.as_str())?;
    let zeros = match operand(2) {
        Some(name) => Some(values::integers(constants.get(name.as_str())?)?),
        None => None,
    };
    if node.attribute.iter().any(|a| a.name == "block_size" && a.i != 0) {
        return None;
    }
    let codes = values::integers(codes_of)?;
    let scales = values::floats(scales_of)?;
    let dims: Vec<usize> = codes_of
        .dims
        .iter()
        .map(|&d| usize::try_from(d).ok())
        .collect::<Option<_>>()?;
    let (channels, inner) = if scales.len() == 1 {
        (1, codes.len())
    } else {
        let axis = node.attribute.iter().find(|a| a.name == "axis").map_or(1, |a| a.i);
        let axis = if axis < 0 {
            axis.checked_add(i64::try_from(dims.len()).ok()?)?
        } else {
            axis
        };
        let axis = usize::try_from(axis).ok().filter(|axis| *axis < dims.len())?;
        let mut inner = dims[axis + 1..].iter();
        (dims[axis], inner.try_fold(1_usize, |all, size| all.checked_mul(*size))?)
    };
    if scales.len() != channels || zeros.as_ref().is_some_and(|z| z.len() != channels) || inner == 0 {
        return None;
    }
    let blocks = codes.chunks_exact(inner).enumerate();
    let floats: Vec<f32> = blocks
        .flat_map(|(block, codes)| {
            let channel = block % channels;
            let zero = zeros.as_ref().map_or(0, |z| z[channel]);
            let scale = scales[channel];
            codes.iter().map(move |code| small(code.saturating_sub(zero)) * scale)
        })
        .collect();
    Some(values::of_floats(&node.output[0], codes_of.dims.clone(), &floats))
}

#[allow(
    clippy::as_conversions,
    reason = "codes of up to 16 bits are exact in f32; wider ones round as the standard says"
)]
fn small(code: i64) -> f32 {
    code as f32
}
