use std::sync::atomic::Ordering;

use super::*;
use crate::cache::flight::{Waiter, alone};
use crate::engine::Engine;
use crate::testing::{Doubler, fp32, slot_with};

struct Bench {
    model: Arc<Doubler>,
    slot: Arc<ModelSlot>,
    queue: Queue,
    _engine: Engine,
    serving: Serving,
}

fn bench() -> Bench {
    let model = Arc::new(Doubler::default());
    let metrics = Metrics::new(&mut runtime::metrics::Metrics::new());
    let bounds = Bounds {
        rows_max: 32,
        bytes_max: 1 << 20,
        linger: Duration::ZERO,
        threads: 1,
    };
    let serving = Serving::new();
    let queue = Queue::new(bounds, serving.clone(), metrics.clone());
    let engine = Engine::start(&queue, 1, &metrics).unwrap();
    Bench {
        slot: slot_with("m", 1, model.clone()),
        model,
        queue,
        _engine: engine,
        serving,
    }
}

impl Bench {
    fn order(&self, values: &[f32], deadline_ms: u64) -> Waiter {
        let (flight, waiter) = alone(clock::instant() + Duration::from_millis(deadline_ms));
        let inputs = Arc::new(vec![fp32("x", &[values.len() / 2, 2], values)]);
        let (slot, span, waiting) = (Arc::clone(&self.slot), Span::none(), Span::none());
        self.queue.push(Order {
            slot,
            inputs,
            outputs: Vec::new(),
            flight,
            span,
            waiting,
        });
        waiter
    }
    /// Occupies the one engine thread.
    async fn occupy(&self) -> Waiter {
        self.model.hold();
        let waiter = self.order(&[0.0, 0.0], 10_000);
        while self.model.count() == 0 {
            tokio::task::yield_now().await;
        }
        waiter
    }
}

#[tokio::test]
async fn what_waits_together_runs_together_and_each_gets_its_own_rows() {
    let bench = bench();
    let first = bench.occupy().await;
    let waiters: Vec<Waiter> = (1..=3_u8).map(|n| bench.order(&[f32::from(n), 0.5], 10_000)).collect();
    assert_eq!(bench.serving.queued(), 3);
    bench.model.release();
    assert_eq!(first.outcome().await.unwrap().rows, 1);
    for (n, waiter) in (1..=3_u8).zip(waiters) {
        let landed = waiter.outcome().await.unwrap();
        assert_eq!(
            landed.outputs.as_slice(),
            [fp32("y", &[1, 2], &[f32::from(n) * 2.0, 1.0])]
        );
        assert_eq!(landed.rows, 3);
    }
    assert_eq!((bench.model.count(), bench.serving.queued()), (2, 0));
}

#[tokio::test]
async fn one_bad_row_fails_its_own_request_and_no_strangers() {
    for bad in [-1.0, f32::NAN] {
        let bench = bench();
        let first = bench.occupy().await;
        let (good, bad) = (bench.order(&[1.0, 1.0], 10_000), bench.order(&[bad, 1.0], 10_000));
        bench.model.release();
        first.outcome().await.unwrap();
        assert_eq!(
            good.outcome().await.unwrap().outputs.as_slice(),
            [fp32("y", &[1, 2], &[2.0, 2.0])]
        );
        assert!(matches!(bad.outcome().await, Err(Refusal::Input(_) | Refusal::Failed)));
    }
}

#[tokio::test]
async fn an_order_whose_deadline_passes_in_the_queue_is_never_run() {
    let bench = bench();
    let first = bench.occupy().await;
    let late = bench.order(&[1.0, 1.0], 30);
    tokio::time::sleep(Duration::from_millis(31)).await; // the deadline itself is what is waited for
    bench.model.release();
    first.outcome().await.unwrap();
    assert_eq!(late.outcome().await.unwrap_err(), Refusal::Expired);
    assert_eq!(bench.model.count(), 1);
}

#[tokio::test]
async fn an_order_whose_client_has_gone_is_never_run() {
    let bench = bench();
    let first = bench.occupy().await;
    drop(bench.order(&[1.0, 1.0], 10_000));
    bench.model.release();
    first.outcome().await.unwrap();
    bench.order(&[2.0, 2.0], 10_000).outcome().await.unwrap();
    assert_eq!(bench.model.count(), 2);
}

#[tokio::test]
async fn draining_finishes_what_was_accepted_and_refuses_the_rest() {
    let bench = bench();
    let first = bench.occupy().await;
    let accepted = bench.order(&[1.0, 1.0], 10_000);
    bench.queue.drain();
    let refused = bench.order(&[1.0, 1.0], 10_000);
    bench.model.release();
    assert!(first.outcome().await.is_ok() && accepted.outcome().await.is_ok());
    assert_eq!(refused.outcome().await.unwrap_err(), Refusal::Draining);
    assert_eq!(bench.model.rows_most.load(Ordering::SeqCst), 1);
}
