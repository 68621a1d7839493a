//! How close the answers of one form are to those of another, and whether that is close enough.
#![allow(clippy::as_conversions)] // counts become shares

use proto::manifest::DataType;
use proto::oip::Tensor;
use serde::{Deserialize, Serialize};

use crate::golden::compare::{cosine, largest};
use crate::golden::elements::{as_f64, byte_strings, count};

/// A winner's share of all from which the model counts as sure.
const SURE: f64 = 0.5;
/// How far the sum of a row of probabilities may be from 1.
const PROBABILITIES: f64 = 1e-3;

/// What judging found. A figure is absent where the answers have nothing that it could be taken of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Figures {
    /// Rows that were judged.
    pub rows: usize,
    /// Lowest cosine between the forms' answers.
    pub cosine_min: Option<f64>,
    /// Mean cosine.
    pub cosine_mean: Option<f64>,
    /// Share of rows in which both forms name the same first.
    pub top1_share: Option<f64>,
    /// Rows in which f32 gives its first half of all or more.
    pub sure_rows: usize,
    /// The same share, of those rows.
    pub sure_top1_share: Option<f64>,
    /// What queries find, of pairs.
    pub recall: Option<Recall>,
}

/// How many queries are nearest (by cosine) to their own answer, of all answers: recall@1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Recall {
    /// Queries, each with one answer.
    pub pairs: usize,
    /// Found by the f32 form.
    pub found_by_f32: usize,
    /// Found by the int8 form.
    pub found_by_int8: usize,
}

impl Recall {
    /// Shares of f32 and of int8.
    #[must_use]
    pub fn shares(&self) -> [f64; 2] {
        [self.found_by_f32, self.found_by_int8].map(|found| share(found, self.pairs))
    }
}

/// Least that figures must show; a figure that is absent is not held against a form.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Bounds {
    /// Of the lowest cosine.
    pub cosine_min: f64,
    /// Of the share of rows with the same first.
    pub top1_min: f64,
    /// Of that share where f32 is sure.
    pub sure_top1_min: f64,
    /// How much lower than f32's int8's recall@1 may be.
    pub recall_lower_max: f64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            cosine_min: 0.997,
            top1_min: 0.95,
            sure_top1_min: 0.99,
            recall_lower_max: 0.0,
        }
    }
}

impl Bounds {
    /// What `figures` miss, each in a sentence; empty where they miss nothing.
    #[must_use]
    pub fn missed(&self, figures: &Figures) -> Vec<String> {
        let mut missed = Vec::new();
        if figures.cosine_mean.or(figures.top1_share).is_none() {
            missed.push("the judging inputs have answers with neither a direction nor a first".to_owned());
        }
        if let Some(cosine) = figures.cosine_min.filter(|cosine| *cosine < self.cosine_min) {
            let bound = self.cosine_min;
            missed.push(format!("judged: lowest cosine to f32 {cosine:.5}, bound {bound}"));
        }
        let mut top1 = |what: &str, found: Option<f64>, min: f64, rows: usize| {
            if let Some(found) = found.filter(|found| *found < min) {
                missed.push(format!(
                    "judged: top-1 agrees with f32 in {:.1} % of {rows} rows{what}, bound {:.1} %",
                    found * 100.0,
                    min * 100.0
                ));
            }
        };
        top1("", figures.top1_share, self.top1_min, figures.rows);
        let sure = " in which f32 is sure";
        top1(sure, figures.sure_top1_share, self.sure_top1_min, figures.sure_rows);
        if let Some(recall) = figures.recall {
            let [f32, int8] = recall.shares();
            if int8 < f32 - self.recall_lower_max {
                let (found, theirs, pairs) = (recall.found_by_int8, recall.found_by_f32, recall.pairs);
                missed.push(format!("judged: recall@1 {found} of {pairs}, f32 has {theirs}"));
            }
        }
        missed
    }
}

fn share(part: usize, of: usize) -> f64 {
    part as f64 / of.max(1) as f64
}

/// One row of an answer.
enum Row {
    /// Names, best first: the first, and the number beside it.
    Named(Vec<u8>, Option<f64>),
    /// Numbers with a direction.
    Numbers(Vec<f64>),
}

/// Compares the forms' answers to the same requests, in order.
///
/// # Errors
/// Answers that do not have the same rows.
pub fn figures(f32: &[Vec<Tensor>], int8: &[Vec<Tensor>]) -> Result<Figures, String> {
    let (f32, int8) = (rows_of_all(f32)?, rows_of_all(int8)?);
    if f32.len() != int8.len() {
        return Err(format!("f32 answered {} rows and int8 {}", f32.len(), int8.len()));
    }
    let (mut cosines, mut same, mut sure_same, mut sure_rows) = (Vec::new(), 0, 0, 0);
    for pair in f32.iter().zip(&int8) {
        let (equal, sure) = match pair {
            (Row::Named(want, score), Row::Named(got, _)) => (want == got, *score),
            (Row::Numbers(want), Row::Numbers(got)) if want.len() == got.len() => {
                cosines.push(cosine(got, want));
                (largest(got) == largest(want), probability(want))
            }
            _ => return Err("f32 and int8 answer in different forms".to_owned()),
        };
        same += usize::from(equal);
        if sure.is_some_and(|sure| sure >= SURE) {
            sure_rows += 1;
            sure_same += usize::from(equal);
        }
    }
    let some = |rows: usize, found: usize| (rows > 0).then(|| share(found, rows));
    Ok(Figures {
        rows: f32.len(),
        cosine_min: cosines.iter().copied().reduce(f64::min),
        cosine_mean: (!cosines.is_empty()).then(|| cosines.iter().sum::<f64>() / cosines.len() as f64),
        top1_share: some(f32.len(), same),
        sure_rows,
        sure_top1_share: some(sure_rows, sure_same),
        recall: None,
    })
}

/// Compares the forms' answers to pairs, `[queries, answers]` each. The largest number of an embedding means nothing, so top-1 is
/// absent.
///
/// # Errors
/// Answers that do not have the same rows, or are no numbers.
pub fn figures_of_pairs(f32: &[Vec<Vec<Tensor>>; 2], int8: &[Vec<Vec<Tensor>>; 2]) -> Result<Figures, String> {
    let all = figures(&f32.concat(), &int8.concat())?;
    let (by_f32, by_int8) = (found(f32)?, found(int8)?);
    Ok(Figures {
        rows: all.rows,
        cosine_min: all.cosine_min,
        cosine_mean: all.cosine_mean,
        recall: Some(Recall {
            pairs: by_f32.1,
            found_by_f32: by_f32.0,
            found_by_int8: by_int8.0,
        }),
        ..Figures::default()
    })
}

/// How many queries are nearest to the answer of their own place, of how many. Of equally near ones the first counts.
fn found([queries, answers]: &[Vec<Vec<Tensor>>; 2]) -> Result<(usize, usize), String> {
    let numbers = |answers: &[Vec<Tensor>]| -> Result<Vec<Vec<f64>>, String> {
        let number = |row| match row {
            Row::Numbers(numbers) => Ok(numbers),
            Row::Named(..) => Err("pairs are for models that answer with vectors".to_owned()),
        };
        rows_of_all(answers)?.into_iter().map(number).collect()
    };
    let (queries, answers) = (numbers(queries)?, numbers(answers)?);
    if queries.len() != answers.len() {
        return Err(format!("{} rows ask and {} answer", queries.len(), answers.len()));
    }
    let nearest = |query: &Vec<f64>| {
        let near: Vec<f64> = answers.iter().map(|answer| cosine(query, answer)).collect();
        largest(&near)
    };
    let found = queries
        .iter()
        .enumerate()
        .filter(|(at, query)| nearest(query) == Some(*at));
    Ok((found.count(), queries.len()))
}

fn rows_of_all(answers: &[Vec<Tensor>]) -> Result<Vec<Row>, String> {
    let rows = answers.iter().map(|answer| rows(answer));
    Ok(rows.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
}

/// The rows of an answer: its names, else all its rows of two and more numbers.
fn rows(answer: &[Tensor]) -> Result<Vec<Row>, String> {
    let unfit = |tensor: &Tensor| format!("output `{}` holds data that does not fit its shape", tensor.name);
    let width = |tensor: &Tensor| match tensor.shape.as_slice() {
        [] | [_] => 1,
        [.., last] => (*last).max(1),
    };
    let float = |tensor: &Tensor| matches!(tensor.datatype, DataType::Fp32 | DataType::Fp64);
    let numbers = |tensor: &Tensor| {
        let elements = count(&tensor.shape);
        as_f64(tensor.datatype, &tensor.data)
            .filter(|numbers| Some(numbers.len()) == elements)
            .ok_or_else(|| unfit(tensor))
    };
    if let Some(names) = answer.iter().find(|tensor| tensor.datatype == DataType::Bytes) {
        let texts = byte_strings(&names.data).ok_or_else(|| unfit(names))?;
        let beside = answer.iter().find(|other| float(other) && other.shape == names.shape);
        let scores = beside.map(numbers).transpose()?.unwrap_or_default();
        let firsts = (0..texts.len()).step_by(width(names));
        return Ok(firsts
            .map(|at| Row::Named(texts[at].to_vec(), scores.get(at).copied()))
            .collect());
    }
    let mut rows = Vec::new();
    for tensor in answer.iter().filter(|tensor| float(tensor) && width(tensor) > 1) {
        let all = numbers(tensor)?;
        rows.extend(all.chunks(width(tensor)).map(|row| Row::Numbers(row.to_vec())));
    }
    Ok(rows)
}

/// The largest of a row of probabilities; `None` where a row is none, such as logits.
fn probability(row: &[f64]) -> Option<f64> {
    let sum: f64 = row.iter().sum();
    let between = row.iter().all(|x| (0.0..=1.0 + PROBABILITIES).contains(x));
    (between && (sum - 1.0).abs() <= PROBABILITIES).then(|| row[largest(row).unwrap_or(0)])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(shape: &[usize], data: &[f32]) -> Tensor {
        Tensor {
            name: "y".into(),
            datatype: DataType::Fp32,
            shape: shape.to_vec(),
            data: data.iter().flat_map(|x| x.to_le_bytes()).collect(),
        }
    }

    /// A row of two names with their scores.
    fn named(first: &str, score: f32) -> Vec<Tensor> {
        let mut data = Vec::new();
        for name in [first, "other"] {
            data.extend(u32::try_from(name.len()).unwrap().to_le_bytes());
            data.extend(name.as_bytes());
        }
        let names = Tensor {
            name: "label".into(),
            datatype: DataType::Bytes,
            shape: vec![1, 2],
            data,
        };
        vec![names, numbers(&[1, 2], &[score, 0.1])]
    }

    #[test]
    fn top1_is_counted_apart_where_f32_is_sure() {
        let f32 = [
            named("cat", 0.9),
            named("dog", 0.5),
            named("cup", 0.4),
            named("car", 0.3),
        ];
        let int8 = [
            named("cat", 0.2),
            named("dog", 0.2),
            named("dog", 0.9),
            named("car", 0.9),
        ];
        let found = figures(&f32, &int8).unwrap();
        assert_eq!((found.rows, found.top1_share), (4, Some(0.75)));
        assert_eq!((found.sure_rows, found.sure_top1_share), (2, Some(1.0)));
        assert_eq!(found.cosine_min, None, "names have no direction");
        let missed = Bounds::default().missed(&found);
        assert!(
            missed.len() == 1 && missed[0].contains("75.0 % of 4 rows, bound 95.0 %"),
            "{missed:?}"
        );
    }

    #[test]
    fn only_probabilities_can_be_sure() {
        let answers = [
            vec![numbers(&[1, 2], &[0.75, 0.25])],
            vec![numbers(&[1, 2], &[3.0, -1.0])],
        ];
        let found = figures(&answers, &answers).unwrap();
        assert_eq!((found.rows, found.sure_rows), (2, 1));
        assert!(found.cosine_min.is_some_and(|cosine| cosine > 0.999_999));
        assert_eq!(found.top1_share, Some(1.0));
    }

    #[test]
    fn recall_counts_queries_that_are_nearest_to_their_own_answer() {
        let rows = |rows: [[f32; 2]; 3]| vec![vec![numbers(&[3, 2], &rows.concat())]];
        let answers = rows([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]);
        let f32 = [rows([[1.0, 0.1], [0.2, 1.0], [-1.0, 0.1]]), answers.clone()];
        let int8 = [rows([[1.0, 0.1], [1.0, 0.9], [-1.0, 0.1]]), answers];
        let found = figures_of_pairs(&f32, &int8).unwrap();
        let recall = found.recall.unwrap();
        assert_eq!((recall.pairs, recall.found_by_f32, recall.found_by_int8), (3, 3, 2));
        assert_eq!((found.rows, found.top1_share), (6, None));
        let missed = Bounds::default().missed(&found);
        assert!(
            missed.iter().any(|m| m.contains("recall@1 2 of 3, f32 has 3")),
            "{missed:?}"
        );
        let lenient = Bounds {
            cosine_min: 0.0,
            recall_lower_max: 0.34,
            ..Bounds::default()
        };
        assert_eq!(lenient.missed(&found), Vec::<String>::new());
    }

    #[test]
    fn answers_of_other_forms_are_an_error_and_silence_is_no_agreement() {
        let one = [vec![numbers(&[1, 2], &[1.0, 2.0])]];
        let two = [vec![numbers(&[2, 2], &[1.0, 2.0, 3.0, 4.0])]];
        assert!(figures(&one, &two).is_err());
        assert!(figures(&one, &[named("cat", 0.5)]).is_err());
        assert!(figures(&[vec![numbers(&[3, 2], &[1.0])]], &one).is_err());
        assert!(found(&[vec![named("cat", 0.5)], vec![named("cat", 0.5)]]).is_err());
        let nothing = figures(&[vec![numbers(&[1], &[1.0])]], &[vec![numbers(&[1], &[1.0])]]).unwrap();
        assert_eq!(Bounds::default().missed(&nothing).len(), 1);
    }
}
