//! The form of version 5, which counts nodes and leaves through and says where each tree begins.

use proto::limits::{TREE_FEATURES_MAX, TREE_NODES_MAX};

use super::attributes::Attributes;
use super::build::{Builder, Listed, Mode};
use super::ensemble::{Aggregate, Task, Trees};
use super::parse::{Given, columns, leaves};
use super::score::Transform;
use super::{TreesError, index, length};

/// The lists of this form, lengths checked.
struct Lists<'a> {
    features: &'a [i64],
    yes: [&'a [i64]; 2],
    no: [&'a [i64]; 2],
    missing: &'a [i64],
    modes: Vec<i64>,
    splits: Vec<f32>,
    targets: &'a [i64],
    weights: Vec<f32>,
    roots: &'a [i64],
}

pub(super) fn parse(attributes: Attributes<'_>) -> Result<Trees, TreesError> {
    let lists = Lists::of(attributes)?;
    let columns = columns(
        "n_targets",
        usize::try_from(attributes.int("n_targets").unwrap_or(0)).unwrap_or(0),
    )?;
    let asking = lists.features.len();
    let nodes = lists.nodes()?;
    let given = lists.targets.iter().zip(&lists.weights).enumerate();
    let given: Vec<Given> = given
        .map(|(at, (&target, &weight))| {
            Ok(Given {
                leaf: asking + at,
                column: index("leaf_targetids", target, columns)?,
                weight,
            })
        })
        .collect::<Result<_, TreesError>>()?;
    let (gives, leaves) = leaves(&nodes, &given, columns, None);
    let mut builder = Builder::new(&nodes, &gives);
    for &root in lists.roots {
        builder.add(root, index("tree_roots", root, asking)?)?;
    }
    Ok(Trees {
        forest: builder.finish(),
        leaves,
        columns,
        base: Vec::new(),
        transform: transform(attributes.int("post_transform").unwrap_or(0), columns)?,
        task: Task::Numbers(aggregate(attributes.int("aggregate_function").unwrap_or(1))?),
    })
}

impl<'a> Lists<'a> {
    fn of(attributes: Attributes<'a>) -> Result<Self, TreesError> {
        let features = attributes.ints("nodes_featureids");
        let count = features.len();
        let ints = |list: &'static str| {
            let ints = attributes.ints(list);
            length(list, ints.len(), count).map(|()| ints)
        };
        let missing = attributes.ints("nodes_missing_value_tracks_true");
        if !missing.is_empty() {
            length("nodes_missing_value_tracks_true", missing.len(), count)?;
        }
        let lists = Self {
            features,
            yes: [ints("nodes_truenodeids")?, ints("nodes_trueleafs")?],
            no: [ints("nodes_falsenodeids")?, ints("nodes_falseleafs")?],
            missing,
            modes: attributes.tensor_ints("nodes_modes")?,
            splits: attributes.tensor_floats("nodes_splits")?,
            targets: attributes.ints("leaf_targetids"),
            weights: attributes.tensor_floats("leaf_weights")?,
            roots: attributes.ints("tree_roots"),
        };
        length("nodes_modes", lists.modes.len(), count)?;
        length("nodes_splits", lists.splits.len(), count)?;
        length("leaf_targetids", lists.targets.len(), lists.weights.len())?;
        let held = count.saturating_add(lists.weights.len());
        if count == 0 || held > TREE_NODES_MAX || !(1..=count).contains(&lists.roots.len()) {
            return Err(TreesError::Length {
                list: "tree_roots",
                held: lists.roots.len(),
                wanted: format!("1 for each tree, and at most {TREE_NODES_MAX} nodes"),
            });
        }
        Ok(lists)
    }

    /// Nodes that ask, then leaves.
    fn nodes(&self) -> Result<Vec<Listed>, TreesError> {
        let (asking, leaves) = (self.features.len(), self.weights.len());
        let place = |list: &'static str, [to, is_leaf]: [&[i64]; 2], at: usize| match is_leaf[at] {
            0 => index(list, to[at], asking),
            _ => index(list, to[at], leaves).map(|leaf| asking + leaf),
        };
        let node = |at: usize| {
            Ok(Listed {
                mode: mode(self.modes[at])?,
                value: self.splits[at],
                column: index("nodes_featureids", self.features[at], TREE_FEATURES_MAX)?,
                missing: self.missing.get(at) == Some(&1),
                yes: place("nodes_truenodeids", self.yes, at)?,
                no: place("nodes_falsenodeids", self.no, at)?,
            })
        };
        let leaf = Listed {
            mode: Mode::Leaf,
            value: 0.0,
            column: 0,
            missing: false,
            yes: 0,
            no: 0,
        };
        let leaves = std::iter::repeat_n(Ok(leaf), leaves);
        (0..asking).map(node).chain(leaves).collect()
    }
}

/// The numbers of version 5 for what older versions call by words.
fn mode(number: i64) -> Result<Mode, TreesError> {
    Ok(match number {
        0 => Mode::LessOrEqual,
        1 => Mode::Less,
        2 => Mode::GreaterOrEqual,
        3 => Mode::Greater,
        4 => Mode::Equal,
        5 => Mode::NotEqual,
        6 => {
            return Err(TreesError::Word {
                list: "nodes_modes",
                value: "BRANCH_MEMBER".to_owned(),
            });
        }
        value => return Err(range("nodes_modes", value, 6)),
    })
}

fn aggregate(number: i64) -> Result<Aggregate, TreesError> {
    Ok(match number {
        0 => Aggregate::Average,
        1 => Aggregate::Sum,
        2 => Aggregate::Min,
        3 => Aggregate::Max,
        value => return Err(range("aggregate_function", value, 3)),
    })
}

/// The standard calls 1 softmax and 2 logistic, ONNX Runtime 1.32 computes the opposite. Where the two differ a model is
/// refused rather than answered in a way that its author did not see; one target alone is changed by neither.
fn transform(number: i64, columns: usize) -> Result<Transform, TreesError> {
    Ok(match number {
        0 => Transform::None,
        1 | 2 if columns == 1 => Transform::None,
        1 | 2 => {
            return Err(TreesError::Word {
                list: "post_transform",
                value: number.to_string(),
            });
        }
        3 => Transform::SoftmaxZero,
        4 => Transform::Probit,
        value => return Err(range("post_transform", value, 4)),
    })
}

const fn range(list: &'static str, value: i64, most: i64) -> TreesError {
    TreesError::Range {
        list,
        value,
        least: 0,
        most,
    }
}
