use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Wake};

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

#[derive(Default)]
struct Bell(AtomicUsize);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn work_ends_when_its_token_is_cancelled_whoever_polled_it_last() {
    let (token, bells) = (CancellationToken::new(), [(); 2].map(|()| Arc::new(Bell::default())));
    let mut work = pin!(unless(&token, std::future::pending::<()>()));
    for bell in &bells {
        let waker = Waker::from(Arc::clone(bell));
        for _ in 0..3 {
            assert!(work.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        }
    }
    token.cancel();
    let rung = bells.each_ref().map(|bell| bell.0.load(Ordering::Relaxed));
    assert_eq!(rung, [0, 1]);
    let waker = Waker::from(Arc::clone(&bells[1]));
    assert_eq!(work.poll(&mut Context::from_waker(&waker)), Poll::Ready(None));
}

#[test]
fn work_that_is_done_counts_though_its_token_was_cancelled() {
    let token = CancellationToken::new();
    token.cancel();
    let work = pin!(unless(&token, std::future::ready(7)));
    assert_eq!(work.poll(&mut Context::from_waker(Waker::noop())), Poll::Ready(Some(7)));
}
