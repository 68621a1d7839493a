//! The loop that every part runs: read what should be, read what is, do the difference.
//!
//! A change only wakes the loop; it carries no hint of what changed. The same pass runs on a change and on the clock,
//! so it must be idempotent. A pass is never cut short by a drain: it looks at the lifecycle where it can stop.

use std::future::Future;
use std::time::Duration;

use tokio::sync::watch;

use crate::lifecycle::Lifecycle;

/// Runs `pass` with the newest wanted value: now, whenever the value changes and at least every `period`,
/// until the lifecycle drains or nobody can change the value any more.
pub async fn reconcile<T, F>(
    lifecycle: Lifecycle,
    mut wanted: watch::Receiver<T>,
    period: Duration,
    mut pass: impl FnMut(T) -> F,
) where
    T: Clone,
    F: Future<Output = ()>,
{
    loop {
        let newest = wanted.borrow_and_update().clone();
        pass(newest).await;
        let stop = tokio::select! {
            () = lifecycle.drain().cancelled() => true,
            changed = wanted.changed() => changed.is_err(),
            () = tokio::time::sleep(period) => false,
        };
        if stop || lifecycle.is_draining() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc;

    fn passes(lifecycle: &Lifecycle, wanted: watch::Receiver<u32>, period: Duration) -> mpsc::Receiver<u32> {
        let (seen, passes) = mpsc::channel(16);
        let run = reconcile(lifecycle.clone(), wanted, period, move |value| {
            let seen = seen.clone();
            async move { seen.send(value).await.unwrap() }
        });
        lifecycle.spawn("reconcile", run);
        passes
    }

    #[tokio::test]
    async fn a_change_wakes_the_loop_and_several_changes_are_one_pass() {
        let lifecycle = Lifecycle::new();
        let (set, wanted) = watch::channel(1);
        let mut passes = passes(&lifecycle, wanted, Duration::from_secs(3600));
        assert_eq!(passes.recv().await, Some(1));
        set.send(2).unwrap();
        set.send(3).unwrap();
        assert_eq!(passes.recv().await, Some(3));
        assert!(lifecycle.stop(Duration::from_secs(10)).await);
    }

    #[tokio::test]
    async fn without_a_change_the_pass_still_runs_every_period() {
        let lifecycle = Lifecycle::new();
        let (_set, wanted) = watch::channel(7);
        let mut passes = passes(&lifecycle, wanted, Duration::from_millis(1));
        for _ in 0..3 {
            assert_eq!(passes.recv().await, Some(7));
        }
        assert!(lifecycle.stop(Duration::from_secs(10)).await);
    }

    #[tokio::test]
    async fn the_loop_ends_when_nobody_can_change_the_value() {
        let lifecycle = Lifecycle::new();
        let (set, wanted) = watch::channel(7);
        drop(set);
        let mut passes = passes(&lifecycle, wanted, Duration::from_secs(3600));
        assert_eq!(passes.recv().await, Some(7));
        assert_eq!(passes.recv().await, None);
    }
}
