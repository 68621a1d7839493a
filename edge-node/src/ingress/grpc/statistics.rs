//! `ModelStatistics`: the counters of REST's statistics in the messages of the service.

use proto::oip::grpc::{
    InferBatchStatistics, InferStatistics, ModelStatistics, ModelStatisticsResponse, StatisticDuration,
};

use super::super::statistics::{Requests, Spent};
use crate::serving::ModelSlot;

/// What `slots` have been asked, by name.
pub(super) fn of<'s>(slots: impl Iterator<Item = &'s ModelSlot>) -> ModelStatisticsResponse {
    let mut model_stats: Vec<ModelStatistics> = slots.map(model).collect();
    model_stats.sort_by(|a, b| a.name.cmp(&b.name));
    ModelStatisticsResponse { model_stats }
}

fn model(slot: &ModelSlot) -> ModelStatistics {
    let (requests, runs) = (slot.statistics.now(), slot.pace.runs());
    let batch = |(rows, compute_infer): (&usize, &Spent)| InferBatchStatistics {
        batch_size: u64::try_from(*rows).unwrap_or(u64::MAX),
        compute_infer: spent(*compute_infer),
    };
    ModelStatistics {
        name: slot.release.model.to_string(),
        version: slot.release.version.to_string(),
        last_inference: requests.last_ms,
        inference_count: requests.rows,
        execution_count: runs.all.count,
        inference_stats: Some(parts(&requests)),
        batch_stats: runs.by_rows.iter().map(batch).collect(),
    }
}

fn parts(requests: &Requests) -> InferStatistics {
    InferStatistics {
        success: spent(requests.success),
        fail: spent(requests.fail),
        queue: spent(requests.queue),
        compute_input: spent(requests.compute_input),
        compute_infer: spent(requests.compute_infer),
        compute_output: spent(requests.compute_output),
        cache_hit: spent(requests.cache_hit),
        cache_miss: spent(requests.cache_miss),
    }
}

fn spent(Spent { count, ns }: Spent) -> Option<StatisticDuration> {
    Some(StatisticDuration { count, ns })
}
