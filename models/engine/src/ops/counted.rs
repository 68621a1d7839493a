//! Operators of tract's whose rules count axes, from none to one that an attribute names or a rank has, and never look whether there
//! are so many: of a tensor without axes the last one is `0 - 1`, so they would count for ever.
//!
//! Here such an operator is asked only about tensors that have the axes it counts.

use std::collections::HashMap;
use std::sync::LazyLock;

use tract_onnx::model::{OnnxOpRegister, ParsingContext};
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_hir::internal::{
    Factoid as _, InferenceFact, InferenceModel, InferenceModelPatch, InferenceNode, InferenceOp,
};

/// What a tensor must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Needs {
    /// So many axes, or more.
    Axes(i64),
    /// The axis that the attribute `axis` names, or its last one.
    Axis,
    /// That axis when it has one more.
    NewAxis,
}

/// Each operator, the input that it counts the axes of, and what that must have.
const COUNTED: [(&str, usize, Needs); 8] = [
    ("LayerNormalization", 0, Needs::Axis),
    ("RMSNormalization", 0, Needs::Axis),
    ("SimplifiedLayerNormalization", 0, Needs::Axis),
    ("OneHot", 0, Needs::NewAxis),
    ("GatherND", 1, Needs::Axes(1)),
    ("MatMulNBits", 0, Needs::Axes(1)),
    ("DFT", 0, Needs::Axes(1)),
    ("GridSample", 0, Needs::Axes(2)),
];

/// Puts the question before tract's rules.
pub(super) fn register(operators: &mut OnnxOpRegister) {
    for (name, ..) in COUNTED {
        operators.insert(name, parse);
    }
}

fn parse(ctx: &ParsingContext<'_>, node: &NodeProto) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    /// As they are without us.
    static TRACTS: LazyLock<OnnxOpRegister> = LazyLock::new(|| tract_onnx::onnx().op_register);
    let parse = TRACTS.0.get(&node.op_type).context("an operator of tract's")?;
    let (_, input, needs) = COUNTED
        .into_iter()
        .find(|(name, ..)| *name == node.op_type)
        .context("an operator that counts")?;
    let axis = node.attribute.iter().find(|a| a.name == "axis").map_or(-1, |a| a.i);
    let (op, closures) = parse(ctx, node)?;
    let op = Counted { op, input, needs, axis };
    Ok((Box::new(op), closures))
}

#[derive(Clone, Debug)]
struct Counted {
    op: Box<dyn InferenceOp>,
    input: usize,
    needs: Needs,
    axis: i64,
}

impl Counted {
    fn judge(&self, rank: i64) -> TractResult<()> {
        let (name, axis) = (self.op.name(), self.axis);
        match self.needs {
            Needs::Axes(least) => ensure!(rank >= least, "{name} of a tensor of {rank} axes needs {least}"),
            Needs::Axis => ensure!((-rank..rank).contains(&axis), "{name} on axis {axis} of {rank}"),
            Needs::NewAxis => ensure!((-rank - 1..=rank).contains(&axis), "{name} makes axis {axis} of {rank}"),
        }
        Ok(())
    }
}

impl PartialEq for Counted {
    fn eq(&self, _: &Self) -> bool {
        false
    }
}
impl Eq for Counted {}

impl Op for Counted {
    fn name(&self) -> StaticName {
        self.op.name()
    }
    not_a_typed_op!();
}

impl EvalOp for Counted {
    fn eval_out_of_plan(&self, inputs: TVec<TValue>) -> TractResult<Option<TVec<TValue>>> {
        self.op.eval_out_of_plan(inputs)
    }
}

impl InferenceOp for Counted {
    /// Nothing is said while the rank is unknown: it becomes known before the graph is typed, and then this is asked again.
    fn infer_facts(
        &mut self,
        inputs: TVec<&InferenceFact>,
        outputs: TVec<&InferenceFact>,
        observed: TVec<&InferenceFact>,
    ) -> TractResult<(TVec<InferenceFact>, TVec<InferenceFact>, TVec<InferenceFact>)> {
        let rank = inputs.get(self.input).and_then(|fact| fact.shape.rank().concretize());
        let Some(rank) = rank else {
            let known = |facts: TVec<&InferenceFact>| facts.into_iter().cloned().collect();
            return Ok((known(inputs), known(outputs), known(observed)));
        };
        self.judge(rank)?;
        self.op.infer_facts(inputs, outputs, observed)
    }

    fn incorporate(&self, model: &InferenceModel, node: &InferenceNode) -> TractResult<Option<InferenceModelPatch>> {
        self.op.incorporate(model, node)
    }

    fn nboutputs(&self) -> TractResult<usize> {
        self.op.nboutputs()
    }

    fn as_op(&self) -> &dyn Op {
        self
    }

    fn as_op_mut(&mut self) -> &mut dyn Op {
        self
    }

    fn to_typed(
        &self,
        source: &InferenceModel,
        node: &InferenceNode,
        target: &mut TypedModel,
        mapping: &HashMap<OutletId, OutletId>,
    ) -> TractResult<TVec<OutletId>> {
        self.op.to_typed(source, node, target, mapping)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Graph;
    use crate::onnx::{decode, values};
    use crate::testing::{int64s, model, node, ramp, with_int};

    /// Why a graph of this node, whose input has no axes, does not run.
    fn refused(of: NodeProto, constants: Vec<tract_onnx::pb::TensorProto>) -> String {
        let file = model(&[("x", &[])], &[("y", &[])], vec![of], constants);
        let decoded = decode(&file).unwrap();
        crate::preflight::check(&decoded).unwrap();
        let graph = Graph::new(decoded);
        graph.map_or_else(|e| e.to_string(), |graph| graph.try_zeros().unwrap_err().to_string())
    }

    /// Without the question each of these counts to 2^64, and most keep a rule for each number.
    #[test]
    fn an_axis_that_a_tensor_has_not_is_refused_by_its_node_and_never_counted_to() {
        let number = || values::of_floats("w", vec![1], &[1.0]);
        let whole = |name: &str| int64s(name, &[1], &[0]);
        let tables = || {
            vec![
                int64s("depth", &[], &[3]),
                values::of_floats("values", vec![2], &ramp(2)),
            ]
        };
        for name in ["LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"] {
            let mut of = node(name, &["x", "w"], "y");
            // The rules count only for those who ask for more than the first output.
            of.output.extend(
                ["mean".to_owned(), "by".to_owned()]
                    .into_iter()
                    .take(if name.starts_with('L') { 2 } else { 1 }),
            );
            let told = refused(of.clone(), vec![number()]);
            assert!(told.contains(&of.name), "{told}");
            let told = refused(with_int(of.clone(), "axis", 1 << 40), vec![number()]);
            assert!(told.contains(&of.name), "{told}");
        }
        for axis in [-2, 1 << 40] {
            let of = with_int(node("OneHot", &["x", "depth", "values"], "y"), "axis", axis);
            assert!(refused(of, tables()).contains("the-onehot"));
        }
        let mut indices = whole("w");
        indices.dims.clear();
        assert!(refused(node("GatherND", &["x", "w"], "y"), vec![indices]).contains("the-gathernd"));
        assert!(refused(node("DFT", &["x"], "y"), vec![]).contains("the-dft"));
        assert!(refused(node("GridSample", &["x", "x"], "y"), vec![]).contains("the-gridsample"));
    }

    #[test]
    fn an_axis_that_a_tensor_has_is_normalised_as_before() {
        let scale = values::of_floats("w", vec![4], &[1.0; 4]);
        for axis in [-1, 1] {
            let of = with_int(node("RMSNormalization", &["x", "w"], "y"), "axis", axis);
            let file = model(&[("x", &[-1, 4])], &[("y", &[-1, 4])], vec![of], vec![scale.clone()]);
            let graph = Graph::new(decode(&file).unwrap()).unwrap();
            let row = crate::tensor::of_f32s("x", vec![1, 4], &[2.0, -2.0, 2.0, -2.0]);
            let answer = crate::testing::floats(&graph.run(&[row]).unwrap()[0]);
            assert!(answer.iter().all(|y| (y.abs() - 1.0).abs() < 1e-4), "{answer:?}");
        }
    }
}
