//! Layers whose activations are coded as they come, by one reach for the whole tensor.
//!
//! ```text
//!   x - DynamicQuantizeLinear -+- codes, zero --- MatMulInteger | ConvInteger (weights, zeros) - Cast - Mul [- Add(bias)]
//!                              \- scale ------------------- Mul(scale of the weights) -----------------/
//! ```

use std::collections::BTreeMap;

use tract_onnx::pb::tensor_proto::DataType as OnnxType;
use tract_onnx::pb::{AttributeProto, GraphProto, NodeProto, TensorProto};

use super::{axis, constants, node};
use crate::onnx::values;

/// Who makes and who takes each tensor.
struct Wires<'a> {
    nodes: &'a [NodeProto],
    makers: BTreeMap<&'a str, &'a NodeProto>,
    takers: BTreeMap<&'a str, Vec<usize>>,
    known: BTreeMap<&'a str, &'a TensorProto>,
    outputs: Vec<&'a str>,
}

/// What stands for the nodes of one layer: at the place of the last of them.
struct Layer {
    at: usize,
    nodes: Vec<NodeProto>,
    bias: Option<TensorProto>,
}

/// Rewrites what fits; gives whether anything did.
pub(super) fn relax(graph: &mut GraphProto) -> bool {
    let wires = Wires::of(graph);
    let layers: Vec<Layer> = graph.node.iter().filter_map(|node| wires.layer(node)).collect();
    let any = !layers.is_empty();
    let mut places: BTreeMap<usize, Layer> = layers.into_iter().map(|layer| (layer.at, layer)).collect();
    let mut nodes = Vec::with_capacity(graph.node.len());
    let mut biases = Vec::new();
    for (at, node) in graph.node.iter().enumerate() {
        match places.remove(&at) {
            Some(layer) => {
                nodes.extend(layer.nodes);
                biases.extend(layer.bias);
            }
            None => nodes.push(node.clone()),
        }
    }
    graph.node = nodes;
    graph.initializer.extend(biases);
    any
}

impl<'a> Wires<'a> {
    fn of(graph: &'a GraphProto) -> Self {
        let mut takers: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (at, node) in graph.node.iter().enumerate() {
            for input in &node.input {
                takers.entry(input).or_default().push(at);
            }
        }
        let made = |node: &'a NodeProto| node.output.iter().map(move |output| (output.as_str(), node));
        Self {
            nodes: &graph.node,
            makers: graph.node.iter().flat_map(made).collect(),
            takers,
            known: constants(graph),
            outputs: graph.output.iter().map(|info| info.name.as_str()).collect(),
        }
    }

    /// The one node that takes this tensor, if it is such an operator and there is no other.
    fn only_taker(&self, tensor: &str, operator: &str) -> Option<usize> {
        match self.takers.get(tensor)?.as_slice() {
            [at] if self.nodes[*at].op_type == operator && !self.outputs.contains(&tensor) => Some(*at),
            _ => None,
        }
    }

    fn maker(&self, tensor: &str, operator: &str) -> Option<&'a NodeProto> {
        self.makers.get(tensor).copied().filter(|node| node.op_type == operator)
    }

    /// The plain form of a layer whose product of integers is `product`.
    fn layer(&self, product: &NodeProto) -> Option<Layer> {
        let (operator, outputs_axis) = match product.op_type.as_str() {
            "MatMulInteger" => ("MatMul", -1),
            "ConvInteger" => ("Conv", 0),
            _ => return None,
        };
        let [codes, weight, zero, rest @ ..] = product.input.as_slice() else {
            return None;
        };
        let coding = self.maker(codes, "DynamicQuantizeLinear")?;
        let ([x], [_, x_scale, x_zero]) = (coding.input.as_slice(), coding.output.as_slice()) else {
            return None;
        };
        if zero != x_zero || !self.known.contains_key(weight.as_str()) || rest.len() > 1 {
            return None;
        }
        let cast = &self.nodes[self.only_taker(product.output.first()?, "Cast")?];
        let floats = |a: &AttributeProto| a.name == "to" && a.i == i64::from(values::onnx(OnnxType::Float));
        let sum = cast.output.first().filter(|_| cast.attribute.iter().any(floats))?;
        let scaled_at = self.only_taker(sum, "Mul")?;
        let scaled = &self.nodes[scaled_at];
        let scales = scaled.input.iter().find(|name| *name != sum)?;
        let both = self.maker(scales, "Mul")?;
        let w_scale = both.input.iter().find(|name| *name != x_scale)?;
        let fits = both.input.contains(x_scale) && self.known.contains_key(w_scale.as_str());
        let y = scaled.output.first().filter(|_| fits)?;
        let matrix = format!("{y}.w");
        let mut inputs = vec![weight.as_str(), w_scale.as_str()];
        inputs.extend(rest.iter().map(String::as_str));
        let mut weights = node("DequantizeLinear", &inputs, &matrix);
        weights.attribute.push(axis(outputs_axis));
        let biased = if operator == "Conv" { self.bias(y) } else { None };
        let (at, output, bias) = match biased {
            Some((at, tensor)) => (at, self.nodes[at].output.first()?.as_str(), Some(tensor)),
            None => (scaled_at, y.as_str(), None),
        };
        let mut taken = vec![x.as_str(), matrix.as_str()];
        taken.extend(bias.as_ref().map(|tensor| tensor.name.as_str()));
        let mut plain = node(operator, &taken, output);
        plain.attribute.clone_from(&product.attribute);
        Some(Layer {
            at,
            nodes: vec![weights, plain],
            bias,
        })
    }

    /// The vector that is added to each channel of a convolution, and where: it was given a shape to be added in.
    fn bias(&self, made: &str) -> Option<(usize, TensorProto)> {
        let at = self.only_taker(made, "Add")?;
        let other = self.nodes[at].input.iter().find(|name| *name != made)?;
        let shaped = self.maker(other, "Reshape")?;
        let [vector, shape] = <&[String; 2]>::try_from(shaped.input.as_slice()).ok()?;
        let floats = values::floats(self.known.get(vector.as_str())?)?;
        let shape = values::integers(self.known.get(shape.as_str())?)?;
        let channels = i64::try_from(floats.len()).ok()?;
        let [1, second, ones @ ..] = shape.as_slice() else {
            return None;
        };
        let along = [-1, channels].contains(second) && ones.iter().all(|one| *one == 1) && !ones.is_empty();
        along.then(|| (at, values::of_floats(&format!("{made}.bias"), vec![channels], &floats)))
    }
}
