//! One run: join, run, split, tell. A run that fails for several is repeated for each alone, so that nobody's bad row
//! is a stranger's error.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::oip::Tensor;
use runtime::clock;
use runtime::telemetry::PER_REQUEST;

use super::{Fault, Model, panic_text};
use crate::batch::board::{Item, Job};
use crate::batch::share::{self, Ran, Share};
use crate::batch::{Batch, Order, Queue, join};
use crate::cache::flight::{Landed, Refusal, Run};
use crate::metrics::Metrics;
use crate::serving::ModelSlot;

/// Clock readings of one run.
struct Times {
    taken: Instant,
    began: Instant,
    ended: Instant,
}

/// Where a run happens.
pub(super) struct Place<'a> {
    /// The engine thread's number.
    pub(super) thread: usize,
    /// Where it takes from.
    pub(super) queue: &'a Queue,
    pub(super) metrics: &'a Metrics,
}

impl Place<'_> {
    /// Runs `batch` on this thread, large ones on idle threads as well, and tells everybody in it.
    pub(super) fn batch(&self, batch: Batch) {
        let Batch { items, taken } = batch;
        // The system may have taken this thread away since it took the batch.
        let now = clock::instant();
        let (items, late): (Vec<_>, Vec<_>) = items.into_iter().partition(|item| item.job.deadline() > now);
        for item in late {
            self.metrics.queue_lost.inc();
            item.job.flight.dismiss();
        }
        let retry = match self.together(items, taken) {
            Ok(()) => return,
            Err(items) => items,
        };
        if retry.len() > 1 {
            self.metrics.batch_retries.inc();
        }
        for item in retry {
            self.alone(item);
        }
    }

    /// Runs all in one. Gives them back when that failed and each should be tried alone.
    fn together(&self, items: Vec<Item<Order>>, taken: Instant) -> Result<(), Vec<Item<Order>>> {
        if items.len() < 2 {
            return Err(items);
        }
        let first = items
            .first()
            .map(|item| (Arc::clone(&item.job.slot), Arc::clone(&item.job.model)));
        let Some((slot, model)) = first else { return Ok(()) };
        let spans: Vec<tracing::Span> = items
            .iter()
            .map(|i| tracing::info_span!(target: PER_REQUEST, parent: &i.job.span, "batch.run", requests = items.len()))
            .collect();
        let rows: Vec<usize> = items.iter().map(|item| item.rows).collect();
        let total = rows.iter().sum();
        let parts: Vec<&[Tensor]> = items.iter().map(|item| item.job.inputs.as_slice()).collect();
        let inputs = join::join(&parts);
        let began = clock::instant();
        if items.iter().any(|item| item.job.deadline() <= began) {
            return Err(items); // joining took somebody's last moment: the others run without
        }
        let run = || self.rows(&slot, &model, &inputs, total);
        // The engine's own span has one parent: the first request's trace shows the inside of the run for all of them.
        let ran = spans.first().map_or_else(run, |span| span.in_scope(run));
        let ended = clock::instant();
        let times = Times { taken, began, ended };
        drop(spans);
        let bytes = items.iter().map(|item| item.bytes).sum();
        learn(&slot, (total, bytes), ran.busy, &times, self.metrics);
        let split = ran.outputs.ok().and_then(|outputs| join::split(&outputs, &rows));
        let Some(split) = split else { return Err(items) };
        for (item, outputs) in items.into_iter().zip(split) {
            land(item, outputs, &times, ran.busy, total);
        }
        Ok(())
    }

    /// Runs one by itself, unless its time is over or its client has gone.
    fn alone(&self, item: Item<Order>) {
        let taken = clock::instant();
        let span = tracing::info_span!(target: PER_REQUEST, parent: &item.job.span, "batch.run", requests = 1);
        let began = clock::instant();
        if !item.job.wanted() || item.job.deadline() <= began {
            item.job.flight.dismiss();
            return;
        }
        let ran = span.in_scope(|| self.rows(&item.job.slot, &item.job.model, &item.job.inputs, item.rows));
        let ended = clock::instant();
        let times = Times { taken, began, ended };
        drop(span);
        match ran.outputs {
            Ok(outputs) => {
                let size = (item.rows, item.bytes);
                learn(&item.job.slot, size, ran.busy, &times, self.metrics);
                let rows = item.rows;
                land(item, outputs, &times, ran.busy, rows);
            }
            Err(Fault::Input(why)) => item.job.flight.refuse(Refusal::Input(why)),
            Err(Fault::Internal(why)) => {
                tracing::error!(release = %item.job.slot.release, why, "a run failed");
                item.job.flight.refuse(Refusal::Failed);
            }
        }
    }

    /// Runs `rows` rows, those of idle threads and those of this one at the same time.
    fn rows(&self, slot: &ModelSlot, model: &Arc<dyn Model>, inputs: &[Tensor], rows: usize) -> Ran {
        let bytes = inputs.iter().map(|tensor| tensor.data.len()).sum();
        let cost = slot.pace.cost.of(rows, bytes);
        let threads = match share::parts(rows, cost, 1) {
            1 => 1,
            _ => share::parts(rows, cost, self.queue.idle()),
        };
        let Some(mut parts) = parted(slot, inputs, rows, threads) else {
            return run(model, inputs);
        };
        let (own, cost) = parts.remove(0);
        let shares: Vec<Arc<Share>> = parts
            .into_iter()
            .map(|(inputs, cost)| Arc::new(Share::new(model, inputs, cost)))
            .collect();
        self.queue.show(&shares, self.thread, cost);
        let mut ran = vec![run(model, &own)];
        self.queue.withdraw(&shares);
        ran.extend(shares.iter().map(|share| match share.take() {
            Some(inputs) => run(model, &inputs),
            None => share.outcome(),
        }));
        together_again(ran)
    }
}

/// The rows that each of `threads` threads runs, and how long that will probably take. `None` where one runs all of them.
fn parted(slot: &ModelSlot, inputs: &[Tensor], rows: usize, threads: usize) -> Option<Vec<(Vec<Tensor>, Duration)>> {
    if threads < 2 {
        return None;
    }
    let sizes = join::sizes(inputs, rows)?;
    let costs: Vec<Duration> = sizes.iter().map(|bytes| slot.pace.cost.of(1, *bytes)).collect();
    let cuts = share::cut(&costs, threads);
    let mut rest = costs.as_slice();
    let sums = cuts.iter().map(|rows| {
        let (own, tail) = rest.split_at(*rows);
        rest = tail;
        own.iter().sum::<Duration>()
    });
    let sums: Vec<Duration> = sums.collect();
    Some(join::split(inputs, &cuts)?.into_iter().zip(sums).collect())
}

/// Runs rows of another thread's batch, unless it has taken them back.
pub(super) fn share(share: &Share) {
    if let Some(inputs) = share.take() {
        let ran = share.span.in_scope(|| run(&share.model, &inputs));
        share.hand_in(ran);
    }
}

/// One outcome of all parts, in their order; the first fault, if any.
fn together_again(ran: Vec<Ran>) -> Ran {
    let busy = ran.iter().map(|ran| ran.busy).sum();
    let parts: Result<Vec<_>, _> = ran.into_iter().map(|ran| ran.outputs).collect();
    let outputs = parts.map(|parts| join::join(&parts.iter().map(Vec::as_slice).collect::<Vec<_>>()));
    Ran { outputs, busy }
}

/// A panic of the engine costs its request, not the thread.
fn run(model: &Arc<dyn Model>, inputs: &[Tensor]) -> Ran {
    let began = clock::instant();
    let outputs = catch_unwind(AssertUnwindSafe(|| model.run(inputs))).unwrap_or_else(|panic| {
        let why = format!("the engine panicked: {}", panic_text(panic.as_ref()));
        Err(Fault::Internal(why))
    });
    let busy = clock::instant().saturating_duration_since(began);
    Ran { outputs, busy }
}

/// `busy` is the time of all threads: what the rows and bytes of a run cost, wherever they run.
fn learn(slot: &ModelSlot, (rows, bytes): (usize, usize), busy: Duration, times: &Times, metrics: &Metrics) {
    let exec = times.ended.saturating_duration_since(times.began);
    slot.pace.learn(rows, bytes, busy);
    metrics.exec.observe(exec.as_secs_f64());
    metrics.engine_busy.inc_by(busy.as_secs_f64());
    metrics
        .batch_rows
        .observe(f64::from(u32::try_from(rows).unwrap_or(u32::MAX)));
}

/// `busy` is what all `rows` rows of the run took of all threads: a request's share of it is by its rows.
fn land(item: Item<Order>, mut outputs: Vec<Tensor>, times: &Times, busy: Duration, rows: usize) {
    let (pushed, own, order) = (item.pushed, item.rows, item.job);
    if !order.outputs.is_empty() {
        outputs.retain(|tensor| order.outputs.contains(&tensor.name));
    }
    let count = |rows: usize| u32::try_from(rows).unwrap_or(u32::MAX);
    order.flight.land(Landed {
        outputs: Arc::new(outputs),
        run: Some(Run {
            pushed,
            taken: times.taken,
            began: times.began,
            ended: times.ended,
            busy: busy / count(rows).max(1) * count(own),
            rows,
        }),
    });
}
