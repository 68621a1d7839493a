//! How long a connection is waited for, request after request.
//!
//! hyper makes a timer for the head of each request and takes it away when the head is here. Timers are kept under one lock for the whole
//! process, and this one hardly ever ends. So a connection has one timer: it may ring for a request of before, and is set
//! anew only then.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use hyper::rt::{Sleep, Timer};

type Bell = Arc<Mutex<Option<Pin<Box<tokio::time::Sleep>>>>>;

/// The timer of one connection, of which one wait at a time is polled.
#[derive(Clone, Default)]
pub(super) struct Patience(Bell);

/// A wait until `till`.
struct Wait {
    till: Instant,
    bell: Bell,
}

impl Timer for Patience {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(self.now() + duration)
    }
    fn sleep_until(&self, till: Instant) -> Pin<Box<dyn Sleep>> {
        let bell = Arc::clone(&self.0);
        Box::pin(Wait { till, bell })
    }
    fn now(&self) -> Instant {
        tokio::time::Instant::now().into_std() // the clock that the bell goes by
    }
    fn reset(&self, sleep: &mut Pin<Box<dyn Sleep>>, till: Instant) {
        *sleep = self.sleep_until(till);
    }
}

impl Sleep for Wait {}

impl Future for Wait {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let till = tokio::time::Instant::from(self.till);
        let mut bell = self.bell.lock().unwrap_or_else(PoisonError::into_inner);
        let bell = bell.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(till)));
        if bell.deadline() > till {
            bell.as_mut().reset(till);
        }
        loop {
            ready!(bell.as_mut().poll(context));
            if bell.deadline() >= till {
                return Poll::Ready(());
            }
            bell.as_mut().reset(till);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_wait_ends_at_its_own_time_whatever_the_bell_was_set_for() {
        let (patience, began) = (Patience::default(), tokio::time::Instant::now());
        let at = |s: u64| began + Duration::from_secs(s);
        let poll = async |wait: &mut Pin<Box<dyn Sleep>>| {
            let wait = std::future::poll_fn(|context| wait.as_mut().poll(context));
            tokio::time::timeout(Duration::from_secs(4), wait).await.is_ok()
        };
        let mut first = patience.sleep_until(at(10).into_std());
        assert!(!poll(&mut first).await, "4 s of 10 s");
        drop(first);
        let mut later = patience.sleep_until(at(15).into_std());
        assert!(!poll(&mut later).await && !poll(&mut later).await, "12 s of 15 s");
        assert!(poll(&mut later).await);
        assert_eq!(tokio::time::Instant::now(), at(15));
        let mut sooner = patience.sleep_until(at(17).into_std());
        assert!(poll(&mut sooner).await);
        assert_eq!(tokio::time::Instant::now(), at(17));
        let mut long = patience.sleep_until(at(60).into_std());
        assert!(!poll(&mut long).await);
        patience.reset(&mut long, at(22).into_std());
        assert!(poll(&mut long).await);
        assert_eq!(tokio::time::Instant::now(), at(22));
    }
}
