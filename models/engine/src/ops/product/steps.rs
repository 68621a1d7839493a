//! Where the elements of a few axes of a tensor lie.

/// Most axes of a tensor.
pub(super) const AXES_MAX: usize = 8;

/// Axes as sizes and steps from element to element; those that lie side by side are one.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Steps {
    axes: [[usize; 2]; AXES_MAX],
    count: usize,
}

impl Steps {
    /// The axis at this place of a tensor whose last axis lies side by side.
    pub(super) fn push(&mut self, shape: &[usize], place: usize) {
        self.push_step(shape[place], shape[place + 1..].iter().product());
    }

    fn push_step(&mut self, size: usize, step: usize) {
        if size == 1 {
            return;
        }
        match self.axes[..self.count].last_mut() {
            Some(last) if last[1] == size * step => *last = [last[0] * size, step],
            _ => {
                self.axes[self.count] = [size, step];
                self.count += 1;
            }
        }
    }

    /// These and then those.
    pub(super) fn then(mut self, others: &Self) -> Self {
        others
            .axes()
            .iter()
            .for_each(|[size, step]| self.push_step(*size, *step));
        self
    }

    fn axes(&self) -> &[[usize; 2]] {
        &self.axes[..self.count]
    }

    pub(super) fn size(&self) -> usize {
        self.axes().iter().map(|[size, _]| size).product()
    }

    /// How far elements lie apart, if all equally.
    pub(super) fn step(&self) -> Option<usize> {
        match self.axes() {
            [] => Some(1),
            [[_, step]] => Some(*step),
            _ => None,
        }
    }

    /// Where element number `at` lies.
    pub(super) fn place(&self, mut at: usize) -> usize {
        let mut place = 0;
        for [size, step] in self.axes().iter().rev() {
            place += at % size * step;
            at /= size;
        }
        place
    }

    /// Copies elements to where they lie side by side.
    pub(super) fn take(&self, from: &[f32], to: &mut [f32]) {
        let Some((last, outer)) = self.axes().split_last() else {
            return to.copy_from_slice(&from[..1]);
        };
        let outer = Self::of(outer);
        for (at, to) in to.chunks_exact_mut(last[0]).enumerate() {
            let from = &from[outer.place(at)..];
            match last[1] {
                1 => to.copy_from_slice(&from[..last[0]]),
                step => to
                    .iter_mut()
                    .zip(from.iter().step_by(step))
                    .for_each(|(to, from)| *to = *from),
            }
        }
    }

    /// Copies elements from where they lie side by side.
    pub(super) fn put(&self, from: &[f32], to: &mut [f32]) {
        let Some((last, outer)) = self.axes().split_last() else {
            return to[..1].copy_from_slice(from);
        };
        let outer = Self::of(outer);
        for (at, from) in from.chunks_exact(last[0]).enumerate() {
            let to = &mut to[outer.place(at)..];
            match last[1] {
                1 => to[..last[0]].copy_from_slice(from),
                step => to.iter_mut().step_by(step).zip(from).for_each(|(to, from)| *to = *from),
            }
        }
    }

    pub(super) fn of(axes: &[[usize; 2]]) -> Self {
        let mut steps = Self::default();
        axes.iter().for_each(|[size, step]| steps.push_step(*size, *step));
        steps
    }
}
