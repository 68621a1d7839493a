//! Convolutions that are ready to run, on images whose channels lie side by side; neighbours run as one.

use std::cell::RefCell;

use kernels::{Activation, Chain, ChainScratch, Isa, Order};
use proto::limits::RUN_MEMORY_KEPT_MAX;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::binary::TypedBinOp;
use tract_onnx::tract_core::ops::change_axes::AxisOp;
use tract_onnx::tract_core::ops::math::{Add, Max};
use tract_onnx::tract_core::ops::source::TypedSource;

use super::slide::places;
use super::write::{self, Input, Output, Write};

thread_local! {
    /// Lines and codes of the chain that runs on this thread; as large as the largest so far.
    static SCRATCH: RefCell<ChainScratch> = RefCell::default();
}

/// Convolutions of `[image, row, column, channel]`, one after another; the first may take `[image, channel, row, column]`, and
/// the last may add to a second input of the shape that it gives.
#[derive(Clone, Debug)]
pub(super) struct Convolve {
    chain: Chain,
    takes: Order,
    isa: Isa,
}

impl Convolve {
    pub(super) const fn new(chain: Chain, isa: Isa) -> Self {
        Self {
            chain,
            takes: Order::Pixels,
            isa,
        }
    }

    /// Rows, columns and channels of an image, each where this operator has it.
    fn sides<T: Clone>(&self, image: &[T; 3]) -> [T; 3] {
        let [a, b, c] = image.clone();
        match self.takes {
            Order::Pixels => [a, b, c],
            Order::Planes => [b, c, a],
        }
    }
}

impl PartialEq for Convolve {
    fn eq(&self, other: &Self) -> bool {
        let (ours, theirs) = (self.chain.stages(), other.chain.stages());
        let same = |(a, b): (&kernels::Stage, &kernels::Stage)| {
            Arc::ptr_eq(&a.layer, &b.layer) && a.activation == b.activation
        };
        let alike = self.takes == other.takes && self.chain.adds() == other.chain.adds();
        alike && ours.len() == theirs.len() && ours.iter().zip(theirs).all(same)
    }
}
impl Eq for Convolve {}

impl Op for Convolve {
    fn name(&self) -> StaticName {
        "MeridianConv".into()
    }
    fn info(&self) -> TractResult<Vec<String>> {
        let told = self.chain.stages().iter().map(|stage| {
            let ([from, to], sides) = (stage.layer.channels(), stage.layer.window().sides);
            format!("{from} to {to} channels, window {sides:?}, {}", self.isa.name())
        });
        Ok(told.collect())
    }
    op_as_typed_op!();
}

write::evaluates!(Convolve);

impl Write for Convolve {
    /// Sums are made where what they are added to lies.
    fn changes(&self) -> Option<usize> {
        self.chain.adds().map(|_| 1)
    }

    fn write(&self, inputs: &[Input<'_>], outputs: &mut [Output<'_>]) -> TractResult<()> {
        let ([x, ..], [y]) = (inputs, outputs) else {
            bail!("an image and one result");
        };
        let [channels, outputs] = self.chain.channels();
        let [images, image @ ..] = <&[usize; 4]>::try_from(x.shape)?;
        let [height, width, given] = self.sides(image);
        let size = [height, width];
        let whole = given == channels && height > 0 && width > 0;
        let places = self.chain.places(size).filter(|_| whole);
        let [rows, columns] = places.with_context(|| format!("{:?} is too small for its windows", x.shape))?;
        let shape = [*images, rows, columns, outputs];
        ensure!(*y.shape == shape, "{shape:?} is written to {:?}", y.shape);
        let (from, to) = (height * width * channels, rows * columns * outputs);
        let images = x.elements::<f32>()?.chunks_exact(from.max(1));
        let made = y.elements::<f32>()?.chunks_exact_mut(to.max(1));
        SCRATCH.with_borrow_mut(|scratch| {
            for (image, y) in images.zip(made) {
                self.chain.run(self.isa, (image, self.takes), size, scratch, y);
            }
            if scratch.bytes() > RUN_MEMORY_KEPT_MAX {
                *scratch = ChainScratch::default();
            }
        });
        Ok(())
    }
}

impl TypedOp for Convolve {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let shape = &inputs[0].shape;
        ensure!(shape.rank() == 4, "an image of {shape:?}");
        let [height, width, _] = self.sides(&[shape[1].clone(), shape[2].clone(), shape[3].clone()]);
        let mut size = [height, width];
        for stage in self.chain.stages() {
            let window = stage.layer.window();
            size = [places(window, 0, &size[0])?, places(window, 1, &size[1])?];
        }
        let [rows, columns] = size;
        let outputs = self.chain.channels()[1].to_dim();
        Ok(tvec![f32::fact([shape[0].clone(), rows, columns, outputs])])
    }

    /// Joins this chain with what follows where nothing else sees what lies between, and takes planes where they are at hand.
    fn declutter(&self, model: &TypedModel, node: &TypedNode) -> TractResult<Option<TypedModelPatch>> {
        if let Some(patch) = self.with_next(model, node)? {
            return Ok(Some(patch));
        }
        // Elsewhere a move may still cancel another.
        let before = model.node(node.inputs[0].node);
        let given = before.inputs.first().map(|input| model.node(input.node));
        let turned = before.op_as::<AxisOp>() == Some(&AxisOp::Move(1, 3));
        let planes = turned && given.is_some_and(|given| given.op_is::<TypedSource>());
        if !planes || self.takes == Order::Planes || !self.chain.sees_all() {
            return Ok(None);
        }
        let mut inputs = node.inputs.clone();
        inputs[0] = before.inputs[0];
        let takes = Order::Planes;
        TypedModelPatch::replace_single_op(model, node, &inputs, Self { takes, ..self.clone() }).map(Some)
    }
    as_op!();
}

impl Convolve {
    /// This chain and what follows it as one; a sum may stand behind the move that puts channels first.
    fn with_next(&self, model: &TypedModel, node: &TypedNode) -> TractResult<Option<TypedModelPatch>> {
        let taker = |of: &TypedNode| -> TractResult<Option<usize>> {
            let asked = model.outputs.contains(&of.id.into());
            Ok(model.single_succ(of.id)?.filter(|_| !asked).map(|taker| taker.id))
        };
        let Some(next) = taker(node)? else {
            return Ok(None);
        };
        let turned = model.node(next).op_as::<AxisOp>() == Some(&AxisOp::Move(3, 1));
        let (given, next) = if turned {
            (next, taker(model.node(next))?)
        } else {
            (node.id, Some(next))
        };
        let Some(next) = next.map(|next| model.node(next)) else {
            return Ok(None);
        };
        let Some((chain, other)) = self.joined(model, model.node(given), next)? else {
            return Ok(None);
        };
        let mut patch = TypedModelPatch::default();
        let mut inputs = patch.taps(model, &node.inputs)?;
        if let Some(other) = other {
            let mut other = patch.tap_model(model, other)?;
            if turned {
                other = patch.wire_node(format!("{}.channels-last", next.name), AxisOp::Move(1, 3), &[other])?[0];
            }
            inputs.push(other);
        }
        let joined = Self { chain, ..self.clone() };
        let mut wire = patch.wire_node(&next.name, joined, &inputs)?;
        if turned {
            wire = patch.wire_node(format!("{}.channels-first", next.name), AxisOp::Move(3, 1), &wire)?;
        }
        patch.shunt_outside(model, next.id.into(), wire[0])?;
        Ok(Some(patch))
    }

    /// This chain and what `next` does to `given`, its result, and what else that takes.
    fn joined(
        &self,
        model: &TypedModel,
        given: &TypedNode,
        next: &TypedNode,
    ) -> TractResult<Option<(Chain, Option<OutletId>)>> {
        if let Some(other) = next.op_as::<Self>() {
            let follows = other.takes == Order::Pixels && given.op_is::<Self>() && next.inputs[0].node == given.id;
            let chain = self.chain.then(&other.chain).ok().filter(|_| follows);
            return Ok(chain.map(|chain| (chain, next.inputs.get(1).copied())));
        }
        let other = next.inputs.iter().copied().find(|input| input.node != given.id);
        let (Some(op), Some(other)) = (next.op_as::<TypedBinOp>(), other) else {
            return Ok(None);
        };
        let fact = model.outlet_fact(other)?;
        let same = fact.shape == given.outputs[0].fact.shape && fact.datum_type == f32::datum_type();
        let (chain, adds) = (self.chain.clone(), self.chain.adds());
        if op.0.is::<Add>() && same && adds.is_none() {
            let sum = chain.onto(Activation::None).ok();
            return Ok(sum.map(|chain| (chain, Some(other))));
        }
        let bound = fact.konst.as_ref().and_then(|konst| konst.as_uniform());
        let Some(bound) = bound.filter(|_| op.0.is::<Max>() && adds == Some(Activation::None)) else {
            return Ok(None);
        };
        let (low, high) = (*bound.try_as_plain_ram()?.to_scalar::<f32>()?, f32::INFINITY);
        let bounded = chain.onto(Activation::Clip { low, high }).ok();
        Ok(bounded.map(|chain| (chain, None)))
    }
}
