//! Rows of mixed lengths as several runs of near-equal length: what is padded is computed all the same.
//!
//! ```text
//!   lengths  5 40 6 38 5      padded to the longest: 5 rows of 40, 200 tokens
//!   runs     [5 5 6] [38 40]  padded to their own:   3 rows of 6 and 2 of 40, 98 tokens
//! ```
//! A run costs something of its own, so rows are parted only where that saves more padding than it costs.
//!
//! Invariant: every row is in exactly one run, and answers come back in the order of the rows.

use std::collections::BTreeMap;

use proto::limits::RUN_ROWS_MAX;
use proto::manifest::DataType;
use proto::oip::Tensor;

use crate::tensor;

/// What a run costs beside its tokens, counted in tokens.
const RUN_TOKENS: usize = 8;

/// Rows that run together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// Their places in the call.
    rows: Vec<usize>,
    /// Tokens of each, padding included.
    length: usize,
}

/// Parts rows of `lengths` tokens so that runs and padding cost least together; a run whose longest row has so many tokens has
/// `padded` of them in each.
///
/// By length, the rows of a run are neighbours: the cheapest parting of the first `n` is one of fewer rows and a run more.
pub(super) fn runs(lengths: &[usize], padded: impl Fn(usize) -> usize) -> Vec<Run> {
    let padded = |row: &usize| padded(lengths[*row]);
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|row| padded(row)); // stable: equal lengths keep their order
    // For each number of rows, what they cost at least, and where their last run begins.
    let mut best = vec![(0, 0)];
    for end in 1..=order.len() {
        let length = padded(&order[end - 1]);
        let costs = (end.saturating_sub(RUN_ROWS_MAX)..end)
            .map(|begin| (best[begin].0 + RUN_TOKENS + (end - begin) * length, begin));
        best.extend(costs.min());
    }
    let (mut runs, mut end) = (Vec::new(), order.len());
    while end > 0 {
        let begin = best[end].1;
        runs.push(Run {
            rows: order[begin..end].to_vec(),
            length: padded(&order[end - 1]),
        });
        end = begin;
    }
    runs.reverse();
    runs
}

impl Run {
    /// Its rows of all tensors; those that `sequences` names have its length on axis 1.
    pub(super) fn of(
        &self,
        tensors: &BTreeMap<String, Tensor>,
        sequences: &[&str],
    ) -> Result<BTreeMap<String, Tensor>, String> {
        let cut = |(name, all): (&String, &Tensor)| {
            let mut some = picked(all, &self.rows)?;
            if sequences.contains(&name.as_str()) {
                some = tensor::first_columns(&some, self.length);
            }
            Ok((name.clone(), some))
        };
        tensors.iter().map(cut).collect()
    }
}

/// The rows of `all` at `places`, in that order.
fn picked(all: &Tensor, places: &[usize]) -> Result<Tensor, String> {
    let rows = all.shape.first().copied().unwrap_or(0);
    let mut shape = all.shape.clone();
    if let Some(first) = shape.first_mut() {
        *first = places.len();
    }
    if all.datatype == DataType::Bytes {
        let strings = tensor::byte_strings(all)?;
        let width = strings.len() / rows.max(1);
        let some = places.iter().flat_map(|row| &strings[row * width..(row + 1) * width]);
        return Ok(tensor::of_byte_strings(&all.name, shape, some.copied()));
    }
    let width = all.data.len() / rows.max(1);
    let some = places.iter().flat_map(|row| &all.data[row * width..(row + 1) * width]);
    Ok(Tensor {
        name: all.name.clone(),
        datatype: all.datatype,
        shape,
        data: some.copied().collect(),
    })
}

/// Joins what the runs gave, output by output, rows in the order of the call. A sentence where a run gave another number of rows.
pub(super) fn in_order(runs: &[Run], parts: Vec<Vec<Tensor>>) -> Result<Vec<Tensor>, String> {
    let mut outputs: Vec<Vec<Tensor>> = Vec::new();
    for (run, part) in runs.iter().zip(parts) {
        outputs.resize_with(part.len(), Vec::new);
        for (output, tensor) in outputs.iter_mut().zip(part) {
            if tensor.shape.first() != Some(&run.rows.len()) {
                let (shape, given) = (&tensor.shape, run.rows.len());
                return Err(format!("`{}` has the shape {shape:?} for {given} rows", tensor.name));
            }
            output.push(tensor);
        }
    }
    // Where each row of the call lies in the joined runs.
    let given = runs.iter().flat_map(|run| &run.rows).enumerate();
    let mut places: Vec<(usize, usize)> = given.map(|(place, row)| (*row, place)).collect();
    places.sort_unstable();
    let places: Vec<usize> = places.into_iter().map(|(_, place)| place).collect();
    let joined = outputs.into_iter().filter_map(tensor::join_rows);
    joined.map(|output| picked(&output, &places)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cost(runs: &[Run]) -> usize {
        runs.iter().map(|run| RUN_TOKENS + run.rows.len() * run.length).sum()
    }

    #[test]
    fn rows_are_parted_where_that_saves_more_padding_than_a_run_costs() {
        let parted = runs(&[5, 40, 6, 38, 5], |n| n);
        let run = |rows: &[usize], length| Run {
            rows: rows.to_vec(),
            length,
        };
        assert_eq!(parted, [run(&[0, 4, 2], 6), run(&[3, 1], 40)]);
        assert_eq!(runs(&[9; 40], |n| n).len(), 2, "no more rows than run at once");
        assert_eq!(
            runs(&[5, 9, 17], |n| n.next_multiple_of(16)),
            [run(&[0, 1], 16), run(&[2], 32)]
        );
        assert_eq!(runs(&[0], |n| n.max(1)), [run(&[0], 1)]);
    }

    proptest! {
        #[test]
        fn every_row_runs_once_in_a_run_as_long_as_it_is_and_no_parting_is_cheaper(
            lengths in prop::collection::vec(1_usize..60, 1..9),
            cuts in prop::collection::vec(any::<bool>(), 9),
        ) {
            let parted = runs(&lengths, |n| n);
            let mut rows: Vec<usize> = parted.iter().flat_map(|run| run.rows.clone()).collect();
            prop_assert!(parted.iter().all(|run| run.rows.iter().all(|row| lengths[*row] <= run.length)));
            rows.sort_unstable();
            prop_assert_eq!(rows, (0..lengths.len()).collect::<Vec<_>>());
            let mut sorted: Vec<(usize, usize)> = lengths.iter().copied().enumerate().map(|(row, length)| (length, row)).collect();
            sorted.sort_unstable();
            let mut other: Vec<Run> = Vec::new();
            for (at, (length, row)) in sorted.into_iter().enumerate() {
                match other.last_mut().filter(|_| !cuts[at]) {
                    Some(run) => {
                        run.rows.push(row);
                        run.length = length;
                    }
                    None => other.push(Run { rows: vec![row], length }),
                }
            }
            prop_assert!(cost(&parted) <= cost(&other));
        }

        #[test]
        fn what_the_runs_give_comes_back_in_the_order_of_the_call(lengths in prop::collection::vec(1_usize..60, 1..40), text in any::<bool>()) {
            let cell = |row: usize| if text { row.to_string().into_bytes() } else { row.to_le_bytes().to_vec() };
            let cells: Vec<Vec<u8>> = (0..lengths.len()).map(cell).collect();
            let all = if text {
                tensor::of_byte_strings("x", vec![cells.len(), 1], cells.iter().map(Vec::as_slice))
            } else {
                let values: Vec<i64> = (0..i64::try_from(cells.len()).unwrap()).collect();
                tensor::of_i64s("x", vec![cells.len(), 1], &values)
            };
            let tensors = BTreeMap::from([("x".to_owned(), all.clone())]);
            let parted = runs(&lengths, |n| n);
            let parts = parted.iter().map(|run| run.of(&tensors, &[]).unwrap().into_values().collect());
            prop_assert_eq!(in_order(&parted, parts.collect()).unwrap(), vec![all]);
        }
    }

    #[test]
    fn a_run_takes_the_first_columns_of_sequences_and_whole_rows_of_the_rest() {
        let ids = tensor::of_i64s("ids", vec![3, 3], &[1, 0, 0, 2, 3, 4, 5, 6, 0]);
        let other = tensor::of_i64s("other", vec![3, 1], &[7, 8, 9]);
        let tensors = BTreeMap::from([("ids".to_owned(), ids), ("other".to_owned(), other)]);
        let run = Run {
            rows: vec![2, 0],
            length: 2,
        };
        let some = run.of(&tensors, &["ids"]).unwrap();
        assert_eq!(some["ids"], tensor::of_i64s("ids", vec![2, 2], &[5, 6, 1, 0]));
        assert_eq!(some["other"], tensor::of_i64s("other", vec![2, 1], &[9, 7]));
    }

    #[test]
    fn a_run_that_gives_rows_of_its_own_is_told() {
        let parted = runs(&[1, 50], |n| n);
        let one = || vec![tensor::of_i64s("y", vec![1], &[1])];
        assert!(in_order(&parted, vec![one(), one()]).is_ok());
        let two = vec![tensor::of_i64s("y", vec![2], &[1, 2])];
        assert!(in_order(&parted, vec![one(), two]).unwrap_err().contains("`y`"));
    }
}
