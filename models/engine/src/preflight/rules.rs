//! What single operators may not ask for, as far as the file fixes it. Each rule answers a model that hurt the engine.

use proto::limits::GRAPH_TENSOR_BYTES_MAX;
use tract_onnx::pb::NodeProto;

use super::constants::Constants;

/// Elements of a tensor whose size the file alone fixes: at eight bytes each it stays within the bound.
fn elements_max() -> i64 {
    i64::try_from(GRAPH_TENSOR_BYTES_MAX / 8).unwrap_or(i64::MAX)
}
/// Strides, dilations, kernel sides and paddings beyond this belong to no real model.
const WINDOW_MAX: i64 = 1 << 14;

/// Refuses a node that would abort, hang or blow up.
pub(super) fn check(node: &NodeProto, known: &Constants<'_>) -> Result<(), String> {
    sizes(node, known)?;
    match node.op_type.as_str() {
        "ConstantOfShape" | "EyeLike" => known.integers(node, 0).map_or(Ok(()), |shape| sized(shape, "makes")),
        "Expand" => known
            .integers(node, 1)
            .map_or(Ok(()), |shape| sized(shape, "expands to")),
        "Tile" => known
            .integers(node, 1)
            .map_or(Ok(()), |repeats| grown(known.shape(node, 0), repeats)),
        "Range" => range(node, known),
        "OneHot" => known
            .integers(node, 1)
            .map_or(Ok(()), |depth| sized(depth, "makes one-hot vectors of")),
        "Pad" => padded(node, known),
        "Resize" | "Upsample" => resized(node, known),
        "Div" | "Mod" => divides(node, known).and_then(|()| spread(node, known)),
        "Gather" | "GatherElements" => gathers(node, known),
        "Transpose" => turns(node),
        "BlackmanWindow" | "HammingWindow" | "HannWindow" => {
            known.integers(node, 0).map_or(Ok(()), |size| sized(size, "makes"))
        }
        "MelWeightMatrix" => {
            let one = |at: usize| known.integers(node, at).and_then(|v| v.first()).copied().unwrap_or(1);
            sized(&[one(0), one(1)], "makes")
        }
        _ => crate::ops::judge(node)
            .and_then(|()| window(node))
            .and_then(|()| spread(node, known)),
    }
}

/// Sizes are whole numbers. Given floats the engine looks for whole ones among them, and in some graphs never ends.
fn sizes(node: &NodeProto, known: &Constants<'_>) -> Result<(), String> {
    let at = match node.op_type.as_str() {
        "ConstantOfShape" => 0,
        "Expand" | "Reshape" | "Tile" => 1,
        _ => return Ok(()),
    };
    match known.floating(node, at) {
        true => Err(format!("takes its sizes from `{}`, which holds floats", node.input[at])),
        false => Ok(()),
    }
}

/// The engine follows an order's cycles, and in one that names an axis twice it never comes back.
fn turns(node: &NodeProto) -> Result<(), String> {
    let order = node
        .attribute
        .iter()
        .find(|a| a.name == "perm")
        .map_or(&[][..], |a| &a.ints);
    let mut axes = order.to_vec();
    axes.sort_unstable();
    let each_once = axes.iter().zip(0_i64..).all(|(axis, at)| *axis == at);
    each_once
        .then_some(())
        .ok_or_else(|| format!("turns axes into {order:?}, which is no order of them"))
}

/// Broadcasts and matrix products of operands whose sizes the file fixes; free sizes count as one row.
fn spread(node: &NodeProto, known: &Constants<'_>) -> Result<(), String> {
    let Some(mut shape) = known.elementwise(node) else {
        return Ok(());
    };
    shape.iter_mut().for_each(|size| *size = (*size).max(1));
    sized(&shape, "spreads its operands to")
}

/// The product of a shape that the file fixes.
fn sized(shape: &[i64], verb: &str) -> Result<(), String> {
    let count = shape
        .iter()
        .try_fold(1i64, |all, &dim| if dim < 0 { None } else { all.checked_mul(dim) });
    match count {
        Some(count) if count <= elements_max() => Ok(()),
        _ => Err(format!(
            "{verb} {shape:?} elements, allowed is a product of {}",
            elements_max()
        )),
    }
}

fn grown(shape: Option<&[i64]>, repeats: &[i64]) -> Result<(), String> {
    sized(repeats, "repeats")?;
    let Some(shape) = shape.filter(|shape| shape.len() == repeats.len()) else {
        return Ok(());
    };
    let sizes: Vec<i64> = shape
        .iter()
        .zip(repeats)
        .map(|(&size, &times)| size.max(1).saturating_mul(times))
        .collect();
    sized(&sizes, "tiles to")
}

fn range(node: &NodeProto, known: &Constants<'_>) -> Result<(), String> {
    let one = |at: usize| -> Option<f64> {
        let integer = known.integers(node, at).and_then(|v| v.first()).map(|&v| float(v));
        integer.or_else(|| known.floats(node, at).and_then(|v| v.first()).map(|&v| f64::from(v)))
    };
    let step = one(2);
    if step.is_some_and(|step| step == 0.0 || !step.is_finite()) {
        return Err("counts in steps of nothing".to_owned());
    }
    let (Some(start), Some(limit), Some(step)) = (one(0), one(1), step) else {
        return Ok(());
    };
    let count = (limit - start) / step;
    if count.is_finite() && count <= float(elements_max()) {
        return Ok(());
    }
    Err(format!("counts {count} elements, allowed are {}", elements_max()))
}

fn padded(node: &NodeProto, known: &Constants<'_>) -> Result<(), String> {
    let attribute = node
        .attribute
        .iter()
        .find(|a| a.name == "pads")
        .map(|a| a.ints.as_slice());
    let pads = attribute.or_else(|| known.integers(node, 1)).unwrap_or_default();
    match pads.iter().find(|pad| pad.unsigned_abs() > WINDOW_MAX.unsigned_abs()) {
        Some(pad) => Err(format!("pads by {pad}, allowed is {WINDOW_MAX}")),
        None => Ok(()),
    }
}

fn resized(node: &NodeProto, known: &Constants<'_>) -> Result<(), String> {
    if let Some(sizes) = known.integers(node, 3) {
        sized(sizes, "resizes to")?;
    }
    let scales = known
        .floats(node, 2)
        .or_else(|| known.floats(node, 1))
        .unwrap_or_default();
    let product: f32 = scales.iter().product();
    if scales.iter().any(|scale| !scale.is_finite() || *scale <= 0.0) || product > 65_536.0 {
        return Err(format!("scales by {scales:?}"));
    }
    Ok(())
}

fn divides(node: &NodeProto, known: &Constants<'_>) -> Result<(), String> {
    match known.integers(node, 1) {
        Some(divisors) if divisors.contains(&0) => Err("divides whole numbers by a constant 0".to_owned()),
        _ => Ok(()),
    }
}

fn gathers(node: &NodeProto, known: &Constants<'_>) -> Result<(), String> {
    let (Some(shape), Some(indices)) = (known.shape(node, 0), known.integers(node, 1)) else {
        return Ok(());
    };
    let axis = integer(node, "axis").unwrap_or(0);
    let rank = i64::try_from(shape.len()).unwrap_or(i64::MAX);
    let place = usize::try_from(if axis < 0 { axis.saturating_add(rank) } else { axis });
    let size = place
        .ok()
        .and_then(|axis| shape.get(axis))
        .copied()
        .ok_or_else(|| format!("gathers on axis {axis} of {rank}"))?;
    match indices
        .iter()
        .find(|&&index| size >= 0 && (index >= size || index < -size))
    {
        Some(index) => Err(format!("gathers element {index} of {size}")),
        None => Ok(()),
    }
}

/// Convolutions and pools: anything that slides a window.
fn window(node: &NodeProto) -> Result<(), String> {
    let slides = node.op_type.contains("Conv") || node.op_type.ends_with("Pool");
    if !slides {
        return Ok(());
    }
    for (name, least) in [
        ("strides", 1),
        ("dilations", 1),
        ("kernel_shape", 1),
        ("pads", 0),
        ("output_padding", 0),
    ] {
        let values = node
            .attribute
            .iter()
            .find(|a| a.name == name)
            .map_or(&[][..], |a| &a.ints);
        if let Some(value) = values.iter().find(|value| !(least..=WINDOW_MAX).contains(*value)) {
            return Err(format!("has {name} {value}, allowed are {least} to {WINDOW_MAX}"));
        }
    }
    match integer(node, "group") {
        Some(group) if group < 1 => Err(format!("has {group} groups")),
        _ => Ok(()),
    }
}

fn integer(node: &NodeProto, name: &str) -> Option<i64> {
    node.attribute.iter().find(|a| a.name == name).map(|a| a.i)
}

#[allow(clippy::as_conversions, reason = "only compared with a bound far below 2^53")]
fn float(value: i64) -> f64 {
    value as f64
}
