//! Convolutions that are ready to run, on images whose channels lie side by side; neighbours run as one.

use std::cell::RefCell;

use kernels::{Chain, ChainScratch, Isa, Order};
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::change_axes::AxisOp;
use tract_onnx::tract_core::ops::source::TypedSource;

use super::slide::places;

thread_local! {
    /// Lines and codes of the chain that runs on this thread; as large as the largest so far.
    static SCRATCH: RefCell<ChainScratch> = RefCell::default();
}

/// Convolutions of `[image, row, column, channel]`, one after another; the first may take `[image, channel, row, column]`.
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
        self.takes == other.takes && ours.len() == theirs.len() && ours.iter().zip(theirs).all(same)
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

impl EvalOp for Convolve {
    op_out_of_plan!();

    fn eval(&self, _: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let x = super::only(inputs)?;
        let [channels, outputs] = self.chain.channels();
        let [images, image @ ..] = <&[usize; 4]>::try_from(x.shape())?;
        let [height, width, given] = self.sides(image);
        let size = [height, width];
        let whole = given == channels && height > 0 && width > 0;
        let places = self.chain.places(size).filter(|_| whole);
        let [rows, columns] = places.with_context(|| format!("{:?} is too small for its windows", x.shape()))?;
        let mut y = Tensor::zero::<f32>(&[*images, rows, columns, outputs])?;
        let plain = x.try_as_plain_ram()?;
        let mut made = y.try_as_plain_ram_mut()?;
        let (from, to) = (height * width * channels, rows * columns * outputs);
        let images = plain.as_slice::<f32>()?.chunks_exact(from.max(1));
        SCRATCH.with_borrow_mut(|scratch| {
            for (image, y) in images.zip(made.as_slice_mut::<f32>()?.chunks_exact_mut(to.max(1))) {
                self.chain.run(self.isa, (image, self.takes), size, scratch, y);
            }
            TractResult::Ok(())
        })?;
        Ok(tvec![y.into_tvalue()])
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

    /// Joins this chain with the next where nothing else sees what lies between, and takes planes where they are at hand.
    fn declutter(&self, model: &TypedModel, node: &TypedNode) -> TractResult<Option<TypedModelPatch>> {
        let next = model.linear_succ(node.id)?.and_then(|next| next.op_as::<Self>());
        let next = next.filter(|next| next.takes == Order::Pixels && !model.outputs.contains(&node.id.into()));
        if let Some(chain) = next.and_then(|next| self.chain.then(&next.chain).ok()) {
            let joined = Self { chain, ..self.clone() };
            return TypedModelPatch::fuse_with_next(model, node, joined).map(Some);
        }
        let Some(before) = model.single_prec(node.id)? else {
            return Ok(None);
        };
        // Elsewhere a move may still cancel another.
        let given = before
            .inputs
            .first()
            .is_some_and(|input| model.node(input.node).op_is::<TypedSource>());
        let turns = before.op_as::<AxisOp>() == Some(&AxisOp::Move(1, 3));
        if !(turns && given) || self.takes == Order::Planes || !self.chain.sees_all() {
            return Ok(None);
        }
        let turned = Self {
            takes: Order::Planes,
            ..self.clone()
        };
        TypedModelPatch::replace_single_op(model, node, &before.inputs, turned).map(Some)
    }
    as_op!();
}
