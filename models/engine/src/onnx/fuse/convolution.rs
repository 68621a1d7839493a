//! Finds convolutions, with coded or FP32 weights, and the one operator after each that the convolution can do on its way out.
//!
//! ```text
//!   Conv - Relu | Clip | HardSwish            Conv -+- Sigmoid -+- Mul
//!                                                   \-----------/
//! ```

use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::{AttributeProto, NodeProto, TensorProto};

use tract_onnx::pb::tensor_proto::DataType as OnnxType;

use super::{
    ACTIVATION, CHANNELS, CLIP, CONV, DEPTHWISE, EXACT_CONV, HARD_SWISH, HIGH, LOW, MAX_POOL, SILU, UP_CONV, Uses,
    packs, renamed, two, values,
};

/// Pixels of padding on a side; dilated windows of real models have 36.
const PADS_MAX: i64 = 255;
/// Pixels on a side that one pixel becomes.
const UP_MAX: i64 = 16;
/// Nodes that may stand between a convolution and a pool.
const BEHIND: usize = 6;

type Changes = Vec<(usize, Option<NodeProto>)>;

/// What to do to the nodes at these places, for a `Conv` at `at`.
pub(super) fn convolution(uses: &Uses<'_>, at: usize, node: &NodeProto, codes: bool) -> Option<Changes> {
    let [x, weight, bias @ ..] = node.input.as_slice() else {
        return None;
    };
    let (operator, dims, mut inputs) = match uses.coded.get(weight.as_str()) {
        Some(coded) if coded.axis == 0 && codes => (CONV, coded.dims, vec![x.as_str(), coded.codes, coded.scales]),
        Some(_) => return None,
        None => {
            let plain = uses.constants.get(weight.as_str())?;
            let (dims, inputs) = (plain_dims(plain)?, vec![x.as_str(), weight.as_str()]);
            (if apart(node, dims) { DEPTHWISE } else { EXACT_CONV }, dims, inputs)
        }
    };
    if !slides(node, dims) {
        return None;
    }
    if let Some(bias) = bias.first().filter(|name| !name.is_empty()) {
        if uses.vectors.get(bias.as_str()) != dims.first() {
            return None;
        }
        inputs.push(bias);
    }
    let mut fused = renamed(node, operator, &inputs);
    fused.attribute.retain(|a| a.name != ACTIVATION);
    let mut changes = vec![(at, None)];
    let place = match activation(uses, node.output.first()?) {
        Some((attributes, output, done)) => {
            fused.attribute.extend(attributes);
            fused.output = vec![output.to_owned()];
            changes.extend(done.iter().map(|at| (*at, None)));
            done.last().copied().unwrap_or(at)
        }
        None => at,
    };
    changes.retain(|(at, _)| *at != place);
    changes.push((place, Some(fused)));
    Some(changes)
}

/// The sizes of a constant of FP32 numbers.
fn plain_dims(constant: &TensorProto) -> Option<&[i64]> {
    (constant.data_type == values::onnx(OnnxType::Float)).then_some(constant.dims.as_slice())
}

fn groups(node: &NodeProto) -> i64 {
    node.attribute.iter().find(|a| a.name == "group").map_or(1, |a| a.i)
}

/// Whether each channel is summed by itself.
fn apart(node: &NodeProto, dims: &[i64]) -> bool {
    matches!(dims, [outputs, 1, ..] if groups(node) == *outputs)
}

/// Whether it is one of ours: a window of ours, channels all mixed or all apart.
fn slides(node: &NodeProto, dims: &[i64]) -> bool {
    let [_, inputs, sides @ ..] = dims else {
        return false;
    };
    let declared = node.attribute.iter().find(|a| a.name == "kernel_shape");
    let declared = declared.is_none_or(|a| a.ints == sides);
    let taps = sides.iter().try_fold(*inputs, |all, side| all.checked_mul(*side));
    let mixes = apart(node, dims) || groups(node) == 1;
    declared && mixes && is_window(node, sides) && taps.is_some_and(packs)
}

/// A convolution turned round whose windows lie side by side: each pixel becomes as many as a window has.
pub(super) fn enlarging(uses: &Uses<'_>, node: &NodeProto) -> Option<NodeProto> {
    let [_, weight, bias @ ..] = node.input.as_slice() else {
        return None;
    };
    let coded = uses.coded.get(weight.as_str()).map(|coded| coded.dims);
    let dims = coded.or_else(|| plain_dims(uses.constants.get(weight.as_str())?))?;
    let [inputs, outputs, rows, columns] = <&[i64; 4]>::try_from(dims).ok()?;
    let ints = |name: &str| {
        node.attribute
            .iter()
            .find(|a| a.name == name)
            .map(|a| a.ints.as_slice())
    };
    let sides = [*rows, *columns];
    let beside = ints("strides") == Some(&sides) && ints("kernel_shape").is_none_or(|shape| shape == sides);
    let all = |name: &str, value: i64| ints(name).is_none_or(|ints| ints.iter().all(|int| *int == value));
    let whole = all("pads", 0) && all("output_padding", 0) && all("dilations", 1) && ints("output_shape").is_none();
    let padded = node.attribute.iter().all(|a| a.name != "auto_pad" || a.s == b"NOTSET");
    let biased = match bias.first().filter(|name| !name.is_empty()) {
        Some(bias) => uses.vectors.get(bias.as_str()) == Some(outputs),
        None => true,
    };
    let few = sides.iter().all(|side| (1..=UP_MAX).contains(side)) && packs(*inputs) && *outputs > 0;
    (beside && whole && padded && biased && few && groups(node) == 1).then(|| NodeProto {
        op_type: UP_CONV.to_owned(),
        ..node.clone()
    })
}

/// Whether it has one or two sides and explicit padding, of which there may be no more than rows of lines should hold.
fn is_window(node: &NodeProto, sides: &[i64]) -> bool {
    let attribute = |name: &str| node.attribute.iter().find(|a| a.name == name);
    let few = attribute("pads").is_none_or(|a| a.ints.iter().all(|pad| (0..=PADS_MAX).contains(pad)));
    let padded = few && attribute("auto_pad").is_none_or(|a| a.s.as_slice() == b"NOTSET");
    let paired = |name: &str, each: usize| attribute(name).is_none_or(|a| a.ints.len() == sides.len() * each);
    matches!(sides.len(), 1 | 2) && padded && paired("strides", 1) && paired("dilations", 1) && paired("pads", 2)
}

/// The largest under a window of what a convolution gave: only there the image lies as this operator takes it.
pub(super) fn pool(uses: &Uses<'_>, node: &NodeProto, codes: bool) -> Option<NodeProto> {
    let attribute = |name: &str| node.attribute.iter().find(|a| a.name == name);
    let x = node.input.first()?;
    let sides = &attribute("kernel_shape")?.ints;
    let pads = attribute("pads").map_or(&[][..], |a| &a.ints);
    // A window that saw nothing but padding would have no largest number.
    let seen = pads.iter().zip(sides.iter().cycle()).all(|(pad, side)| pad < side);
    let floors = attribute("ceil_mode").is_none_or(|a| a.i == 0) && node.output.len() == 1;
    let channels = channels(uses, x, codes, BEHIND).filter(|_| seen && floors && is_window(node, sides))?;
    let mut fused = renamed(node, MAX_POOL, &[x]);
    fused.attribute.push(AttributeProto {
        name: CHANNELS.to_owned(),
        r#type: AttributeType::Int.into(),
        i: channels,
        ..AttributeProto::default()
    });
    Some(fused)
}

/// Channels of what a convolution of ours gave, maybe activated or pooled since.
fn channels(uses: &Uses<'_>, tensor: &str, codes: bool, behind: usize) -> Option<i64> {
    let node = uses.makers.get(tensor).copied()?;
    match node.op_type.as_str() {
        "Conv" => {
            let weight = node.input.get(1)?.as_str();
            let dims = match uses.coded.get(weight) {
                Some(coded) => coded
                    .dims
                    .first()
                    .filter(|_| codes && coded.axis == 0)
                    .map(|_| coded.dims)?,
                None => plain_dims(uses.constants.get(weight)?)?,
            };
            dims.first().copied().filter(|_| slides(node, dims))
        }
        // A product may have the channels of either factor.
        "Mul" => {
            let [a, b] = two(&node.input)?;
            let of = channels(uses, a, codes, behind.checked_sub(1)?)?;
            (channels(uses, b, codes, behind.checked_sub(1)?)? == of).then_some(of)
        }
        "Relu" | "Clip" | "HardSwish" | "Sigmoid" | "MaxPool" => {
            channels(uses, node.input.first()?, codes, behind.checked_sub(1)?)
        }
        _ => None,
    }
}

/// The attributes that say what follows, the tensor that is then made, and the places of the nodes that did it, in order.
fn activation<'a>(uses: &Uses<'a>, made: &str) -> Option<(Vec<AttributeProto>, &'a str, Vec<usize>)> {
    let named = |name: &str| AttributeProto {
        name: ACTIVATION.to_owned(),
        r#type: AttributeType::String.into(),
        s: name.as_bytes().to_vec(),
        ..AttributeProto::default()
    };
    let bound = |name: &str, value: f32| AttributeProto {
        name: name.to_owned(),
        r#type: AttributeType::Float.into(),
        f: value,
        ..AttributeProto::default()
    };
    if let Some((attributes, at)) = uses.only_taker(made).and_then(|at| {
        let node = uses.nodes.get(at)?;
        let constant = |input: usize, none: f32| match node.input.get(input).filter(|name| !name.is_empty()) {
            Some(name) => uses.number(name),
            None => Some(none),
        };
        let attributes = match node.op_type.as_str() {
            "Relu" => vec![named(CLIP), bound(LOW, 0.0), bound(HIGH, f32::INFINITY)],
            "Clip" if node.attribute.is_empty() && node.input.first().is_some_and(|x| x == made) => vec![
                named(CLIP),
                bound(LOW, constant(1, f32::NEG_INFINITY)?),
                bound(HIGH, constant(2, f32::INFINITY)?),
            ],
            "HardSwish" => vec![named(HARD_SWISH)],
            _ => return None,
        };
        Some((attributes, at))
    }) {
        return Some((attributes, uses.nodes.get(at)?.output.first()?, vec![at]));
    }
    let [a, b] = <[usize; 2]>::try_from(uses.takers.get(made)?.as_slice()).ok()?;
    let (gate_at, product_at) = (a.min(b), a.max(b));
    let (gate, product) = (uses.nodes.get(gate_at)?, uses.nodes.get(product_at)?);
    let share = gate.output.first().filter(|_| gate.op_type == "Sigmoid")?;
    let factors = two(&product.input).filter(|_| product.op_type == "Mul")?;
    let gated = factors == [made, share.as_str()] || factors == [share.as_str(), made];
    let alone = uses.only_taker(share) == Some(product_at) && !uses.outputs.contains(made);
    let product = product.output.first().filter(|_| gated && alone)?;
    Some((vec![named(SILU)], product, vec![gate_at, product_at]))
}

#[cfg(test)]
mod tests;
