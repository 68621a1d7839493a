//! Work for which nobody waits, on threads that have what the others leave.
//!
//! A release of many megabytes is decrypted, hashed and written on the machine that answers requests meanwhile: not on the threads
//! that answer them.

use std::num::NonZeroUsize;

use tokio::runtime::{Builder, EnterGuard, Runtime};

/// A runtime of its own for tasks that may be late. Dropping it waits for none of them.
#[derive(Debug)]
pub struct Background(Option<Runtime>);

impl Background {
    /// Starts `threads` threads. Each does `first` before anything else, and so do the blocking ones that tasks ask for.
    ///
    /// # Errors
    /// The system gives no more threads.
    pub fn start(name: &str, threads: NonZeroUsize, first: impl Fn() + Send + Sync + 'static) -> std::io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(threads.get())
            .thread_name(name)
            .on_thread_start(first)
            .enable_all()
            .build()?;
        Ok(Self(Some(runtime)))
    }

    /// While the guard is held, what this thread spawns runs in the background, and so does what that spawns.
    #[must_use]
    pub fn enter(&self) -> Option<EnterGuard<'_>> {
        self.0.as_ref().map(Runtime::enter)
    }
}

impl Drop for Background {
    /// Threads of another runtime may not wait here, and need not: who stops in order waits for the tasks themselves.
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_spawned_in_the_background_runs_there_and_is_dropped_without_waiting() {
        let serving = Builder::new_current_thread().enable_all().build().unwrap();
        let (send, receive) = tokio::sync::oneshot::channel();
        serving.block_on(async {
            let background = Background::start("behind", NonZeroUsize::MIN, || ()).unwrap();
            {
                let _entered = background.enter();
                crate::lifecycle::Lifecycle::new().spawn("behind", async move {
                    // What a task spawns is where the task is.
                    let name = || std::thread::current().name().map(str::to_owned);
                    let blocking = tokio::task::spawn_blocking(name).await;
                    let _ = send.send((name(), blocking.ok().flatten()));
                    std::future::pending().await
                });
            }
            let behind = Some("behind".to_owned());
            assert_eq!(receive.await, Ok((behind.clone(), behind)));
        });
    }
}
