//! From the lists of a file to a forest that is safe to walk.
//!
//! A hostile file may point anywhere, go round in circles, or share branches so that a hundred nodes describe 2^50 leaves.
//! Shared branches are copied, as exporters share small ones for sets of categories, within a bound on nodes and on depth;
//! both end a circle too. Nothing here recurses.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ops::Range;

use proto::limits::{TREE_DEPTH_MAX, TREE_NODES_MAX};

use super::TreesError;
use super::walk::{Asks, EQUAL, Forest, MISSING, Node, Root};

/// What a node asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    LessOrEqual,
    Less,
    GreaterOrEqual,
    Greater,
    Equal,
    NotEqual,
    Leaf,
}

/// A node as the file describes it; columns are checked already.
#[derive(Clone, Copy, Debug)]
pub(super) struct Listed {
    pub(super) mode: Mode,
    pub(super) value: f32,
    pub(super) column: usize,
    pub(super) missing: bool,
    /// Place in the list of the node for yes and for no; unused in leaves.
    pub(super) yes: usize,
    pub(super) no: usize,
}

/// Adds trees to a forest one by one.
pub(super) struct Builder<'a> {
    listed: &'a [Listed],
    /// What each leaf gives, by its place in the list.
    gives: &'a [u32],
    nodes: Vec<Node>,
    roots: Vec<Root>,
    nodes_max: usize,
    columns: usize,
    asks: Asks,
}

impl<'a> Builder<'a> {
    /// Copies of shared branches for each node of the list.
    const COPIES: usize = 64;

    pub(super) fn new(listed: &'a [Listed], gives: &'a [u32]) -> Self {
        Self {
            listed,
            gives,
            nodes: Vec::with_capacity(listed.len()),
            roots: Vec::new(),
            nodes_max: listed.len().saturating_mul(Self::COPIES).min(TREE_NODES_MAX),
            columns: 1,
            asks: Asks::default(),
        }
    }

    /// Adds the tree whose root stands at `root` in the list.
    pub(super) fn add(&mut self, tree: i64, root: usize) -> Result<(), TreesError> {
        let wrong = |why: String| TreesError::Tree { tree, why };
        let listed = self.listed;
        let start = self.room(1).map_err(wrong)?.start;
        let mut open = VecDeque::from([(root, start, 0)]);
        let mut steps = 0;
        while let Some((from, to, depth)) = open.pop_front() {
            let node = *listed.get(from).ok_or_else(|| wrong(format!("has no node {from}")))?;
            if node.mode == Mode::Leaf {
                self.nodes[to] = leaf(number(to), self.gives[from]);
                continue;
            }
            if depth >= TREE_DEPTH_MAX {
                return Err(wrong(format!(
                    "goes deeper than {TREE_DEPTH_MAX} nodes, or in a circle"
                )));
            }
            let pair = self.room(2).map_err(wrong)?;
            let question = Question::of(node.mode, node.value, node.missing);
            self.asks.missing |= question.missing;
            self.asks.equal |= question.equal;
            self.columns = self.columns.max(node.column + 1);
            self.nodes[to] = Node {
                threshold: question.threshold,
                column: number(node.column) | question.flags(),
                no: number(pair.start),
                gives: 0,
            };
            let (no, yes) = if question.turned {
                (node.yes, node.no)
            } else {
                (node.no, node.yes)
            };
            open.extend([(no, pair.start, depth + 1), (yes, pair.start + 1, depth + 1)]);
            steps = steps.max(depth + 1);
        }
        self.roots.push(Root {
            at: number(start),
            steps: number(steps),
        });
        Ok(())
    }

    pub(super) fn finish(self) -> Forest {
        Forest {
            nodes: self.nodes,
            roots: self.roots,
            width_min: self.columns,
            asks: self.asks,
        }
    }

    fn room(&mut self, count: usize) -> Result<Range<usize>, String> {
        let (start, end) = (self.nodes.len(), self.nodes.len() + count);
        if end > self.nodes_max {
            let bound = self.nodes_max;
            return Err(format!(
                "has more than {bound} nodes with its shared branches, or goes in a circle"
            ));
        }
        self.nodes.resize(end, leaf(0, 0));
        Ok(start..end)
    }
}

fn leaf(at: u32, gives: u32) -> Node {
    Node {
        threshold: f32::NAN,
        column: 0,
        no: at,
        gives,
    }
}

/// Any of the six comparisons as `value <= threshold` or `value == threshold`, perhaps with its answers turned round.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Question {
    threshold: f32,
    equal: bool,
    /// The answer for NaN, after turning.
    missing: bool,
    turned: bool,
}

impl Question {
    /// `missing` says that NaN is answered with yes; else NaN fails the comparison, as in IEEE 754.
    fn of(mode: Mode, value: f32, missing: bool) -> Self {
        let as_asked = |threshold, equal| Self {
            threshold,
            equal,
            missing,
            turned: false,
        };
        let turned = |threshold| Self {
            threshold,
            equal: false,
            missing: !missing,
            turned: true,
        };
        match mode {
            Mode::NotEqual => Self {
                threshold: value,
                equal: true,
                // NaN differs from everything, so it never reaches what was the side for no.
                missing: false,
                turned: true,
            },
            Mode::Equal => as_asked(value, true),
            Mode::Less => as_asked(below(value), false),
            Mode::Greater if !value.is_nan() => turned(value),
            Mode::GreaterOrEqual if !value.is_nan() => turned(below(value)),
            // No order holds against NaN, in either direction.
            Mode::LessOrEqual | Mode::Greater | Mode::GreaterOrEqual | Mode::Leaf => as_asked(value, false),
        }
    }

    const fn flags(self) -> u32 {
        (if self.equal { EQUAL } else { 0 }) | (if self.missing { MISSING } else { 0 })
    }
}

/// The threshold for which `<=` says what `<` says for `value`: the next smaller number, and none below the smallest.
fn below(value: f32) -> f32 {
    if value == f32::NEG_INFINITY {
        f32::NAN
    } else {
        value.next_down()
    }
}

/// A place as nodes keep it. [`TREE_NODES_MAX`] and the bound on columns keep it far below 2^30.
fn number(place: usize) -> u32 {
    u32::try_from(place).unwrap_or(0)
}

/// Where each node of the old format stands, by tree and number, and where each tree begins.
pub(super) struct Places {
    by_name: HashMap<(i64, i64), usize>,
    /// Trees in the order of the file: number, and place of the root, which is the node listed first.
    pub(super) trees: Vec<(i64, usize)>,
}

impl Places {
    pub(super) fn of(trees: &[i64], nodes: &[i64]) -> Result<Self, TreesError> {
        let mut places = Self {
            by_name: HashMap::with_capacity(nodes.len()),
            trees: Vec::new(),
        };
        let mut seen = HashSet::new();
        for (place, (&tree, &node)) in trees.iter().zip(nodes).enumerate() {
            let wrong = |why: String| TreesError::Tree { tree, why };
            if places.by_name.insert((tree, node), place).is_some() {
                return Err(wrong(format!("lists node {node} twice")));
            }
            if places.trees.last().is_none_or(|(last, _)| *last != tree) {
                if !seen.insert(tree) {
                    return Err(wrong("is listed in two places".to_owned()));
                }
                places.trees.push((tree, place));
            }
        }
        Ok(places)
    }

    pub(super) fn find(&self, tree: i64, node: i64) -> Result<usize, TreesError> {
        let missing = || TreesError::Tree {
            tree,
            why: format!("names node {node}, which is not in its list"),
        };
        self.by_name.get(&(tree, node)).copied().ok_or_else(missing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the two comparisons that are left say the same as the six, for every pair of awkward values.
    #[test]
    fn each_comparison_keeps_its_meaning_when_it_becomes_one_of_two() {
        let awkward = [
            f32::NEG_INFINITY,
            f32::MIN,
            -1.0,
            -f32::from_bits(1),
            -0.0,
            0.0,
            f32::from_bits(1),
            1.0,
            1.0f32.next_up(),
            f32::MAX,
            f32::INFINITY,
            f32::NAN,
        ];
        type Says = fn(f32, f32) -> bool;
        let modes: [(Mode, Says); 6] = [
            (Mode::LessOrEqual, |x, t| x <= t),
            (Mode::Less, |x, t| x < t),
            (Mode::GreaterOrEqual, |x, t| x >= t),
            (Mode::Greater, |x, t| x > t),
            (Mode::Equal, |x, t| x == t),
            (Mode::NotEqual, |x, t| x != t),
        ];
        for (mode, says) in modes {
            for (threshold, missing) in awkward.into_iter().flat_map(|t| [(t, false), (t, true)]) {
                let question = Question::of(mode, threshold, missing);
                for x in awkward {
                    let plain = if question.equal {
                        x == question.threshold
                    } else {
                        x <= question.threshold
                    };
                    let yes = (plain || question.missing && x.is_nan()) != question.turned;
                    let wanted = says(x, threshold) || missing && x.is_nan();
                    assert_eq!(yes, wanted, "{x} {mode:?} {threshold}, missing {missing}");
                }
            }
        }
    }
}
