//! The statistics extension's document.

use serde::Serialize;

use super::statistics::{Requests, Runs, Spent};
use crate::serving::ModelSlot;

#[derive(Serialize)]
pub(super) struct Document<'a> {
    model_stats: Vec<Model<'a>>,
}

#[derive(Serialize)]
struct Model<'a> {
    name: &'a str,
    version: String,
    /// Unix milliseconds.
    last_inference: u64,
    inference_count: u64,
    execution_count: u64,
    inference_stats: Parts,
    batch_stats: Vec<Batch>,
}

#[derive(Serialize)]
struct Parts {
    success: Spent,
    fail: Spent,
    queue: Spent,
    compute_input: Spent,
    compute_infer: Spent,
    compute_output: Spent,
    cache_hit: Spent,
    cache_miss: Spent,
}

#[derive(Serialize)]
struct Batch {
    batch_size: usize,
    /// Joining and splitting are counted by request, above, and not by run: nothing is told here.
    compute_input: Spent,
    compute_infer: Spent,
    compute_output: Spent,
}

/// What `slots` have been asked, by name.
pub(super) fn document<'a>(slots: impl Iterator<Item = &'a ModelSlot>) -> Document<'a> {
    let mut model_stats: Vec<Model<'a>> = slots.map(model).collect();
    model_stats.sort_by_key(|model| model.name);
    Document { model_stats }
}

fn model(slot: &ModelSlot) -> Model<'_> {
    let requests = slot.statistics.now();
    let Runs { all, by_rows } = slot.pace.runs();
    let batch = |(batch_size, compute_infer)| Batch {
        batch_size,
        compute_input: Spent::default(),
        compute_infer,
        compute_output: Spent::default(),
    };
    Model {
        name: slot.release.model.as_str(),
        version: slot.release.version.to_string(),
        last_inference: requests.last_ms,
        inference_count: requests.rows,
        execution_count: all.count,
        inference_stats: parts(requests),
        batch_stats: by_rows.into_iter().map(batch).collect(),
    }
}

fn parts(requests: Requests) -> Parts {
    Parts {
        success: requests.success,
        fail: requests.fail,
        queue: requests.queue,
        compute_input: requests.compute_input,
        compute_infer: requests.compute_infer,
        compute_output: requests.compute_output,
        cache_hit: requests.cache_hit,
        cache_miss: requests.cache_miss,
    }
}
