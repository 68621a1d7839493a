//! Operators between codes, those of the standard and those that ONNX Runtime's quantizer writes, as what they are: codes made FP32, the plain
//! operator, and its result coded.

use std::collections::BTreeMap;

use tract_onnx::pb::{GraphProto, NodeProto, TensorProto};

use super::{axis, constants, node, small};
use crate::onnx::values;

/// Operators of the domain `com.microsoft` that are rewritten here.
pub(crate) const OF_ONNX_RUNTIME: [&str; 9] = [
    "QGemm",
    "QLinearAdd",
    "QLinearMul",
    "QLinearConcat",
    "QLinearAveragePool",
    "QLinearGlobalAveragePool",
    "QLinearLeakyRelu",
    "QLinearSigmoid",
    "QLinearSoftmax",
];

/// Where an operator has what. A tensor of codes is three inputs: codes, scale, zero.
struct Form {
    plain: &'static str,
    tensors: Vec<usize>,
    /// Scale and zero of the result; without, it is FP32.
    result: usize,
    /// Codes of 32 bits, whose scale is the product of those of the first two tensors.
    bias: Option<usize>,
    /// The axis that scales of the second tensor are along.
    outputs_axis: i64,
}

impl Form {
    fn of(node: &NodeProto) -> Option<Self> {
        let form = |plain, tensors: &[usize], result| Self {
            plain,
            tensors: tensors.to_vec(),
            result,
            bias: None,
            outputs_axis: 0,
        };
        let flag = |name: &str| node.attribute.iter().find(|a| a.name == name).map_or(0, |a| a.i);
        let number = |name: &str| node.attribute.iter().find(|a| a.name == name).map_or(1.0, |a| a.f);
        Some(match node.op_type.as_str() {
            "QLinearConv" => Self {
                bias: Some(8),
                ..form("Conv", &[0, 3], 6)
            },
            "QLinearMatMul" => Self {
                outputs_axis: -1,
                ..form("MatMul", &[0, 3], 6)
            },
            #[allow(clippy::float_cmp, reason = "attributes are stored, not computed")]
            "QGemm" if number("alpha") == 1.0 => Self {
                bias: Some(6),
                outputs_axis: i64::from(flag("transB") == 0),
                ..form("Gemm", &[0, 3], 7)
            },
            "QLinearAdd" => form("Add", &[0, 3], 6),
            "QLinearMul" => form("Mul", &[0, 3], 6),
            "QLinearConcat" => form("Concat", &(2..node.input.len()).step_by(3).collect::<Vec<_>>(), 0),
            "QLinearAveragePool" if flag("channels_last") == 0 => form("AveragePool", &[0], 3),
            "QLinearGlobalAveragePool" if flag("channels_last") == 0 => form("GlobalAveragePool", &[0], 3),
            "QLinearLeakyRelu" => form("LeakyRelu", &[0], 3),
            "QLinearSigmoid" => form("Sigmoid", &[0], 3),
            "QLinearSoftmax" if flag("opset") >= 13 => form("Softmax", &[0], 3),
            _ => return None,
        })
    }
}

/// Rewrites what fits; the rest stays.
pub(super) fn by_definition(graph: &mut GraphProto) {
    let mut nodes = Vec::with_capacity(graph.node.len());
    let mut biases = Vec::new();
    let known = constants(graph);
    for old in &graph.node {
        match Form::of(old).and_then(|form| defined(old, &form, &known)) {
            Some((plain, bias)) => {
                nodes.extend(plain);
                biases.extend(bias);
            }
            None => nodes.push(old.clone()),
        }
    }
    graph.node = nodes;
    graph.initializer.extend(biases);
}

fn defined(
    old: &NodeProto,
    form: &Form,
    known: &BTreeMap<&str, &TensorProto>,
) -> Option<(Vec<NodeProto>, Option<TensorProto>)> {
    let name = |at: usize| old.input.get(at).map(String::as_str).filter(|name| !name.is_empty());
    let y = old.output.first()?;
    let mut nodes = Vec::with_capacity(form.tensors.len() + 2);
    let mut inputs = Vec::with_capacity(form.tensors.len() + 1);
    for (number, at) in form.tensors.iter().enumerate() {
        let made = format!("{y}.{number}");
        let given: Vec<&str> = [name(*at)?, name(at + 1)?].into_iter().chain(name(at + 2)).collect();
        let mut floats = node("DequantizeLinear", &given, &made);
        if number == 1 {
            floats.attribute.push(axis(form.outputs_axis));
        }
        nodes.push(floats);
        inputs.push(made);
    }
    let bias = match form.bias.and_then(name) {
        Some(codes) => Some(bias_of(&format!("{y}.bias"), [codes, name(1)?, name(4)?], known)?),
        None => None,
    };
    inputs.extend(bias.as_ref().map(|tensor| tensor.name.clone()));
    let coded = format!("{y}.floats");
    let made = if name(form.result).is_some() { coded.as_str() } else { y };
    let mut plain = node(form.plain, &inputs.iter().map(String::as_str).collect::<Vec<_>>(), made);
    plain.attribute.clone_from(&old.attribute);
    let own = ["channels_last", "opset"];
    plain.attribute.retain(|a| !own.contains(&a.name.as_str()));
    nodes.push(plain);
    if let Some(scale) = name(form.result) {
        let given: Vec<&str> = [made, scale].into_iter().chain(name(form.result + 1)).collect();
        nodes.push(node("QuantizeLinear", &given, y));
    }
    Some((nodes, bias))
}

/// The FP32 numbers of a bias of codes.
fn bias_of(
    name: &str,
    [codes, x_scale, w_scale]: [&str; 3],
    known: &BTreeMap<&str, &TensorProto>,
) -> Option<TensorProto> {
    let codes = values::integers(known.get(codes)?)?;
    let (x_scale, scales) = (
        values::floats(known.get(x_scale)?)?,
        values::floats(known.get(w_scale)?)?,
    );
    if x_scale.len() != 1 || ![1, codes.len()].contains(&scales.len()) {
        return None;
    }
    let pairs = codes.iter().zip(scales.iter().cycle());
    let floats: Vec<f32> = pairs.map(|(code, scale)| small(*code) * (x_scale[0] * scale)).collect();
    Some(values::of_floats(
        name,
        vec![i64::try_from(floats.len()).ok()?],
        &floats,
    ))
}
