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
    bench_of(1)
}

fn bench_of(threads: usize) -> Bench {
    bench_with(threads, threads)
}

/// Only `there` of the threads that the queue counts on are there.
fn bench_with(threads: usize, there: usize) -> Bench {
    let model = Arc::new(Doubler::default());
    let metrics = Metrics::new(&mut runtime::metrics::Metrics::new());
    let bounds = Bounds {
        rows_max: 32,
        bytes_max: 1 << 20,
        linger: Duration::ZERO,
        threads,
    };
    let serving = Serving::new();
    let queue = Queue::new(bounds, Rules::default(), serving.clone(), metrics.clone());
    let engine = Engine::start(&queue, there, &metrics).unwrap();
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
            model: self.model.clone(),
            inputs,
            keeper: None,
            outputs: Vec::new(),
            payer: Payer::of(&"acme".parse().unwrap()),
            level: None,
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
    assert_eq!(first.await.unwrap().run.unwrap().rows, 1);
    for (n, waiter) in (1..=3_u8).zip(waiters) {
        let landed = waiter.await.unwrap();
        assert_eq!(
            landed.outputs.as_slice(),
            [fp32("y", &[1, 2], &[f32::from(n) * 2.0, 1.0])]
        );
        assert_eq!(landed.run.unwrap().rows, 3);
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
        first.await.unwrap();
        assert_eq!(
            good.await.unwrap().outputs.as_slice(),
            [fp32("y", &[1, 2], &[2.0, 2.0])]
        );
        assert!(matches!(bad.await, Err(Refusal::Input(_) | Refusal::Failed)));
    }
}

#[tokio::test]
async fn an_order_whose_deadline_passes_in_the_queue_is_never_run() {
    let bench = bench();
    let first = bench.occupy().await;
    let late = bench.order(&[1.0, 1.0], 30);
    tokio::time::sleep(Duration::from_millis(31)).await; // the deadline itself is what is waited for
    bench.model.release();
    first.await.unwrap();
    assert_eq!(late.await.unwrap_err(), Refusal::Expired);
    assert_eq!(bench.model.count(), 1);
}

#[tokio::test]
async fn an_order_whose_client_has_gone_is_never_run() {
    let bench = bench();
    let first = bench.occupy().await;
    drop(bench.order(&[1.0, 1.0], 10_000));
    bench.model.release();
    first.await.unwrap();
    bench.order(&[2.0, 2.0], 10_000).await.unwrap();
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
    assert!(first.await.is_ok() && accepted.await.is_ok());
    assert_eq!(refused.await.unwrap_err(), Refusal::Draining);
    assert_eq!(bench.model.rows_most.load(Ordering::SeqCst), 1);
}

/// Rows of 2 ms each: sharing them pays.
fn slow(bench: &Bench) {
    bench.slot.pace.learn(1, 0, Duration::from_millis(4));
}

#[tokio::test]
async fn a_large_request_runs_on_all_idle_threads_and_its_rows_keep_their_order() {
    let bench = bench_of(2);
    slow(&bench);
    bench.model.hold();
    let values: Vec<f32> = (0..18_u8).map(f32::from).collect();
    let large = bench.order(&values, 10_000);
    // Held in both threads at the same time.
    while bench.model.count() < 2 {
        tokio::task::yield_now().await;
    }
    bench.model.release();
    let landed = large.await.unwrap();
    let doubled: Vec<f32> = values.iter().map(|v| v * 2.0).collect();
    assert_eq!(landed.outputs.as_slice(), [fp32("y", &[9, 2], &doubled)]);
    assert_eq!(landed.run.unwrap().rows, 9);
    assert_eq!(bench.model.rows_most.load(Ordering::SeqCst), 5);
}

#[tokio::test]
async fn a_share_that_nobody_takes_is_run_by_its_owner() {
    let bench = bench_with(2, 1);
    slow(&bench);
    let large = bench.order(&[1.0; 16], 10_000).await.unwrap();
    assert_eq!(large.outputs.as_slice(), [fp32("y", &[8, 2], &[2.0; 16])]);
    assert_eq!(
        (bench.model.count(), bench.model.rows_most.load(Ordering::SeqCst)),
        (2, 4)
    );
}

#[tokio::test]
async fn a_large_request_beside_a_busy_thread_runs_whole() {
    let bench = bench_of(2);
    slow(&bench);
    let small = bench.occupy().await;
    let large = bench.order(&[1.0; 16], 10_000);
    while bench.model.count() < 2 {
        tokio::task::yield_now().await;
    }
    bench.model.release();
    assert!(small.await.is_ok());
    assert_eq!(
        large.await.unwrap().outputs.as_slice(),
        [fp32("y", &[8, 2], &[2.0; 16])]
    );
    assert_eq!(
        bench.model.rows_most.load(Ordering::SeqCst),
        8,
        "no thread was idle, so it was not cut"
    );
}

#[tokio::test]
async fn a_bad_row_in_a_share_fails_its_request_and_the_threads_go_on() {
    for bad in [-1.0, f32::NAN] {
        let bench = bench_of(2);
        slow(&bench);
        let mut values = [1.0; 16];
        values[15] = bad;
        let outcome = bench.order(&values, 10_000).await;
        assert!(matches!(outcome, Err(Refusal::Input(_) | Refusal::Failed)));
        assert!(bench.order(&[1.0; 16], 10_000).await.is_ok());
    }
}

/// Notes when each row began: its first number says which.
#[derive(Debug, Default)]
struct Stopwatch(Mutex<Vec<(u32, Instant)>>);

impl crate::engine::Model for Stopwatch {
    fn run(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>, crate::engine::Fault> {
        let now = clock::instant();
        let rows = inputs[0].data.chunks_exact(8);
        let names = rows.map(|row| u32::from_le_bytes(row[..4].try_into().unwrap()));
        self.0.lock().unwrap().extend(names.map(|name| (name, now)));
        std::thread::sleep(Duration::from_micros(200));
        let mut outputs = inputs.to_vec();
        outputs[0].name = "y".to_owned();
        Ok(outputs)
    }
}

/// Goal: nothing starts after its deadline. Method: 20,000 orders, more than two threads can run, with deadlines of
/// up to 20 ms; the model itself reads the clock. Between the node's last look at the clock and the model's, the system may give the
/// processor to somebody else: as long as that takes is no fault of ours.
#[tokio::test]
async fn of_many_thousand_orders_none_starts_after_its_deadline() {
    let metrics = Metrics::new(&mut runtime::metrics::Metrics::new());
    let bounds = Bounds {
        rows_max: 512,
        bytes_max: 1 << 20,
        linger: Duration::from_millis(10),
        threads: 2,
    };
    let queue = Queue::new(bounds, Rules::default(), Serving::new(), metrics.clone());
    let engine = Engine::start(&queue, bounds.threads, &metrics).unwrap();
    let watch = Arc::new(Stopwatch::default());
    let slot = slot_with("m", 1, watch.clone());
    let (mut deadlines, mut waiters) = (HashMap::new(), Vec::new());
    for n in 0..20_000_u16 {
        let (flight, waiter) = alone(clock::instant() + Duration::from_micros(u64::from(n) * 7919 % 20_000));
        deadlines.insert(f32::from(n).to_bits(), flight.deadline());
        waiters.push(waiter);
        queue.push(Order {
            slot: Arc::clone(&slot),
            model: watch.clone(),
            inputs: Arc::new(vec![fp32("x", &[1, 2], &[f32::from(n), 0.0])]),
            keeper: None,
            outputs: Vec::new(),
            payer: Payer::of(&["a", "b", "c"][usize::from(n) % 3].parse().unwrap()),
            level: Level::asked(u64::from(n % 6)),
            flight,
            span: Span::none(),
            waiting: Span::none(),
        });
        if n % 16 == 0 {
            std::thread::sleep(Duration::from_micros(50));
        }
    }
    let mut answered = 0;
    for waiter in waiters {
        answered += usize::from(waiter.await.is_ok());
    }
    engine.stop();
    let began = std::mem::take(&mut *watch.0.lock().unwrap());
    let late = |by_ms: u64| {
        let by = Duration::from_millis(by_ms);
        began.iter().filter(|(name, at)| deadlines[name] + by < *at).count()
    };
    assert!(
        late(5) == 0 && late(0) <= 20,
        "{} and {} of {}",
        late(5),
        late(0),
        began.len()
    );
    assert_eq!(began.len(), answered);
    assert!((1_000..20_000).contains(&answered), "{answered}");
}
