use super::*;
use tokio::sync::oneshot;

#[tokio::test]
async fn stop_waits_for_a_task_that_finishes_its_work() {
    let lifecycle = Lifecycle::new();
    let drain = lifecycle.drain().clone();
    let (done, finished) = oneshot::channel();
    lifecycle.spawn("worker", async move {
        drain.cancelled().await;
        tokio::task::yield_now().await;
        let _ = done.send(());
    });
    assert!(lifecycle.stop(Duration::from_secs(10)).await);
    finished.await.unwrap();
    assert!(lifecycle.running().is_empty());
}

#[tokio::test]
async fn stop_aborts_what_outlives_the_grace_period_and_names_it() {
    let lifecycle = Lifecycle::new();
    lifecycle.spawn("stubborn", std::future::pending());
    lifecycle.spawn("stubborn", std::future::pending());
    let drain = lifecycle.drain().clone();
    lifecycle.spawn("polite", async move { drain.cancelled().await });
    assert_eq!(lifecycle.stop_naming(Duration::from_millis(20)).await, ["stubborn"]);
    assert!(
        lifecycle.running().is_empty(),
        "aborted tasks are gone when stop returns"
    );
}

#[tokio::test]
async fn a_task_that_panics_is_taken_off_the_list_and_does_not_hold_up_stop() {
    let lifecycle = Lifecycle::new();
    lifecycle.spawn("faulty", async { panic!("planted") });
    assert!(lifecycle.stop(Duration::from_secs(10)).await);
    assert!(lifecycle.running().is_empty());
}

#[tokio::test]
async fn stopping_twice_is_as_stopping_once() {
    let lifecycle = Lifecycle::new();
    assert!(lifecycle.stop(Duration::ZERO).await);
    assert!(lifecycle.stop(Duration::ZERO).await);
    assert!(lifecycle.is_draining());
}
