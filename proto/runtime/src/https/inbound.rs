//! A request's body, whichever version of HTTP carries it.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h3::error::Code;
use http::{Request, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::server::BoxError;
use super::waking::poll_piece;

/// The receiving half of an HTTP/3 request.
pub(super) type Receive = h3::server::RequestStream<h3_quinn::RecvStream, Bytes>;

/// What a client sends. Streams.
pub struct Inbound(Kind);

enum Kind {
    /// HTTP/1.1.
    One(Incoming),
    /// HTTP/2.
    Two(Incoming),
    /// HTTP/3.
    Quic(Stream),
}

struct Stream {
    receive: Receive,
    /// What the head announced, and what of it has not come.
    left: Option<u64>,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing is asked for.
    Resting,
    /// The stream is lent to a read that is under way.
    Reading,
    Ended,
}

impl Inbound {
    /// A request as hyper hands it over.
    pub(super) fn of(request: Request<Incoming>) -> Request<Self> {
        let is_two = request.version() == Version::HTTP_2;
        request.map(|body| Self(if is_two { Kind::Two(body) } else { Kind::One(body) }))
    }
    /// `announced` is the head's `Content-Length`: a body of another length is an error.
    pub(super) fn over_quic(receive: Receive, announced: Option<u64>) -> Self {
        Self(Kind::Quic(Stream {
            receive,
            left: announced,
            state: State::Resting,
        }))
    }
}

impl std::fmt::Debug for Inbound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Inbound")
    }
}

impl Body for Inbound {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.0 {
            Kind::One(body) => poll_piece(body, context).map_err(Into::into),
            Kind::Two(body) => Pin::new(body).poll_frame(context).map_err(Into::into),
            Kind::Quic(stream) => stream.poll_frame(context),
        }
    }
    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::One(body) | Kind::Two(body) => body.is_end_stream(),
            Kind::Quic(stream) => stream.state == State::Ended || stream.left == Some(0),
        }
    }
    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::One(body) | Kind::Two(body) => body.size_hint(),
            Kind::Quic(stream) => stream.left.map_or_else(SizeHint::new, SizeHint::with_exact),
        }
    }
}

impl Stream {
    fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.state == State::Ended {
            return Poll::Ready(None);
        }
        self.state = State::Reading;
        let read = ready!(self.receive.poll_recv_data(context));
        self.state = State::Resting;
        Poll::Ready(match read {
            Ok(Some(mut data)) => {
                let data = data.copy_to_bytes(data.remaining()); // one chunk of `Bytes`: nothing is copied
                self.take(data.len())
                    .map(|()| Frame::data(data))
                    .map_err(Into::into)
                    .into()
            }
            Ok(None) => {
                self.state = State::Ended;
                let short = self.left.is_some_and(|left| left > 0);
                short.then(|| Err("the body is shorter than its Content-Length".into()))
            }
            Err(error) => {
                self.state = State::Ended;
                Some(Err(error.into()))
            }
        })
    }
    fn take(&mut self, bytes: usize) -> Result<(), &'static str> {
        let Some(left) = self.left else { return Ok(()) };
        let rest = left.checked_sub(u64::try_from(bytes).unwrap_or(u64::MAX));
        self.left = Some(rest.ok_or("the body is longer than its Content-Length")?);
        Ok(())
    }
}

impl Drop for Stream {
    /// Asks for no more of a body that nobody reads to its end (RFC 9114, section 4.1). A stream that is lent to a read tells
    /// its client so when it is dropped.
    fn drop(&mut self) {
        if self.state == State::Resting {
            self.receive.stop_sending(Code::H3_NO_ERROR);
        }
    }
}
