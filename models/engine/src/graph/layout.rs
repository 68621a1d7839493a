//! Where the places of a program lie in one memory, for given sizes of the inputs.
//!
//! Invariant: places that are needed at one time do not overlap, and each begins at a line of the processor's cache.

use std::ops::Range;

use tract_onnx::tract_core::internal::*;

use super::program::{Held, Program};
use crate::engine::Call;

/// Places begin at multiples of this.
pub(super) const ALIGN: usize = 64;

/// One choice of sizes.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) symbols: SymbolValues,
    /// For each of [`Program::shapes`], its sizes.
    pub(super) shapes: Vec<TVec<usize>>,
    /// For each place, its bytes; none for one that became part of another.
    pub(super) places: Vec<Range<usize>>,
    /// What all places take.
    pub(super) bytes: usize,
}

impl Layout {
    /// Lays out a program for inputs of these shapes.
    ///
    /// # Errors
    /// A size that does not follow from the inputs', or inputs that contradict each other.
    pub(super) fn of(program: &Program, call: &Call<'_>) -> TractResult<Self> {
        let symbols = symbols(program, call)?;
        let sized = |shape: &ShapeFact| shape.eval_to_usize(&symbols).map(Cow::into_owned);
        let shapes: Vec<TVec<usize>> = program.shapes.iter().map(sized).collect::<TractResult<_>>()?;
        for (value, given) in program.inputs.iter().zip(call.given()) {
            let shape = &shapes[program.values[*value].shape];
            ensure!(
                given.shape().eq(shape.iter().copied()),
                "an input of another shape than {shape:?}"
            );
        }
        let mut layout = Self {
            symbols,
            shapes,
            places: vec![0..0; program.places],
            bytes: 0,
        };
        layout.place_all(program)?;
        Ok(layout)
    }

    /// The sizes of a tensor.
    pub(super) fn shape(&self, program: &Program, value: usize) -> &[usize] {
        &self.shapes[program.values[value].shape]
    }

    fn place_all(&mut self, program: &Program) -> TractResult<()> {
        let mut free = Free::default();
        for value in &program.inputs {
            self.place(program, *value, &mut free)?;
        }
        for step in &program.steps {
            for value in &step.outputs {
                self.place(program, *value, &mut free)?;
            }
            for place in &step.ended {
                free.end(self.places[*place].clone());
            }
        }
        self.bytes = free.reached;
        Ok(())
    }

    fn place(&mut self, program: &Program, value: usize, free: &mut Free) -> TractResult<()> {
        let Held::Placed(place) = program.values[value].held else {
            return Ok(());
        };
        let elements: usize = self.shape(program, value).iter().product();
        let bytes = elements * program.values[value].datum.size_of();
        let place = &mut self.places[place];
        if place.end == 0 {
            *place = free.begin(bytes);
        }
        ensure!(place.len() == bytes, "{bytes} bytes in a place of {}", place.len());
        Ok(())
    }
}

/// What the sizes that requests choose are this time.
fn symbols(program: &Program, call: &Call<'_>) -> TractResult<SymbolValues> {
    let count = call.given().len();
    ensure!(count == program.inputs.len(), "{count} inputs");
    let mut symbols = SymbolValues::default();
    for (value, given) in program.inputs.iter().zip(call.given()) {
        for (size, given) in program.shape(*value).iter().zip(given.shape()) {
            if let TDim::Sym(symbol) = size
                && symbols.get(symbol).is_none()
            {
                symbols.set(symbol, i64::try_from(given)?);
            }
        }
    }
    Ok(symbols)
}

/// Gaps between places that are in use, in order, and how far places have reached.
#[derive(Default)]
struct Free {
    gaps: Vec<Range<usize>>,
    reached: usize,
}

impl Free {
    /// A place in the smallest gap that holds it, or behind all.
    fn begin(&mut self, bytes: usize) -> Range<usize> {
        // An empty tensor has a place too, so that it counts as placed.
        let room = bytes.max(1).next_multiple_of(ALIGN);
        let holds = |gap: &(usize, &Range<usize>)| gap.1.len() >= room;
        let smallest = self
            .gaps
            .iter()
            .enumerate()
            .filter(holds)
            .min_by_key(|(_, gap)| gap.len());
        let start = match smallest.map(|(at, _)| at) {
            Some(at) => {
                let start = self.gaps[at].start;
                self.gaps[at].start += room;
                if self.gaps[at].is_empty() {
                    self.gaps.remove(at);
                }
                start
            }
            // The last gap may reach to the end.
            None => match self.gaps.pop_if(|gap| gap.end == self.reached) {
                Some(gap) => gap.start,
                None => self.reached,
            },
        };
        self.reached = self.reached.max(start + room);
        start..start + bytes
    }

    fn end(&mut self, place: Range<usize>) {
        let mut gap = place.start..place.start + place.len().max(1).next_multiple_of(ALIGN);
        let mut at = self.gaps.partition_point(|other| other.start < gap.start);
        if let Some(next) = self.gaps.get(at).filter(|next| next.start == gap.end) {
            gap.end = next.end;
            self.gaps.remove(at);
        }
        if let Some(before) = at.checked_sub(1).filter(|before| self.gaps[*before].end == gap.start) {
            gap.start = self.gaps[before].start;
            self.gaps.remove(before);
            at = before;
        }
        self.gaps.insert(at, gap);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_in_use_never_overlap_and_what_is_free_is_used_again() {
        let (mut free, mut used, mut state) = (Free::default(), Vec::<Range<usize>>::new(), 7_usize);
        let mut most = 0;
        for _ in 0..10_000 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let random = state >> 33;
            if random.is_multiple_of(2) && !used.is_empty() {
                free.end(used.swap_remove(random / 2 % used.len()));
                continue;
            }
            if used.len() > 20 {
                continue;
            }
            let place = free.begin(random / 2 % 1000);
            assert!(place.start.is_multiple_of(ALIGN) && place.end <= free.reached);
            assert!(used.iter().all(|other| {
                let end = |place: &Range<usize>| place.start + place.len().max(1);
                end(&place) <= other.start || end(other) <= place.start
            }));
            used.push(place);
            most = most.max(used.len() * 1024);
        }
        assert!(free.reached <= 2 * most, "{} for {most}", free.reached);
        used.drain(..).for_each(|place| free.end(place));
        assert_eq!(free.gaps, vec![0..free.reached]);
    }
}
