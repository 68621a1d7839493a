//! One run: join, run, split, tell. A run that fails for several is repeated for each alone, so that nobody's bad row
//! is a stranger's error.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::oip::Tensor;
use runtime::clock;

use super::{Fault, panic_text};
use crate::batch::board::{Item, Job};
use crate::batch::{Batch, Order, join};
use crate::cache::flight::{Landed, Refusal};
use crate::metrics::Metrics;
use crate::serving::ModelSlot;

/// Clock readings of one run.
struct Times {
    taken: Instant,
    began: Instant,
    ended: Instant,
}

/// Runs `batch` on this thread and tells everybody in it.
pub(super) fn batch(batch: Batch, metrics: &Metrics) {
    let Batch { items, taken } = batch;
    for item in &items {
        metrics
            .queue_wait
            .observe(taken.saturating_duration_since(item.pushed).as_secs_f64());
    }
    let retry = match together(items, taken, metrics) {
        Ok(()) => return,
        Err(items) => items,
    };
    if retry.len() > 1 {
        metrics.batch_retries.inc();
    }
    for item in retry {
        alone(item, metrics);
    }
}

/// Runs all in one. Gives them back when that failed and each should be tried alone.
fn together(items: Vec<Item<Order>>, taken: Instant, metrics: &Metrics) -> Result<(), Vec<Item<Order>>> {
    if items.len() < 2 {
        return Err(items);
    }
    let Some(slot) = items.first().map(|item| Arc::clone(&item.job.slot)) else {
        return Ok(());
    };
    let spans: Vec<tracing::Span> = items
        .iter()
        .map(|i| tracing::info_span!(parent: &i.job.span, "batch.run", requests = items.len()))
        .collect();
    let rows: Vec<usize> = items.iter().map(|item| item.rows).collect();
    let parts: Vec<&[Tensor]> = items.iter().map(|item| item.job.inputs.as_slice()).collect();
    let inputs = join::join(&parts);
    let began = clock::instant();
    // The engine's own span has one parent: the first request's trace shows the inside of the run for all of them.
    let outputs = spans
        .first()
        .map_or_else(|| run(&slot, &inputs), |span| span.in_scope(|| run(&slot, &inputs)));
    let times = Times {
        taken,
        began,
        ended: clock::instant(),
    };
    drop(spans);
    let total = rows.iter().sum();
    learn(&slot, total, &times, metrics);
    let split = outputs.ok().and_then(|outputs| join::split(&outputs, &rows));
    let Some(split) = split else { return Err(items) };
    for (item, outputs) in items.into_iter().zip(split) {
        land(item, outputs, &times, total);
    }
    Ok(())
}

/// Runs one by itself, unless its time is over or its client has gone.
fn alone(item: Item<Order>, metrics: &Metrics) {
    let taken = clock::instant();
    if !item.job.wanted() || item.job.deadline() <= taken {
        item.job.flight.dismiss();
        return;
    }
    let span = tracing::info_span!(parent: &item.job.span, "batch.run", requests = 1);
    let began = clock::instant();
    let result = span.in_scope(|| run(&item.job.slot, &item.job.inputs));
    let times = Times {
        taken,
        began,
        ended: clock::instant(),
    };
    drop(span);
    match result {
        Ok(outputs) => {
            learn(&item.job.slot, item.rows, &times, metrics);
            let rows = item.rows;
            land(item, outputs, &times, rows);
        }
        Err(Fault::Input(why)) => item.job.flight.refuse(Refusal::Input(why)),
        Err(Fault::Internal(why)) => {
            tracing::error!(release = %item.job.slot.release, why, "a run failed");
            item.job.flight.refuse(Refusal::Failed);
        }
    }
}

/// A panic of the engine costs its request, not the thread.
fn run(slot: &ModelSlot, inputs: &[Tensor]) -> Result<Vec<Tensor>, Fault> {
    catch_unwind(AssertUnwindSafe(|| slot.model.run(inputs))).unwrap_or_else(|panic| {
        Err(Fault::Internal(format!(
            "the engine panicked: {}",
            panic_text(panic.as_ref())
        )))
    })
}

fn learn(slot: &ModelSlot, rows: usize, times: &Times, metrics: &Metrics) {
    let exec = times.ended.saturating_duration_since(times.began);
    slot.pace
        .learn(rows, u64::try_from(exec.as_micros()).unwrap_or(u64::MAX));
    metrics.exec.observe(exec.as_secs_f64());
    metrics
        .batch_rows
        .observe(f64::from(u32::try_from(rows).unwrap_or(u32::MAX)));
}

fn land(item: Item<Order>, mut outputs: Vec<Tensor>, times: &Times, rows: usize) {
    let (pushed, order) = (item.pushed, item.job);
    if !order.outputs.is_empty() {
        outputs.retain(|tensor| order.outputs.contains(&tensor.name));
    }
    let between = |from: Instant, to: Instant| -> Duration { to.saturating_duration_since(from) };
    order.flight.land(Landed {
        outputs: Arc::new(outputs),
        queue: between(pushed, times.taken),
        batch: between(times.taken, times.began),
        exec: between(times.began, times.ended),
        rows,
    });
}
