//! Rows walk down trees, eight walks abreast.
//!
//! One walk waits at every step for memory and for a comparison; eight that do not depend on each other wait together. For a
//! batch the eight are rows of one tree, for a single row they are eight trees. No step branches on data: a leaf is a
//! node whose next node is itself, so walks of different lengths stay abreast.

use super::TreesError;

/// Walks abreast.
const LANES: usize = 8;

/// A question about one column, or a leaf. Both answers of a question lie side by side.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Node {
    /// The answer is yes for values up to this one ([`EQUAL`]: for this one only). NaN, to which no answer is yes, in leaves.
    pub(super) threshold: f32,
    /// Which column, with [`EQUAL`] and [`MISSING`] above.
    pub(super) column: u32,
    /// The node for no; the one after it is for yes. A leaf names itself.
    pub(super) no: u32,
    /// What a leaf gives: bits of a weight, or where its weights stand.
    pub(super) gives: u32,
}

/// Asks for equality instead of order.
pub(super) const EQUAL: u32 = 1 << 30;
/// Answers yes when the value is NaN.
pub(super) const MISSING: u32 = 1 << 31;

/// Where a tree begins, and how many steps its longest walk takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Root {
    pub(super) at: u32,
    pub(super) steps: u32,
}

/// The trees of one model, ready to walk. Only `build` makes one, so its indices are in range.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Forest {
    pub(super) nodes: Vec<Node>,
    pub(super) roots: Vec<Root>,
    /// Columns that a row must have.
    pub(super) width_min: usize,
    /// Whether any node answers yes to NaN, and whether any asks for equality: most models do neither and run without.
    pub(super) asks: Asks,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Asks {
    pub(super) missing: bool,
    pub(super) equal: bool,
}

impl Forest {
    /// Calls `take(row, gives)` for the leaf that each row reaches in each tree. The leaves of one row come in the order of
    /// the trees, so that sums do not depend on how many rows there are.
    ///
    /// # Errors
    /// [`TreesError::Width`] when rows are too short for what the trees ask.
    pub(super) fn visit(&self, x: &[f32], width: usize, take: impl FnMut(usize, u32)) -> Result<(), TreesError> {
        if width < self.width_min {
            let needed = self.width_min;
            return Err(TreesError::Width { needed, given: width });
        }
        match (self.asks.missing, self.asks.equal) {
            (false, false) => self.visit_as::<false, false>(x, width, take),
            (true, false) => self.visit_as::<true, false>(x, width, take),
            (_, true) => self.visit_as::<true, true>(x, width, take),
        }
        Ok(())
    }

    fn visit_as<const MISSING_ASKED: bool, const EQUAL_ASKED: bool>(
        &self,
        x: &[f32],
        width: usize,
        mut take: impl FnMut(usize, u32),
    ) {
        let mut groups = x.chunks_exact(LANES * width);
        let together = groups.len() * LANES;
        for root in &self.roots {
            for (group, rows) in groups.clone().enumerate() {
                let rows: [&[f32]; LANES] = std::array::from_fn(|lane| &rows[lane * width..(lane + 1) * width]);
                let ends = self.walk::<MISSING_ASKED, EQUAL_ASKED>(rows, [root.at; LANES], root.steps);
                for (lane, gives) in ends.into_iter().enumerate() {
                    take(group * LANES + lane, gives);
                }
            }
        }
        groups.by_ref().for_each(drop);
        for (row, columns) in groups.remainder().chunks_exact(width).enumerate() {
            for roots in self.roots.chunks(LANES) {
                let last = roots[roots.len() - 1];
                let starts = std::array::from_fn(|lane| roots.get(lane).unwrap_or(&last).at);
                let steps = roots.iter().map(|root| root.steps).max().unwrap_or(0);
                let ends = self.walk::<MISSING_ASKED, EQUAL_ASKED>([columns; LANES], starts, steps);
                for gives in ends.into_iter().take(roots.len()) {
                    take(together + row, gives);
                }
            }
        }
    }

    /// Walks at most `steps` steps, and gives what stands at the ends.
    #[inline(always)]
    fn walk<const MISSING_ASKED: bool, const EQUAL_ASKED: bool>(
        &self,
        rows: [&[f32]; LANES],
        mut at: [u32; LANES],
        steps: u32,
    ) -> [u32; LANES] {
        let nodes = self.nodes.as_slice();
        for _ in 0..steps {
            let mut moved = 0;
            for lane in 0..LANES {
                let node = &nodes[place(at[lane])];
                let column = if MISSING_ASKED || EQUAL_ASKED {
                    node.column & !(EQUAL | MISSING)
                } else {
                    node.column
                };
                let value = rows[lane][place(column)];
                let mut yes = if EQUAL_ASKED && node.column & EQUAL != 0 {
                    value == node.threshold
                } else {
                    value <= node.threshold
                };
                if MISSING_ASKED {
                    yes |= value.is_nan() & (node.column & MISSING != 0);
                }
                let next = node.no + u32::from(yes);
                moved |= next ^ at[lane];
                at[lane] = next;
            }
            if moved == 0 {
                break;
            }
        }
        at.map(|end| nodes[place(end)].gives)
    }
}

/// An index as this machine counts.
#[inline(always)]
#[allow(clippy::as_conversions, reason = "32 bits fit every machine that the engine runs on")]
const fn place(at: u32) -> usize {
    at as usize
}
