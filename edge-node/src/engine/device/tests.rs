//! Devices that fail, panic, hang, dawdle, answer wrongly or are not there, and what requests notice of it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};

use models::golden::Vector;
use proto::manifest::Check;

use super::*;
use crate::testing::{Doubler, fp32};

const MS: Duration = Duration::from_millis(1);
/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a device does with its calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    Good,
    Fails,
    Panics,
    /// Its calls return when the manner changes.
    Hangs,
    /// Triples.
    Wrong,
    /// Cannot be loaded.
    Absent,
    /// Answers one row and fails on more.
    Small,
}

/// A device that doubles as long as it is good.
#[derive(Debug)]
pub(crate) struct FaultyDevice {
    manner: Mutex<Manner>,
    changed: Condvar,
    pub(crate) calls: AtomicUsize,
}

impl FaultyDevice {
    pub(crate) fn new(manner: Manner) -> Arc<Self> {
        Arc::new(Self {
            manner: Mutex::new(manner),
            changed: Condvar::new(),
            calls: AtomicUsize::new(0),
        })
    }
    pub(crate) fn becomes(&self, manner: Manner) {
        *self.manner.lock().unwrap() = manner;
        self.changed.notify_all();
    }
    fn load(self: &Arc<Self>) -> Result<Arc<dyn Model>, String> {
        let manner = *self.manner.lock().unwrap();
        if manner == Manner::Absent {
            return Err("no such device".to_owned());
        }
        Ok(Arc::new(OnIt(Arc::clone(self))))
    }
}

struct OnIt(Arc<FaultyDevice>);

impl Model for OnIt {
    fn run(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>, Fault> {
        let device = &self.0;
        device.calls.fetch_add(1, Ordering::SeqCst);
        let hangs = |manner: &mut Manner| *manner == Manner::Hangs;
        let manner = *device.changed.wait_while(device.manner.lock().unwrap(), hangs).unwrap();
        match manner {
            Manner::Fails | Manner::Absent => Err(Fault::Internal("an illegal memory access".to_owned())),
            Manner::Small if inputs[0].shape[0] > 1 => Err(Fault::Internal("out of memory".to_owned())),
            Manner::Panics => panic!("a driver's assertion"),
            Manner::Wrong => Ok(vec![fp32("y", &inputs[0].shape, &vec![9.0; inputs[0].data.len() / 4])]),
            Manner::Good | Manner::Hangs | Manner::Small => Doubler::default().run(inputs),
        }
    }
}

/// No call is ever called hung, however busy the machine; tries follow each other closely, and nothing is asked in between.
const PATIENT: Bounds = Bounds {
    patience_min: PATIENCE,
    patience_factor: 2,
    rest_base: Duration::from_millis(5),
    rest_cap: Duration::from_millis(20),
    check_every: PATIENCE,
    unasked: PATIENCE,
};
/// For calls that hang: called so after a time in which any other returns.
pub(crate) const HASTY: Bounds = Bounds {
    patience_min: Duration::from_millis(400),
    ..PATIENT
};

pub(crate) struct Bench {
    pub(crate) device: Arc<FaultyDevice>,
    pub(crate) processor: Arc<Doubler>,
    pub(crate) model: Arc<Backed>,
    pub(crate) metrics: DeviceMetrics,
}

pub(crate) fn bench(manner: Manner, bounds: Bounds) -> Bench {
    bench_of(manner, bounds, [10, 20], DeviceMetrics::default())
}

/// `row_us` is what a row takes the device and the processor, as published.
pub(crate) fn bench_of(manner: Manner, bounds: Bounds, row_us: [u32; 2], metrics: DeviceMetrics) -> Bench {
    bench_beside(manner, bounds, row_us, metrics, LostCalls::default())
}

fn bench_beside(manner: Manner, bounds: Bounds, row_us: [u32; 2], metrics: DeviceMetrics, lost: LostCalls) -> Bench {
    let (device, processor) = (FaultyDevice::new(manner), Arc::new(Doubler::default()));
    let golden = Vector {
        inputs: vec![fp32("x", &[1, 2], &[1.0, 2.0])],
        outputs: vec![fp32("y", &[1, 2], &[2.0, 4.0])],
    };
    let checks = vec![Check::Close { abs: 1e-3, rel: 1e-3 }];
    let question = Question::of(vec![golden], checks, &*processor).unwrap();
    let on_it = Arc::clone(&device);
    let parts = Parts {
        name: "m@1".to_owned(),
        load: Box::new(move || on_it.load()),
        stand_in: processor.clone(),
        question,
        row_us,
        bounds,
        metrics: metrics.clone(),
        lost,
        starter: engine::leisure::Starter::default(),
    };
    let patience = if manner == Manner::Hangs { MS * 10 } else { PATIENCE };
    let model = Arc::new(Backed::start(parts, patience).unwrap());
    Bench {
        device,
        processor,
        model,
        metrics,
    }
}

impl Bench {
    fn ask(&self, rows: usize, deadline: Duration) -> Result<Answer, Fault> {
        let inputs = Arc::new(vec![fp32("x", &[rows, 2], &vec![3.0; rows * 2])]);
        self.model.answer(&Call::until(clock::instant() + deadline), &inputs)
    }
    /// The answer to one row, which is right.
    fn right(&self, deadline: Duration) -> Answerer {
        let answer = self.ask(1, deadline).unwrap();
        assert_eq!(answer.outputs, [fp32("y", &[1, 2], &[6.0, 6.0])]);
        answer.by
    }
    pub(crate) fn until(&self, standing: impl Fn(&Standing) -> bool) {
        let end = clock::instant() + PATIENCE;
        while !standing(&self.model.standing()) {
            assert!(clock::instant() < end, "{:?}", self.model.standing());
            std::thread::yield_now();
        }
    }
    /// Asks until the device answers again.
    fn until_signed(&self) {
        let end = clock::instant() + PATIENCE;
        while self.right(PATIENCE) != Answerer::Signed {
            assert!(clock::instant() < end, "{:?}", self.model.standing());
        }
    }
    fn trouble(&self) -> Option<Trouble> {
        match self.model.standing() {
            Standing::InUse => None,
            Standing::OutOfUse { trouble, .. } => Some(trouble),
        }
    }
}

pub(crate) fn in_use(standing: &Standing) -> bool {
    *standing == Standing::InUse
}
fn is_out(standing: &Standing) -> bool {
    !in_use(standing)
}

#[test]
fn a_good_device_answers_and_the_processor_runs_nothing_but_the_known_question() {
    let bench = bench(Manner::Good, PATIENT);
    assert_eq!(bench.right(PATIENCE), Answerer::Signed);
    assert_eq!((bench.processor.count(), bench.metrics.stand_in_runs.get()), (1, 0));
    assert_eq!(
        (bench.model.answerer(), bench.metrics.out_of_use.get()),
        (Answerer::Signed, 0)
    );
}

#[test]
fn a_call_that_fails_or_panics_is_answered_by_the_processor_and_says_so() {
    for manner in [Manner::Fails, Manner::Panics] {
        let bench = bench(Manner::Good, PATIENT);
        bench.device.becomes(manner);
        assert_eq!(bench.right(PATIENCE), Answerer::StandIn, "{manner:?}");
        // Asked what is known at once, it fails that too.
        bench.until(is_out);
        assert_eq!(bench.right(PATIENCE), Answerer::StandIn);
        assert_eq!(
            (bench.model.answerer(), bench.metrics.out_of_use.get()),
            (Answerer::StandIn, 1)
        );
        bench.device.becomes(Manner::Good);
        bench.until(in_use);
        assert_eq!(
            (bench.right(PATIENCE), bench.metrics.out_of_use.get()),
            (Answerer::Signed, 0)
        );
    }
}

#[test]
fn a_device_that_answers_the_small_question_and_fails_on_others_goes_out_after_three_of_them() {
    let slow = Bounds {
        rest_base: PATIENCE,
        ..PATIENT
    };
    let bench = bench(Manner::Small, slow);
    for failures in 0..3 {
        assert_eq!(bench.trouble(), None, "after {failures}");
        assert_eq!(bench.ask(2, PATIENCE).unwrap().by, Answerer::StandIn);
    }
    assert_eq!(bench.trouble(), Some(Trouble::Failed));
}

#[test]
fn a_request_that_no_model_can_answer_does_not_take_the_device_out_of_use() {
    let bench = bench(Manner::Good, PATIENT);
    let asked = |value: f32| {
        let inputs = Arc::new(vec![fp32("x", &[1, 2], &[value, 0.0])]);
        bench.model.answer(&Call::until(clock::instant() + PATIENCE), &inputs)
    };
    for _ in 0..8 {
        // A row that the device cannot bear, and the processor no more: it panics here, as it would on an engine thread.
        let both = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| asked(f32::NAN)));
        assert!(both.is_err());
        assert!(
            matches!(asked(-1.0), Err(Fault::Input(_))),
            "the client's fault, and one call's"
        );
    }
    assert_eq!(bench.right(PATIENCE), Answerer::Signed);
    assert_eq!(bench.trouble(), None);
}

/// Goal: a call that never returns costs its request what it can spare, the next ones nothing, and no thread but the device's own.
#[test]
fn a_call_that_hangs_is_answered_in_time_by_the_processor_and_the_device_goes_out() {
    let bench = bench(Manner::Good, HASTY);
    bench.device.becomes(Manner::Hangs);
    let began = clock::instant();
    assert_eq!(bench.right(MS * 2_000), Answerer::StandIn);
    assert!(clock::instant() - began < MS * 2_000, "inside one deadline");
    assert_eq!((bench.trouble(), bench.metrics.hung.get()), (Some(Trouble::Hung), 1));
    let calls = bench.device.calls.load(Ordering::SeqCst);
    for _ in 0..100 {
        assert_eq!(bench.right(MS * 2_000), Answerer::StandIn);
    }
    assert_eq!(
        bench.device.calls.load(Ordering::SeqCst),
        calls,
        "one call hangs, whoever asks"
    );
    assert!(matches!(
        bench.model.standing(),
        Standing::OutOfUse { next_try: None, .. }
    ));
    bench.device.becomes(Manner::Good);
    bench.until_signed();
    assert_eq!(bench.metrics.hung.get(), 0);
}

#[test]
fn many_that_ask_at_once_while_a_call_hangs_are_all_answered() {
    let bench = bench(Manner::Good, HASTY);
    bench.device.becomes(Manner::Hangs);
    std::thread::scope(|scope| {
        let ask = || assert_eq!(bench.right(PATIENCE), Answerer::StandIn);
        (0..16).for_each(|_| drop(scope.spawn(ask)));
    });
    assert_eq!(bench.metrics.stand_in_runs.get(), 16);
    bench.device.becomes(Manner::Good);
}

#[test]
fn a_call_that_is_only_late_is_left_and_the_device_stays_in_use() {
    // Of 3,000 ms the processor is left 2,405, of which it needs 1,600 by what is known.
    let bench = bench_of(Manner::Good, PATIENT, [10, 1_600_000], DeviceMetrics::default());
    bench.device.becomes(Manner::Hangs);
    assert_eq!(bench.right(MS * 3_000), Answerer::StandIn);
    // Whoever comes meanwhile does not wait for it.
    let began = clock::instant();
    assert_eq!(bench.right(PATIENCE), Answerer::StandIn);
    assert!(clock::instant() - began < PATIENCE / 2);
    assert_eq!((bench.trouble(), bench.metrics.late.get()), (None, 1));
    bench.device.becomes(Manner::Good);
    bench.until_signed();
}

#[test]
fn without_time_for_the_processor_nothing_is_begun_and_the_request_is_late() {
    let bench = bench(Manner::Good, HASTY);
    bench.device.becomes(Manner::Hangs);
    bench.processor.busy_us.store(30_000, Ordering::SeqCst);
    while bench.model.costs(1).stand_in < MS * 25 {
        bench.ask(1, PATIENCE).unwrap();
    }
    let runs = bench.processor.count();
    assert_eq!(bench.ask(1, MS * 10), Err(Fault::Late));
    assert_eq!(bench.processor.count(), runs);
    bench.device.becomes(Manner::Good);
}

#[test]
fn a_device_that_computes_wrongly_is_never_in_use_and_one_that_begins_to_is_found() {
    let wrong = bench(Manner::Wrong, PATIENT);
    assert_eq!(wrong.right(PATIENCE), Answerer::StandIn);
    assert_eq!(wrong.trouble(), Some(Trouble::Wrong));
    wrong.device.becomes(Manner::Good);
    wrong.until(in_use);

    let watched = Bounds {
        check_every: MS * 5,
        ..PATIENT
    };
    let bench = bench(Manner::Good, watched);
    bench.device.becomes(Manner::Wrong);
    bench.until(is_out);
    assert_eq!(bench.trouble(), Some(Trouble::Wrong));
    assert_eq!(bench.right(PATIENCE), Answerer::StandIn);
}

#[test]
fn a_device_that_is_not_there_leaves_the_processor_and_is_taken_when_it_comes() {
    let bench = bench(Manner::Absent, PATIENT);
    assert_eq!(
        (bench.right(PATIENCE), bench.trouble()),
        (Answerer::StandIn, Some(Trouble::NotLoaded))
    );
    bench.device.becomes(Manner::Good);
    bench.until(in_use);
    assert_eq!(bench.right(PATIENCE), Answerer::Signed);
}

#[test]
fn a_model_whose_device_hangs_from_the_start_serves_all_the_same() {
    let bench = bench(Manner::Hangs, HASTY);
    assert_eq!(bench.right(PATIENCE), Answerer::StandIn);
    bench.device.becomes(Manner::Good);
    bench.until(in_use);
}

/// Goal: threads that never come back are bounded, and beyond the bound a model serves by the processor.
#[test]
fn calls_that_never_return_take_at_most_so_many_threads() {
    let lost = LostCalls::default();
    let bench = |bounds| bench_beside(Manner::Good, bounds, [10, 20], DeviceMetrics::default(), lost.clone());
    let soon = Bounds {
        patience_min: MS,
        ..HASTY
    };
    let hung: Vec<Arc<FaultyDevice>> = (0..proto::limits::DEVICE_CALLS_LOST_MAX)
        .map(|_| {
            let bench = bench(soon);
            bench.device.becomes(Manner::Hangs);
            assert_eq!(bench.right(PATIENCE), Answerer::StandIn);
            Arc::clone(&bench.device)
        })
        .collect();
    let without = bench(PATIENT);
    assert_eq!(without.right(PATIENCE), Answerer::StandIn);
    assert_eq!(without.device.calls.load(Ordering::SeqCst), 0);
    hung.iter().for_each(|device| device.becomes(Manner::Good));
    let end = clock::instant() + PATIENCE;
    while bench(PATIENT).right(PATIENCE) != Answerer::Signed {
        assert!(clock::instant() < end, "the threads came back");
    }
}
