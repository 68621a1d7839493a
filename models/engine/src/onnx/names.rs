//! Names of nodes: ONNX asks for none, and lets several nodes have the same; tract asks that each has its own.

use std::collections::BTreeSet;

use tract_onnx::pb::GraphProto;

/// Gives each node a name that no other node, input or constant of its graph has. Nodes that have one keep it; those that have none are
/// called after what they make.
pub(crate) fn name_apart(graph: &mut GraphProto) {
    let inputs = graph.input.iter().map(|info| &info.name);
    let constants = graph.initializer.iter().map(|tensor| &tensor.name);
    let mut taken: BTreeSet<String> = inputs.chain(constants).cloned().collect();
    for (at, node) in graph.node.iter_mut().enumerate() {
        if node.name.is_empty() {
            let makes = node.output.iter().find(|output| !output.is_empty());
            node.name = makes.cloned().unwrap_or_else(|| node.op_type.clone());
        }
        while !taken.insert(node.name.clone()) {
            node.name = format!("{}#{at}", node.name);
        }
        for inner in node.attribute.iter_mut().filter_map(|a| a.g.as_mut()) {
            name_apart(inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Graph;
    use crate::onnx::values;
    use crate::tensor::of_f32s;
    use crate::testing::{floats, model_proto, node, ramp};

    fn named(name: &str, operator: &str, inputs: &[&str], output: &str) -> tract_onnx::pb::NodeProto {
        tract_onnx::pb::NodeProto {
            name: name.to_owned(),
            ..node(operator, inputs, output)
        }
    }

    #[test]
    fn nodes_of_one_name_and_of_none_run_as_those_of_names_of_their_own() {
        let run = |names: [&str; 5]| {
            let nodes = vec![
                named(names[0], "MatMul", &["x", "w"], "a"),
                named(names[1], "Add", &["a", "b"], "c"),
                named(names[2], "Relu", &["c"], "d"),
                named(names[3], "Add", &["d", "b"], "e"),
                named(names[4], "Sigmoid", &["e"], "y"),
            ];
            let weights = vec![
                values::of_floats("w", vec![4, 4], &ramp(16)),
                values::of_floats("b", vec![4], &ramp(4)),
            ];
            let model = model_proto(&[("x", &[-1, 4])], &[("y", &[-1, 4])], nodes, weights);
            let graph = Graph::new(model).unwrap();
            floats(&graph.run(&[of_f32s("x", vec![2, 4], &ramp(8))]).unwrap()[0])
        };
        let own = run(["one", "two", "three", "four", "five"]);
        for alike in [
            ["n"; 5],
            [""; 5],
            ["x", "w", "b", "y", "a"],
            ["", "a", "a#1", "a", "a#3"],
        ] {
            assert_eq!(run(alike), own, "{alike:?}");
        }
    }

    #[test]
    fn a_name_that_is_a_nodes_own_stays() {
        let nodes = vec![
            named("first", "Relu", &["x"], "a"),
            named("first", "Relu", &["a"], "b"),
            named("", "Relu", &["b"], "y"),
        ];
        let mut model = model_proto(&[("x", &[-1, 4])], &[("y", &[-1, 4])], nodes, vec![]);
        let graph = model.graph.as_mut().unwrap();
        name_apart(graph);
        let names: Vec<&str> = graph.node.iter().map(|node| node.name.as_str()).collect();
        assert_eq!(names, ["first", "first#1", "y"]);
    }
}
