//! How windows slide over images: as ONNX writes it, and where the channels of an image lie meanwhile.
//!
//! ONNX has channels first, our operators have them last; the moves around each cancel against its neighbours' when the
//! engine tidies the graph.

use kernels::Window;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::change_axes::AxisOp;
use tract_onnx::tract_hir::internal::{InferenceResult, Solver, TensorProxy};

/// The attributes of a sliding window; what a list lacks is 1, or no padding.
#[derive(Clone, Debug)]
pub(super) struct Slide {
    strides: Vec<usize>,
    dilations: Vec<usize>,
    pads: Vec<usize>,
}

impl Slide {
    pub(super) fn parse(node: &NodeProto) -> TractResult<Self> {
        Ok(Self {
            strides: sizes(node, "strides")?,
            dilations: sizes(node, "dilations")?,
            pads: sizes(node, "pads")?,
        })
    }

    /// The window of these sides; one side is that of columns.
    pub(super) fn window(&self, sides: &[usize]) -> TractResult<Window> {
        let first = 2_usize
            .checked_sub(sides.len())
            .context("windows of one or two sides")?;
        let mut window = Window {
            sides: [1; 2],
            strides: [1; 2],
            dilations: [1; 2],
            pads: [[0; 2]; 2],
        };
        let one = |values: &[usize], axis: usize, or: usize| values.get(axis).copied().unwrap_or(or);
        for (axis, side) in sides.iter().enumerate() {
            window.sides[first + axis] = *side;
            window.strides[first + axis] = one(&self.strides, axis, 1);
            window.dilations[first + axis] = one(&self.dilations, axis, 1);
            window.pads[first + axis] = [one(&self.pads, axis, 0), one(&self.pads, axis + sides.len(), 0)];
        }
        Ok(window)
    }
}

/// The numbers of a list of sizes; none where there is no such attribute.
pub(super) fn sizes(node: &NodeProto, name: &str) -> TractResult<Vec<usize>> {
    let attribute = node.attribute.iter().find(|a| a.name == name);
    let sizes = attribute.map_or(&[][..], |a| &a.ints).iter();
    Ok(sizes.map(|size| usize::try_from(*size)).collect::<Result<_, _>>()?)
}

/// Places along one axis of a size that may be a symbol.
pub(super) fn places(window: &Window, axis: usize, size: &TDim) -> TractResult<TDim> {
    if let Ok(size) = size.to_usize() {
        let places = window.places_along(axis, size);
        return Ok(places.context("the image is smaller than the window")?.to_dim());
    }
    let reach = (window.sides[axis].max(1) - 1) * window.dilations[axis] + 1;
    let padded = size.clone() + window.pads[axis][0] + window.pads[axis][1];
    Ok((padded - reach) / window.strides[axis].max(1) + 1)
}

/// Says of an output, channels first, how many places it has.
pub(super) fn places_equal(
    s: &mut Solver<'_>,
    output: &TensorProxy,
    image: &[TDim],
    window: &Window,
) -> InferenceResult {
    let first = 4_usize.checked_sub(image.len()).context("images of one or two axes")?;
    for (axis, size) in image.iter().enumerate().skip(2) {
        let size = places(window, first + axis - 2, size)?;
        s.equals(&output.shape[axis], size)?;
    }
    Ok(())
}

/// Wires an operator that takes and gives channels last to an image that has them first.
pub(super) fn wire(
    prefix: &str,
    model: &mut TypedModel,
    image: OutletId,
    op: impl Into<Box<dyn TypedOp>>,
) -> TractResult<TVec<OutletId>> {
    let flat = model.outlet_fact(image)?.rank() == 3;
    let mut wire: TVec<OutletId> = tvec![image];
    let moved = |model: &mut TypedModel, name: &str, wire: &[OutletId], op: AxisOp| {
        model.wire_node(format!("{prefix}.{name}"), op, wire)
    };
    if flat {
        wire = moved(model, "row", &wire, AxisOp::Add(2))?;
    }
    wire = moved(model, "channels-last", &wire, AxisOp::Move(1, 3))?;
    wire = model.wire_node(prefix, op, &wire)?;
    wire = moved(model, "channels-first", &wire, AxisOp::Move(3, 1))?;
    if flat {
        wire = moved(model, "no-row", &wire, AxisOp::Rm(2))?;
    }
    Ok(wire)
}
