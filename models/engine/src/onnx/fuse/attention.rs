//! Finds attention as exporters write it: products of turned queries and keys, softmax, products with turned values, turned back.
//!
//! ```text
//!   q [b,s,h,d] -turn-> [b,h,s,d] --\
//!   k [b,s,h,d] -turn-> [b,h,d,s] -- MatMul [* or / scale] [+ mask] - Softmax - MatMul -turn-> [b,s,h,d]
//!   v [b,s,h,d] -turn-> [b,h,s,d] ------------------------------------------------/
//! ```
//! Only the last turn is replaced, by the operator that takes `q`, `k`, `v` and the mask; what nobody reads any more is
//! dropped by the engine. Queries, keys and values must be layers of one tensor, and heads split by constants, so that their number and width are known to agree.

use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::{AttributeProto, NodeProto};

use super::{ATTENTION, SCALE, Uses, two};

const HEADS_FIRST: [i64; 4] = [0, 2, 1, 3];

/// The replaced node's place and the node in its stead, for a `Softmax`.
pub(super) fn attention(uses: &Uses<'_>, softmax: &NodeProto) -> Option<(usize, NodeProto)> {
    let last_axis = softmax
        .attribute
        .iter()
        .any(|a| a.name == "axis" && (a.i == -1 || a.i == 3));
    let shares = softmax.output.first().filter(|_| last_axis)?;
    let (_, mix) = uses.taken_only_by(shares, "MatMul")?;
    let [left, value] = two(&mix.input)?;
    let (at, back) = uses.taken_only_by(mix.output.first()?, "Transpose")?;
    if left != shares || turn(back) != HEADS_FIRST {
        return None;
    }
    let value = uses.turned(value, &HEADS_FIRST)?;
    let (product, scale, mask) = scores(uses, softmax.input.first()?)?;
    let [query, key] = two(&product.input)?;
    let query = uses.turned(query, &HEADS_FIRST)?;
    let key = uses.turned(key, &[0, 2, 3, 1]).or_else(|| {
        let turned = uses.maker(key, "Transpose").filter(|node| turn(node) == [0, 1, 3, 2])?;
        uses.turned(turned.input.first()?, &HEADS_FIRST)
    })?;
    // Of one tensor all have one batch; queries that were learnt have a batch of their own, which products may broadcast.
    let origin = uses.origin(query)?;
    if uses.origin(key)? != origin || uses.origin(value)? != origin {
        return None;
    }
    let heads = uses.split(query)?;
    if uses.split(key)? != heads || uses.split(value)? != heads {
        return None;
    }
    let inputs = [query, key, value].into_iter().chain(mask);
    let scale = AttributeProto {
        name: SCALE.to_owned(),
        r#type: AttributeType::Float.into(),
        f: scale,
        ..AttributeProto::default()
    };
    let node = NodeProto {
        op_type: ATTENTION.to_owned(),
        input: inputs.map(str::to_owned).collect(),
        attribute: vec![scale],
        ..back.clone()
    };
    Some((at, node))
}

/// The product of queries and keys behind the scores, what scales it, and what is added.
fn scores<'a>(uses: &Uses<'a>, scores: &str) -> Option<(&'a NodeProto, f32, Option<&'a str>)> {
    if let Some((product, scale)) = scaled(uses, scores) {
        return Some((product, scale, None));
    }
    let sum = uses
        .maker(scores, "Add")
        .filter(|_| uses.only_taker(scores).is_some())?;
    let [a, b] = two(&sum.input)?;
    [(a, b), (b, a)].into_iter().find_map(|(scores, mask)| {
        let (product, scale) = scaled(uses, scores)?;
        Some((product, scale, Some(mask)))
    })
}

/// A product, possibly multiplied or divided by a constant.
fn scaled<'a>(uses: &Uses<'a>, scores: &str) -> Option<(&'a NodeProto, f32)> {
    uses.only_taker(scores)?;
    if let Some(product) = uses.maker(scores, "MatMul") {
        return Some((product, 1.0));
    }
    let (node, divided) = uses
        .maker(scores, "Mul")
        .map(|node| (node, false))
        .or_else(|| uses.maker(scores, "Div").map(|node| (node, true)))?;
    let [a, b] = two(&node.input)?;
    let (product, by) = match (uses.number(b), uses.number(a)) {
        (Some(by), _) => (a, by),
        (None, Some(by)) if !divided => (b, by),
        _ => return None,
    };
    uses.only_taker(product)?;
    Some((uses.maker(product, "MatMul")?, if divided { 1.0 / by } else { by }))
}

/// The order of axes that a `Transpose` makes.
pub(super) fn turn(node: &NodeProto) -> &[i64] {
    node.attribute
        .iter()
        .find(|a| a.name == "perm")
        .map_or(&[], |a| a.ints.as_slice())
}
