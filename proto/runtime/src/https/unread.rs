//! A request's body until somebody wants it, and what becomes of it when nobody does.

use std::time::Duration;

use http::Request;
use http::header::EXPECT;
use http_body_util::BodyExt;
use hyper::body::Body;

use super::Inbound;

/// Longest body that is read only to be thrown away.
const BYTES_MAX: u64 = 1 << 20;
/// Longest time that takes.
const TIME_MAX: Duration = Duration::from_millis(500);

/// A body that nobody has begun to read.
pub struct Unread {
    body: Option<Inbound>,
    waits: bool,
}

impl Unread {
    /// Parts a request from its body.
    #[must_use]
    pub fn split(request: Request<Inbound>) -> (Request<()>, Self) {
        let (head, body) = request.into_parts();
        let waits = head.headers.contains_key(EXPECT);
        let unread = Self {
            body: Some(body),
            waits,
        };
        (Request::from_parts(head, ()), unread)
    }

    /// The body, for whoever reads it.
    ///
    /// # Panics
    /// When it was taken before.
    pub fn take(&mut self) -> Inbound {
        self.body.take().expect("a body is taken once")
    }

    /// Reads what nobody took, before an answer that did not need it is given.
    ///
    /// An answer that overtakes its request is lawful, and still many clients lose it: over HTTP/1.1 the connection closes
    /// while they write (`tritonclient`), over HTTP/2 the stream is reset before they have sent their data (curl 7.88). A
    /// refusal must reach whom it refuses. Bodies that announce more than 1 MiB, or take longer than half a second, are
    /// dropped; one that is held back until it is asked for (`Expect: 100-continue`) is not asked for.
    ///
    /// # Source
    /// RFC 9110 section 10.1.1, RFC 9112 section 9.6, RFC 9113 section 8.1.
    pub async fn drain(self) {
        let Some(mut body) = self
            .body
            .filter(|body| !self.waits && body.size_hint().lower() <= BYTES_MAX)
        else {
            return;
        };
        let read = async {
            let mut left = BYTES_MAX;
            while let Some(Ok(frame)) = body.frame().await {
                let bytes = frame
                    .data_ref()
                    .map_or(0, |data| u64::try_from(data.len()).unwrap_or(u64::MAX));
                let Some(rest) = left.checked_sub(bytes) else { return };
                left = rest;
            }
        };
        tokio::time::timeout(TIME_MAX, read).await.ok();
    }
}
