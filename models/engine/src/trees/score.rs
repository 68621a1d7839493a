//! From sums to labels and scores, by the rules of ONNX Runtime.
//!
//! The standard says little about two classes whose weights name one class only, and those are what fraud and churn models
//! are. ONNX Runtime decides by three things: whether all weights name one class, whether any is negative, and how many
//! base values there are. [`binary`] follows it to the letter, also where that looks odd: with weights for both classes the
//! label is the number 1 or 0, not an entry of the list of classes.

use super::TreesError;
use super::attributes::shown;

/// What is done to sums before they are given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transform {
    None,
    Logistic,
    Softmax,
    SoftmaxZero,
    Probit,
}

impl Transform {
    pub(super) fn of(word: Option<&[u8]>) -> Result<Self, TreesError> {
        Ok(match word.unwrap_or(b"NONE") {
            b"NONE" => Self::None,
            b"LOGISTIC" => Self::Logistic,
            b"SOFTMAX" => Self::Softmax,
            b"SOFTMAX_ZERO" => Self::SoftmaxZero,
            b"PROBIT" => Self::Probit,
            other => {
                return Err(TreesError::Word {
                    list: "post_transform",
                    value: shown(other),
                });
            }
        })
    }

    /// Changes the scores of one row, which are at least two.
    pub(super) fn apply(self, row: &mut [f32]) {
        match self {
            Self::None => {}
            Self::Logistic => row.iter_mut().for_each(|score| *score = logistic(*score)),
            Self::Softmax => softmax(row),
            Self::SoftmaxZero => softmax_zero(row),
            Self::Probit => row.iter_mut().for_each(|score| *score = probit(*score)),
        }
    }

    /// Changes the only score of a row: nothing but a probit is done to it.
    pub(super) fn apply_single(self, score: f32) -> f32 {
        if self == Self::Probit { probit(score) } else { score }
    }

    /// The scores of two classes from one number that stands for the second.
    pub(super) fn both(self, score: f32, adds_to_one: bool) -> [f32; 2] {
        match self {
            Self::Probit => [probit(score), 0.0],
            Self::Logistic => [logistic(-score), logistic(score)],
            _ if adds_to_one => [1.0 - score, score],
            _ => [-score, score],
        }
    }
}

/// Sums of one row: a number per class, and whether any leaf spoke of that class.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sum {
    pub(super) score: f32,
    pub(super) seen: bool,
}

impl Sum {
    /// A class of which no leaf spoke scores 0, whatever was added since.
    pub(super) const fn value(self) -> f32 {
        if self.seen { self.score } else { 0.0 }
    }
}

/// What [`binary`] must know of a model of two classes.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct TwoClasses {
    pub(super) labels: [i64; 2],
    /// All weights name the same class.
    pub(super) one_column: bool,
    pub(super) all_positive: bool,
}

/// Label and scores of one row of two classes.
pub(super) fn binary(rule: &TwoClasses, base: &[f32], transform: Transform, sums: [Sum; 2]) -> (i64, [f32; 2]) {
    let [mut first, mut second] = sums;
    match base {
        // The base value of the first class is not used when both classes were spoken of.
        [_, base] if second.seen => {
            second.score = base + first.score;
            first.score = -second.score;
        }
        [base_first, base_second] => {
            first.score += base_first;
            second.score += base_second;
        }
        [base] => first.score += base,
        _ => {}
    }
    let decisive = if second.seen { second.value() } else { first.value() };
    let (likely, adds_to_one) = if rule.one_column && rule.all_positive {
        (decisive > 0.5, true)
    } else {
        (decisive > 0.0, false)
    };
    let labels = if rule.one_column { rule.labels } else { [0, 1] };
    let label = labels[usize::from(likely)];
    let mut scores = [first.value(), second.value()];
    if second.seen || base.len() == 2 {
        transform.apply(&mut scores);
    } else if !rule.one_column && base.len() == 1 {
        // One score without a second: ONNX Runtime leaves the second unwritten.
        scores = [transform.apply_single(scores[0]), 0.0];
    } else {
        scores = transform.both(scores[0], adds_to_one);
    }
    (label, scores)
}

/// The class of the largest sum among those that leaves spoke of; the first class when there is none.
pub(super) fn largest(sums: impl Iterator<Item = Sum>) -> usize {
    let mut best: Option<(usize, f32)> = None;
    for (class, sum) in sums.enumerate().filter(|(_, sum)| sum.seen) {
        if best.is_none_or(|(_, score)| sum.score > score) {
            best = Some((class, sum.score));
        }
    }
    best.map_or(0, |(class, _)| class)
}

fn logistic(x: f32) -> f32 {
    let positive = 1.0 / (1.0 + (-x.abs()).exp());
    if x < 0.0 { 1.0 - positive } else { positive }
}

fn softmax(row: &mut [f32]) {
    let most = row.iter().copied().fold(f32::MIN, f32::max);
    let mut sum = 0.0;
    for score in row.iter_mut() {
        *score = (*score - most).exp();
        sum += *score;
    }
    row.iter_mut().for_each(|score| *score /= sum);
}

/// Softmax that leaves zeros at zero.
fn softmax_zero(row: &mut [f32]) {
    /// What counts as zero.
    const NOTHING: f32 = 1e-7;
    let most = row.iter().copied().fold(f32::MIN, f32::max);
    let unit = (-most).exp();
    let mut sum = 0.0;
    for score in row.iter_mut() {
        if score.abs() > NOTHING {
            *score = (*score - most).exp();
            sum += *score;
        } else {
            *score *= unit;
        }
    }
    row.iter_mut().for_each(|score| *score /= sum);
}

/// The inverse of the normal distribution by Winitzki's formula for the inverse error function, with ONNX Runtime's constants, and its cancellation.
fn probit(x: f32) -> f32 {
    const A: f32 = 0.147;
    let y = 2.0 * x - 1.0;
    let sign = if y < 0.0 { -1.0 } else { 1.0 };
    let log = ((1.0 - y) * (1.0 + y)).ln();
    let v = 2.0 / (std::f32::consts::PI * A) + 0.5 * log;
    let inverse = sign * (-v + (v * v - 1.0 / A * log).sqrt()).sqrt();
    std::f32::consts::SQRT_2 * inverse
}
