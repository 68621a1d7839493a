//! A request body that streams to a node while it is kept, so that it can be sent once more to another.
//!
//! ```text
//!   client --frames--> Recording --attempt 1--> node A          kept: frames 0..n, at most REPLAY_BODY_BYTES_MAX
//!                          |                      x breaks
//!                          +------attempt 2--> node B           kept frames first, then what the client still sends
//! ```
//! A body that decides where it goes is read ahead of the first attempt; then that begins with what is kept.
//! Only the newest attempt can take frames from the client: an older one that is still being dropped gets an error.
//! What does not fit, in the body's own bound or the process's, is passed on and not kept; then there is no second attempt.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use proto::limits::{REPLAY_BODY_BYTES_MAX, REPLAY_BYTES_TOTAL_MAX};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Bytes that all requests together keep.
#[derive(Clone, Debug, Default)]
pub struct Budget(Arc<AtomicUsize>);

/// A part of the budget, given back on drop.
pub(super) struct Reserved {
    budget: Budget,
    bytes: usize,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes);
    }
}

impl Budget {
    /// Room for `bytes`, if there is.
    pub(super) fn reserve(&self, bytes: usize) -> Option<Reserved> {
        self.take(bytes).then(|| Reserved {
            budget: self.clone(),
            bytes,
        })
    }
    fn take(&self, bytes: usize) -> bool {
        let add = |used: usize| used.checked_add(bytes).filter(|&sum| sum <= REPLAY_BYTES_TOTAL_MAX);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_ok()
    }
    fn give_back(&self, bytes: usize) {
        self.0.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// The body of one request.
pub(super) struct Recording<B>(Arc<Mutex<Shared<B>>>);

struct Shared<B> {
    client: B,
    /// The length the client announced, if it did.
    announced: Option<u64>,
    kept: Vec<Bytes>,
    kept_bytes: usize,
    /// Read ahead, and too much to keep: the next of an attempt after what is kept.
    ahead: Option<Bytes>,
    /// Something was passed on that is not kept.
    lost: bool,
    ended: bool,
    client_broke: bool,
    attempt: u32,
    budget: Budget,
}

impl<B> Drop for Shared<B> {
    fn drop(&mut self) {
        self.budget.give_back(self.kept_bytes);
    }
}

impl<B: Body<Data = Bytes> + Unpin> Recording<B> {
    /// Will read from `client`, and keep what it reads within `budget`.
    pub(super) fn new(client: B, budget: Budget) -> Self {
        let announced = client.size_hint().exact();
        let ended = client.is_end_stream();
        Self(Arc::new(Mutex::new(Shared {
            client,
            announced,
            kept: Vec::new(),
            kept_bytes: 0,
            ahead: None,
            lost: false,
            ended,
            client_broke: false,
            attempt: 0,
            budget,
        })))
    }
    /// The body from its beginning, for one more node; `None` if its beginning is no longer kept.
    pub(super) fn attempt(&self) -> Option<Attempt<B>> {
        let mut shared = self.lock();
        if shared.lost {
            return None;
        }
        shared.attempt += 1;
        Some(Attempt {
            shared: self.0.clone(),
            number: shared.attempt,
            next: 0,
            sent_bytes: 0,
        })
    }
    /// Reads ahead of every attempt, until the body ends or more than `bytes_max` of it are kept. Dropping the future
    /// loses nothing: an attempt begins with what was read.
    pub(super) async fn gather(&self, bytes_max: usize) -> Gathered {
        poll_fn(|cx| self.lock().poll_gather(cx, bytes_max)).await
    }
    /// Whether reading from the client failed: then no node is to blame.
    pub(super) fn client_broke(&self) -> bool {
        self.lock().client_broke
    }
    fn lock(&self) -> MutexGuard<'_, Shared<B>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What reading ahead gave.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Gathered {
    /// The whole body, as it came.
    Whole(Vec<Bytes>),
    /// It is longer than was asked for, or than there is room.
    InPart,
    /// The client broke off.
    Broke,
}

impl<B: Body<Data = Bytes> + Unpin> Shared<B> {
    fn poll_gather(&mut self, cx: &mut Context<'_>, bytes_max: usize) -> Poll<Gathered> {
        let max = u64::try_from(bytes_max).unwrap_or(u64::MAX);
        if self.announced.is_some_and(|bytes| bytes > max) {
            return Poll::Ready(Gathered::InPart);
        }
        while !self.ended {
            if self.ahead.is_some() || self.kept_bytes > bytes_max {
                return Poll::Ready(Gathered::InPart);
            }
            match ready!(Pin::new(&mut self.client).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data()
                        && !self.fits(&bytes)
                    {
                        self.ahead = Some(bytes);
                    }
                }
                Some(Err(_)) => {
                    self.client_broke = true;
                    self.ended = true;
                }
                None => self.ended = true,
            }
        }
        Poll::Ready(match self.client_broke {
            true => Gathered::Broke,
            false if self.kept_bytes > bytes_max => Gathered::InPart,
            false => Gathered::Whole(self.kept.clone()),
        })
    }
}

impl<B> Shared<B> {
    /// Keeps `bytes` if there is room.
    fn fits(&mut self, bytes: &Bytes) -> bool {
        let fits = self.kept_bytes + bytes.len() <= REPLAY_BODY_BYTES_MAX && self.budget.take(bytes.len());
        if fits {
            self.kept_bytes += bytes.len();
            self.kept.push(bytes.clone());
        }
        fits
    }
    fn keep(&mut self, bytes: &Bytes) {
        if !self.lost && !self.fits(bytes) {
            self.lost = true;
            self.kept = Vec::new();
            self.budget.give_back(std::mem::take(&mut self.kept_bytes));
        }
    }
}

/// The body as one node gets it.
pub(super) struct Attempt<B> {
    shared: Arc<Mutex<Shared<B>>>,
    number: u32,
    /// Index of the next kept frame to send.
    next: usize,
    sent_bytes: u64,
}

impl<B> Attempt<B> {
    fn sent(&mut self, bytes: Bytes) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.next += 1;
        self.sent_bytes += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Attempt<B>
where
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.as_mut().get_mut();
        let shared = this.shared.clone();
        let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
        if shared.attempt != this.number {
            return Poll::Ready(Some(Err("the request went to another node".into())));
        }
        if let Some(bytes) = shared.kept.get(this.next) {
            return this.sent(bytes.clone());
        }
        if let Some(bytes) = shared.ahead.take() {
            shared.keep(&bytes);
            return this.sent(bytes);
        }
        loop {
            if shared.ended {
                return Poll::Ready(None);
            }
            match ready!(Pin::new(&mut shared.client).poll_frame(cx)) {
                // Trailers say nothing in the inference protocol.
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data() {
                        shared.keep(&bytes);
                        return this.sent(bytes);
                    }
                }
                Some(Err(error)) => {
                    shared.client_broke = true;
                    shared.ended = true;
                    return Poll::Ready(Some(Err(error.into())));
                }
                None => shared.ended = true,
            }
        }
    }
    fn is_end_stream(&self) -> bool {
        let shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        shared.ended && !shared.client_broke && self.next >= shared.kept.len()
    }
    fn size_hint(&self) -> SizeHint {
        let shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        shared.announced.map_or_else(SizeHint::default, |n| {
            SizeHint::with_exact(n.saturating_sub(self.sent_bytes))
        })
    }
}

#[cfg(test)]
mod tests;
