//! Files that others quantized, brought into the form of our own: weights as codes behind `DequantizeLinear`, activations in FP32, and the
//! note that rows of activations may be coded.
//!
//! ```text
//!   QLinearConv, QLinearMatMul, QGemm, ..  ->  DequantizeLinear, Conv .., QuantizeLinear: their definition
//!   x - QuantizeLinear - DequantizeLinear  ->  Clip(x), for exporters drop a Relu or Clip that the range of codes does as well
//!   x - DynamicQuantizeLinear - MatMulInteger | ConvInteger - Cast - Mul(scales)  ->  MatMul | Conv(x, DequantizeLinear(codes, scale))
//!   codes of u8, scales of a whole tensor, zeros that are 0  ->  codes of s8, a scale for each channel, no zeros
//! ```
//! Our operators then code each row by its own reach, which is closer to FP32 than one reach for all rows, or one that was calibrated. What
//! fits none of this stays, and runs as the standard says.

use std::collections::{BTreeMap, BTreeSet};

use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::{AttributeProto, GraphProto, NodeProto, TensorProto};

use super::expand::drop_unused;

mod bounds;
mod definition;
mod dynamic;
mod scales;

pub(crate) use definition::OF_ONNX_RUNTIME;

/// Rewrites what fits; gives whether activations had been coded.
pub(crate) fn relax(graph: &mut GraphProto) -> bool {
    let codes =
        |node: &NodeProto| CODING.contains(&node.op_type.as_str()) || OF_ONNX_RUNTIME.contains(&node.op_type.as_str());
    if !graph.node.iter().any(codes) || graph.node.iter().any(has_subgraph) {
        return false;
    }
    definition::by_definition(graph);
    scales::expand_vectors(graph);
    let mut coded = dynamic::relax(graph);
    coded |= bounds::clip(graph);
    scales::channel_scales(graph);
    drop_dead(graph);
    drop_unused(graph);
    coded
}

/// Operators that make or take codes.
const CODING: [&str; 6] = [
    "QuantizeLinear",
    "DynamicQuantizeLinear",
    "QLinearConv",
    "QLinearMatMul",
    "MatMulInteger",
    "ConvInteger",
];

fn has_subgraph(node: &NodeProto) -> bool {
    node.attribute.iter().any(|a| a.g.is_some() || !a.graphs.is_empty())
}

fn constants(graph: &GraphProto) -> BTreeMap<&str, &TensorProto> {
    graph.initializer.iter().map(|t| (t.name.as_str(), t)).collect()
}

fn node(operator: &str, inputs: &[&str], output: &str) -> NodeProto {
    NodeProto {
        name: format!("{output}.{operator}"),
        op_type: operator.to_owned(),
        input: inputs.iter().map(|&name| name.to_owned()).collect(),
        output: vec![output.to_owned()],
        ..NodeProto::default()
    }
}

fn axis(of: i64) -> AttributeProto {
    AttributeProto {
        name: "axis".to_owned(),
        r#type: AttributeType::Int.into(),
        i: of,
        ..AttributeProto::default()
    }
}

/// Drops nodes that nothing takes anything of.
fn drop_dead(graph: &mut GraphProto) {
    let mut taken: BTreeSet<String> = graph.output.iter().map(|info| info.name.clone()).collect();
    let mut kept = Vec::with_capacity(graph.node.len());
    // Who takes stands behind who makes.
    for node in std::mem::take(&mut graph.node).into_iter().rev() {
        if node.output.iter().any(|output| taken.contains(output)) {
            taken.extend(node.input.iter().cloned());
            kept.push(node);
        }
    }
    kept.reverse();
    graph.node = kept;
}

#[allow(
    clippy::as_conversions,
    reason = "codes of up to 16 bits are exact in f32; sums of 32 round as the standard says"
)]
fn small(code: i64) -> f32 {
    code as f32
}

#[cfg(test)]
mod tests;
