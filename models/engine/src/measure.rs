//! How fast a loaded model answers and how close to its golden vectors, for the publisher and for a node's own check.

use std::time::Duration;

use models::golden::{Agreement, CompareError, Vector, judge};
use proto::manifest::{Check, Manifest, Measured, Variant};
use proto::oip::Tensor;
use rustix::time::{ClockId, clock_gettime};

use crate::{LoadError, LoadedModel, PackageFiles, RunError, load, tensor};

mod parity;
pub use parity::{ParityError, beside, failed, parity};

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

/// How long one figure may be measured, and how often at least and at most.
const BUDGET: Duration = Duration::from_millis(1500);
const RUNS_MIN: usize = 3;
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

/// Loads a variant and takes all figures of [`Measured`], on the calling thread, by the clock on the wall: what it runs in may
/// compute elsewhere than on this thread.
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
    let loaded = Loaded::new(manifest, variant, files, vectors)?;
    let times = timed(&[&loaded], vectors, ClockId::Monotonic)?[0];
    let agreement = agreement(&loaded.model, &variant.checks, vectors)?;
    Ok((figures(&agreement, times), agreement))
}

/// A model that has answered once, and how long that took.
pub struct Loaded {
    /// The model.
    pub model: LoadedModel,
    /// From opening the file to the first answer, microseconds.
    load_us: u32,
}

impl Loaded {
    /// Loads a variant and has it answer the first row of the first of `vectors`.
    ///
    /// # Errors
    /// [`MeasureError::Load`], [`MeasureError::Run`], [`MeasureError::NoVectors`].
    pub fn new(
        manifest: &Manifest,
        variant: &Variant,
        files: &PackageFiles,
        vectors: &[Vector],
    ) -> Result<Self, MeasureError> {
        let first = vectors.first().ok_or(MeasureError::NoVectors)?;
        let begin = read(ClockId::Monotonic);
        let model = load(manifest, variant, files)?;
        model
            .run(&rows_of(&first.inputs, 1))
            .map_err(|source| MeasureError::Run { vector: 1, source })?;
        let load_us = micros(read(ClockId::Monotonic).saturating_sub(begin));
        Ok(Self { model, load_us })
    }
}

/// The times of [`Measured`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// One row, microseconds.
    pub row_us: u32,
    /// Eight rows in one run, microseconds; 0 where the model has no batch axis.
    pub rows8_us: u32,
    /// From opening the file to the first answer, microseconds.
    pub load_us: u32,
}

impl Times {
    /// Puts these times into figures.
    #[must_use]
    pub const fn of(self, figures: Measured) -> Measured {
        Measured {
            row_us: self.row_us,
            rows8_us: self.rows8_us,
            load_us: self.load_us,
            ..figures
        }
    }
}

/// Times several forms of a model against each other: they answer in turn, round by round, so that what the machine does
/// besides falls on all alike, and what counts is the processor's time of the calling thread, which no neighbour takes.
///
/// Medians of 3 to 101 rounds within 1.5 s for each model, after one round for warmth. For models that compute on the thread
/// that calls them, as the engine's own do.
///
/// # Errors
/// [`MeasureError::Run`], [`MeasureError::NoVectors`].
pub fn in_turn(models: &[&Loaded], vectors: &[Vector]) -> Result<Vec<Times>, MeasureError> {
    timed(models, vectors, ClockId::ThreadCPUTime)
}

fn timed(models: &[&Loaded], vectors: &[Vector], clock: ClockId) -> Result<Vec<Times>, MeasureError> {
    let first = vectors.first().ok_or(MeasureError::NoVectors)?;
    let failed = |source| MeasureError::Run { vector: 1, source };
    let rows = |count| medians(models, &rows_of(&first.inputs, count), clock).map_err(failed);
    let one = rows(1)?;
    let eight = if models.iter().all(|loaded| loaded.model.batched()) {
        rows(ROWS)?
    } else {
        vec![0; models.len()]
    };
    let times = models.iter().zip(one.into_iter().zip(eight));
    Ok(times
        .map(|(loaded, (row_us, rows8_us))| Times {
            row_us,
            rows8_us,
            load_us: loaded.load_us,
        })
        .collect())
}

/// What [`measure`] finds of a model that is loaded, without the times, which are 0: as fast as the golden vectors run.
///
/// # Errors
/// [`MeasureError`].
pub fn untimed(
    model: &LoadedModel,
    variant: &Variant,
    vectors: &[Vector],
) -> Result<(Measured, Agreement), MeasureError> {
    let agreement = agreement(model, &variant.checks, vectors)?;
    Ok((figures(&agreement, Times::default()), agreement))
}

const fn figures(agreement: &Agreement, times: Times) -> Measured {
    Measured {
        cosine_min: agreement.cosine_min,
        top1_share: agreement.top1_share,
        abs_max: agreement.abs_max,
        row_us: times.row_us,
        rows8_us: times.rows8_us,
        load_us: times.load_us,
    }
}

/// Median time of one call of each, microseconds.
fn medians(models: &[&Loaded], inputs: &[Tensor], clock: ClockId) -> Result<Vec<u32>, RunError> {
    for loaded in models {
        loaded.model.run(inputs)?;
    }
    let budget = BUDGET * u32::try_from(models.len()).unwrap_or(u32::MAX);
    let mut times = vec![Vec::with_capacity(RUNS_MAX); models.len()];
    let begin = read(ClockId::Monotonic);
    for round in 0..RUNS_MAX {
        if round >= RUNS_MIN && read(ClockId::Monotonic).saturating_sub(begin) >= budget {
            break;
        }
        for (loaded, times) in models.iter().zip(&mut times) {
            let start = read(clock);
            loaded.model.run(inputs)?;
            times.push(read(clock).saturating_sub(start));
        }
    }
    let median = |mut times: Vec<Duration>| {
        times.sort_unstable();
        micros(times[times.len() / 2])
    };
    Ok(times.into_iter().map(median).collect())
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

/// What `clock` says.
pub(crate) fn read(clock: ClockId) -> Duration {
    let now = clock_gettime(clock);
    Duration::new(
        u64::try_from(now.tv_sec).unwrap_or(0),
        u32::try_from(now.tv_nsec).unwrap_or(0),
    )
}
