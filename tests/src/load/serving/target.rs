//! What is asked, of whom, and what became of it: shared by both loops.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};

use super::answer::Answer;
use super::latency::Latencies;

/// The status of an answer that counts.
pub const OK: u16 = 200;

/// Writes the n-th request, whole, into an empty buffer.
type Write = dyn Fn(u64, &mut Vec<u8>) + Send + Sync;
/// Looks at the answer to the n-th request.
type Look = dyn Fn(u64, &Answer<'_>) + Send + Sync;

/// Requests, and whom to ask them.
#[derive(Clone)]
pub struct Target {
    /// Where.
    pub address: SocketAddr,
    /// Writes requests.
    pub write: Arc<Write>,
    /// Sees answers.
    pub look: Arc<Look>,
    /// Whether the client looks for answers all the time and does not sleep: for one on cores of its own, since waking it would cost the
    /// server what a client on another machine does not.
    pub awake: bool,
}

impl Target {
    /// Asks `address` what `write` writes.
    #[must_use]
    pub fn new(address: SocketAddr, write: Arc<Write>) -> Self {
        let look = Arc::new(|_: u64, _: &Answer<'_>| ());
        Self {
            address,
            write,
            look,
            awake: false,
        }
    }
    /// The same, and shows each answer to `look`.
    #[must_use]
    pub fn seen_by(self, look: impl Fn(u64, &Answer<'_>) + Send + Sync + 'static) -> Self {
        Self {
            look: Arc::new(look),
            ..self
        }
    }
}

/// Keeps this thread from going to sleep for as long as its client runs; it offers its core to other threads all the time.
pub(super) fn stay_awake() {
    drop(tokio::task::spawn_local(async {
        loop {
            std::thread::yield_now();
            tokio::task::yield_now().await;
        }
    }));
}

/// What became of requests.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Times of those that were answered 200.
    pub answered: Latencies,
    /// Times of those that were answered something else.
    pub refused: Latencies,
    /// How many were answered with which status.
    pub statuses: BTreeMap<u16, u64>,
    /// Connections that broke under a request.
    pub broken: u64,
    /// Requests that were due and got no answer, a broken connection's among them.
    pub unanswered: u64,
    /// How long it was measured.
    pub lasted: Duration,
}

impl Report {
    pub(super) fn count(&mut self, status: u16, took: Duration) {
        *self.statuses.entry(status).or_default() += 1;
        let times = if status == OK {
            &mut self.answered
        } else {
            &mut self.refused
        };
        times.record(took);
    }
    /// Requests answered 200 a second.
    #[must_use]
    pub fn per_second(&self) -> f64 {
        per_second(self.answered.count(), self.lasted)
    }
    /// Requests a second that were answered 200 within `bound`.
    #[must_use]
    pub fn goodput(&self, bound: Duration) -> f64 {
        per_second(self.answered.within(bound), self.lasted)
    }
}

fn per_second(count: usize, lasted: Duration) -> f64 {
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    f64::from(count) / lasted.as_secs_f64().max(f64::MIN_POSITIVE)
}

/// Runs a client on a thread and a runtime of its own: no work of it moves between threads, and none waits for others'.
///
/// # Errors
/// The client's.
pub(super) async fn on_own_thread<T: Send + 'static>(
    client: impl AsyncFnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let run = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(tokio::task::LocalSet::new().run_until(client()))
    };
    tokio::task::spawn_blocking(run).await.context("the client's thread")?
}
