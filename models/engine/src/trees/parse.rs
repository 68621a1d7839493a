//! From a node of a file to an ensemble: the two forms of version 1 to 4, which list nodes by tree and number.

use proto::limits::{TREE_FEATURES_MAX, TREE_NODES_MAX, TREE_TARGETS_MAX};
use tract_onnx::pb::NodeProto;

use super::attributes::{Attributes, shown};
use super::build::{Builder, Listed, Mode, Places};
use super::ensemble::{Aggregate, Leaves, Task, Trees};
use super::score::{Transform, TwoClasses};
use super::{TreesError, five, index, length};

/// Names of the lists that describe leaves, which differ between the two operators.
struct Names {
    trees: &'static str,
    nodes: &'static str,
    columns: &'static str,
    weights: &'static str,
    weights_tensor: &'static str,
}

const CLASSES: Names = Names {
    trees: "class_treeids",
    nodes: "class_nodeids",
    columns: "class_ids",
    weights: "class_weights",
    weights_tensor: "class_weights_as_tensor",
};
const TARGETS: Names = Names {
    trees: "target_treeids",
    nodes: "target_nodeids",
    columns: "target_ids",
    weights: "target_weights",
    weights_tensor: "target_weights_as_tensor",
};

/// A weight that the leaf at a place of the list gives to a column.
pub(super) struct Given {
    pub(super) leaf: usize,
    pub(super) column: usize,
    pub(super) weight: f32,
}

impl Trees {
    /// Reads and checks a node: `TreeEnsembleClassifier`, `TreeEnsembleRegressor` or `TreeEnsemble`.
    ///
    /// # Errors
    /// [`TreesError`], which says what in the node is wrong. Memory stays in proportion to the file.
    pub(crate) fn parse(node: &NodeProto) -> Result<Self, TreesError> {
        let attributes = Attributes::of(node);
        match node.op_type.as_str() {
            "TreeEnsembleClassifier" => classifier(attributes),
            "TreeEnsembleRegressor" => regressor(attributes),
            _ => five::parse(attributes),
        }
    }
}

fn classifier(attributes: Attributes<'_>) -> Result<Trees, TreesError> {
    let labels = labels(attributes, "classlabels_int64s")?.to_vec();
    let columns = columns("classlabels_int64s", labels.len())?;
    let base = attributes.floats_or("base_values", "base_values_as_tensor")?;
    // For two classes the standard's base value per class and one for the only column are both in use.
    if !(base.is_empty() || columns == 2 && base.len() == 1) {
        length("base_values", base.len(), columns)?;
    }
    let two = <[i64; 2]>::try_from(labels.as_slice()).ok().map(|labels| {
        let named = attributes.ints(CLASSES.columns);
        TwoClasses {
            labels,
            one_column: !named.is_empty() && named.iter().all(|class| Some(class) == named.first()),
            all_positive: true,
        }
    });
    let transform = Transform::of(attributes.text("post_transform"))?;
    let mut trees = listed(
        attributes,
        &CLASSES,
        columns,
        base,
        transform,
        Task::Classes { labels, two },
    )?;
    let weights = attributes.floats_or(CLASSES.weights, CLASSES.weights_tensor)?;
    if let Task::Classes { two: Some(two), .. } = &mut trees.task {
        two.all_positive = !weights.iter().any(|weight| *weight < 0.0);
    }
    Ok(trees)
}

fn regressor(attributes: Attributes<'_>) -> Result<Trees, TreesError> {
    let wanted = attributes.int("n_targets").unwrap_or(1);
    let columns = columns("n_targets", usize::try_from(wanted).unwrap_or(0))?;
    let base = attributes.floats_or("base_values", "base_values_as_tensor")?;
    if !base.is_empty() {
        length("base_values", base.len(), columns)?;
    }
    let aggregate = match attributes.text("aggregate_function").unwrap_or(b"SUM") {
        b"SUM" => Aggregate::Sum,
        b"AVERAGE" => Aggregate::Average,
        b"MIN" => Aggregate::Min,
        b"MAX" => Aggregate::Max,
        other => {
            return Err(TreesError::Word {
                list: "aggregate_function",
                value: shown(other),
            });
        }
    };
    let transform = Transform::of(attributes.text("post_transform"))?;
    listed(attributes, &TARGETS, columns, base, transform, Task::Numbers(aggregate))
}

/// The labels of classes, which must be whole numbers.
pub(super) fn labels<'a>(attributes: Attributes<'a>, list: &'static str) -> Result<&'a [i64], TreesError> {
    if attributes.texts("classlabels_strings").is_empty() {
        Ok(attributes.ints(list))
    } else {
        Err(TreesError::TextLabels)
    }
}

/// How many scores a row gets.
pub(super) fn columns(list: &'static str, count: usize) -> Result<usize, TreesError> {
    if (1..=TREE_TARGETS_MAX).contains(&count) {
        return Ok(count);
    }
    Err(TreesError::Length {
        list,
        held: count,
        wanted: format!("1 to {TREE_TARGETS_MAX}"),
    })
}

fn listed(
    attributes: Attributes<'_>,
    names: &Names,
    columns: usize,
    base: Vec<f32>,
    transform: Transform,
    task: Task,
) -> Result<Trees, TreesError> {
    let (tree_ids, node_ids) = (attributes.ints("nodes_treeids"), attributes.ints("nodes_nodeids"));
    if !(1..=TREE_NODES_MAX).contains(&tree_ids.len()) {
        return Err(TreesError::Length {
            list: "nodes_treeids",
            held: tree_ids.len(),
            wanted: format!("1 to {TREE_NODES_MAX}"),
        });
    }
    length("nodes_nodeids", node_ids.len(), tree_ids.len())?;
    let places = Places::of(tree_ids, node_ids)?;
    let nodes = nodes(attributes, tree_ids, &places)?;
    let given = given(attributes, names, &places, columns)?;
    let values: Vec<f32> = nodes.iter().map(|node| node.value).collect();
    let (gives, leaves) = leaves(&nodes, &given, columns, Some(&values));
    let mut builder = Builder::new(&nodes, &gives);
    for (tree, root) in &places.trees {
        builder.add(*tree, *root)?;
    }
    Ok(Trees {
        forest: builder.finish(),
        leaves,
        columns,
        base,
        transform,
        task,
    })
}

fn nodes(attributes: Attributes<'_>, tree_ids: &[i64], places: &Places) -> Result<Vec<Listed>, TreesError> {
    let count = tree_ids.len();
    let ints = |list: &'static str| {
        let ints = attributes.ints(list);
        length(list, ints.len(), count).map(|()| ints)
    };
    let (columns, yes, no) = (
        ints("nodes_featureids")?,
        ints("nodes_truenodeids")?,
        ints("nodes_falsenodeids")?,
    );
    let modes = attributes.texts("nodes_modes");
    length("nodes_modes", modes.len(), count)?;
    let values = attributes.floats_or("nodes_values", "nodes_values_as_tensor")?;
    length("nodes_values", values.len(), count)?;
    let missing = attributes.ints("nodes_missing_value_tracks_true");
    if !missing.is_empty() {
        length("nodes_missing_value_tracks_true", missing.len(), count)?;
    }
    let node = |at: usize| {
        let mode = mode(&modes[at])?;
        let (value, is_leaf) = (values[at], mode == Mode::Leaf);
        let place = |node: i64| {
            if is_leaf {
                Ok(0)
            } else {
                places.find(tree_ids[at], node)
            }
        };
        Ok(Listed {
            mode,
            value,
            column: if is_leaf {
                0
            } else {
                index("nodes_featureids", columns[at], TREE_FEATURES_MAX)?
            },
            missing: missing.get(at) == Some(&1),
            yes: place(yes[at])?,
            no: place(no[at])?,
        })
    };
    (0..count).map(node).collect()
}

fn mode(word: &[u8]) -> Result<Mode, TreesError> {
    Ok(match word {
        b"BRANCH_LEQ" => Mode::LessOrEqual,
        b"BRANCH_LT" => Mode::Less,
        b"BRANCH_GTE" => Mode::GreaterOrEqual,
        b"BRANCH_GT" => Mode::Greater,
        b"BRANCH_EQ" => Mode::Equal,
        b"BRANCH_NEQ" => Mode::NotEqual,
        b"LEAF" => Mode::Leaf,
        other => {
            return Err(TreesError::Word {
                list: "nodes_modes",
                value: shown(other),
            });
        }
    })
}

fn given(attributes: Attributes<'_>, names: &Names, places: &Places, columns: usize) -> Result<Vec<Given>, TreesError> {
    let weights = attributes.floats_or(names.weights, names.weights_tensor)?;
    let ints = |list: &'static str| {
        let ints = attributes.ints(list);
        length(list, ints.len(), weights.len()).map(|()| ints)
    };
    let (trees, nodes, ids) = (ints(names.trees)?, ints(names.nodes)?, ints(names.columns)?);
    let one = |(at, &weight): (usize, &f32)| {
        Ok(Given {
            leaf: places.find(trees[at], nodes[at])?,
            column: index(names.columns, ids[at], columns)?,
            weight,
        })
    };
    weights.iter().enumerate().map(one).collect()
}

/// What each leaf gives, by its place in the list. Weights of nodes that are no leaves are left out, as old exporters wrote
/// some. A leaf without a weight gives its `values` entry where there is one column only, and else nothing.
pub(super) fn leaves(nodes: &[Listed], given: &[Given], columns: usize, values: Option<&[f32]>) -> (Vec<u32>, Leaves) {
    let is_leaf = |given: &&Given| nodes[given.leaf].mode == Mode::Leaf;
    let mut counts = vec![0usize; nodes.len() + 1];
    for given in given.iter().filter(is_leaf) {
        counts[given.leaf + 1] += 1;
    }
    let leaf = |place: &usize| nodes[*place].mode == Mode::Leaf;
    let single = (0..nodes.len()).filter(leaf).all(|place| counts[place + 1] == 1);
    let first = given.iter().find(is_leaf).map_or(0, |given| given.column);
    let same = given.iter().filter(is_leaf).all(|given| given.column == first);
    if same && (single || columns == 1) {
        let mut gives: Vec<u32> = (0..nodes.len())
            .map(|place| values.map_or(0, |values| values[place].to_bits()))
            .collect();
        // The first weight of a leaf counts where there is one column, so it is written last.
        for given in given.iter().filter(is_leaf).rev() {
            gives[given.leaf] = given.weight.to_bits();
        }
        return (gives, Leaves::One { column: first });
    }
    for place in 0..nodes.len() {
        counts[place + 1] += counts[place];
    }
    let mut next = counts.clone();
    let mut weights = vec![(0, 0.0); counts[nodes.len()]];
    for given in given.iter().filter(is_leaf) {
        weights[next[given.leaf]] = (given.column, given.weight);
        next[given.leaf] += 1;
    }
    let gives = (0..nodes.len())
        .map(|place| u32::try_from(place).unwrap_or(0))
        .collect();
    (
        gives,
        Leaves::Many {
            starts: counts,
            weights,
        },
    )
}
