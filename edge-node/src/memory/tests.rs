use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::cache::flight::Refusal;
use crate::engine::Model;
use crate::testing::Doubler;

fn memory(bytes_max: u64, pinned: &[&str]) -> Memory {
    keeper(bytes_max, pinned, 0)
}

fn keeper(bytes_max: u64, pinned: &[&str], warm_copies: usize) -> Memory {
    let config = MemoryConfig {
        warm_copies,
        bytes_max: Some(bytes_max),
        pinned: pinned.iter().map(|name| name.parse().unwrap()).collect(),
    };
    Memory::start(config, Metrics::new(&mut runtime::metrics::Metrics::new())).unwrap()
}

fn doubler() -> Arc<dyn Model> {
    Arc::new(Doubler::default())
}

/// Seats of ten bytes each, and how often each was loaded.
fn seats(memory: &Memory, count: usize) -> Vec<(Seat, Arc<AtomicUsize>)> {
    let seat = |n: usize| {
        let loads = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&loads);
        let load: Load = Arc::new(move || {
            counted.fetch_add(1, Ordering::SeqCst);
            Ok(doubler())
        });
        let name = format!("m{n}").parse().unwrap();
        (memory.seat(&name, 10, Duration::from_millis(1), load, None), loads)
    };
    (0..count).map(seat).collect()
}
fn soon() -> Instant {
    clock::instant() + Duration::from_secs(10)
}
/// Comes back once `good` is true, which takes no longer than [`soon`].
async fn until(good: impl Fn() -> bool) {
    let end = soon();
    while !good() {
        assert!(clock::instant() < end, "never");
        tokio::task::yield_now().await;
    }
}
/// Who is older is told by a clock of milliseconds: the next use is later than the last one.
async fn a_millisecond(memory: &Memory) {
    let now = memory.since();
    until(|| memory.since() > now).await;
}
fn here(seats: &[(Seat, Arc<AtomicUsize>)]) -> Vec<usize> {
    let near = |seat: &Seat| matches!(seat.warmth(), Warmth::Warm | Warmth::Hot);
    (0..seats.len()).filter(|&n| near(&seats[n].0)).collect()
}

#[tokio::test]
async fn a_hundred_models_answer_in_memory_for_ten() {
    let memory = memory(100, &[]);
    let seats = seats(&memory, 100);
    for round in 1..=2 {
        for (seat, loads) in &seats {
            assert!(seat.within(soon()).await.is_ok());
            assert_eq!((seat.warmth(), loads.load(Ordering::SeqCst)), (Warmth::Hot, round));
            assert!(here(&seats).len() <= 10, "{:?}", here(&seats));
        }
    }
    assert_eq!(memory.0.metrics.models_memory_bytes.get(), 100);
    assert_eq!(memory.0.metrics.model_loads.get(), 200);
    assert_eq!(memory.0.metrics.model_unloads.get(), 190);
}

#[tokio::test]
async fn who_was_asked_last_stays_and_who_is_pinned_never_leaves() {
    let memory = memory(30, &["m0"]);
    let seats = seats(&memory, 5);
    for n in [0, 1, 2] {
        assert!(seats[n].0.within(soon()).await.is_ok());
        a_millisecond(&memory).await;
    }
    assert!(seats[1].0.within(soon()).await.is_ok(), "asked again");
    a_millisecond(&memory).await;
    assert!(seats[3].0.within(soon()).await.is_ok());
    assert_eq!(here(&seats), [0, 1, 3]);
    a_millisecond(&memory).await;
    assert!(seats[4].0.within(soon()).await.is_ok());
    assert_eq!(here(&seats), [0, 3, 4]);
}

#[tokio::test]
async fn a_copy_that_this_node_keeps_leaves_last_and_is_loaded_when_it_becomes_its_turn() {
    let memory = keeper(30, &[], 1);
    let seats = seats(&memory, 5);
    let ahead = |models: &[usize]| models.iter().map(|n| (format!("m{n}").parse().unwrap(), 1)).collect();
    let arrived = async |wanted: &[usize]| until(|| wanted.iter().all(|n| here(&seats).contains(n))).await;
    memory.stand(ahead(&[1, 2, 3, 4]));
    arrived(&[0]).await;
    for n in [1, 2, 3, 4] {
        a_millisecond(&memory).await;
        assert!(seats[n].0.within(soon()).await.is_ok());
    }
    assert_eq!(here(&seats), [0, 3, 4], "the oldest is kept");
    // Whoever kept the second is gone.
    memory.stand(ahead(&[2, 3, 4]));
    arrived(&[0, 1]).await;
    assert_eq!(here(&seats), [0, 1, 4]);
    // Where not all of them fit, nobody pushes others out to be kept.
    memory.stand(ahead(&[4]));
    arrived(&[0, 1, 2]).await;
    let loads = || {
        seats
            .iter()
            .map(|(_, loads)| loads.load(Ordering::SeqCst))
            .sum::<usize>()
    };
    let before = loads();
    memory.stand(ahead(&[4]));
    assert_eq!(seats[3].0.warmth(), Warmth::Cold, "nobody asked for it");
    assert_eq!((loads(), here(&seats)), (before, vec![0, 1, 2]));
}

#[tokio::test]
async fn a_copy_that_cannot_be_loaded_is_not_tried_again_until_somebody_asks() {
    let memory = keeper(10, &[], 1);
    let tries = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&tries);
    let load: Load = Arc::new(move || {
        counted.fetch_add(1, Ordering::SeqCst);
        Err("the disk is gone".to_owned())
    });
    let seat = memory.seat(&"m".parse().unwrap(), 10, Duration::ZERO, load, None);
    memory.stand(BTreeMap::new());
    until(|| tries.load(Ordering::SeqCst) == 1 && seat.warmth() == Warmth::Cold).await;
    memory.stand(BTreeMap::new());
    assert_eq!(seat.warmth(), Warmth::Cold);
    assert_eq!(seat.within(soon()).await.err(), Some(Refusal::Failed));
    assert_eq!(tries.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_model_that_leaves_while_it_runs_is_still_there_for_the_run() {
    let memory = memory(10, &[]);
    let seats = seats(&memory, 2);
    let held = seats[0].0.within(soon()).await.unwrap();
    assert!(seats[1].0.within(soon()).await.is_ok());
    assert_eq!(seats[0].0.warmth(), Warmth::Cold);
    assert_eq!(Arc::strong_count(&held), 1, "nobody else keeps it in memory");
    assert!(held.run(&[crate::testing::fp32("x", &[1, 2], &[1.0, 2.0])]).is_ok());
}

#[tokio::test]
async fn many_who_ask_at_once_load_it_once() {
    let memory = memory(10, &[]);
    let seats = seats(&memory, 1);
    let asks = (0..100).map(|_| seats[0].0.within(soon()));
    let answers = futures_util::future::join_all(asks).await;
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!(seats[0].1.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn who_cannot_wait_for_the_loading_is_refused_at_once_and_the_next_finds_it() {
    let memory = memory(10, &[]);
    let load: Load = Arc::new(|| Ok(doubler()));
    let wait = Duration::from_secs(60);
    let seat = memory.seat(&"slow".parse().unwrap(), 10, wait, load, None);
    let refused = seat.within(clock::instant() + Duration::from_secs(1)).await;
    assert_eq!(refused.err(), Some(Refusal::Unmeetable { wait }));
    until(|| seat.warmth() == Warmth::Hot).await;
    assert!(
        seat.within(clock::instant() + Duration::from_millis(1)).await.is_ok(),
        "what it took is learnt"
    );
}

#[tokio::test]
async fn a_model_that_cannot_be_loaded_is_tried_again_by_the_next() {
    let memory = memory(10, &[]);
    let tries = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&tries);
    let load: Load = Arc::new(move || match counted.fetch_add(1, Ordering::SeqCst) {
        0 => Err("the disk is gone".to_owned()),
        _ => Ok(doubler()),
    });
    let seat = memory.seat(&"m".parse().unwrap(), 10, Duration::ZERO, load, None);
    assert_eq!(seat.within(soon()).await.err(), Some(Refusal::Failed));
    assert!(seat.within(soon()).await.is_ok());
}

#[test]
fn models_that_are_loaded_at_once_do_not_take_the_same_room() {
    let memory = memory(20, &[]);
    let (first, second) = (memory.room(10), memory.room(10));
    assert!(first.is_some() && second.is_some());
    assert!(memory.room(1).is_none(), "both are on their way");
    drop(second);
    let third = memory.room(10);
    assert!(third.is_some(), "it was given up");
    let load: Load = Arc::new(|| Ok(doubler()));
    let name = "m".parse().unwrap();
    let _seat = memory.seat(&name, 10, Duration::from_millis(1), load, Some(doubler()));
    drop(first);
    assert!(memory.room(1).is_none(), "who has a seat needs no claim");
    let fourth = memory.make_room(10);
    assert_eq!(
        memory.0.metrics.models_memory_bytes.get(),
        0,
        "what is on its way takes room from who rests"
    );
    drop((third, fourth));
}
