//! Runs a program in one memory, which a thread uses again for its next run, whatever graph that is of.
//!
//! So a thread holds as much as its largest run of late took, and a graph that waits holds nothing but its weights and plans.

use std::cell::RefCell;
use std::ops::Range;

use proto::limits::{RUN_MEMORY_KEPT_MAX, RUNS_PER_SHRINK};
use proto::oip;
use tract_onnx::tract_core::internal::*;

use super::layout::{ALIGN, Layout};
use super::program::{Held, Program, Step, Work};
use crate::engine::Call;
use crate::onnx::Described;
use crate::ops::{INPUTS_MAX, Input, OUTPUTS_MAX, Output};
use crate::tensor;

thread_local! {
    static MEMORY: RefCell<Memory> = RefCell::default();
}

/// What runs of a thread use. Its content means nothing between runs.
#[derive(Default)]
struct Memory {
    bytes: Vec<u8>,
    loose: Vec<Option<TValue>>,
    /// What the largest took, of the last so many runs.
    needed: usize,
    runs: u32,
}

impl Memory {
    /// Room for a run, its first byte at a line of the cache.
    fn room(&mut self, bytes: usize) -> &mut [u8] {
        let whole = bytes + ALIGN;
        self.needed = self.needed.max(whole);
        if self.bytes.len() < whole {
            // Freed first: what is in it is not needed any more.
            self.bytes = Vec::new();
            self.bytes = vec![0; whole];
        }
        let start = self.bytes.as_ptr().align_offset(ALIGN).min(ALIGN);
        let room = &mut self.bytes[start..start + bytes];
        // What is read before it is written shows in tests: it is no number.
        #[cfg(test)]
        room.fill(0xff);
        room
    }

    /// Gives memory back that runs of late did not need, and more than a thread may keep.
    fn end_run(&mut self) {
        self.runs += 1;
        let over = self.bytes.len() > RUN_MEMORY_KEPT_MAX;
        if self.runs >= RUNS_PER_SHRINK || over {
            if over || self.bytes.len() / 2 > self.needed {
                self.bytes = Vec::new();
            }
            (self.runs, self.needed) = (0, 0);
        }
    }
}

/// Runs a program once, laid out for these inputs.
///
/// # Errors
/// The operator that failed, and why; a panic is the caller's to catch.
pub(super) fn run(
    program: &Program,
    layout: &Layout,
    io: &Described,
    call: &Call<'_>,
) -> TractResult<Vec<oip::Tensor>> {
    MEMORY.with_borrow_mut(|memory| {
        let mut loose = std::mem::take(&mut memory.loose);
        loose.clear();
        loose.resize(program.loose, None);
        let mut run = Run {
            program,
            layout,
            memory: memory.room(layout.bytes),
            loose,
        };
        let _ended = Sessions(program);
        run.take(call)?;
        for step in &program.steps {
            let node = program.plan.model().node(step.node);
            run.step(step).with_context(|| format!("Evaluating {node}"))?;
        }
        let answer = run.answer(io);
        let mut loose = std::mem::take(&mut run.loose);
        drop(run);
        loose.clear();
        memory.loose = loose;
        memory.end_run();
        answer
    })
}

struct Run<'a> {
    program: &'a Program,
    layout: &'a Layout,
    memory: &'a mut [u8],
    loose: Vec<Option<TValue>>,
}

impl Run<'_> {
    fn place(&self, place: usize) -> Range<usize> {
        self.layout.places[place].clone()
    }

    /// Takes up what a request gave.
    fn take(&mut self, call: &Call<'_>) -> TractResult<()> {
        for (value, given) in self.program.inputs.iter().zip(call.given()) {
            match self.program.values[*value].held {
                Held::Placed(place) => {
                    let place = self.place(place);
                    let to = &mut self.memory[place];
                    tensor::copy_to_engine(given, to).map_err(|why| format_err!("{why}"))?;
                }
                Held::Loose(loose) => {
                    let given = tensor::to_engine(given).map_err(|why| format_err!("{why}"))?;
                    self.loose[loose] = Some(given.into_tvalue());
                }
                Held::Constant(_) => bail!("an input that is a constant"),
            }
        }
        Ok(())
    }

    fn step(&mut self, step: &Step) -> TractResult<()> {
        match &step.work {
            Work::View => {}
            Work::Write(op) => {
                self.copy(step)?;
                self.write(step, |inputs, outputs| op.write(inputs, outputs), op.changes())?;
            }
            Work::Tract => self.evaluate(step)?,
        }
        for loose in &step.dropped {
            self.loose[*loose] = None;
        }
        Ok(())
    }

    /// Puts what is changed, and needed later, where it is changed.
    fn copy(&mut self, step: &Step) -> TractResult<()> {
        let Some(changed) = step.copied else { return Ok(()) };
        let Held::Placed(to) = self.program.values[step.outputs[0]].held else {
            bail!("a result without a place");
        };
        let to = self.place(to);
        match &self.program.values[changed].held {
            Held::Placed(from) => self.memory.copy_within(self.place(*from), to.start),
            Held::Constant(constant) => self.memory[to].copy_from_slice(constant.as_bytes()),
            Held::Loose(loose) => {
                let from = Input::of(there(&self.loose, *loose)?)?;
                self.memory[to].copy_from_slice(from.bytes);
            }
        }
        Ok(())
    }
    /// Lets an operator write, with what it reads cut out of the same memory.
    fn write(
        &mut self,
        step: &Step,
        write: impl FnOnce(&[Input<'_>], &mut [Output<'_>]) -> TractResult<()>,
        changed: Option<usize>,
    ) -> TractResult<()> {
        let (program, layout) = (self.program, self.layout);
        let count = step.outputs.len();
        let mut ranges = [const { 0..0 }; OUTPUTS_MAX];
        for (range, value) in ranges.iter_mut().zip(&step.outputs) {
            match program.values[*value].held {
                Held::Placed(place) => *range = layout.places[place].clone(),
                _ => bail!("a result without a place"),
            }
        }
        let mut order = [0, 1];
        if count == OUTPUTS_MAX && ranges[1].start < ranges[0].start {
            order = [1, 0];
        }
        let mut made: [Output<'_>; OUTPUTS_MAX] = Default::default();
        let mut gaps: [(usize, &[u8]); OUTPUTS_MAX + 1] = [(usize::MAX, &[]); OUTPUTS_MAX + 1];
        let (mut rest, mut at) = (&mut *self.memory, 0);
        for (gap, output) in order.into_iter().take(count).enumerate() {
            let (before, after) = rest.split_at_mut(ranges[output].start - at);
            let (bytes, after) = after.split_at_mut(ranges[output].len());
            gaps[gap] = (at, before);
            made[output] = Output {
                shape: layout.shape(program, step.outputs[output]),
                bytes,
            };
            (rest, at) = (after, ranges[output].end);
        }
        gaps[count] = (at, rest);
        let mut given = [Input::default(); INPUTS_MAX];
        for (slot, value) in step.inputs.iter().enumerate() {
            let shape = layout.shape(program, *value);
            let bytes = match &program.values[*value].held {
                _ if changed == Some(slot) => &[][..],
                Held::Constant(constant) if constant.datum_type().is_copy() => Input::of(constant)?.bytes,
                Held::Constant(_) => &[],
                Held::Loose(loose) => Input::of(there(&self.loose, *loose)?)?.bytes,
                Held::Placed(place) => {
                    let place = layout.places[*place].clone();
                    let gap = gaps.iter().rev().find(|(start, _)| *start <= place.start);
                    let (start, gap) = gap.context("an input outside of the memory")?;
                    let bytes = gap.get(place.start - start..place.end - start);
                    bytes.context("an input in the place of a result")?
                }
            };
            given[slot] = Input { shape, bytes };
        }
        write(&given[..step.inputs.len()], &mut made[..count])
    }

    /// Lets tract evaluate an operator.
    fn evaluate(&mut self, step: &Step) -> TractResult<()> {
        let program = self.program;
        let mut inputs: TVec<TValue> = tvec![];
        for value in &step.inputs {
            inputs.push(match &program.values[*value].held {
                Held::Constant(constant) => TValue::from_const(Arc::clone(constant)),
                // The last who takes it may change it.
                Held::Loose(loose) if step.dropped.contains(loose) && once(step, *value) => {
                    self.loose[*loose]
                        .take()
                        .context("a tensor that is not there any more")?
                }
                Held::Loose(loose) => there(&self.loose, *loose)?.clone(),
                Held::Placed(place) => {
                    let shape = self.layout.shape(program, *value);
                    let bytes = &self.memory[self.place(*place)];
                    tensor_of(program.values[*value].datum, shape, bytes)?.into_tvalue()
                }
            });
        }
        let context = EvalContext {
            node_id: step.node,
            symbols: &self.layout.symbols,
            ..EvalContext::out_of_plan()
        };
        let results = program.plan.model().node(step.node).op.eval(&context, inputs)?;
        ensure!(results.len() >= step.outputs.len(), "{} results", results.len());
        for (value, result) in step.outputs.iter().zip(results) {
            if let Held::Loose(loose) = program.values[*value].held {
                self.loose[loose] = Some(result);
            }
        }
        Ok(())
    }

    fn answer(&self, io: &Described) -> TractResult<Vec<oip::Tensor>> {
        let outputs = io.outputs.iter().zip(&self.program.outputs);
        let made = outputs.map(|(spec, value)| match &self.program.values[*value].held {
            Held::Placed(place) => {
                let (datum, shape) = (
                    self.program.values[*value].datum,
                    self.layout.shape(self.program, *value),
                );
                tensor::from_bytes(&spec.name, datum, shape, &self.memory[self.place(*place)])
            }
            Held::Loose(loose) => match &self.loose[*loose] {
                Some(made) => tensor::from_engine(&spec.name, made),
                None => Err(format!("nothing made `{}`", spec.name)),
            },
            Held::Constant(constant) => tensor::from_engine(&spec.name, constant),
        });
        made.collect::<Result<_, _>>().map_err(|why| format_err!("{why}"))
    }
}

/// A tensor of these elements.
fn tensor_of(datum: DatumType, shape: &[usize], bytes: &[u8]) -> TractResult<Tensor> {
    if datum == f32::datum_type() {
        return Tensor::from_shape::<f32>(shape, Input { shape, bytes }.elements()?);
    }
    let mut tensor = Tensor::zero_dt(datum, shape)?;
    tensor.as_bytes_mut().copy_from_slice(bytes);
    Ok(tensor)
}

fn there(loose: &[Option<TValue>], at: usize) -> TractResult<&TValue> {
    loose[at].as_ref().context("a tensor that is not there any more")
}

fn once(step: &Step, value: usize) -> bool {
    step.inputs.iter().filter(|input| **input == value).count() == 1
}

/// Lets tract's operators forget what they noted of a run, also of one that failed: they key it by nodes, and other graphs have the same.
struct Sessions<'a>(&'a Program);

impl Drop for Sessions<'_> {
    fn drop(&mut self) {
        for step in self.0.steps.iter().filter(|step| matches!(step.work, Work::Tract)) {
            let op = &self.0.plan.model().node(step.node).op;
            op.drop_session(EvalContext::out_of_plan().session, step.node);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_gives_back_what_runs_of_late_did_not_need() {
        let mut memory = Memory::default();
        let run = |memory: &mut Memory, bytes: usize| {
            assert_eq!(memory.room(bytes).len(), bytes);
            assert!(memory.room(bytes).as_ptr().addr().is_multiple_of(ALIGN));
            memory.end_run();
            memory.bytes.len()
        };
        assert!(run(&mut memory, 1 << 20) >= 1 << 20);
        for _ in 0..2 * RUNS_PER_SHRINK {
            run(&mut memory, 1000);
        }
        assert!((1..1 << 16).contains(&run(&mut memory, 1000)));
        assert_eq!(run(&mut memory, RUN_MEMORY_KEPT_MAX + 1), 0);
        // Runs of one size keep their memory.
        let held = run(&mut memory, 5000);
        assert!((0..2 * RUNS_PER_SHRINK).all(|_| run(&mut memory, 5000) == held));
    }
}
