//! How fast a loaded model answers and how close to its golden vectors, for the publisher and for a node's own check.

use std::time::{Duration, Instant};

use models::golden::{Agreement, CompareError, Vector, judge};
use proto::manifest::{Check, Manifest, Measured, Variant};
use proto::oip::Tensor;

use crate::{LoadError, LoadedModel, PackageFiles, RunError, load, tensor};

/// Why a variant could not be measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MeasureError {
    /// It does not load.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// It does not answer a golden vector.
    #[error("golden vector {vector}: {source}")]
    Run {
        /// From 1.
        vector: usize,
        /// Why not.
        source: RunError,
    },
    /// Its answer has another form than the golden one.
    #[error(transparent)]
    Compare(#[from] CompareError),
    /// There is nothing to measure with.
    #[error("there are no golden vectors")]
    NoVectors,
}

/// How long one figure may be measured, and how often at most.
const BUDGET: Duration = Duration::from_millis(1500);
const RUNS_MAX: usize = 101;
/// Rows of the batched figure, as the manifest names it.
const ROWS: usize = 8;

/// Answers every golden vector and compares.
///
/// # Errors
/// [`MeasureError::Run`], [`MeasureError::Compare`], [`MeasureError::NoVectors`].
pub fn agreement(model: &LoadedModel, checks: &[Check], vectors: &[Vector]) -> Result<Agreement, MeasureError> {
    if vectors.is_empty() {
        return Err(MeasureError::NoVectors);
    }
    let answer = |(at, vector): (usize, &Vector)| {
        model
            .run(&vector.inputs)
            .map_err(|source| MeasureError::Run { vector: at + 1, source })
    };
    let answers = vectors.iter().enumerate().map(answer).collect::<Result<Vec<_>, _>>()?;
    let pairs = answers
        .iter()
        .zip(vectors)
        .map(|(got, vector)| (got.as_slice(), vector.outputs.as_slice()));
    Ok(judge(checks, pairs)?)
}

/// Loads a variant and takes all figures of [`Measured`], on the calling thread.
///
/// Times are medians of up to 101 runs within 1.5 s after one run for warmth. They are of this machine as it is now.
///
/// # Errors
/// [`MeasureError`].
pub fn measure(
    manifest: &Manifest,
    variant: &Variant,
    files: &PackageFiles,
    vectors: &[Vector],
) -> Result<(Measured, Agreement), MeasureError> {
    let first = vectors.first().ok_or(MeasureError::NoVectors)?;
    let failed = |source| MeasureError::Run { vector: 1, source };
    let begin = now();
    let model = load(manifest, variant, files)?;
    let one = rows_of(&first.inputs, 1);
    model.run(&one).map_err(failed)?;
    let load_us = micros(begin.elapsed());
    let row_us = median_us(&model, &one).map_err(failed)?;
    let rows8_us = if model.batched() {
        median_us(&model, &rows_of(&first.inputs, ROWS)).map_err(failed)?
    } else {
        0
    };
    let agreement = agreement(&model, &variant.checks, vectors)?;
    Ok((figures(&agreement, row_us, rows8_us, load_us), agreement))
}

/// Like [`measure`] without the times, which are 0: as fast as the golden vectors run.
///
/// # Errors
/// [`MeasureError`].
pub fn untimed(
    manifest: &Manifest,
    variant: &Variant,
    files: &PackageFiles,
    vectors: &[Vector],
) -> Result<(Measured, Agreement), MeasureError> {
    let model = load(manifest, variant, files)?;
    let agreement = agreement(&model, &variant.checks, vectors)?;
    Ok((figures(&agreement, 0, 0, 0), agreement))
}

const fn figures(agreement: &Agreement, row_us: u32, rows8_us: u32, load_us: u32) -> Measured {
    let (cosine_min, top1_share, abs_max) = (agreement.cosine_min, agreement.top1_share, agreement.abs_max);
    Measured {
        cosine_min,
        top1_share,
        abs_max,
        row_us,
        rows8_us,
        load_us,
    }
}

/// Median time of one call, microseconds.
///
/// # Errors
/// Those of [`LoadedModel::run`].
pub fn median_us(model: &LoadedModel, inputs: &[Tensor]) -> Result<u32, RunError> {
    model.run(inputs)?;
    let mut times = Vec::with_capacity(RUNS_MAX);
    let begin = now();
    while times.len() < RUNS_MAX && (times.len() < 3 || begin.elapsed() < BUDGET) {
        let start = now();
        model.run(inputs)?;
        times.push(start.elapsed());
    }
    times.sort_unstable();
    Ok(micros(times[times.len() / 2]))
}

/// The first row of each input, `rows` times.
fn rows_of(inputs: &[Tensor], rows: usize) -> Vec<Tensor> {
    inputs
        .iter()
        .map(|input| tensor::first_row_times(input, rows))
        .collect()
}

fn micros(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}

#[allow(
    clippy::disallowed_methods,
    reason = "measuring time is what this module is for; nothing decides by it"
)]
fn now() -> Instant {
    Instant::now()
}
