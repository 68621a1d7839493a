//! Moves normalisation by constants into the convolution before it, so that codes are made of the weights that count, and nothing is
//! normalised at a run.

use std::collections::{BTreeMap, BTreeSet};

use tract_onnx::pb::{GraphProto, NodeProto, TensorProto};

use crate::onnx::values;

/// Replaces `BatchNormalization(Conv(x, w [, b]))` by one convolution, where nothing else takes the convolution's output and
/// nothing else uses its weights. Graphs with subgraphs stay as they are.
///
/// With `gain = scale / sqrt(variance + epsilon)`: `w gain` and `(b - mean) gain + shift`.
pub(crate) fn fold_normalization(graph: &mut GraphProto) {
    if crate::onnx::has_subgraphs(graph) {
        return;
    }
    let constants: BTreeMap<&str, &TensorProto> = graph.initializer.iter().map(|t| (t.name.as_str(), t)).collect();
    let mut uses: BTreeMap<&str, usize> = BTreeMap::new();
    let inputs = graph.node.iter().flat_map(|node| &node.input);
    for name in inputs.chain(graph.output.iter().map(|info| &info.name)) {
        *uses.entry(name).or_default() += 1;
    }
    let makers: BTreeMap<&str, usize> = (0..)
        .zip(&graph.node)
        .flat_map(|(at, node)| node.output.iter().map(move |o| (o.as_str(), at)))
        .collect();
    let once = |name: &str| uses.get(name) == Some(&1);
    let is_free = |name: &str| !uses.contains_key(name) && !makers.contains_key(name) && !constants.contains_key(name);
    let mut folded: Vec<(usize, usize, Folded)> = Vec::new();
    for (at, node) in graph
        .node
        .iter()
        .enumerate()
        .filter(|(_, node)| node.op_type == "BatchNormalization")
    {
        let conv_at = node
            .input
            .first()
            .filter(|x| once(x))
            .and_then(|x| makers.get(x.as_str()));
        let Some((conv_at, conv)) = conv_at.and_then(|at| Some((*at, graph.node.get(*at)?))) else {
            continue;
        };
        if conv.op_type == "Conv"
            && conv.input.get(1).is_some_and(|w| once(w))
            && let Some(both) = both(conv, node, &constants)
            && is_free(&both.bias.name)
        {
            folded.push((conv_at, at, both));
        }
    }
    let gone: BTreeSet<usize> = folded.iter().map(|(_, at, _)| *at).collect();
    let replaced: BTreeSet<String> = folded.iter().map(|(.., both)| both.weight.name.clone()).collect();
    graph.initializer.retain(|tensor| !replaced.contains(&tensor.name));
    for (conv_at, at, both) in folded {
        let output = std::mem::take(&mut graph.node[at].output[0]);
        let conv = &mut graph.node[conv_at];
        conv.output = vec![output];
        conv.input.truncate(2);
        conv.input.push(both.bias.name.clone());
        graph.initializer.extend([both.weight, both.bias]);
    }
    let mut at = 0;
    graph.node.retain(|_| {
        at += 1;
        !gone.contains(&(at - 1))
    });
    crate::onnx::drop_unused(graph);
}

struct Folded {
    weight: TensorProto,
    bias: TensorProto,
}

fn both(conv: &NodeProto, norm: &NodeProto, constants: &BTreeMap<&str, &TensorProto>) -> Option<Folded> {
    let attribute = |name: &str| norm.attribute.iter().find(|a| a.name == name);
    let inferring = attribute("training_mode").is_none_or(|a| a.i == 0);
    let made = norm.output.first().is_some_and(|output| !output.is_empty());
    let alone = made && norm.output.iter().skip(1).all(String::is_empty);
    let vector = |at: usize| values::floats(constants.get(norm.input.get(at)?.as_str())?);
    let (scale, shift, mean, variance) = (vector(1)?, vector(2)?, vector(3)?, vector(4)?);
    let epsilon = f64::from(attribute("epsilon").map_or(1e-5, |a| a.f));
    let weight = constants.get(conv.input.get(1)?.as_str())?;
    let channels = usize::try_from(*weight.dims.first()?)
        .ok()
        .filter(|channels| *channels > 0)?;
    let bias = match conv.input.get(2).filter(|name| !name.is_empty()) {
        Some(name) => values::floats(constants.get(name.as_str())?)?,
        None => vec![0.0; channels],
    };
    let whole = [&scale, &shift, &mean, &variance, &bias]
        .iter()
        .all(|v| v.len() == channels);
    if !inferring || !alone || !whole {
        return None;
    }
    let gains: Vec<f64> = scale
        .iter()
        .zip(&variance)
        .map(|(s, v)| f64::from(*s) / (f64::from(*v) + epsilon).sqrt())
        .collect();
    let weights = values::floats(weight)?;
    let inner = weights.len() / channels;
    let weights: Vec<f32> = weights
        .iter()
        .enumerate()
        .map(|(at, w)| (f64::from(*w) * gains[at / inner.max(1)]) as f32)
        .collect();
    let moved = |c: usize| ((f64::from(bias[c]) - f64::from(mean[c])) * gains[c] + f64::from(shift[c])) as f32;
    let bias: Vec<f32> = (0..channels).map(moved).collect();
    Some(Folded {
        bias: values::of_floats(&format!("{}.folded-bias", weight.name), vec![weight.dims[0]], &bias),
        weight: values::of_floats(&weight.name, weight.dims.clone(), &weights),
    })
}

#[cfg(test)]
mod tests {
    use tract_onnx::pb::attribute_proto::AttributeType;
    use tract_onnx::pb::{AttributeProto, ModelProto};

    use super::*;
    use crate::graph::Graph;
    use crate::onnx::decode;
    use crate::tensor::of_f32s;
    use crate::testing::{self, floats, node, ramp};

    /// A convolution of 4 channels to 3, then a normalisation; `also` is another output.
    fn normalized(also: Option<&str>, bias: bool) -> ModelProto {
        let conv_inputs: &[&str] = if bias { &["x", "w", "b"] } else { &["x", "w"] };
        let nodes = vec![
            node("Conv", conv_inputs, "c"),
            node("BatchNormalization", &["c", "scale", "shift", "mean", "variance"], "n"),
            node("Relu", &["n"], "y"),
        ];
        let vector = |name: &str, values: [f32; 3]| values::of_floats(name, vec![3], &values);
        let constants = vec![
            values::of_floats("w", vec![3, 4, 3, 3], &ramp(108)),
            vector("b", [0.5, -1.0, 0.25]),
            vector("scale", [1.5, -0.5, 2.0]),
            vector("shift", [0.1, 1.0, -0.2]),
            vector("mean", [0.3, -0.4, 2.0]),
            vector("variance", [0.5, 4.0, 0.01]),
        ];
        let mut outputs: Vec<(&str, &[i64])> = vec![("y", &[-1, 3, 3, 3])];
        outputs.extend(also.map(|name| (name, &[-1_i64, 3, 3, 3][..])));
        decode(&testing::model(&[("x", &[-1, 4, 5, 5])], &outputs, nodes, constants)).unwrap()
    }

    fn folded(mut model: ModelProto) -> ModelProto {
        fold_normalization(model.graph.as_mut().unwrap());
        model
    }

    fn operators(model: &ModelProto) -> Vec<&str> {
        let nodes = &model.graph.as_ref().unwrap().node;
        nodes.iter().map(|node| node.op_type.as_str()).collect()
    }

    #[test]
    fn one_convolution_gives_what_both_gave() {
        for bias in [false, true] {
            let (before, after) = (normalized(None, bias), folded(normalized(None, bias)));
            assert_eq!(operators(&after), ["Conv", "Relu"]);
            assert_eq!(
                after.graph.as_ref().unwrap().initializer.len(),
                2,
                "constants that nothing uses are gone"
            );
            let answer = |model| {
                let x = of_f32s("x", vec![1, 4, 5, 5], &ramp(100));
                floats(&Graph::new(model).unwrap().run(&[x]).unwrap()[0])
            };
            let (before, after) = (answer(before), answer(after));
            assert!(before.iter().any(|x| *x > 0.1), "a test that shows nothing");
            assert!(
                before.iter().zip(&after).all(|(a, b)| (a - b).abs() < 2e-5),
                "{before:?} {after:?}"
            );
        }
    }

    #[test]
    fn a_convolution_that_others_need_as_it_was_stays() {
        let asked = folded(normalized(Some("c"), true));
        assert_eq!(operators(&asked), ["Conv", "BatchNormalization", "Relu"]);
        let mut shared = normalized(Some("other"), false);
        shared
            .graph
            .as_mut()
            .unwrap()
            .node
            .push(node("Conv", &["x", "w"], "other"));
        assert_eq!(
            operators(&folded(shared)),
            ["Conv", "BatchNormalization", "Relu", "Conv"]
        );
    }

    #[test]
    fn a_graph_whose_branches_may_take_anything_stays_as_it_is() {
        let mut model = normalized(None, false);
        let branch = GraphProto {
            node: vec![node("Conv", &["x", "w"], "inner")],
            ..GraphProto::default()
        };
        let mut choice = node("If", &["condition"], "chosen");
        choice.attribute = vec![AttributeProto {
            name: "then_branch".to_owned(),
            r#type: AttributeType::Graph.into(),
            g: Some(branch),
            ..AttributeProto::default()
        }];
        model.graph.as_mut().unwrap().node.push(choice);
        assert_eq!(folded(model.clone()), model);
    }

    #[test]
    fn a_normalisation_that_gives_nothing_and_a_name_that_is_taken_are_left_alone() {
        let mut nothing = normalized(None, false);
        let nodes = &mut nothing.graph.as_mut().unwrap().node;
        nodes[1].output.clear();
        nodes.truncate(2);
        assert_eq!(operators(&folded(nothing)), ["Conv", "BatchNormalization"]);

        let mut taken = normalized(None, false);
        let graph = taken.graph.as_mut().unwrap();
        graph.node.push(node("Relu", &["y"], "w.folded-bias"));
        let after = folded(taken);
        assert_eq!(operators(&after), ["Conv", "BatchNormalization", "Relu", "Relu"]);
    }
}
