//! Finds, in an ONNX graph, what the engine has operators of its own for, and names it so.
//!
//! ```text
//!   MatMul(x, DequantizeLinear(codes, scales)) [+ bias]   ->  MeridianLinear(x, codes, scales [, bias])
//!   Gemm(x, DequantizeLinear(codes, scales) [, bias])     ->  MeridianLinear
//!   Gather(DequantizeLinear(codes, scales), ids)          ->  MeridianEmbedding(ids, codes, scales)
//!   convolutions and their activations (`convolution`)    ->  MeridianConv(x, codes, scales [, bias]), MeridianDepthwiseConv, MeridianExactConv
//!   ConvTranspose whose windows touch and never overlap   ->  MeridianUpConv(x, w [, bias])
//!   MaxPool behind one of those                           ->  MeridianMaxPool(x)
//!   LayerNormalization(x, scale, bias) of the last axis   ->  MeridianLayerNorm
//!   attention of several heads (module `attention`)       ->  MeridianAttention(q, k, v [, mask])
//!   GELU by the hyperbolic tangent (module `gelu`)        ->  Gelu(x)
//! ```
//! Only for graphs whose file says that rows of activations may be coded ([`rows_coded`]) do linear layers compute in integers;
//! a table's rows, normalisation and attention give what the standard operators give.
//! What does not fit stays as it is. Graphs with subgraphs, which may name any tensor, stay whole.

use std::collections::{BTreeMap, BTreeSet};

use tract_onnx::pb::tensor_proto::DataType as OnnxType;
use tract_onnx::pb::{GraphProto, ModelProto, NodeProto, StringStringEntryProto, TensorProto};

use super::values;

mod attention;
mod convolution;
mod gelu;

/// Operators that [`crate::ops`] defines.
pub(crate) const LINEAR: &str = "MeridianLinear";
pub(crate) const EMBEDDING: &str = "MeridianEmbedding";
pub(crate) const CONV: &str = "MeridianConv";
/// The same with FP32 weights.
pub(crate) const EXACT_CONV: &str = "MeridianExactConv";
/// The same with FP32 weights, each channel by itself.
pub(crate) const DEPTHWISE: &str = "MeridianDepthwiseConv";
pub(crate) const UP_CONV: &str = "MeridianUpConv";
pub(crate) const MAX_POOL: &str = "MeridianMaxPool";
/// Attribute of [`MAX_POOL`]: channels of its image.
pub(crate) const CHANNELS: &str = "channels";
pub(crate) const LAYER_NORM: &str = "MeridianLayerNorm";
pub(crate) const ATTENTION: &str = "MeridianAttention";
/// Attribute of [`CONV`]: one of the names below, what is done to each number it gives.
pub(crate) const ACTIVATION: &str = "activation";
/// Bounded by the attributes [`LOW`] and [`HIGH`].
pub(crate) const CLIP: &str = "clip";
pub(crate) const HARD_SWISH: &str = "hard-swish";
pub(crate) const SILU: &str = "silu";
pub(crate) const LOW: &str = "low";
pub(crate) const HIGH: &str = "high";
/// Attribute of [`ATTENTION`]: what products of queries and keys are multiplied by.
pub(crate) const SCALE: &str = "scale";
/// Attribute of [`LINEAR`]: its codes are `outputs` x `inputs`.
pub(crate) const TRANSPOSED: &str = "transB";

const ACTIVATIONS: &str = "meridian.activations";
const ROWS_S8: &str = "rows-s8";

/// Says in the file that rows of activations may be coded to 8 bits before linear layers of 8-bit weights.
pub(crate) fn mark_rows_coded(model: &mut ModelProto) {
    model.metadata_props.retain(|entry| entry.key != ACTIVATIONS);
    model.metadata_props.push(StringStringEntryProto {
        key: ACTIVATIONS.to_owned(),
        value: ROWS_S8.to_owned(),
    });
}

/// Whether the file says so.
pub(crate) fn rows_coded(model: &ModelProto) -> bool {
    let says = |entry: &StringStringEntryProto| entry.key == ACTIVATIONS && entry.value == ROWS_S8;
    model.metadata_props.iter().any(says)
}

/// A weight that is stored as codes with one scale for each index of `axis`.
struct Coded<'a> {
    codes: &'a str,
    scales: &'a str,
    axis: usize,
    dims: &'a [i64],
}

/// Who makes and who takes each tensor.
struct Uses<'a> {
    coded: BTreeMap<&'a str, Coded<'a>>,
    /// FP32 constants of one axis, and their length.
    vectors: BTreeMap<&'a str, i64>,
    constants: BTreeMap<&'a str, &'a TensorProto>,
    makers: BTreeMap<&'a str, &'a NodeProto>,
    nodes: &'a [NodeProto],
    takers: BTreeMap<&'a str, Vec<usize>>,
    outputs: BTreeSet<&'a str>,
}

/// Whether a node holds a graph, which may take any tensor of this one: who takes what is then not told by nodes' inputs.
pub(crate) fn has_subgraphs(graph: &GraphProto) -> bool {
    let nested = |node: &NodeProto| node.attribute.iter().any(|a| a.g.is_some() || !a.graphs.is_empty());
    graph.node.iter().any(nested)
}

/// Renames what fits. `linears` says whether linear layers may compute in integers.
pub(crate) fn fuse(graph: &mut GraphProto, linears: bool) {
    if has_subgraphs(graph) {
        return;
    }
    let changes = {
        let uses = Uses::of(graph);
        let nodes = graph.node.iter().enumerate();
        let found = nodes.filter_map(|(at, node)| match node.op_type.as_str() {
            "MatMul" if linears => uses.linear(at, node),
            "Gemm" if linears => uses.gemm(node).map(|fused| vec![(at, Some(fused))]),
            "Conv" => convolution::convolution(&uses, at, node, linears),
            "ConvTranspose" => convolution::enlarging(&uses, node).map(|fused| vec![(at, Some(fused))]),
            "MaxPool" => convolution::pool(&uses, node, linears).map(|fused| vec![(at, Some(fused))]),
            "Gather" => uses.embedding(node).map(|fused| vec![(at, Some(fused))]),
            "Softmax" => attention::attention(&uses, node).map(|(at, fused)| vec![(at, Some(fused))]),
            "Mul" => gelu::gelu(&uses, node).map(|fused| vec![(at, Some(fused))]),
            "LayerNormalization" => uses.layer_norm(node).map(|fused| vec![(at, Some(fused))]),
            _ => None,
        });
        found.flatten().collect::<BTreeMap<usize, Option<NodeProto>>>()
    };
    let nodes = std::mem::take(&mut graph.node).into_iter().enumerate();
    let changed = nodes.filter_map(|(at, node)| match changes.get(&at) {
        Some(change) => change.clone(),
        None => Some(node),
    });
    graph.node = changed.collect();
    drop_unread_weights(graph);
}

/// Weights that nothing reads as FP32 any more need not be made.
fn drop_unread_weights(graph: &mut GraphProto) {
    let read = graph.node.iter().flat_map(|node| node.input.iter().cloned());
    let read: BTreeSet<String> = read.chain(graph.output.iter().map(|o| o.name.clone())).collect();
    let keep = |node: &NodeProto| node.op_type != "DequantizeLinear" || node.output.iter().any(|o| read.contains(o));
    graph.node.retain(keep);
}

impl<'a> Uses<'a> {
    fn of(graph: &'a GraphProto) -> Self {
        let constants: BTreeMap<&str, &TensorProto> = graph.initializer.iter().map(|t| (t.name.as_str(), t)).collect();
        let vector = |t: &&TensorProto| t.data_type == values::onnx(OnnxType::Float) && t.dims.len() == 1;
        let mut takers: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (at, node) in graph.node.iter().enumerate() {
            for input in &node.input {
                takers.entry(input).or_default().push(at);
            }
        }
        Self {
            coded: graph
                .node
                .iter()
                .filter_map(|node| Some((node.output.first()?.as_str(), coded(node, &constants)?)))
                .collect(),
            vectors: constants
                .iter()
                .filter(|(_, t)| vector(t))
                .map(|(n, t)| (*n, t.dims[0]))
                .collect(),
            makers: graph
                .node
                .iter()
                .flat_map(|node| node.output.iter().map(move |output| (output.as_str(), node)))
                .collect(),
            nodes: &graph.node,
            constants,
            takers,
            outputs: graph.output.iter().map(|info| info.name.as_str()).collect(),
        }
    }

    /// A product, and the sum with its bias where that is all that is done with it.
    fn linear(&self, at: usize, node: &NodeProto) -> Option<Vec<(usize, Option<NodeProto>)>> {
        let [x, weight] = two(&node.input)?;
        let coded = self
            .coded
            .get(weight)
            .filter(|coded| coded.axis == 1 && coded.dims.len() == 2 && packs(coded.dims[0]))?;
        let product = node.output.first()?.as_str();
        let biased = self.only_taker(product).and_then(|taker| {
            let sum = self.nodes.get(taker).filter(|sum| sum.op_type == "Add")?;
            let [a, b] = two(&sum.input)?;
            let bias = if a == product { b } else { a };
            (self.vectors.get(bias) == Some(&coded.dims[1])).then_some((taker, sum, bias))
        });
        let (place, mut fused) = match biased {
            Some((taker, sum, bias)) => (taker, renamed(sum, LINEAR, &[x, coded.codes, coded.scales, bias])),
            None => (at, renamed(node, LINEAR, &[x, coded.codes, coded.scales])),
        };
        // Neither operator has any; ours has.
        fused.attribute.clear();
        Some(vec![(at, None), (place, Some(fused))])
    }

    fn gemm(&self, node: &NodeProto) -> Option<NodeProto> {
        let coded = self.coded.get(node.input.get(1)?.as_str())?;
        let number = |name: &str, or: f32| node.attribute.iter().find(|a| a.name == name).map_or(or, |a| a.f);
        let flag = |name: &str| node.attribute.iter().find(|a| a.name == name).map_or(0, |a| a.i);
        let outputs_axis = usize::from(flag("transB") == 0);
        #[allow(clippy::float_cmp, reason = "attributes are stored, not computed")]
        let plain = number("alpha", 1.0) == 1.0 && number("beta", 1.0) == 1.0 && flag("transA") == 0;
        if !plain || coded.dims.len() != 2 || coded.axis != outputs_axis || !packs(coded.dims[1 - outputs_axis]) {
            return None;
        }
        let mut inputs = vec![node.input.first()?.as_str(), coded.codes, coded.scales];
        if let Some(bias) = node.input.get(2).filter(|name| !name.is_empty()) {
            if self.vectors.get(bias.as_str()) != Some(&coded.dims[outputs_axis]) {
                return None;
            }
            inputs.push(bias);
        }
        let mut fused = renamed(node, LINEAR, &inputs);
        fused.attribute.retain(|a| a.name == TRANSPOSED);
        Some(fused)
    }

    fn embedding(&self, node: &NodeProto) -> Option<NodeProto> {
        let [table, ids] = two(&node.input)?;
        let coded = self
            .coded
            .get(table)
            .filter(|coded| coded.axis == 0 && coded.dims.len() == 2)?;
        let axis = node.attribute.iter().find(|a| a.name == "axis").map_or(0, |a| a.i);
        (axis == 0).then(|| renamed(node, EMBEDDING, &[ids, coded.codes, coded.scales]))
    }

    fn layer_norm(&self, node: &NodeProto) -> Option<NodeProto> {
        let attribute = |name: &str| node.attribute.iter().find(|a| a.name == name);
        let [_, scale, bias] = <&[String; 3]>::try_from(node.input.as_slice()).ok()?;
        let same = self.vectors.get(scale.as_str())? == self.vectors.get(bias.as_str())?;
        let plain = node.output.len() == 1
            && attribute("axis").is_none_or(|a| a.i == -1)
            && attribute("stash_type").is_none_or(|a| a.i == 1);
        (same && plain).then(|| NodeProto {
            op_type: LAYER_NORM.to_owned(),
            ..node.clone()
        })
    }

    /// The one node that takes this tensor, if there is no other and it is no output.
    fn only_taker(&self, tensor: &str) -> Option<usize> {
        match self.takers.get(tensor)?.as_slice() {
            [one] if !self.outputs.contains(tensor) => Some(*one),
            _ => None,
        }
    }
}

impl<'a> Uses<'a> {
    /// The node that makes this tensor, if it is such an operator.
    fn maker(&self, tensor: &str, operator: &str) -> Option<&'a NodeProto> {
        self.makers.get(tensor).copied().filter(|node| node.op_type == operator)
    }

    /// The only taker, if it is such an operator, and its place.
    fn taken_only_by(&self, tensor: &str, operator: &str) -> Option<(usize, &'a NodeProto)> {
        let at = self.only_taker(tensor)?;
        let node = self.nodes.get(at).filter(|node| node.op_type == operator)?;
        Some((at, node))
    }

    /// What this tensor is turned from, if it is turned so.
    fn turned(&self, tensor: &str, order: &[i64; 4]) -> Option<&'a str> {
        let node = self
            .maker(tensor, "Transpose")
            .filter(|node| attention::turn(node) == order)?;
        node.input.first().map(String::as_str)
    }

    /// Number and width of the heads that this tensor's last axis was split into.
    fn split(&self, tensor: &str) -> Option<[i64; 2]> {
        let [_, shape] = two(&self.maker(tensor, "Reshape")?.input)?;
        match values::integers(self.constants.get(shape)?)?.as_slice() {
            [_, _, heads, width] if *heads > 0 && *width > 0 => Some([*heads, *width]),
            _ => None,
        }
    }

    /// What a layer whose answer was split into heads was taken of: behind the split, the bias and the product.
    fn origin(&self, split: &str) -> Option<&'a str> {
        let mut made = self.maker(split, "Reshape")?.input.first()?.as_str();
        if let Some(sum) = self.maker(made, "Add") {
            let [a, b] = two(&sum.input)?;
            made = if self.constants.contains_key(a) { b } else { a };
        }
        self.maker(made, "MatMul")?.input.first().map(String::as_str)
    }

    /// A constant that is one FP32 number.
    fn number(&self, tensor: &str) -> Option<f32> {
        match values::floats(self.constants.get(tensor)?)?.as_slice() {
            [number] => Some(*number),
            _ => None,
        }
    }
}

/// Whether a layer of so many inputs can be summed in 32 bits.
fn packs(inputs: i64) -> bool {
    usize::try_from(inputs).is_ok_and(|inputs| (1..=kernels::Linear::INPUTS_MAX).contains(&inputs))
}

fn two(inputs: &[String]) -> Option<[&str; 2]> {
    <&[String; 2]>::try_from(inputs)
        .ok()
        .map(|[a, b]| [a.as_str(), b.as_str()])
}

/// Symmetric codes with a scale for each index of one axis.
fn coded<'a>(node: &'a NodeProto, constants: &BTreeMap<&'a str, &'a TensorProto>) -> Option<Coded<'a>> {
    let [codes, scales] = two(&node.input).filter(|_| node.op_type == "DequantizeLinear")?;
    let (codes_of, scales_of) = (constants.get(codes)?, constants.get(scales)?);
    let dims = codes_of.dims.as_slice();
    let axis = node.attribute.iter().find(|a| a.name == "axis").map_or(1, |a| a.i);
    let rank = i64::try_from(dims.len()).ok()?;
    let axis = usize::try_from(if axis < 0 { axis.checked_add(rank)? } else { axis }).ok()?;
    let per_index = scales_of.dims.len() == 1 && dims.get(axis) == scales_of.dims.first();
    let kinds =
        codes_of.data_type == values::onnx(OnnxType::Int8) && scales_of.data_type == values::onnx(OnnxType::Float);
    let blocks = node.attribute.iter().any(|a| a.name == "block_size" && a.i != 0);
    (per_index && kinds && !blocks).then_some(Coded {
        codes,
        scales,
        axis,
        dims,
    })
}

fn renamed(node: &NodeProto, operator: &str, inputs: &[&str]) -> NodeProto {
    NodeProto {
        op_type: operator.to_owned(),
        input: inputs.iter().map(|&name| name.to_owned()).collect(),
        ..node.clone()
    }
}

#[cfg(test)]
mod tests;
