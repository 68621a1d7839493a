//! What a graph does, step by step, and where each tensor is held: made once for a graph, before sizes are known.
//!
//! ```text
//!   tract's optimised graph, in tract's order
//!     operator that writes where it is told   -> its results have places in one memory
//!     change of a shape alone                 -> the same place under another shape
//!     any other                               -> tract evaluates it and makes a tensor
//! ```
//! Tensors that are never needed at once share a place ([`super::layout`] says where); a result that is made of an input which nothing
//! needs any more takes that one's place. Constants are held once, by the graph.

use std::collections::BTreeMap;

use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::source::TypedSource;

use super::plan::Plan;
use crate::ops::{self, Write};

/// A tensor of the graph.
#[derive(Debug)]
pub(super) struct Value {
    pub(super) datum: DatumType,
    /// Which of [`Program::shapes`].
    pub(super) shape: usize,
    pub(super) held: Held,
}

/// Where a tensor is.
#[derive(Clone, Debug)]
pub(super) enum Held {
    Constant(Arc<Tensor>),
    /// In the place of this number.
    Placed(usize),
    /// A tensor of tract's, under this number.
    Loose(usize),
}

/// What a step does.
#[derive(Debug)]
pub(super) enum Work {
    Write(Box<dyn Write>),
    /// Nothing: the result lies where the input lies.
    View,
    Tract,
}

/// One operator.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) node: usize,
    pub(super) work: Work,
    /// Of [`Program::values`].
    pub(super) inputs: Vec<usize>,
    pub(super) outputs: Vec<usize>,
    /// The input whose elements are copied to the first result's place before, for it is changed there and needed later.
    pub(super) copied: Option<usize>,
    /// Places that nothing needs after this step.
    pub(super) ended: Vec<usize>,
    /// Tensors of tract's that nothing needs after it.
    pub(super) dropped: Vec<usize>,
}

/// A graph as its steps.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) plan: Plan,
    pub(super) values: Vec<Value>,
    pub(super) steps: Vec<Step>,
    pub(super) inputs: Vec<usize>,
    pub(super) outputs: Vec<usize>,
    /// Distinct shapes of tensors, in sizes that requests choose.
    pub(super) shapes: Vec<ShapeFact>,
    pub(super) places: usize,
    pub(super) loose: usize,
}

impl Program {
    /// The steps of a plan; nothing where an operator keeps something from run to run, or a size is known only when it is computed.
    pub(super) fn of(plan: &Plan) -> TractResult<Option<Self>> {
        let model = plan.model();
        let order = plan.order_without_consts();
        for id in order {
            if model.node(*id).op.state(&EvalContext::out_of_plan())?.is_some() {
                return Ok(None);
            }
        }
        let mut known = Vec::new();
        for input in model.input_outlets()? {
            known.extend(model.outlet_fact(*input)?.shape.iter().filter_map(|size| match size {
                TDim::Sym(symbol) => Some(symbol.clone()),
                _ => None,
            }));
        }
        let facts = || {
            order
                .iter()
                .flat_map(|id| &model.node(*id).outputs)
                .map(|outlet| &outlet.fact)
        };
        let told = |size: &TDim| size.symbols().iter().all(|symbol| known.contains(symbol));
        if !facts().all(|fact| fact.shape.iter().all(told)) {
            return Ok(None);
        }
        let works = works(model, order)?;
        Builder::new(plan, model).built(order, works).map(Some)
    }

    /// The shape of a tensor, in sizes that requests choose.
    pub(super) fn shape(&self, value: usize) -> &ShapeFact {
        &self.shapes[self.values[value].shape]
    }
}

fn is_view(op: &dyn TypedOp) -> bool {
    let axis = op
        .downcast_ref::<AxisOp>()
        .is_some_and(|op| !matches!(op, AxisOp::Move(..)));
    axis || op.downcast_ref::<IntoShape>().is_some()
}

/// Tensors of tract's of so many bytes are changed where they are: copying them costs more than a step of tract's.
const COPIED_MAX: usize = 64 << 10;

/// What each node could do.
fn works(model: &TypedModel, order: &[usize]) -> TractResult<BTreeMap<usize, Work>> {
    let mut works = BTreeMap::new();
    for node in order
        .iter()
        .map(|id| model.node(*id))
        .filter(|node| !node.op_is::<TypedSource>())
    {
        let exotic = node.outputs.iter().any(|outlet| outlet.fact.exotic_fact.is_some());
        let work = if exotic {
            Work::Tract
        } else if is_view(&*node.op) {
            Work::View
        } else {
            ops::writes(model, node)?.map_or(Work::Tract, Work::Write)
        };
        works.insert(node.id, work);
    }
    Ok(works)
}

/// Tensors by their outlets, while steps are made; which of them share a place.
struct Builder<'a> {
    model: &'a TypedModel,
    program: Program,
    found: BTreeMap<(usize, usize), usize>,
    /// For each place: the place that it became part of, and the last step that needs it.
    joined: Vec<usize>,
    last: Vec<usize>,
    loose_last: Vec<usize>,
}

impl<'a> Builder<'a> {
    fn new(plan: &Plan, model: &'a TypedModel) -> Self {
        let program = Program {
            plan: plan.clone(),
            values: Vec::new(),
            steps: Vec::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            shapes: Vec::new(),
            places: 0,
            loose: 0,
        };
        Self {
            model,
            program,
            found: BTreeMap::new(),
            joined: Vec::new(),
            last: Vec::new(),
            loose_last: Vec::new(),
        }
    }

    fn built(mut self, order: &[usize], mut works: BTreeMap<usize, Work>) -> TractResult<Program> {
        let takers = |input: &OutletId| self.model.node(input.node).outputs[input.slot].successors.iter();
        let by_tract =
            |input: &OutletId| takers(input).any(|taker| matches!(works.get(&taker.node), Some(Work::Tract)));
        let loose: Vec<bool> = self.model.input_outlets()?.iter().map(by_tract).collect();
        for (input, loose) in self.model.input_outlets()?.iter().zip(loose) {
            let held = if loose { self.new_loose() } else { self.new_place(0) };
            let value = self.value(*input, held)?;
            self.program.inputs.push(value);
        }
        for id in order {
            let node = self.model.node(*id);
            if let Some(work) = works.remove(id).filter(|_| !node.op_is::<TypedSource>()) {
                self.step(node, work)?;
            }
        }
        for outlet in self.model.output_outlets()? {
            let value = self.found(*outlet)?;
            self.needed(value, usize::MAX);
            self.program.outputs.push(value);
        }
        self.share();
        Ok(self.program)
    }

    fn new_place(&mut self, step: usize) -> Held {
        self.joined.push(self.joined.len());
        self.last.push(step);
        Held::Placed(self.joined.len() - 1)
    }

    fn new_loose(&mut self) -> Held {
        self.loose_last.push(0);
        Held::Loose(self.loose_last.len() - 1)
    }

    fn value(&mut self, outlet: OutletId, held: Held) -> TractResult<usize> {
        let fact = self.model.outlet_fact(outlet)?;
        let shapes = &mut self.program.shapes;
        let shape = shapes.iter().position(|shape| *shape == fact.shape).unwrap_or_else(|| {
            shapes.push(fact.shape.clone());
            shapes.len() - 1
        });
        let datum = fact.datum_type;
        self.program.values.push(Value { datum, shape, held });
        let value = self.program.values.len() - 1;
        self.found.insert((outlet.node, outlet.slot), value);
        Ok(value)
    }

    /// The tensor of an outlet that was made, or is a constant.
    fn found(&mut self, outlet: OutletId) -> TractResult<usize> {
        if let Some(value) = self.found.get(&(outlet.node, outlet.slot)) {
            return Ok(*value);
        }
        let constant = self.model.outlet_fact(outlet)?.konst.clone();
        let constant = constant.with_context(|| format!("nothing makes {outlet:?}"))?;
        self.value(outlet, Held::Constant(constant))
    }

    fn needed(&mut self, value: usize, step: usize) {
        match self.program.values[value].held {
            Held::Placed(place) => self.last[place] = self.last[place].max(step),
            Held::Loose(loose) => self.loose_last[loose] = self.loose_last[loose].max(step),
            Held::Constant(_) => {}
        }
    }

    fn step(&mut self, node: &TypedNode, work: Work) -> TractResult<()> {
        let step = self.program.steps.len();
        let inputs = node
            .inputs
            .iter()
            .map(|input| self.found(*input))
            .collect::<TractResult<Vec<_>>>()?;
        inputs.iter().for_each(|value| self.needed(*value, step));
        let placed = |value: usize| matches!(self.program.values[value].held, Held::Placed(_));
        let work = match work {
            Work::View if !placed(inputs[0]) => Work::Tract,
            Work::Write(op) if op.changes().is_some_and(|changed| self.large_loose(inputs[changed])) => Work::Tract,
            as_it_is => as_it_is,
        };
        let mut outputs = Vec::with_capacity(node.outputs.len());
        for slot in 0..node.outputs.len() {
            let held = match &work {
                Work::View => self.program.values[inputs[0]].held.clone(),
                Work::Write(_) => self.new_place(step),
                Work::Tract => self.new_loose(),
            };
            if let Held::Loose(loose) = held {
                self.loose_last[loose] = step;
            }
            outputs.push(self.value(OutletId::new(node.id, slot), held)?);
        }
        self.program.steps.push(Step {
            node: node.id,
            work,
            inputs,
            outputs,
            copied: None,
            ended: Vec::new(),
            dropped: Vec::new(),
        });
        Ok(())
    }

    fn large_loose(&self, value: usize) -> bool {
        let bytes = self.program.shape(value).as_concrete().map(|shape| {
            let elements: usize = shape.iter().product();
            elements * self.program.values[value].datum.size_of()
        });
        matches!(self.program.values[value].held, Held::Loose(_)) && bytes.is_some_and(|bytes| bytes > COPIED_MAX)
    }

    /// Lets what is changed for the last time keep its place, and tells when each place is free.
    fn share(&mut self) {
        for at in 0..self.program.steps.len() {
            let step = &self.program.steps[at];
            let Work::Write(op) = &step.work else { continue };
            let Some(changed) = op.changes().and_then(|input| step.inputs.get(input)).copied() else {
                continue;
            };
            let alone = step
                .inputs
                .iter()
                .filter(|input| self.place(**input) == self.place(changed))
                .count()
                == 1;
            let (from, to) = (self.place(changed), self.place(step.outputs[0]));
            match (from, to) {
                (Some(from), Some(to)) if alone && self.last[from] == at => {
                    self.joined[to] = from;
                    self.last[from] = self.last[to];
                }
                _ => self.program.steps[at].copied = Some(changed),
            }
        }
        for value in 0..self.program.values.len() {
            if let Some(place) = self.place(value) {
                self.program.values[value].held = Held::Placed(place);
            }
        }
        for (place, last) in self.last.iter().enumerate() {
            if self.joined[place] == place
                && let Some(step) = self.program.steps.get_mut(*last)
            {
                step.ended.push(place);
            }
        }
        for (loose, last) in self.loose_last.iter().enumerate() {
            if let Some(step) = self.program.steps.get_mut(*last) {
                step.dropped.push(loose);
            }
        }
        (self.program.places, self.program.loose) = (self.joined.len(), self.loose_last.len());
    }

    /// The place that a tensor's became part of.
    fn place(&self, value: usize) -> Option<usize> {
        let Held::Placed(mut place) = self.program.values[value].held else {
            return None;
        };
        while self.joined[place] != place {
            place = self.joined[place];
        }
        Some(place)
    }
}
