//! What wakes the task of a connection.
//!
//! hyper wakes whoever reads a connection when a piece of a body is taken, so that it reads on. Of most requests the body is one
//! piece that came with its head: nothing is left to read, and the wake costs a turn of the scheduler and a poll of all of the
//! connection, one in three of those that a small request takes (decision 0030). So a connection is polled with a waker of its own,
//! which does not hear what its own task says while the last piece is taken.
//!
//! Never dropped: a wake of another thread, one of HTTP/2, and one after which more of the body is to come.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http_body::{Body, Frame};
use hyper::body::Incoming;

thread_local! {
    static HEARING: Cell<Hearing> = const { Cell::new(Hearing::Open) };
}

/// What becomes of wakes that are called on this thread.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Hearing {
    Open,
    /// They wait until it is known whether they are needed.
    Held,
    /// The same, and there was one.
    Called,
}

/// Hears wakes on behalf of one task.
pub(super) struct Ear(Arc<Task>);

#[derive(Default)]
struct Task(AtomicWaker);

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }
    fn wake_by_ref(self: &Arc<Self>) {
        match HEARING.get() {
            Hearing::Open => self.0.wake(),
            Hearing::Held | Hearing::Called => HEARING.set(Hearing::Called),
        }
    }
}

impl Ear {
    pub(super) fn new() -> Self {
        Self(Arc::default())
    }

    /// `connection`, which is woken by way of this ear.
    pub(super) fn hear<F: Future>(&self, mut connection: Pin<&mut F>) -> impl Future<Output = F::Output> {
        let (task, waker) = (Arc::clone(&self.0), Waker::from(Arc::clone(&self.0)));
        poll_fn(move |context| {
            task.0.register(context.waker());
            connection.as_mut().poll(&mut Context::from_waker(&waker))
        })
    }
}

/// The next piece of an HTTP/1.1 body. It wakes the connection only where there is more to read.
pub(super) fn poll_piece(
    body: &mut Incoming,
    context: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
    let held = Held::begin();
    let piece = Pin::new(&mut *body).poll_frame(context);
    if held.end() && !body.is_end_stream() {
        context.waker().wake_by_ref();
    }
    piece
}

/// Hears again when it is dropped, whatever happened.
struct Held;

impl Held {
    fn begin() -> Self {
        HEARING.set(Hearing::Held);
        Self
    }
    /// Whether there was a wake.
    fn end(self) -> bool {
        HEARING.get() == Hearing::Called
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        HEARING.set(Hearing::Open);
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use http::{Request, Response};
    use http_body_util::{BodyExt, Full};
    use hyper::server::conn::http1;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use tokio::io::AsyncWriteExt;
    use tokio::sync::Semaphore;
    use tokio::task::{JoinSet, yield_now};

    use super::super::Inbound;
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);
    const HEAD: &[u8] = b"POST / HTTP/1.1\r\ncontent-length: 8\r\n\r\n";

    /// How often a connection is polled until its service, which reads whole bodies, has read one that comes in `pieces`, and some
    /// turns more.
    async fn polls(pieces: [&[u8]; 2]) -> usize {
        let (mut client, server) = tokio::io::duplex(1 << 10);
        let (count, read) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
        let (polled, done) = (Arc::clone(&count), Arc::clone(&read));
        let service = service_fn(move |request: Request<Incoming>| {
            let done = Arc::clone(&done);
            async move {
                let body = Inbound::of(request).into_body().collect().await.unwrap().to_bytes();
                assert_eq!(body, "whatever");
                done.add_permits(1);
                std::future::pending::<()>().await;
                Ok::<_, Infallible>(Response::new(Full::new(Bytes::new())))
            }
        });
        client.write_all(pieces[0]).await.unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let ear = Ear::new();
            let mut connection = Box::pin(http1::Builder::new().serve_connection(TokioIo::new(server), service));
            let counted = poll_fn(|context| {
                polled.fetch_add(1, Ordering::Relaxed);
                connection.as_mut().poll(context)
            });
            ear.hear(std::pin::pin!(counted)).await.unwrap();
        });
        for _ in 0..4 {
            yield_now().await;
        }
        client.write_all(pieces[1]).await.unwrap();
        let read = tokio::time::timeout(PATIENCE, read.acquire()).await;
        read.expect("a body is read to its end").unwrap().forget();
        for _ in 0..4 {
            yield_now().await;
        }
        count.load(Ordering::Relaxed)
    }

    #[tokio::test]
    async fn a_request_that_comes_whole_is_read_in_one_poll() {
        assert_eq!(polls([&[HEAD, b"whatever"].concat(), b""]).await, 1);
    }

    #[tokio::test]
    async fn the_rest_of_a_body_is_read_when_it_comes() {
        let polls = polls([&[HEAD, b"what"].concat(), b"ever"]).await;
        assert!((2..=4).contains(&polls), "{polls} polls");
    }
}
