//! How close answers are to the golden outputs, in figures, and whether that is close enough.
//!
//! A *row* is the last axis of an output of two or more dimensions. Rows of two and more numbers count for cosine and
//! top-1. Where a row is a single integer, or text, there is no direction and no largest element: its first element
//! being equal counts as one top-1 row. A check that found nothing to judge fails: silence is not agreement.
#![allow(clippy::as_conversions)] // counts become shares, measured f64 become the manifest's f32

use proto::manifest::{Check, DataType};
use proto::oip::Tensor;

use super::elements::{as_f64, byte_strings, count};

/// Why an answer cannot even be compared.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CompareError {
    /// An expected output did not come.
    #[error("no output `{name}` among {got:?}")]
    Absent {
        /// Expected.
        name: String,
        /// Came.
        got: Vec<String>,
    },
    /// It came in another shape or type.
    #[error("output `{name}` is {got}, expected is {want}")]
    Form {
        /// Which output.
        name: String,
        /// Type and shape that came.
        got: String,
        /// Type and shape expected.
        want: String,
    },
    /// The data does not fit the shape.
    #[error("output `{name}` holds data that does not fit its shape")]
    Data {
        /// Which output.
        name: String,
    },
}

/// What one check found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Verdict {
    /// The check.
    pub check: Check,
    /// The figure it judged: share of elements that are close, lowest cosine, or share of top-1 rows.
    pub figure: f32,
    /// Elements or rows it judged.
    pub judged: usize,
    /// Whether it passed.
    pub passed: bool,
}

/// How close a set of answers is to the golden outputs.
#[derive(Clone, Debug, PartialEq)]
pub struct Agreement {
    /// Lowest cosine over all rows; 1 where there are none.
    pub cosine_min: f32,
    /// Share of rows whose largest (or only) element agrees; 1 where there are none.
    pub top1_share: f32,
    /// Largest absolute difference over all numbers.
    pub abs_max: f32,
    /// `|got - want|^2 / |want|^2` over each output of floats, averaged over those outputs: smooth, to rank by. Infinite
    /// where a number is not finite.
    pub squared_error: f64,
    /// One for each check, in order.
    pub verdicts: Vec<Verdict>,
}

impl Agreement {
    /// Whether every check passed.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.verdicts.iter().all(|v| v.passed)
    }
}

/// Compares one answer; see [`judge`].
///
/// # Errors
/// [`CompareError`] where outputs are absent or of another form.
pub fn compare(checks: &[Check], got: &[Tensor], want: &[Tensor]) -> Result<Agreement, CompareError> {
    judge(checks, [(got, want)])
}

/// Compares the answers of all vectors, `(got, want)` each. Further outputs that came are ignored.
///
/// # Errors
/// [`CompareError`] where outputs are absent or of another form.
pub fn judge<'a>(
    checks: &[Check],
    pairs: impl IntoIterator<Item = (&'a [Tensor], &'a [Tensor])>,
) -> Result<Agreement, CompareError> {
    let mut tally = Tally::new(checks);
    for (got, want) in pairs {
        for want in want {
            let names = || got.iter().map(|t| t.name.clone()).collect();
            let absent = || CompareError::Absent {
                name: want.name.clone(),
                got: names(),
            };
            tally.output(got.iter().find(|t| t.name == want.name).ok_or_else(absent)?, want)?;
        }
    }
    Ok(tally.agreement(checks))
}

struct Tally {
    cosine_min: f64,
    cosine_rows: usize,
    top1_rows: usize,
    top1_same: usize,
    text_rows: usize,
    text_same: usize,
    abs_max: f64,
    numbers: usize,
    float_outputs: usize,
    squared_errors: f64,
    /// Per check, its bounds and the numbers within them; only [`Check::Close`] has any.
    close: Vec<Option<(f64, f64, usize)>>,
}

impl Tally {
    fn new(checks: &[Check]) -> Self {
        let bounds = |check: &Check| match check {
            Check::Close { abs, rel } => Some((f64::from(*abs), f64::from(*rel), 0)),
            Check::Cosine { .. } | Check::SameTop1 { .. } => None,
        };
        Self {
            cosine_min: 1.0,
            cosine_rows: 0,
            top1_rows: 0,
            top1_same: 0,
            text_rows: 0,
            text_same: 0,
            abs_max: 0.0,
            numbers: 0,
            float_outputs: 0,
            squared_errors: 0.0,
            close: checks.iter().map(bounds).collect(),
        }
    }

    fn output(&mut self, got: &Tensor, want: &Tensor) -> Result<(), CompareError> {
        if got.datatype != want.datatype || got.shape != want.shape {
            let form = |t: &Tensor| format!("{} {:?}", t.datatype.as_str(), t.shape);
            return Err(CompareError::Form {
                name: want.name.clone(),
                got: form(got),
                want: form(want),
            });
        }
        let unfit = || CompareError::Data {
            name: want.name.clone(),
        };
        let elements = count(&want.shape).ok_or_else(unfit)?;
        let width = if want.shape.len() < 2 {
            1
        } else {
            want.shape.last().copied().unwrap_or(1)
        };
        if elements == 0 {
            return Ok(());
        }
        if want.datatype == DataType::Bytes {
            let read = |t: &Tensor| byte_strings(&t.data).filter(|e| e.len() == elements).is_some();
            if !read(got) || !read(want) {
                return Err(unfit());
            }
            let strings = |t| byte_strings(t).unwrap_or_default();
            let (got, want) = (strings(&got.data), strings(&want.data));
            let firsts = got
                .chunks(width)
                .zip(want.chunks(width))
                .map(|(g, w)| g.first() == w.first());
            for same in firsts {
                self.text_rows += 1;
                self.text_same += usize::from(same);
            }
            return Ok(());
        }
        let numbers = |t: &Tensor| {
            as_f64(t.datatype, &t.data)
                .filter(|n| n.len() == elements)
                .ok_or_else(unfit)
        };
        let float = matches!(want.datatype, DataType::Fp16 | DataType::Fp32 | DataType::Fp64);
        self.numbers(&numbers(got)?, &numbers(want)?, width, float);
        Ok(())
    }

    fn numbers(&mut self, got: &[f64], want: &[f64], width: usize, float: bool) {
        self.numbers += want.len();
        if float {
            self.float_outputs += 1;
            self.squared_errors += squared_error(got, want);
        }
        for (g, w) in got.iter().zip(want) {
            let difference = if g == w { 0.0 } else { (g - w).abs() };
            let difference = if difference.is_nan() { f64::INFINITY } else { difference };
            self.abs_max = self.abs_max.max(difference);
            for (abs, rel, close) in self.close.iter_mut().flatten() {
                *close += usize::from(difference <= *abs + *rel * w.abs());
            }
        }
        for (g, w) in got.chunks(width).zip(want.chunks(width)) {
            if width > 1 {
                self.cosine_rows += 1;
                self.cosine_min = self.cosine_min.min(cosine(g, w));
            }
            if width > 1 || !float {
                self.top1_rows += 1;
                self.top1_same += usize::from(if width > 1 { largest(g) == largest(w) } else { g == w });
            }
        }
    }

    fn agreement(&self, checks: &[Check]) -> Agreement {
        let share = |part: usize, of: usize| if of == 0 { 1.0 } else { part as f32 / of as f32 };
        let top1 = share(self.top1_same + self.text_same, self.top1_rows + self.text_rows);
        let verdict = |(check, close): (&Check, &Option<(f64, f64, usize)>)| {
            let (figure, judged, passed) = match *check {
                Check::Close { .. } => {
                    let within = close.map_or(0, |(_, _, n)| n) + self.text_same;
                    let judged = self.numbers + self.text_rows;
                    (share(within, judged), judged, within == judged)
                }
                Check::Cosine { min } => {
                    let cosine = self.cosine_min as f32;
                    (cosine, self.cosine_rows, cosine >= min)
                }
                Check::SameTop1 { share_min } => (top1, self.top1_rows + self.text_rows, top1 >= share_min),
            };
            Verdict {
                check: *check,
                figure,
                judged,
                passed: passed && judged > 0,
            }
        };
        Agreement {
            cosine_min: self.cosine_min as f32,
            top1_share: top1,
            abs_max: self.abs_max as f32,
            squared_error: self.squared_errors / self.float_outputs.max(1) as f64,
            verdicts: checks.iter().zip(&self.close).map(verdict).collect(),
        }
    }
}

/// `|got - want|^2 / |want|^2`; of zeros, `|got|^2`.
fn squared_error(got: &[f64], want: &[f64]) -> f64 {
    let squares = |numbers: &mut dyn Iterator<Item = f64>| numbers.map(|x| x * x).sum::<f64>();
    let apart = squares(&mut got.iter().zip(want).map(|(g, w)| g - w));
    let length = squares(&mut want.iter().copied());
    let error = apart / if length > 0.0 { length } else { 1.0 };
    if error.is_finite() { error } else { f64::INFINITY }
}

/// `a . b / (|a| |b|)`; 1 for two zero vectors, 0 for one, -1 where a number is not finite.
pub(super) fn cosine(a: &[f64], b: &[f64]) -> f64 {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
    let (ab, aa, bb) = (dot(a, b), dot(a, a), dot(b, b));
    if !(ab.is_finite() && aa.is_finite() && bb.is_finite()) {
        return -1.0;
    }
    match (aa == 0.0, bb == 0.0) {
        (true, true) => 1.0,
        (true, false) | (false, true) => 0.0,
        (false, false) => (ab / (aa.sqrt() * bb.sqrt())).clamp(-1.0, 1.0),
    }
}

/// Place of the largest number, the first of equal ones; `None` where one is not a number.
pub(super) fn largest(row: &[f64]) -> Option<usize> {
    let mut best = 0;
    for (i, x) in row.iter().enumerate() {
        if x.is_nan() {
            return None;
        }
        if *x > row[best] {
            best = i;
        }
    }
    Some(best)
}
