use proptest::prelude::*;
use tract_onnx::pb::{AttributeProto, NodeProto};

use super::{LinearModel, Trees};

/// Numbers that follow from a seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % below
    }
    fn float(&mut self) -> f32 {
        const AWKWARD: [f32; 6] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0, 0.5];
        match self.roll(8) {
            0 => AWKWARD[self.roll(AWKWARD.len())],
            // Few different values, so that thresholds are met exactly.
            _ => f32::from(u16::try_from(self.roll(16)).unwrap()) / 8.0 - 1.0,
        }
    }
}

const MODES: [&str; 6] = [
    "BRANCH_LEQ",
    "BRANCH_LT",
    "BRANCH_GTE",
    "BRANCH_GT",
    "BRANCH_EQ",
    "BRANCH_NEQ",
];

/// The lists of an ensemble, as a file holds them.
#[derive(Clone, Default)]
struct Lists {
    trees: Vec<i64>,
    nodes: Vec<i64>,
    modes: Vec<&'static str>,
    columns: Vec<i64>,
    values: Vec<f32>,
    missing: Vec<i64>,
    yes: Vec<i64>,
    no: Vec<i64>,
    given: Vec<(i64, i64, i64, f32)>,
}

impl Lists {
    fn push(&mut self, tree: i64, mode: &'static str, yes: i64, no: i64) -> i64 {
        let node = i64::try_from(self.trees.iter().filter(|t| **t == tree).count()).unwrap();
        self.trees.push(tree);
        self.nodes.push(node);
        self.modes.push(mode);
        self.columns.push(0);
        self.values.push(0.5);
        self.missing.push(0);
        self.yes.push(yes);
        self.no.push(no);
        node
    }

    fn random(dice: &mut Dice, width: usize, targets: usize, modes: &[&'static str]) -> Self {
        let mut lists = Self::default();
        for tree in 0..1 + dice.roll(11) {
            lists.grow(dice, i64::try_from(tree).unwrap(), 7, (width, targets), modes);
        }
        lists
    }

    fn grow(&mut self, dice: &mut Dice, tree: i64, depth: usize, sizes: (usize, usize), modes: &[&'static str]) -> i64 {
        if depth == 0 || dice.roll(4) == 0 {
            let leaf = self.push(tree, "LEAF", 0, 0);
            for target in 0..sizes.1 {
                if dice.roll(3) > 0 || sizes.1 == 1 {
                    let weight = dice.float();
                    let weight = if weight.is_finite() { weight } else { 1.0 };
                    self.given.push((tree, leaf, i64::try_from(target).unwrap(), weight));
                }
            }
            return leaf;
        }
        let node = self.push(tree, modes[dice.roll(modes.len())], 0, 0);
        let at = self.trees.len() - 1;
        self.columns[at] = i64::try_from(dice.roll(sizes.0)).unwrap();
        self.values[at] = dice.float();
        self.missing[at] = i64::try_from(dice.roll(2)).unwrap();
        self.yes[at] = self.grow(dice, tree, depth - 1, sizes, modes);
        self.no[at] = self.grow(dice, tree, depth - 1, sizes, modes);
        node
    }

    fn node(&self, operator: &str, targets: usize) -> NodeProto {
        let (prefix, mut attributes) = if operator == "TreeEnsembleClassifier" {
            let labels: Vec<i64> = (10..).take(targets).collect();
            ("class", vec![ints("classlabels_int64s", &labels)])
        } else {
            ("target", vec![int("n_targets", i64::try_from(targets).unwrap())])
        };
        let part = |pick: fn(&(i64, i64, i64, f32)) -> i64| self.given.iter().map(pick).collect::<Vec<_>>();
        let weights: Vec<f32> = self.given.iter().map(|given| given.3).collect();
        attributes.extend([
            ints("nodes_treeids", &self.trees),
            ints("nodes_nodeids", &self.nodes),
            ints("nodes_featureids", &self.columns),
            ints("nodes_truenodeids", &self.yes),
            ints("nodes_falsenodeids", &self.no),
            ints("nodes_missing_value_tracks_true", &self.missing),
            floats("nodes_values", &self.values),
            texts("nodes_modes", &self.modes),
            ints(&format!("{prefix}_treeids"), &part(|given| given.0)),
            ints(&format!("{prefix}_nodeids"), &part(|given| given.1)),
            ints(&format!("{prefix}_ids"), &part(|given| given.2)),
            floats(&format!("{prefix}_weights"), &weights),
        ]);
        NodeProto {
            op_type: operator.to_owned(),
            attribute: attributes,
            ..NodeProto::default()
        }
    }

    /// Sums by the words of the standard: one tree after the other, by names, without any of the evaluator's forms.
    fn sums(&self, row: &[f32], targets: usize) -> Vec<f32> {
        let mut sums = vec![0.0; targets];
        let mut roots = self.trees.clone();
        roots.dedup();
        for tree in roots {
            let place = |node: i64| (0..self.trees.len()).find(|&at| self.trees[at] == tree && self.nodes[at] == node);
            let mut at = place(0).unwrap();
            while self.modes[at] != "LEAF" {
                let (x, t) = (row[usize::try_from(self.columns[at]).unwrap()], self.values[at]);
                let yes = match self.modes[at] {
                    "BRANCH_LEQ" => x <= t,
                    "BRANCH_LT" => x < t,
                    "BRANCH_GTE" => x >= t,
                    "BRANCH_GT" => x > t,
                    "BRANCH_EQ" => x == t,
                    _ => x != t,
                };
                let yes = yes || x.is_nan() && self.missing[at] == 1;
                at = place(if yes { self.yes[at] } else { self.no[at] }).unwrap();
            }
            for given in &self.given {
                if (given.0, given.1) == (tree, self.nodes[at]) {
                    sums[usize::try_from(given.2).unwrap()] += given.3;
                }
            }
        }
        sums
    }
}

fn attribute(name: &str) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        ..AttributeProto::default()
    }
}
fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto { i, ..attribute(name) }
}
fn ints(name: &str, ints: &[i64]) -> AttributeProto {
    let ints = ints.to_vec();
    AttributeProto {
        ints,
        ..attribute(name)
    }
}
fn floats(name: &str, floats: &[f32]) -> AttributeProto {
    let floats = floats.to_vec();
    AttributeProto {
        floats,
        ..attribute(name)
    }
}
fn texts(name: &str, texts: &[&str]) -> AttributeProto {
    let strings = texts.iter().map(|text| text.as_bytes().to_vec()).collect();
    AttributeProto {
        strings,
        ..attribute(name)
    }
}

fn set(node: &mut NodeProto, new: AttributeProto) {
    node.attribute.retain(|old| old.name != new.name);
    node.attribute.push(new);
}

/// A tree of one question.
fn stump() -> Lists {
    let mut lists = Lists::default();
    lists.push(0, "BRANCH_LEQ", 1, 2);
    lists.push(0, "LEAF", 0, 0);
    lists.push(0, "LEAF", 0, 0);
    lists.given = vec![(0, 1, 0, 1.0), (0, 2, 0, 2.0)];
    lists
}

fn refused(node: &NodeProto) -> String {
    Trees::parse(node).unwrap_err().to_string()
}

/// Runs a model that was parsed, whatever it holds.
fn run(trees: &Trees, x: &[f32], width: usize) -> (Vec<i64>, Vec<f32>) {
    let rows = x.len() / width;
    let mut labels = vec![0; rows];
    let mut scores = vec![0.0; rows * trees.columns()];
    trees.run(x, width, &mut labels, &mut scores).unwrap();
    (labels, scores)
}

proptest! {
    /// Goal: eight walks abreast, two comparisons instead of six and packed nodes change no bit of any sum.
    #[test]
    fn any_ensemble_sums_as_a_plain_reading_of_the_standard_does(
        seed in 1..u64::MAX, width in 1..5usize, targets in 1..4usize, rows in 1..20usize, modes in 0..4usize,
    ) {
        let mut dice = Dice(seed);
        let modes = [&MODES[..1], &MODES[1..2], &MODES[..4], &MODES[..]][modes];
        let lists = Lists::random(&mut dice, width, targets, modes);
        let trees = Trees::parse(&lists.node("TreeEnsembleRegressor", targets)).unwrap();
        let x: Vec<f32> = (0..rows * width).map(|_| dice.float()).collect();
        let (_, scores) = run(&trees, &x, width);
        let wanted: Vec<f32> = x.chunks_exact(width).flat_map(|row| lists.sums(row, targets)).collect();
        prop_assert_eq!(scores, wanted);
    }

    /// Goal: a label is the class of the largest sum when there are more than two classes.
    #[test]
    fn the_label_of_many_classes_is_the_one_with_the_largest_sum(seed in 1..u64::MAX, rows in 1..20usize) {
        let mut dice = Dice(seed);
        let mut lists = Lists::random(&mut dice, 3, 4, &MODES);
        lists.given.iter_mut().for_each(|given| given.3 = given.3.abs() + 0.125);
        let trees = Trees::parse(&lists.node("TreeEnsembleClassifier", 4)).unwrap();
        let x: Vec<f32> = (0..rows * 3).map(|_| dice.float()).collect();
        let (labels, scores) = run(&trees, &x, 3);
        for (row, (label, scores)) in x.chunks_exact(3).zip(labels.iter().zip(scores.chunks_exact(4))) {
            let sums = lists.sums(row, 4);
            prop_assert_eq!(scores, &sums[..]);
            // The first class of which a leaf spoke wins a tie; all sums of such classes are positive here.
            let best = sums.iter().copied().fold(0.0, f32::max);
            let first = sums.iter().position(|sum| *sum == best).unwrap();
            prop_assert_eq!(*label, 10 + i64::try_from(first).unwrap());
        }
    }

    /// Goal: whatever stands in the lists, reading them ends in an error or in a model that runs.
    #[test]
    fn no_altered_list_makes_a_model_that_panics_or_hangs(
        seed in 1..u64::MAX, which in any::<prop::sample::Index>(), changes in 1..6usize, classes in any::<bool>(),
    ) {
        let mut dice = Dice(seed);
        let lists = Lists::random(&mut dice, 3, 2, &MODES);
        let mut node = lists.node(if classes { "TreeEnsembleClassifier" } else { "TreeEnsembleRegressor" }, 2);
        for _ in 0..changes {
            let at = (which.index(node.attribute.len()) + dice.roll(3)) % node.attribute.len();
            let values = [0, 1, 2, 3, -1, i64::MAX, i64::MIN, 1 << 20, 7];
            let value = values[dice.roll(values.len())];
            let attribute = &mut node.attribute[at];
            let count = attribute.ints.len().max(1);
            match dice.roll(5) {
                0 => drop(attribute.ints.pop()),
                1 => attribute.ints.push(value),
                2 => drop(attribute.floats.pop()),
                3 => attribute.i = value,
                _ => attribute.ints.iter_mut().skip(dice.roll(count)).take(1).for_each(|int| *int = value),
            }
        }
        if let Ok(trees) = Trees::parse(&node) {
            let width = trees.width_min().min(1 << 12);
            let x: Vec<f32> = (0..9 * width).map(|_| dice.float()).collect();
            let mut scores = vec![0.0; 9 * trees.columns()];
            let _ = trees.run(&x, width, &mut [0; 9], &mut scores);
        }
    }
}

#[test]
fn a_circle_ends_in_an_error_that_names_the_tree() {
    let mut lists = stump();
    lists.no[0] = 0;
    assert!(refused(&lists.node("TreeEnsembleRegressor", 1)).contains("tree 0"));
    let mut lists = stump();
    (lists.yes[0], lists.no[0]) = (0, 0);
    assert!(refused(&lists.node("TreeEnsembleRegressor", 1)).contains("circle"));
}

#[test]
fn fifty_nodes_that_describe_a_quadrillion_leaves_are_refused() {
    let mut lists = Lists::default();
    for next in 1..=50 {
        lists.push(0, "BRANCH_LEQ", next, next);
    }
    lists.push(0, "LEAF", 0, 0);
    assert!(refused(&lists.node("TreeEnsembleRegressor", 1)).contains("shared branches"));
}

/// Goal: sets of categories, which exporters write as chains of equalities that share their leaf, run.
#[test]
fn a_leaf_that_a_chain_of_equalities_shares_is_reached_from_each() {
    let mut lists = Lists::default();
    for (next, category) in [(1, 3.0), (2, 5.0), (4, 8.0)] {
        lists.push(0, "BRANCH_EQ", 3, next);
        *lists.values.last_mut().unwrap() = category;
    }
    lists.push(0, "LEAF", 0, 0);
    lists.push(0, "LEAF", 0, 0);
    lists.given = vec![(0, 3, 0, 1.0), (0, 4, 0, -1.0)];
    let trees = Trees::parse(&lists.node("TreeEnsembleRegressor", 1)).unwrap();
    let (_, scores) = run(&trees, &[3.0, 4.0, 5.0, 8.0, f32::NAN], 1);
    assert_eq!(scores, [1.0, -1.0, 1.0, 1.0, -1.0]);
}

#[test]
fn a_tree_deeper_than_any_real_one_is_refused_and_a_deep_one_runs() {
    let chain = |depth: i64| {
        let mut lists = Lists::default();
        for at in 0..depth {
            lists.push(0, "BRANCH_LEQ", depth, at + 1);
        }
        lists.nodes.push(depth);
        lists.trees.push(0);
        lists.modes.push("LEAF");
        lists.columns.push(0);
        lists.values.push(0.0);
        lists.missing.push(0);
        lists.yes.push(0);
        lists.no.push(0);
        lists.given = vec![(0, depth, 0, 1.0)];
        lists.node("TreeEnsembleRegressor", 1)
    };
    let trees = Trees::parse(&chain(4096)).unwrap();
    assert_eq!(run(&trees, &[1.0; 9], 1).1, [1.0; 9]);
    assert!(refused(&chain(4097)).contains("4096"));
}

#[test]
fn each_list_that_does_not_fit_is_named() {
    let node = || stump().node("TreeEnsembleRegressor", 1);
    let wrong: [(AttributeProto, &str); 9] = [
        (ints("nodes_truenodeids", &[7, 0, 0]), "names node 7"),
        (ints("nodes_falsenodeids", &[2, 0]), "`nodes_falsenodeids`"),
        (ints("nodes_featureids", &[-1, 0, 0]), "-1 in `nodes_featureids`"),
        (ints("nodes_featureids", &[1 << 40, 0, 0]), "`nodes_featureids`"),
        (ints("nodes_nodeids", &[0, 1, 1]), "lists node 1 twice"),
        (ints("target_ids", &[0, 1]), "1 in `target_ids`"),
        (texts("nodes_modes", &["BRANCH_LEQ", "LEAF", "LEAVE"]), "`LEAVE`"),
        (floats("base_values", &[0.5, 0.5]), "`base_values`"),
        (int("n_targets", i64::MAX), "`n_targets`"),
    ];
    for (attribute, part) in wrong {
        let mut node = node();
        set(&mut node, attribute);
        let text = refused(&node);
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn classes_named_by_text_are_refused_with_the_way_out() {
    let mut node = stump().node("TreeEnsembleClassifier", 2);
    set(&mut node, texts("classlabels_strings", &["fraud", "honest"]));
    assert!(refused(&node).contains("labels file"));
}

#[test]
fn rows_with_fewer_columns_than_a_tree_asks_for_are_an_error() {
    let mut lists = stump();
    lists.columns[0] = 4;
    let trees = Trees::parse(&lists.node("TreeEnsembleRegressor", 1)).unwrap();
    assert!(trees.run(&[0.0; 4], 4, &mut [], &mut [0.0]).is_err());
    assert!(trees.run(&[], 0, &mut [], &mut []).is_err());
    assert!(trees.run(&[0.0; 5], 5, &mut [], &mut [0.0]).is_ok());
}

#[test]
fn linear_models_whose_lists_disagree_are_refused() {
    let model = |labels: &[i64], coefficients: &[f32], intercepts: &[f32]| {
        let attribute = vec![
            ints("classlabels_ints", labels),
            floats("coefficients", coefficients),
            floats("intercepts", intercepts),
        ];
        LinearModel::parse(&NodeProto {
            op_type: "LinearClassifier".to_owned(),
            attribute,
            ..NodeProto::default()
        })
    };
    assert!(model(&[1, 2], &[0.5, 0.5], &[0.0]).is_ok());
    assert!(model(&[1, 2, 3], &[0.5, 0.5], &[0.0]).is_err());
    assert!(model(&[1, 2], &[0.5, 0.5, 0.5], &[0.0, 0.0]).is_err());
    assert!(model(&[1, 2], &[], &[0.0, 0.0]).is_err());
    assert!(model(&[1, 2], &[0.5], &[]).is_err());
}
