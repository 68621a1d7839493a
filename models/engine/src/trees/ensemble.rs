//! An ensemble of trees with its sums and what becomes of them.

use super::TreesError;
use super::score::{self, Sum, Transform, TwoClasses};
use super::walk::Forest;

/// Trees of one node of a file, checked and ready.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Trees {
    pub(super) forest: Forest,
    pub(super) leaves: Leaves,
    /// Scores of a row: classes, or targets.
    pub(super) columns: usize,
    pub(super) base: Vec<f32>,
    pub(super) transform: Transform,
    pub(super) task: Task,
}

/// What leaves give.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Leaves {
    /// Each leaf gives one weight, and all to this column; the forest holds the bits of the weight itself.
    One { column: usize },
    /// The forest holds a number `n` for each leaf, whose weights are `weights[starts[n]..starts[n + 1]]`.
    Many {
        starts: Vec<usize>,
        weights: Vec<(usize, f32)>,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Task {
    Classes {
        labels: Vec<i64>,
        /// The rule where there are exactly two.
        two: Option<TwoClasses>,
    },
    Numbers(Aggregate),
}

/// How the weights that a row's leaves give to one target become one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Aggregate {
    Sum,
    Average,
    Min,
    Max,
}

impl Trees {
    /// Scores of each row.
    pub(crate) const fn columns(&self) -> usize {
        self.columns
    }
    /// Columns that a row must have at least.
    pub(crate) const fn width_min(&self) -> usize {
        self.forest.width_min
    }
    /// Whether there are labels beside the scores.
    pub(crate) const fn labels(&self) -> bool {
        matches!(self.task, Task::Classes { .. })
    }
    /// Trees and nodes, for people.
    pub(crate) fn size(&self) -> (usize, usize) {
        (self.forest.roots.len(), self.forest.nodes.len())
    }

    /// Scores rows of `width` values: `scores` takes [`Trees::columns`] for each, `labels` one for each if this model has
    /// classes. Sums run in `f32`, tree by tree in the order of the file.
    ///
    /// # Errors
    /// [`TreesError::Width`] when a row has fewer columns than the trees ask for, [`TreesError::Length`] when the slices
    /// have other lengths than the rows need.
    pub(crate) fn run(
        &self,
        x: &[f32],
        width: usize,
        labels: &mut [i64],
        scores: &mut [f32],
    ) -> Result<(), TreesError> {
        let rows = x.len().checked_div(width).unwrap_or(0);
        super::length("scores", scores.len(), rows.saturating_mul(self.columns))?;
        scores.fill(0.0);
        let seen = self.sum(x, width, scores)?;
        match &self.task {
            Task::Numbers(aggregate) => self.finish_numbers(*aggregate, seen.as_deref(), scores),
            Task::Classes { labels: known, two } => {
                super::length("labels", labels.len(), rows)?;
                for (row, (label, scores)) in labels.iter_mut().zip(scores.chunks_exact_mut(self.columns)).enumerate() {
                    let sums = |column: usize, score: f32| Sum {
                        score,
                        seen: self.was_seen(seen.as_deref(), row, column),
                    };
                    *label = self.finish_classes(known, two.as_ref(), sums, scores);
                }
            }
        }
        Ok(())
    }

    /// Adds up what the leaves give. What comes back says for each score whether any leaf gave something; `None` where the
    /// model's form answers that.
    fn sum(&self, x: &[f32], width: usize, scores: &mut [f32]) -> Result<Option<Vec<bool>>, TreesError> {
        let columns = self.columns;
        let aggregate = match self.task {
            Task::Numbers(aggregate) => aggregate,
            Task::Classes { .. } => Aggregate::Sum,
        };
        match (&self.leaves, aggregate) {
            (Leaves::One { column }, Aggregate::Sum | Aggregate::Average) => {
                let add = |row: usize, gives: u32| scores[row * columns + column] += f32::from_bits(gives);
                self.forest.visit(x, width, add)?;
                Ok(None)
            }
            (Leaves::One { column }, Aggregate::Min | Aggregate::Max) => {
                let mut seen = vec![false; scores.len()];
                self.forest.visit(x, width, |row, gives| {
                    let at = row * columns + column;
                    pick(aggregate, &mut scores[at], &mut seen[at], f32::from_bits(gives));
                })?;
                Ok(Some(seen))
            }
            (Leaves::Many { starts, weights }, _) => {
                let mut seen = vec![false; scores.len()];
                self.forest.visit(x, width, |row, gives| {
                    let leaf = usize::try_from(gives).unwrap_or(usize::MAX - 1);
                    for (column, weight) in &weights[starts[leaf]..starts[leaf + 1]] {
                        let at = row * columns + column;
                        pick(aggregate, &mut scores[at], &mut seen[at], *weight);
                    }
                })?;
                Ok(Some(seen))
            }
        }
    }

    fn was_seen(&self, seen: Option<&[bool]>, row: usize, column: usize) -> bool {
        match (seen, &self.leaves) {
            (Some(seen), _) => seen[row * self.columns + column],
            (None, Leaves::One { column: only }) => column == *only,
            (None, Leaves::Many { .. }) => false,
        }
    }

    fn finish_classes(
        &self,
        labels: &[i64],
        two: Option<&TwoClasses>,
        sum: impl Fn(usize, f32) -> Sum,
        scores: &mut [f32],
    ) -> i64 {
        if let (Some(rule), [first, second]) = (two, &mut *scores) {
            let sums = [sum(0, *first), sum(1, *second)];
            let (label, both) = score::binary(rule, &self.base, self.transform, sums);
            [*first, *second] = both;
            return label;
        }
        if let [only] = scores {
            // One class alone: its sum decides between the numbers 1 and 0.
            let score = *only + self.base.first().copied().unwrap_or(0.0);
            *only = self.transform.apply_single(score);
            return i64::from(score > 0.0);
        }
        for (score, base) in scores.iter_mut().zip(&self.base) {
            *score += base;
        }
        let based = !self.base.is_empty();
        let sums = scores.iter().enumerate().map(|(column, &score)| {
            let sum = sum(column, score);
            Sum {
                seen: sum.seen || based,
                ..sum
            }
        });
        let label = labels[score::largest(sums)];
        self.transform.apply(scores);
        label
    }

    fn finish_numbers(&self, aggregate: Aggregate, seen: Option<&[bool]>, scores: &mut [f32]) {
        let columns = self.columns;
        #[allow(clippy::as_conversions, reason = "trees are far fewer than 2^24")]
        let trees = self.forest.roots.len() as f32;
        for (at, score) in scores.iter_mut().enumerate() {
            if aggregate == Aggregate::Average {
                *score /= trees;
            }
            *score += self.base.get(at % columns).copied().unwrap_or(0.0);
            // ONNX Runtime gives 0, without the base value, where one of several targets got nothing.
            if columns > 1 && seen.is_some_and(|seen| !seen[at]) {
                *score = 0.0;
            }
            if columns == 1 {
                *score = self.transform.apply_single(*score);
            }
        }
        if columns > 1 {
            scores
                .chunks_exact_mut(columns)
                .for_each(|row| self.transform.apply(row));
        }
    }
}

/// Adds one weight to one score.
#[inline(always)]
fn pick(aggregate: Aggregate, score: &mut f32, seen: &mut bool, weight: f32) {
    match aggregate {
        Aggregate::Sum | Aggregate::Average => *score += weight,
        Aggregate::Min if *seen && *score <= weight => {}
        Aggregate::Max if *seen && *score >= weight => {}
        Aggregate::Min | Aggregate::Max => *score = weight,
    }
    *seen = true;
}
