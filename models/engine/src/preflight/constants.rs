//! What a graph's small constants and declared shapes say, without running anything.

use std::collections::{BTreeMap, BTreeSet};

use proto::limits::RANK_MAX;
use tract_onnx::pb::tensor_proto::DataType as OnnxType;
use tract_onnx::pb::tensor_shape_proto::dimension;
use tract_onnx::pb::{GraphProto, NodeProto, TensorProto, type_proto};

use crate::onnx::values;

/// Shapes, repeats, indices: constants longer than this hold weights.
const ELEMENTS_MAX: usize = 4096;

/// Operators that give the kind of number that they take.
const SAME_KIND: [&str; 18] = [
    "Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Mean", "MatMul", "Gemm", "Relu", "Tanh", "Sigmoid", "Erf", "Exp",
    "Sqrt", "Neg", "Identity",
];

/// Known integers, known shapes and what surely holds floats, by tensor name.
pub(super) struct Constants<'a> {
    floating: BTreeSet<&'a str>,
    integers: BTreeMap<&'a str, Vec<i64>>,
    floats: BTreeMap<&'a str, Vec<f32>>,
    shapes: BTreeMap<&'a str, Vec<i64>>,
}

impl<'a> Constants<'a> {
    pub(super) fn of(graph: &'a GraphProto) -> Self {
        let mut known = Self {
            floating: BTreeSet::new(),
            integers: BTreeMap::new(),
            floats: BTreeMap::new(),
            shapes: BTreeMap::new(),
        };
        for tensor in &graph.initializer {
            known.add(&tensor.name, tensor);
        }
        for input in &graph.input {
            let Some(type_proto::Value::TensorType(tensor)) = input.r#type.as_ref().and_then(|t| t.value.as_ref())
            else {
                continue;
            };
            let dims = tensor
                .shape
                .iter()
                .flat_map(|shape| &shape.dim)
                .map(|dim| match dim.value {
                    Some(dimension::Value::DimValue(size)) => size,
                    _ => -1,
                });
            known.shapes.entry(&input.name).or_insert_with(|| dims.collect());
            known.hold(&input.name, tensor.elem_type);
        }
        for node in &graph.node {
            known.fold(node);
        }
        known
    }

    /// The elements of input `at`, if the file fixes them.
    pub(super) fn integers(&self, node: &NodeProto, at: usize) -> Option<&[i64]> {
        self.integers.get(node.input.get(at)?.as_str()).map(Vec::as_slice)
    }
    pub(super) fn floats(&self, node: &NodeProto, at: usize) -> Option<&[f32]> {
        self.floats.get(node.input.get(at)?.as_str()).map(Vec::as_slice)
    }
    /// Whether input `at` surely holds floats.
    pub(super) fn floating(&self, node: &NodeProto, at: usize) -> bool {
        node.input
            .get(at)
            .is_some_and(|name| self.floating.contains(name.as_str()))
    }
    /// The sizes of input `at`; -1 where the request chooses.
    pub(super) fn shape(&self, node: &NodeProto, at: usize) -> Option<&[i64]> {
        self.shapes.get(node.input.get(at)?.as_str()).map(Vec::as_slice)
    }

    /// The shape that a broadcasting operator or a matrix product makes; free sizes count as -1. `None` for other
    /// operators and unknown operands.
    pub(super) fn elementwise(&self, node: &NodeProto) -> Option<Vec<i64>> {
        let operands = || {
            (0..node.input.len())
                .map(|at| self.shape(node, at))
                .collect::<Option<Vec<_>>>()
        };
        match node.op_type.as_str() {
            "Add" | "Sub" | "Mul" | "Div" | "Mod" | "Pow" | "Max" | "Min" | "Sum" | "Mean" | "Where" | "And" | "Or"
            | "Xor" | "Equal" | "Greater" | "Less" | "GreaterOrEqual" | "LessOrEqual" | "PRelu" | "BitwiseAnd"
            | "BitwiseOr" | "BitwiseXor" => operands()?
                .into_iter()
                .map(<[i64]>::to_vec)
                .reduce(|a, b| broadcast(&a, &b)),
            "Cast" | "Identity" | "Neg" | "Abs" | "Exp" | "Log" | "Sqrt" | "Relu" | "Tanh" | "Sigmoid" | "Erf"
            | "Clip" | "Softmax" => self.shape(node, 0).map(<[i64]>::to_vec),
            "MatMul" => {
                let (&[ref outer_a @ .., m, _], &[ref outer_b @ .., _, n]) =
                    (self.shape(node, 0)?, self.shape(node, 1)?)
                else {
                    return None;
                };
                let mut shape = broadcast(outer_a, outer_b);
                shape.extend([m, n]);
                Some(shape)
            }
            _ => None,
        }
    }

    fn add(&mut self, name: &'a str, tensor: &TensorProto) {
        if values::count(tensor).is_some_and(|count| count <= ELEMENTS_MAX) {
            self.integers.extend(values::integers(tensor).map(|v| (name, v)));
            self.floats.extend(values::floats(tensor).map(|v| (name, v)));
        }
        self.shapes.insert(name, tensor.dims.clone());
        self.hold(name, tensor.data_type);
    }

    fn hold(&mut self, name: &'a str, kind: i32) {
        let floats = [OnnxType::Float, OnnxType::Float16, OnnxType::Double, OnnxType::Bfloat16];
        if floats.map(values::onnx).contains(&kind) {
            self.floating.insert(name);
        }
    }

    /// Follows the arithmetic that exporters do on shapes, so that a size cannot hide behind one addition.
    fn fold(&mut self, node: &'a NodeProto) {
        let Some(output) = node.output.first() else { return };
        if node.op_type == "Constant" {
            let attribute = |name: &str| node.attribute.iter().find(|a| a.name == name);
            if let Some(tensor) = attribute("value").and_then(|a| a.t.as_ref()) {
                self.add(output, tensor);
            } else if let Some(int) = attribute("value_int") {
                self.integers.insert(output, vec![int.i]);
            } else if let Some(ints) = attribute("value_ints") {
                self.integers.insert(output, ints.ints.clone());
            }
            return;
        }
        let pair = |op: fn(i64, i64) -> Option<i64>| {
            let (a, b) = (self.integers(node, 0)?, self.integers(node, 1)?);
            let length = a.len().max(b.len());
            let fits = |side: &[i64]| side.len() == length || side.len() == 1;
            if !fits(a) || !fits(b) {
                return None;
            }
            (0..length)
                .map(|i| op(a[i % a.len()], b[i % b.len()]))
                .collect::<Option<Vec<_>>>()
        };
        let folded = match node.op_type.as_str() {
            "Identity" | "Cast" | "Squeeze" | "Unsqueeze" | "Reshape" | "Flatten" => {
                self.integers(node, 0).map(<[i64]>::to_vec)
            }
            "Add" => pair(i64::checked_add),
            "Sub" => pair(i64::checked_sub),
            "Mul" => pair(i64::checked_mul),
            "Concat" => (0..node.input.len().min(RANK_MAX * 2))
                .map(|at| self.integers(node, at))
                .collect::<Option<Vec<_>>>()
                .map(|parts| parts.concat()),
            _ => None,
        };
        if let Some(shape) = self.elementwise(node) {
            self.shapes.insert(output, shape);
        }
        if SAME_KIND.contains(&node.op_type.as_str()) && (0..node.input.len()).any(|at| self.floating(node, at)) {
            self.floating.insert(output);
        }
        if let Some(folded) = folded.filter(|v| v.len() <= ELEMENTS_MAX) {
            self.integers.insert(output, folded);
        }
    }
}

/// Sizes aligned at the end; 1 and free sizes give way to the other side's.
fn broadcast(a: &[i64], b: &[i64]) -> Vec<i64> {
    let rank = a.len().max(b.len());
    let size = |side: &[i64], axis: usize| {
        (axis + side.len())
            .checked_sub(rank)
            .and_then(|at| side.get(at))
            .copied()
            .unwrap_or(1)
    };
    (0..rank).map(|axis| size(a, axis).max(size(b, axis))).collect()
}
