//! From what a graph gives to what people ask for: probabilities, sentence vectors, labels.
//!
//! Each step is a function on slices; `Step` finds its tensors by name and checks their shapes.
#![allow(clippy::as_conversions, reason = "counts below 2^24 to f32 in numeric code")]

use std::collections::BTreeMap;

use proto::manifest::{DataType, PostStep};
use proto::oip::Tensor;

use crate::{LoadError, PackageFiles, RunError, tensor};

/// Turns rows of scores into probabilities.
///
/// | | shape | dtype | unit / range |
/// |---|---|---|---|
/// | `scores` | `[rows, width]`, row-major | `f32` | unbounded |
/// | returns | same | `f32` | each row sums to 1 |
///
/// Per row: `out[i] = exp(x[i] - max(x)) / sum_j exp(x[j] - max(x))`, summed in index order. `width` 0 gives nothing. Never panics.
#[must_use]
pub fn softmax(scores: &[f32], width: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(scores.len());
    for row in scores.chunks(width.max(1)) {
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let exps: Vec<f32> = row.iter().map(|x| (x - max).exp()).collect();
        let sum: f32 = exps.iter().sum();
        out.extend(exps.iter().map(|e| e / sum));
    }
    out
}

/// Averages token vectors into one sentence vector, leaving padding out.
///
/// | | shape | dtype | unit / range |
/// |---|---|---|---|
/// | `tokens` | `[rows, seq, dim]`, row-major | `f32` | model output, unbounded |
/// | `mask` | `[rows, seq]` | `i64` | not 0 = real token, 0 = padding |
/// | returns | `[rows, dim]`, row-major | `f32` | same scale as `tokens`, **not** L2-normalised |
///
/// Per row: `out[d] = sum_s mask[s] * x[s][d] / max(1, sum_s mask[s])`; sums run in index order in
/// `f32`, so equal input gives equal bits on every node of one build target.
///
/// # Errors
/// A sentence when a length does not match `rows * seq (* dim)`. Never panics.
///
/// # Source
/// Reimers and Gurevych 2019, arXiv:1908.10084, section 3 (the MEAN strategy).
pub fn mean_pool(tokens: &[f32], mask: &[i64], rows: usize, seq: usize, dim: usize) -> Result<Vec<f32>, String> {
    let want = rows.checked_mul(seq);
    if want != Some(mask.len()) || want.and_then(|n| n.checked_mul(dim)) != Some(tokens.len()) {
        return Err(format!(
            "{} values and a mask of {} for [{rows}, {seq}, {dim}]",
            tokens.len(),
            mask.len()
        ));
    }
    let mut out = vec![0.0f32; rows * dim];
    for row in 0..rows {
        let sum = &mut out[row * dim..(row + 1) * dim];
        let mut count = 0u16;
        for place in (0..seq).filter(|s| mask[row * seq + s] != 0) {
            let token = &tokens[(row * seq + place) * dim..(row * seq + place + 1) * dim];
            sum.iter_mut().zip(token).for_each(|(sum, x)| *sum += x);
            count = count.saturating_add(1);
        }
        let count = f32::from(count.max(1));
        sum.iter_mut().for_each(|x| *x /= count);
    }
    Ok(out)
}

/// Scales each row to Euclidean length 1.
///
/// | | shape | dtype | unit / range |
/// |---|---|---|---|
/// | `rows` | `[rows, dim]`, row-major | `f32` | unbounded |
/// | returns | same | `f32` | length 1; a row shorter than 1e-12 is divided by 1e-12 |
///
/// Squares are summed in index order in `f32`. `dim` 0 gives nothing. Never panics.
///
/// # Source
/// The floor of 1e-12 is that of PyTorch's `torch.nn.functional.normalize`, which sentence-transformers uses.
#[must_use]
pub fn l2_normalize(rows: &[f32], dim: usize) -> Vec<f32> {
    let mut out = rows.to_vec();
    for row in out.chunks_mut(dim.max(1)) {
        let length = row.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-12);
        row.iter_mut().for_each(|x| *x /= length);
    }
    out
}

/// Places of the `count` highest values of one row, best first; equal values keep their order, NaN comes last.
#[must_use]
pub fn top(row: &[f32], count: usize) -> Vec<usize> {
    let mut places: Vec<usize> = (0..row.len()).collect();
    let rank = |place: usize| {
        if row[place].is_nan() {
            f32::NEG_INFINITY
        } else {
            row[place]
        }
    };
    places.sort_by(|&a, &b| rank(b).total_cmp(&rank(a)));
    places.truncate(count);
    places
}

/// A step with its files read.
pub(crate) enum Step {
    Softmax {
        from: String,
        to: String,
    },
    MeanPool {
        from: String,
        mask: String,
        to: String,
    },
    L2Normalize {
        from: String,
        to: String,
    },
    TopLabels {
        from: String,
        table: Vec<String>,
        count: usize,
        labels: String,
        scores: String,
    },
}

impl Step {
    pub(crate) fn new(
        step: &PostStep,
        files: &PackageFiles,
        wrong: &impl Fn(String) -> LoadError,
    ) -> Result<Self, LoadError> {
        Ok(match step {
            PostStep::Softmax { from, to } => Self::Softmax {
                from: from.clone(),
                to: to.clone(),
            },
            PostStep::MeanPool { from, mask, to } => Self::MeanPool {
                from: from.clone(),
                mask: mask.clone(),
                to: to.clone(),
            },
            PostStep::L2Normalize { from, to } => Self::L2Normalize {
                from: from.clone(),
                to: to.clone(),
            },
            PostStep::TopLabels {
                from,
                labels_file,
                count,
                labels,
                scores,
            } => {
                let text = String::from_utf8(files.read_step_file(labels_file)?);
                let text = text.map_err(|e| wrong(format!("`{labels_file}` is not UTF-8 ({e})")))?;
                let table: Vec<String> = text.lines().map(str::to_owned).collect();
                let count = usize::try_from(*count).unwrap_or(usize::MAX);
                if count == 0 || count > table.len() {
                    return Err(wrong(format!("{count} best of {} labels", table.len())));
                }
                Self::TopLabels {
                    from: from.clone(),
                    table,
                    count,
                    labels: labels.clone(),
                    scores: scores.clone(),
                }
            }
        })
    }

    pub(crate) fn run(&self, tensors: &mut BTreeMap<String, Tensor>) -> Result<(), RunError> {
        let made = match self {
            Self::Softmax { from, to } => {
                let (shape, values, width) = rows(tensors, from, "softmax")?;
                vec![tensor::of_f32s(to, shape, &softmax(&values, width))]
            }
            Self::L2Normalize { from, to } => {
                let (shape, values, width) = rows(tensors, from, "l2-normalize")?;
                vec![tensor::of_f32s(to, shape, &l2_normalize(&values, width))]
            }
            Self::MeanPool { from, mask, to } => vec![pooled(tensors, from, mask, to)?],
            Self::TopLabels {
                from,
                table,
                count,
                labels,
                scores,
            } => {
                let (shape, values, width) = rows(tensors, from, "top-labels")?;
                if shape.len() != 2 || width != table.len() {
                    let why = format!(
                        "`{from}` has the shape {shape:?}, the package has {} labels",
                        table.len()
                    );
                    return Err(RunError::Step {
                        step: "top-labels",
                        why,
                    });
                }
                let best: Vec<(usize, f32)> = values
                    .chunks(width)
                    .flat_map(|row| top(row, *count).into_iter().map(|i| (i, row[i])))
                    .collect();
                let shape = vec![shape[0], *count];
                let names = best.iter().map(|(i, _)| table[*i].as_bytes());
                let highest: Vec<f32> = best.iter().map(|(_, score)| *score).collect();
                vec![
                    tensor::of_byte_strings(labels, shape.clone(), names),
                    tensor::of_f32s(scores, shape, &highest),
                ]
            }
        };
        tensors.extend(made.into_iter().map(|t| (t.name.clone(), t)));
        Ok(())
    }
}

type Rows = (Vec<usize>, Vec<f32>, usize);

fn rows(tensors: &BTreeMap<String, Tensor>, name: &str, step: &'static str) -> Result<Rows, RunError> {
    let why = |why: String| RunError::Step { step, why };
    let tensor = tensors
        .get(name)
        .ok_or_else(|| why(format!("there is no tensor `{name}`")))?;
    let values =
        tensor::f32s(tensor).ok_or_else(|| why(format!("`{name}` is {}, not FP32", tensor.datatype.as_str())))?;
    let width = tensor.shape.last().copied().filter(|width| *width > 0);
    let width = width.ok_or_else(|| why(format!("`{name}` has the shape {:?}", tensor.shape)))?;
    Ok((tensor.shape.clone(), values, width))
}

fn pooled(tensors: &BTreeMap<String, Tensor>, from: &str, mask: &str, to: &str) -> Result<Tensor, RunError> {
    let (shape, values, dim) = rows(tensors, from, "mean-pool")?;
    let why = |why: String| RunError::Step { step: "mean-pool", why };
    let mask_tensor = tensors
        .get(mask)
        .ok_or_else(|| why(format!("there is no tensor `{mask}`")))?;
    let mask_values: Vec<i64> = match mask_tensor.datatype {
        DataType::Int64 => mask_tensor
            .data
            .as_chunks::<8>()
            .0
            .iter()
            .map(|b| i64::from_le_bytes(*b))
            .collect(),
        DataType::Int32 => mask_tensor
            .data
            .as_chunks::<4>()
            .0
            .iter()
            .map(|b| i64::from(i32::from_le_bytes(*b)))
            .collect(),
        DataType::Bool | DataType::Uint8 => mask_tensor.data.iter().map(|b| i64::from(*b)).collect(),
        other => return Err(why(format!("the mask `{mask}` is {}", other.as_str()))),
    };
    let &[count, seq, _] = shape.as_slice() else {
        return Err(why(format!("`{from}` has the shape {shape:?}, not [batch, seq, dim]")));
    };
    let out = mean_pool(&values, &mask_values, count, seq, dim).map_err(why)?;
    Ok(tensor::of_f32s(to, vec![count, dim], &out))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn padding_does_not_move_a_sentence() {
        let short = mean_pool(&[1.0, 2.0, 3.0, 4.0], &[1, 1], 1, 2, 2).unwrap();
        let padded = mean_pool(&[1.0, 2.0, 3.0, 4.0, 9.0, 9.0], &[1, 1, 0], 1, 3, 2).unwrap();
        assert_eq!(short, [2.0, 3.0]);
        assert_eq!(short, padded);
        assert_eq!(mean_pool(&[7.0], &[0], 1, 1, 1).unwrap(), [0.0]);
        assert!(mean_pool(&[7.0], &[0], usize::MAX, 2, 1).is_err());
    }

    #[test]
    fn huge_scores_do_not_overflow_softmax() {
        assert_eq!(softmax(&[1e30, 1e30, -1e30, 1e30], 2), [0.5, 0.5, 0.0, 1.0]);
    }

    #[test]
    fn a_row_of_zeros_stays_zero_and_others_get_length_one() {
        assert_eq!(l2_normalize(&[3.0, 4.0, 0.0, 0.0], 2), [0.6, 0.8, 0.0, 0.0]);
    }

    #[test]
    fn the_best_come_first_and_nan_last() {
        assert_eq!(top(&[0.1, f32::NAN, 0.7, 0.7], 4), [2, 3, 0, 1]);
    }

    proptest! {
        #[test]
        fn probabilities_sum_to_one(row in proptest::collection::vec(-50f32..50.0, 1..40)) {
            let out = softmax(&row, row.len());
            prop_assert!((out.iter().sum::<f32>() - 1.0).abs() < 1e-4);
        }
    }
}
