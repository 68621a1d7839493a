//! Linear models of tables, and the scaling before and after them.

use tract_onnx::pb::NodeProto;

use super::attributes::{Attributes, shown};
use super::parse::{columns, labels};
use super::score::Transform;
use super::{TreesError, length};

/// A linear classifier or regressor: `x C' + b` per row.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LinearModel {
    /// Row-major, one row per target.
    coefficients: Vec<f32>,
    /// Empty, or one per target.
    intercepts: Vec<f32>,
    targets: usize,
    width: usize,
    labels: Option<Vec<i64>>,
    transform: Transform,
}

impl LinearModel {
    /// Reads and checks a `LinearClassifier` or `LinearRegressor`.
    ///
    /// # Errors
    /// [`TreesError`], which says what in the node is wrong.
    pub(crate) fn parse(node: &NodeProto) -> Result<Self, TreesError> {
        let attributes = Attributes::of(node);
        let coefficients = attributes.floats("coefficients").to_vec();
        let intercepts = attributes.floats("intercepts").to_vec();
        let (labels, targets) = if node.op_type == "LinearClassifier" {
            let labels = labels(attributes, "classlabels_ints")?;
            let targets = columns("intercepts", intercepts.len())?;
            // One target may stand for two classes: its sign decides.
            length("classlabels_ints", labels.len(), targets.max(2))?;
            (Some(labels.to_vec()), targets)
        } else {
            let wanted = attributes.int("targets").unwrap_or(1);
            let targets = columns("targets", usize::try_from(wanted).unwrap_or(0))?;
            if !intercepts.is_empty() {
                length("intercepts", intercepts.len(), targets)?;
            }
            (None, targets)
        };
        let width = coefficients.len() / targets;
        if width == 0 || !coefficients.len().is_multiple_of(targets) {
            return Err(TreesError::Length {
                list: "coefficients",
                held: coefficients.len(),
                wanted: format!("a multiple of {targets}"),
            });
        }
        Ok(Self {
            coefficients,
            intercepts,
            targets,
            width,
            labels,
            transform: Transform::of(attributes.text("post_transform"))?,
        })
    }

    /// Columns of a row of input.
    pub(crate) const fn width(&self) -> usize {
        self.width
    }
    /// Whether there are labels beside the scores.
    pub(crate) const fn labels(&self) -> bool {
        self.labels.is_some()
    }
    /// Scores of each row.
    pub(crate) fn columns(&self) -> usize {
        self.targets.max(if self.labels.is_some() { 2 } else { 1 })
    }

    /// Scores rows of [`LinearModel::width`] values, like [`super::Trees::run`].
    ///
    /// # Errors
    /// [`TreesError::Length`] when the slices have other lengths than the rows need.
    pub(crate) fn run(&self, x: &[f32], labels: &mut [i64], scores: &mut [f32]) -> Result<(), TreesError> {
        let (rows, columns) = (x.len() / self.width, self.columns());
        length("scores", scores.len(), rows.saturating_mul(columns))?;
        for (row, scores) in x.chunks_exact(self.width).zip(scores.chunks_exact_mut(columns)) {
            for (target, coefficients) in self.coefficients.chunks_exact(self.width).enumerate() {
                scores[target] = dot(row, coefficients) + self.intercepts.get(target).copied().unwrap_or(0.0);
            }
        }
        if let Some(known) = &self.labels {
            length("labels", labels.len(), rows)?;
            for (label, scores) in labels.iter_mut().zip(scores.chunks_exact(columns)) {
                *label = known[self.likeliest(scores)];
            }
        }
        for scores in scores.chunks_exact_mut(columns) {
            match scores {
                [first, second] if self.targets == 1 => {
                    [*first, *second] = self.transform.both(*first, true);
                }
                [only] => *only = self.transform.apply_single(*only),
                several => self.transform.apply(several),
            }
        }
        Ok(())
    }

    fn likeliest(&self, scores: &[f32]) -> usize {
        if self.targets == 1 {
            return usize::from(scores[0] > 0.0);
        }
        let first = (0, scores[0]);
        let best = scores.iter().enumerate().fold(
            first,
            |best, (at, &score)| if score > best.1 { (at, score) } else { best },
        );
        best.0
    }
}

/// Eight sums abreast, so that the compiler may use vectors.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a, b) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    let mut sums = [0.0f32; 8];
    for (a, b) in a.0.iter().zip(b.0) {
        for lane in 0..8 {
            sums[lane] += a[lane] * b[lane];
        }
    }
    let rest: f32 = a.1.iter().zip(b.1).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

/// `(x - offset) * scale` of a `Scaler`, one pair for each column or for all.
///
/// # Errors
/// [`TreesError::Length`] when the lists have different lengths.
pub(crate) fn scale(attributes: Attributes<'_>) -> Result<Vec<(f32, f32)>, TreesError> {
    let (offsets, scales) = (attributes.floats("offset"), attributes.floats("scale"));
    columns("scale", scales.len())?;
    length("offset", offsets.len(), scales.len())?;
    Ok(offsets.iter().copied().zip(scales.iter().copied()).collect())
}

/// What a `Normalizer` divides each row by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Norm {
    Max,
    L1,
    L2,
}

impl Norm {
    pub(crate) fn parse(attributes: Attributes<'_>) -> Result<Self, TreesError> {
        match attributes.text("norm").unwrap_or(b"MAX") {
            b"MAX" => Ok(Self::Max),
            b"L1" => Ok(Self::L1),
            b"L2" => Ok(Self::L2),
            other => Err(TreesError::Word {
                list: "norm",
                value: shown(other),
            }),
        }
    }

    /// Normalizes one row in place. A row whose norm is 0 stays as it is; the largest value, not the largest distance from
    /// 0, is what `MAX` means.
    pub(crate) fn apply(self, row: &mut [f32]) {
        let norm = match self {
            Self::Max => row.iter().copied().fold(f32::MIN, f32::max),
            Self::L1 => row.iter().map(|value| value.abs()).sum(),
            Self::L2 => row.iter().map(|value| value * value).sum(),
        };
        if norm == 0.0 {
            return;
        }
        for value in row {
            *value = match self {
                Self::Max | Self::L1 => *value / norm,
                Self::L2 if *value < 0.0 => -(*value * *value / norm).sqrt(),
                Self::L2 => (*value * *value / norm).sqrt(),
            };
        }
    }
}
