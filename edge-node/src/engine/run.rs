//! One run: join, run, split, tell. A run that fails for several is repeated for each alone, so that nobody's bad row
//! is a stranger's error.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::oip::Tensor;
use runtime::clock;
use runtime::telemetry::PER_REQUEST;

use super::{Answerer, Call, Fault, Model, panic_text, run_keeping};
use crate::batch::board::{Item, Job};
use crate::batch::share::{self, Ran, Share};
use crate::batch::{Batch, Order, Queue, join};
use crate::cache::RowsOfRun;
use crate::cache::flight::{Landed, Refusal, Run};
use crate::metrics::Metrics;
use crate::serving::ModelSlot;

/// Clock readings of one run.
struct Times {
    taken: Instant,
    began: Instant,
    ended: Instant,
}

/// What running a batch gave, and whose arithmetic it is.
struct Made {
    ran: Ran,
    by: Answerer,
    /// Of its time, what passed before whoever answered began.
    lost: Duration,
}

impl Made {
    /// What a row costs whoever answered.
    fn worked(&self) -> Duration {
        self.ran.busy.saturating_sub(self.lost)
    }
}

impl From<Ran> for Made {
    fn from(ran: Ran) -> Self {
        Self {
            ran,
            by: Answerer::Signed,
            lost: Duration::ZERO,
        }
    }
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
        let inputs = Arc::new(join::join(&parts));
        let until = items.iter().map(|item| item.job.deadline()).min();
        let began = clock::instant();
        if items.iter().any(|item| item.job.deadline() <= began) {
            return Err(items); // joining took somebody's last moment: the others run without
        }
        let keepers = items.iter().map(|item| (item.rows, item.job.keeper.as_ref()));
        let call = Call {
            deadline: until.unwrap_or(began),
            rows: RowsOfRun::joined(keepers),
        };
        let run = || self.rows(&slot, &model, &call, &inputs, total);
        // The engine's own span has one parent: the first request's trace shows the inside of the run for all of them.
        let made = spans.first().map_or_else(run, |span| span.in_scope(run));
        let ended = clock::instant();
        let times = Times { taken, began, ended };
        drop(spans);
        let bytes = items.iter().map(|item| item.bytes).sum();
        learn(&slot, (total, bytes), &made, &times, self.metrics);
        let (by, busy) = (made.by, made.ran.busy);
        let split = made.ran.outputs.ok().and_then(|outputs| join::split(&outputs, &rows));
        let Some(split) = split else { return Err(items) };
        for (item, outputs) in items.into_iter().zip(split) {
            land(item, outputs, by, &times, busy, total);
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
        let job = &item.job;
        let call = Call {
            deadline: job.deadline(),
            rows: RowsOfRun::alone(job.keeper.as_ref()),
        };
        let made = span.in_scope(|| self.rows(&job.slot, &job.model, &call, &job.inputs, item.rows));
        let ended = clock::instant();
        let times = Times { taken, began, ended };
        drop(span);
        if made.ran.outputs.is_ok() {
            learn(&job.slot, (item.rows, item.bytes), &made, &times, self.metrics);
        }
        match made.ran.outputs {
            Ok(outputs) => {
                let rows = item.rows;
                land(item, outputs, made.by, &times, made.ran.busy, rows);
            }
            Err(Fault::Late) => item.job.flight.refuse(Refusal::Expired),
            Err(Fault::Input(why)) => item.job.flight.refuse(Refusal::Input(why)),
            Err(Fault::Internal(why)) => {
                tracing::error!(release = %item.job.slot.release, why, "a run failed");
                item.job.flight.refuse(Refusal::Failed);
            }
        }
    }

    /// Runs `rows` rows, those of idle threads and those of this one at the same time.
    fn rows(
        &self,
        slot: &ModelSlot,
        model: &Arc<dyn Model>,
        call: &Call,
        inputs: &Arc<Vec<Tensor>>,
        rows: usize,
    ) -> Made {
        // A device does one call after the other.
        if slot.stand_in.is_some() {
            return answered(model, call, inputs);
        }
        let bytes = inputs.iter().map(|tensor| tensor.data.len()).sum();
        let cost = slot.pace.cost.of(rows, bytes);
        let threads = match share::parts(rows, cost, 1) {
            1 => 1,
            _ => share::parts(rows, cost, self.queue.idle()),
        };
        let Some(mut parts) = parted(slot, inputs, rows, threads) else {
            return run(model, inputs, call.rows.as_ref()).into();
        };
        let (own, cost) = parts.remove(0);
        let shares = shared(model, parts, join::rows(&own), call);
        self.queue.show(&shares, self.thread, cost);
        let mut ran = vec![run(model, &own, call.rows.as_ref())];
        self.queue.withdraw(&shares);
        ran.extend(shares.iter().map(|share| match share.take() {
            Some(inputs) => run(model, &inputs, share.rows.as_ref()),
            None => share.outcome(),
        }));
        together_again(ran).into()
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

/// Rows for other threads and what they cost, each with what is kept of those very rows; the first `own` rows stay here.
fn shared(model: &Arc<dyn Model>, parts: Vec<(Vec<Tensor>, Duration)>, own: usize, call: &Call) -> Vec<Arc<Share>> {
    let mut first = own;
    let share = |(inputs, cost): (Vec<Tensor>, Duration)| {
        let kept = call.rows.as_ref().map(|all| all.from(first));
        first += join::rows(&inputs);
        Arc::new(Share::new(model, inputs, cost).keeping(kept))
    };
    parts.into_iter().map(share).collect()
}

/// Runs rows of another thread's batch, unless it has taken them back.
pub(super) fn share(share: &Share) {
    if let Some(inputs) = share.take() {
        let ran = share.span.in_scope(|| run(&share.model, &inputs, share.rows.as_ref()));
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

/// As [`run`], by whoever can by the call's deadline.
fn answered(model: &Arc<dyn Model>, call: &Call, inputs: &Arc<Vec<Tensor>>) -> Made {
    let (mut by, mut lost) = (Answerer::Signed, Duration::ZERO);
    let ran = timed(|| {
        let answer = model.answer(call, inputs)?;
        (by, lost) = (answer.by, answer.lost);
        Ok(answer.outputs)
    });
    Made { ran, by, lost }
}

fn run(model: &Arc<dyn Model>, inputs: &[Tensor], rows: Option<&RowsOfRun>) -> Ran {
    timed(|| run_keeping(&**model, inputs, rows))
}

/// A panic of the engine costs its request, not the thread.
fn timed(run: impl FnOnce() -> Result<Vec<Tensor>, Fault>) -> Ran {
    let began = clock::instant();
    let outputs = catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let why = format!("the engine panicked: {}", panic_text(panic.as_ref()));
        Err(Fault::Internal(why))
    });
    let busy = clock::instant().saturating_duration_since(began);
    Ran { outputs, busy }
}

/// What a row costs is the time of all threads, wherever it runs; `rows` and bytes of a run tell what it should take.
fn learn(slot: &ModelSlot, (rows, bytes): (usize, usize), made: &Made, times: &Times, metrics: &Metrics) {
    let exec = times.ended.saturating_duration_since(times.began);
    slot.pace.learn_of(made.by, rows, bytes, made.worked());
    metrics.exec.observe(exec.as_secs_f64());
    metrics.engine_busy.inc_by(made.ran.busy.as_secs_f64());
    metrics
        .batch_rows
        .observe(f64::from(u32::try_from(rows).unwrap_or(u32::MAX)));
}

/// `busy` is what all `rows` rows of the run took of all threads: a request's share of it is by its rows.
fn land(item: Item<Order>, mut outputs: Vec<Tensor>, by: Answerer, times: &Times, busy: Duration, rows: usize) {
    let (pushed, own, order) = (item.pushed, item.rows, item.job);
    if !order.outputs.is_empty() {
        outputs.retain(|tensor| order.outputs.contains(&tensor.name));
    }
    let count = |rows: usize| u32::try_from(rows).unwrap_or(u32::MAX);
    order.flight.land(Landed {
        outputs: Arc::new(outputs),
        by,
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

#[cfg(test)]
mod tests;
