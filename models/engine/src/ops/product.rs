//! Products of two FP32 tensors, summed along axes that both have: matrices, layers, attention that nothing else knows.
//!
//! ```text
//!   y[batch, rows, columns] = sum over inner of x[batch, rows, inner] * w[batch, inner, columns]
//! ```
//! Each of these may be several axes, anywhere in the tensors. What is constant is packed once, the rest in memory that the thread
//! keeps.

use std::cell::RefCell;

use kernels::{Isa, Matrix};
use proto::limits::RUN_MEMORY_KEPT_MAX;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::binary::TypedBinOp;
use tract_onnx::tract_core::ops::einsum::EinSum;
use tract_onnx::tract_core::ops::math::Add;

use super::write::{self, Input, Output, Write};

mod steps;
use steps::{AXES_MAX, Steps};

/// Fewer columns than this, of more inputs than that, are summed one by one: packed, they would take several times their memory.
const COLUMNS_FEW: usize = 8;
const INPUTS_MANY: usize = 1 << 16;

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// What a product needs while it runs; as large as the largest so far.
#[derive(Default)]
struct Scratch {
    rows: Vec<f32>,
    columns: Vec<f32>,
    matrix: Matrix,
    made: Vec<f32>,
}

impl Scratch {
    /// Gives back more than a thread may keep.
    fn end(&mut self) {
        let elements = self.rows.capacity() + self.columns.capacity() + self.made.capacity();
        if elements * size_of::<f32>() + self.matrix.bytes() > RUN_MEMORY_KEPT_MAX {
            *self = Self::default();
        }
    }
}

/// A sum of products.
#[derive(Clone, Debug)]
pub(super) struct Product {
    /// What it stands for, which tells shapes.
    stands_for: EinSum,
    /// Which input is `x`; the other one is `w`.
    rows_of: usize,
    roles: Roles,
    /// `w`, if it is constant: then `x` is the only input.
    weights: Option<Weights>,
}

#[derive(Clone, Debug)]
struct Weights {
    matrix: Arc<Matrix>,
    shape: TVec<usize>,
}

/// Which axes are what, by their places in the tensors.
#[derive(Clone, Debug, Default)]
struct Roles {
    /// In `x`, `w` and `y`.
    batch: TVec<[usize; 3]>,
    /// In `x` and `y`.
    rows: TVec<[usize; 2]>,
    /// In `w` and `y`.
    columns: TVec<[usize; 2]>,
    /// In `x` and `w`.
    inner: TVec<[usize; 2]>,
}

impl Roles {
    /// Nothing for what is no such product: a diagonal, or a sum along an axis that one tensor alone has.
    fn of(axes: &AxesMapping, x: usize, facts: [&TypedFact; 3]) -> Option<Self> {
        let mut roles = Self::default();
        for axis in axes.iter_all_axes() {
            let places = [&axis.inputs[x], &axis.inputs[1 - x], &axis.outputs[0]];
            if places.iter().any(|places| places.len() > 1) {
                return None;
            }
            // What has one element is the same for all of the others' elements.
            let several = [0, 1, 2].map(|of| {
                let place = places[of].first().copied();
                place.filter(|place| !facts[of].shape[*place].is_one())
            });
            match several {
                [None, None, None] => {}
                [Some(x), Some(w), Some(y)] => roles.batch.push([x, w, y]),
                [Some(x), None, Some(y)] => roles.rows.push([x, y]),
                [None, Some(w), Some(y)] => roles.columns.push([w, y]),
                [Some(x), Some(w), None] => roles.inner.push([x, w]),
                _ => return None,
            }
        }
        // In the order of the result, and of the rows: then what lies side by side there is found to.
        roles.batch.sort_unstable_by_key(|[.., y]| *y);
        roles.rows.sort_unstable_by_key(|[_, y]| *y);
        roles.columns.sort_unstable_by_key(|[_, y]| *y);
        roles.inner.sort_unstable();
        Some(roles)
    }
}

impl Product {
    /// Where `node` is such a product: the change that makes it one of these, with a bias that follows where weights are constant.
    pub(super) fn of(model: &TypedModel, node: &TypedNode) -> TractResult<Option<TypedModelPatch>> {
        let Some(op) = node.op_as::<EinSum>().filter(|op| op.q_params.is_none()) else {
            return Ok(None);
        };
        let (facts, output) = (model.node_input_facts(node.id)?, &node.outputs[0].fact);
        let [a, b] = &*facts else { return Ok(None) };
        let fits =
            |fact: &TypedFact| fact.datum_type == f32::datum_type() && fact.rank() <= AXES_MAX && fact.is_plain();
        if !fits(a) || !fits(b) || !fits(output) || a.konst.is_some() && b.konst.is_some() {
            return Ok(None);
        }
        let last = output.rank().checked_sub(1);
        let roles = |x: usize| Roles::of(&op.axes, x, [facts[x], facts[1 - x], output]);
        let (Some(first), Some(second)) = (roles(0), roles(1)) else {
            return Ok(None);
        };
        let ends = |roles: &Roles| roles.columns.last().map(|[_, y]| *y) == last;
        let rows_of = match (a.konst.is_some(), b.konst.is_some()) {
            (true, _) => 1,
            (_, true) => 0,
            _ => usize::from(ends(&second) && !ends(&first)),
        };
        let op = Self {
            stands_for: op.clone(),
            rows_of,
            roles: if rows_of == 0 { first } else { second },
            weights: None,
        };
        let Some(constant) = facts[1 - rows_of]
            .konst
            .as_ref()
            .filter(|constant| op.roles.batch.is_empty() && constant.len() > 0)
        else {
            return TypedModelPatch::replace_single_op(model, node, &node.inputs, op).map(Some);
        };
        let size = |places: &[[usize; 2]], of: usize| -> usize {
            places.iter().map(|pair| constant.shape()[pair[of]]).product()
        };
        if size(&op.roles.columns, 0) < COLUMNS_FEW && size(&op.roles.inner, 1) > INPUTS_MANY {
            return TypedModelPatch::replace_single_op(model, node, &node.inputs, op).map(Some);
        }
        op.packed(model, node, constant).map(Some)
    }

    /// With its constant packed, and the bias that is all that is done with the result.
    fn packed(mut self, model: &TypedModel, node: &TypedNode, constant: &Arc<Tensor>) -> TractResult<TypedModelPatch> {
        let steps = |axis: usize| {
            let roles = [&self.roles.inner, &self.roles.columns];
            let mut steps = Steps::default();
            let place = |pair: &[usize; 2]| pair[1 - axis];
            roles[axis]
                .iter()
                .for_each(|pair| steps.push(constant.shape(), place(pair)));
            steps
        };
        let (inner, columns) = (steps(0), steps(1));
        let size = [inner.size(), columns.size()];
        let mut weights = vec![0.0; size[0] * size[1]];
        let plain = constant.try_as_plain_ram()?;
        inner.then(&columns).take(plain.as_slice::<f32>()?, &mut weights);
        let bias = bias(model, node, &self.roles, size[1])?;
        let start = bias.as_ref().map(|(_, bias)| bias.as_slice());
        self.weights = Some(Weights {
            matrix: Arc::new(Matrix::new(&weights, size[1], start)?),
            shape: constant.shape().into(),
        });
        let mut patch = TypedModelPatch::default();
        let x = patch.tap_model(model, node.inputs[self.rows_of])?;
        let last = bias.map_or(node.id, |(sum, _)| sum);
        let made = patch.wire_node(&model.node(last).name, self, &[x])?;
        patch.shunt_outside(model, last.into(), made[0])?;
        Ok(patch)
    }
}

/// The sum with a constant row that alone takes what `node` gives, and that row.
fn bias(model: &TypedModel, node: &TypedNode, roles: &Roles, columns: usize) -> TractResult<Option<(usize, Vec<f32>)>> {
    let asked = model.outputs.contains(&node.id.into());
    let (&[[_, column]], Some(sum)) = (&*roles.columns, model.single_succ(node.id)?.filter(|_| !asked)) else {
        return Ok(None);
    };
    let adds = sum
        .op_as::<TypedBinOp>()
        .is_some_and(|op| op.0.is::<Add>() && op.1.is_none());
    let other = sum.inputs.iter().find(|input| input.node != node.id);
    let (Some(other), true) = (other, adds && sum.outputs[0].fact.shape == node.outputs[0].fact.shape) else {
        return Ok(None);
    };
    let Some(row) = &model.outlet_fact(*other)?.konst else {
        return Ok(None);
    };
    let along = row.rank() == sum.outputs[0].fact.rank() && row.len() == columns && row.shape()[column] == columns;
    if !along || row.datum_type() != f32::datum_type() {
        return Ok(None);
    }
    Ok(Some((sum.id, row.try_as_plain_ram()?.as_slice::<f32>()?.to_vec())))
}

/// The axes of one call.
struct Sizes {
    /// In `x`, `w` and `y`.
    batch: [Steps; 3],
    /// In `x` and `y`.
    rows: [Steps; 2],
    /// In `w` and `y`.
    columns: [Steps; 2],
    /// In `x` and `w`.
    inner: [Steps; 2],
}

impl Sizes {
    /// # Errors
    /// Shapes whose axes do not fit each other.
    fn of(roles: &Roles, [x, w, y]: [&[usize]; 3]) -> TractResult<Self> {
        let mut sizes = Self {
            batch: Default::default(),
            rows: Default::default(),
            columns: Default::default(),
            inner: Default::default(),
        };
        fn push<const N: usize>(to: &mut [Steps; N], places: &[usize; N], shapes: [&[usize]; N]) -> TractResult<()> {
            for ((to, place), shape) in to.iter_mut().zip(places).zip(shapes) {
                ensure!(
                    *place < shape.len() && shape[*place] == shapes[0][places[0]],
                    "{shapes:?} at {places:?}"
                );
                to.push(shape, *place);
            }
            Ok(())
        }
        roles
            .batch
            .iter()
            .try_for_each(|at| push(&mut sizes.batch, at, [x, w, y]))?;
        roles.rows.iter().try_for_each(|at| push(&mut sizes.rows, at, [x, y]))?;
        roles
            .columns
            .iter()
            .try_for_each(|at| push(&mut sizes.columns, at, [w, y]))?;
        roles
            .inner
            .iter()
            .try_for_each(|at| push(&mut sizes.inner, at, [x, w]))?;
        Ok(sizes)
    }
}

impl PartialEq for Product {
    fn eq(&self, other: &Self) -> bool {
        let weights = match (&self.weights, &other.weights) {
            (Some(a), Some(b)) => Arc::ptr_eq(&a.matrix, &b.matrix),
            (None, None) => true,
            _ => false,
        };
        weights && self.stands_for == other.stands_for && self.rows_of == other.rows_of
    }
}
impl Eq for Product {}

impl Op for Product {
    fn name(&self) -> StaticName {
        "MeridianProduct".into()
    }
    fn info(&self) -> TractResult<Vec<String>> {
        Ok(vec![format!(
            "{:?}, constant: {}",
            self.stands_for,
            self.weights.is_some()
        )])
    }
    op_as_typed_op!();
}

write::evaluates!(Product);

impl Write for Product {
    fn write(&self, inputs: &[Input<'_>], outputs: &mut [Output<'_>]) -> TractResult<()> {
        let [y] = outputs else { bail!("one result") };
        let shape = y.shape;
        let (x, w, matrix) = match (&self.weights, inputs) {
            (Some(weights), [x]) => (
                *x,
                Input {
                    shape: &weights.shape,
                    bytes: &[],
                },
                Some(&*weights.matrix),
            ),
            (None, [_, _]) => (inputs[self.rows_of], inputs[1 - self.rows_of], None),
            _ => bail!("{} inputs", inputs.len()),
        };
        let sizes = Sizes::of(&self.roles, [x.shape, w.shape, shape])?;
        let (x, w, y) = (x.elements::<f32>()?, w.elements::<f32>()?, y.elements::<f32>()?);
        let [rows, columns, inner] = [sizes.rows[0].size(), sizes.columns[0].size(), sizes.inner[0].size()];
        ensure!(
            y.len() == sizes.batch[0].size() * rows * columns,
            "{shape:?} is no product of these"
        );
        if inner == 0 {
            y.fill(0.0);
        }
        if inner == 0 || y.is_empty() {
            return Ok(());
        }
        SCRATCH.with_borrow_mut(|scratch| {
            for batch in 0..sizes.batch[0].size() {
                let [at_x, at_w, at_y] = [0, 1, 2].map(|of| sizes.batch[of].place(batch));
                let w = w.get(at_w..).unwrap_or_default();
                one(&sizes, [&x[at_x..], w], matrix, scratch, &mut y[at_y..]);
            }
            scratch.end();
        });
        Ok(())
    }
}

/// A product of matrices, one of a batch.
fn one(sizes: &Sizes, [x, w]: [&[f32]; 2], constant: Option<&Matrix>, scratch: &mut Scratch, y: &mut [f32]) {
    let Scratch {
        rows: taken,
        columns: turned,
        matrix,
        made,
    } = scratch;
    let [rows, columns, inner] = [sizes.rows[0].size(), sizes.columns[0].size(), sizes.inner[0].size()];
    if constant.is_none() && columns < COLUMNS_FEW && inner > INPUTS_MANY {
        return one_by_one(sizes, [x, w], y);
    }
    let matrix = constant.unwrap_or_else(|| {
        match (sizes.inner[1].step(), sizes.columns[0].step()) {
            (Some(input), Some(output)) => matrix.fill(w, [inner, columns], [input, output]),
            _ => {
                turned.resize(inner * columns, 0.0);
                sizes.inner[1].then(&sizes.columns[0]).take(w, turned);
                matrix.fill(turned, [inner, columns], [columns, 1]);
            }
        }
        matrix
    });
    let beside = |steps: Steps| steps.step() == Some(1);
    let x = if beside(sizes.rows[0].then(&sizes.inner[0])) {
        &x[..rows * inner]
    } else {
        taken.resize(rows * inner, 0.0);
        sizes.rows[0].then(&sizes.inner[0]).take(x, taken);
        taken
    };
    let to = sizes.rows[1].then(&sizes.columns[1]);
    if beside(to) {
        return matrix.run(Isa::best(), x, &mut y[..rows * columns]);
    }
    made.resize(rows * columns, 0.0);
    matrix.run(Isa::best(), x, made);
    to.put(made, y);
}

/// The same to the same bits, without memory.
fn one_by_one(sizes: &Sizes, [x, w]: [&[f32]; 2], y: &mut [f32]) {
    let [rows, columns, inner] = [&sizes.rows, &sizes.columns, &sizes.inner];
    for (row, column) in (0..rows[0].size()).flat_map(|row| (0..columns[0].size()).map(move |column| (row, column))) {
        let (x, w) = (&x[rows[0].place(row)..], &w[columns[0].place(column)..]);
        let products = (0..inner[0].size()).map(|at| (x[inner[0].place(at)], w[inner[1].place(at)]));
        y[rows[1].place(row) + columns[1].place(column)] = products.fold(0.0, |sum, (x, w)| x.mul_add(w, sum));
    }
}

impl TypedOp for Product {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        match (&self.weights, inputs) {
            (Some(weights), [x]) => {
                let held = f32::fact(&*weights.shape);
                let given = if self.rows_of == 0 { [*x, &held] } else { [&held, *x] };
                self.stands_for.output_facts(&given)
            }
            _ => self.stands_for.output_facts(inputs),
        }
    }
    as_op!();
}

#[cfg(test)]
mod tests;
