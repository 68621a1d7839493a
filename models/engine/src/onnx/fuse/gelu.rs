//! Finds GELU by the hyperbolic tangent, however its products are cut into nodes.
//!
//! ```text
//!   0.5 x (1 + Tanh(0.79788 (x + 0.044715 x x x)))   ->  Gelu(x), approximate = "tanh"
//! ```
//! Factors stand in any order, and the cube may be a power. The formula is Hendrycks and Gimpel's (arXiv 1606.08415).

use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::{AttributeProto, NodeProto};

use super::{Uses, renamed, two};

/// How far constants may be from the formula's, which exporters write with few digits.
const NEAR: f32 = 1e-4;
/// Products within products to look into.
const DEPTH: usize = 4;

/// What a tensor is a product of: a number, and tensors.
struct Product<'a> {
    number: f32,
    tensors: Vec<&'a str>,
}

/// The one node instead of the last product, if that is what this product ends.
pub(super) fn gelu(uses: &Uses<'_>, node: &NodeProto) -> Option<NodeProto> {
    let whole = product(uses, node.output.first()?, DEPTH)?;
    let [a, b] = <[&str; 2]>::try_from(whole.tensors).ok()?;
    if !near(whole.number, 0.5) {
        return None;
    }
    let x = if is_share(uses, b, a) {
        a
    } else {
        is_share(uses, a, b).then_some(b)?
    };
    let mut fused = renamed(node, "Gelu", &[x]);
    fused.attribute = vec![AttributeProto {
        name: "approximate".to_owned(),
        r#type: AttributeType::String.into(),
        s: b"tanh".to_vec(),
        ..AttributeProto::default()
    }];
    Some(fused)
}

/// Whether `share` is `1 + Tanh(0.79788 (x + 0.044715 x x x))`.
fn is_share(uses: &Uses<'_>, share: &str, x: &str) -> bool {
    let found = || {
        let tanh = uses.maker(plus(uses, share, |number| near(number, 1.0))?, "Tanh")?;
        let inner = product(uses, tanh.input.first()?, DEPTH)?;
        let [sum] = <[&str; 1]>::try_from(inner.tensors).ok()?;
        let [a, b] = two(&uses.maker(sum, "Add")?.input)?;
        let cube = product(uses, if a == x { b } else { a }, DEPTH)?;
        let around = (a == x || b == x) && near(inner.number, (2.0 / std::f32::consts::PI).sqrt());
        Some(around && near(cube.number, 0.044_715) && cube.tensors == [x; 3])
    };
    found() == Some(true)
}

/// The other term of a sum with a number that fits.
fn plus<'a>(uses: &Uses<'a>, sum: &str, fits: impl Fn(f32) -> bool) -> Option<&'a str> {
    let [a, b] = two(&uses.maker(sum, "Add")?.input)?;
    match (uses.number(a), uses.number(b)) {
        (Some(number), None) => fits(number).then_some(b),
        (None, Some(number)) => fits(number).then_some(a),
        _ => None,
    }
}

/// What a tensor is a product of; of itself where no product makes it.
fn product<'a>(uses: &Uses<'a>, tensor: &'a str, depth: usize) -> Option<Product<'a>> {
    if let Some(number) = uses.number(tensor) {
        return Some(Product {
            number,
            tensors: vec![],
        });
    }
    let itself = || Product {
        number: 1.0,
        tensors: vec![tensor],
    };
    let Some(left) = depth.checked_sub(1) else {
        return Some(itself());
    };
    if let Some([x, power]) = uses.maker(tensor, "Pow").and_then(|node| two(&node.input))
        && uses.number(power).is_some_and(|power| near(power, 3.0))
    {
        return Some(Product {
            number: 1.0,
            tensors: vec![x; 3],
        });
    }
    let Some([a, b]) = uses.maker(tensor, "Mul").and_then(|node| two(&node.input)) else {
        return Some(itself());
    };
    let (mut a, b) = (product(uses, a, left)?, product(uses, b, left)?);
    a.number *= b.number;
    a.tensors.extend(b.tensors);
    Some(a)
}

fn near(number: f32, wanted: f32) -> bool {
    (number - wanted).abs() <= NEAR * wanted
}

#[cfg(test)]
mod tests {
    use super::super::fuse;
    use super::*;
    use crate::graph::Graph;
    use crate::onnx::values::of_floats;
    use crate::tensor::of_f32s;
    use crate::testing::{floats, model_proto, node};

    /// As JAX writes it, with this cube and these factors at the end.
    fn written(cube: Vec<NodeProto>, end: Vec<NodeProto>, inner: f32) -> tract_onnx::pb::ModelProto {
        let mut nodes = cube;
        nodes.extend([
            node("Add", &["x", "cube"], "sum"),
            node("Mul", &["inner", "sum"], "scaled"),
            node("Tanh", &["scaled"], "tanh"),
            node("Add", &["one", "tanh"], "share"),
        ]);
        nodes.extend(end);
        for node in &mut nodes {
            node.name.push_str(&node.output[0]);
        }
        let number = |name: &str, number: f32| of_floats(name, vec![], &[number]);
        let numbers = vec![
            number("inner", inner),
            number("one", 1.0),
            number("half", 0.5),
            number("few", 0.044_715),
            number("three", 3.0),
        ];
        let spec: (&str, &[i64]) = ("x", &[-1, 4]);
        model_proto(&[spec], &[("y", &[-1, 4])], nodes, numbers)
    }

    fn operators(model: &tract_onnx::pb::ModelProto) -> Vec<String> {
        let mut graph = model.graph.clone().unwrap();
        fuse(&mut graph, false);
        graph.node.into_iter().map(|node| node.op_type).collect()
    }

    const INNER: f32 = 0.797_884_6;

    #[test]
    fn every_way_to_write_it_becomes_one_node_and_answers_the_same() {
        let products = || {
            vec![
                node("Mul", &["few", "x"], "a"),
                node("Mul", &["x", "a"], "b"),
                node("Mul", &["x", "b"], "cube"),
            ]
        };
        let power = || vec![node("Pow", &["x", "three"], "p"), node("Mul", &["p", "few"], "cube")];
        let ends = [
            vec![node("Mul", &["half", "share"], "s"), node("Mul", &["x", "s"], "y")],
            vec![node("Mul", &["x", "half"], "s"), node("Mul", &["s", "share"], "y")],
            vec![node("Mul", &["share", "x"], "s"), node("Mul", &["s", "half"], "y")],
        ];
        for cube in [products(), power()] {
            for end in ends.clone() {
                let model = written(cube.clone(), end, INNER);
                assert!(operators(&model).contains(&"Gelu".to_owned()));
                let x = [-3.0, -0.5, 0.25, 4.0];
                let graph = Graph::new(model).unwrap();
                let y = floats(&graph.run(&[of_f32s("x", vec![1, 4], &x)]).unwrap()[0]);
                for (x, y) in x.iter().zip(y) {
                    let x = f64::from(*x);
                    let exact = 0.5 * x * (1.0 + (f64::from(INNER) * (x + 0.044_715 * x.powi(3))).tanh());
                    assert!((f64::from(y) - exact).abs() < 2e-6, "{x}: {y} {exact}");
                }
            }
        }
    }

    #[test]
    fn what_is_almost_it_stays_as_it_is() {
        let cube = || vec![node("Mul", &["x", "x"], "b"), node("Mul", &["few", "b"], "cube")];
        let end = || vec![node("Mul", &["half", "share"], "s"), node("Mul", &["x", "s"], "y")];
        let squares = written(cube(), end(), INNER);
        let mut cubes = cube();
        cubes[1] = node("Mul", &["b", "x"], "c");
        cubes.push(node("Mul", &["few", "c"], "cube"));
        let other = written(cubes.clone(), end(), 0.8);
        let whole = written(cubes, vec![node("Mul", &["x", "share"], "y")], INNER);
        for model in [squares, other, whole] {
            assert!(!operators(&model).contains(&"Gelu".to_owned()));
        }
    }
}
