//! Start and stop: every task has a name and an owner, and stopping says who held it up.
//!
//! ```text
//!   running --stop()--> draining --all tasks done--------------------> stopped, clean
//!                          | (no new work)
//!                          +------grace is over--> aborting ---------> stopped, the rest was dropped by name
//! ```

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long an aborted task may take to notice: only one that never yields takes longer, and it is left behind.
const ABORT_GRACE: Duration = Duration::from_secs(1);

/// The tasks of one process and the two words that stop them. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Lifecycle {
    tasks: TaskTracker,
    drain: CancellationToken,
    abort: CancellationToken,
    running: Running,
}

/// How many tasks of each name run.
#[derive(Clone, Debug, Default)]
struct Running(Arc<Mutex<BTreeMap<&'static str, usize>>>);

impl Lifecycle {
    /// Nothing runs yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs `task` until it returns or [`Lifecycle::abort`] is called, which drops it at its next await.
    /// A task that is to end in order looks at [`Lifecycle::drain`] by itself. A panic is logged with the task's name.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let entry = Entry::new(&self.running, name);
        // A child of its own: tasks that look at one token on several threads take each other's time.
        let abort = self.abort.child_token();
        self.tasks.spawn(async move {
            let _entry = entry;
            if unless(&abort, task).await.is_none() {
                tracing::warn!(task = name, "dropped: it outlived the grace period");
            }
        });
    }

    /// Cancelled when no new work may be taken.
    #[must_use]
    pub fn drain(&self) -> &CancellationToken {
        &self.drain
    }

    /// Cancelled when what still runs is dropped.
    #[must_use]
    pub fn abort(&self) -> &CancellationToken {
        &self.abort
    }

    /// Whether stopping has begun.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.drain.is_cancelled()
    }

    /// Names of the tasks that run now, each once, in order.
    #[must_use]
    pub fn running(&self) -> Vec<&'static str> {
        self.running.counts().keys().copied().collect()
    }

    /// Drains, waits at most `grace`, then aborts. True if every task ended by itself; the names of the others are
    /// logged. Safe to call again.
    pub async fn stop(&self, grace: Duration) -> bool {
        let held_up = self.stop_naming(grace).await;
        if !held_up.is_empty() {
            tracing::warn!(tasks = ?held_up, grace_ms = grace.as_millis(), "stopping was held up");
        }
        held_up.is_empty()
    }

    /// As [`Lifecycle::stop`]; gives the names of the tasks that outlived `grace`.
    pub async fn stop_naming(&self, grace: Duration) -> Vec<&'static str> {
        self.drain.cancel();
        self.tasks.close();
        let clean = tokio::time::timeout(grace, self.tasks.wait()).await.is_ok();
        let held_up = if clean { Vec::new() } else { self.running() };
        self.abort.cancel();
        if tokio::time::timeout(ABORT_GRACE, self.tasks.wait()).await.is_err() {
            tracing::error!(tasks = ?self.running(), "left behind: never reached an await");
        }
        held_up
    }
}

impl Running {
    fn counts(&self) -> std::sync::MutexGuard<'_, BTreeMap<&'static str, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One running task in [`Running`]; leaving it takes the name off the list.
struct Entry {
    running: Running,
    name: &'static str,
}

impl Entry {
    fn new(running: &Running, name: &'static str) -> Self {
        *running.counts().entry(name).or_default() += 1;
        Self {
            running: running.clone(),
            name,
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!(task = self.name, "panicked");
        }
        let mut counts = self.running.counts();
        if let Some(count) = counts.get_mut(self.name) {
            *count -= 1;
            if *count == 0 {
                counts.remove(self.name);
            }
        }
    }
}

/// Waits for SIGTERM or SIGINT and gives its name.
///
/// # Errors
/// When the process may not install signal handlers.
pub async fn stop_signal() -> std::io::Result<&'static str> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    })
}

/// The result of `work`, or none where `token` is cancelled while it goes on. The token is asked to wake this task once and not with each
/// poll: a connection is polled twice for each request.
pub(crate) async fn unless<T>(token: &CancellationToken, work: impl Future<Output = T>) -> Option<T> {
    let (mut work, mut cancelled) = (pin!(work), pin!(token.cancelled()));
    let mut asked: Option<Waker> = None;
    poll_fn(move |context| {
        if let Poll::Ready(done) = work.as_mut().poll(context) {
            return Poll::Ready(Some(done));
        }
        let will_wake = asked.as_ref().is_some_and(|waker| waker.will_wake(context.waker()));
        if will_wake && !token.is_cancelled() {
            return Poll::Pending;
        }
        asked = Some(context.waker().clone());
        cancelled.as_mut().poll(context).map(|()| None)
    })
    .await
}

#[cfg(test)]
mod tests;
