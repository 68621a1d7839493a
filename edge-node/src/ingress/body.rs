//! Request bodies, bounded in length, in time and in what all of them take together.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::CONTENT_ENCODING;
use http::{HeaderMap, StatusCode};
use http_body::Body;
use http_body_util::BodyExt;
use proto::limits::INFER_BODY_MS_MAX;
use runtime::https::Inbound;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::reply::Problem;
use crate::metrics::Outcome;

/// Memory is lent in pieces of this size.
const PIECE_BYTES: usize = 64 << 10;

/// Memory for the bodies of all requests. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Room(Arc<Semaphore>);

impl Room {
    pub(super) fn of(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes / PIECE_BYTES)))
    }
    pub(super) fn none(&self) -> Lent {
        Lent {
            room: self.clone(),
            held: None,
        }
    }
}

/// Memory lent to one request, until it is dropped.
#[derive(Debug)]
pub(super) struct Lent {
    room: Room,
    held: Option<OwnedSemaphorePermit>,
}

impl Lent {
    /// Lends more, so that `bytes` have room.
    pub(super) fn grow_to(&mut self, bytes: usize) -> Result<(), Problem> {
        let full = || {
            Problem::full(
                "this node holds as many request bodies as it may",
                Duration::from_secs(1),
            )
        };
        let held = self.held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let more = bytes.div_ceil(PIECE_BYTES).saturating_sub(held);
        if more == 0 {
            return Ok(());
        }
        let more = u32::try_from(more).map_err(|_| full())?;
        let more = Arc::clone(&self.room.0)
            .try_acquire_many_owned(more)
            .map_err(|_| full())?;
        match &mut self.held {
            Some(held) => held.merge(more),
            None => self.held = Some(more),
        }
        Ok(())
    }
}

/// A body and the memory it lies in.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) bytes: Bytes,
    pub(super) lent: Lent,
}

/// Reads `body` of at most `bytes_max` bytes within `time`. The caller tells what running out of time means.
pub(super) async fn read(
    room: &Room,
    mut body: Inbound,
    bytes_max: usize,
    time: Duration,
) -> Result<Option<Received>, Problem> {
    let too_large = |bytes: u64| Problem::too_large(format!("a body of {bytes} bytes, allowed is {bytes_max}"));
    let announced = body.size_hint().lower();
    if announced > u64::try_from(bytes_max).unwrap_or(u64::MAX) {
        return Err(too_large(announced));
    }
    let mut lent = room.none();
    let read = async {
        let mut all = BytesMut::new();
        let mut only: Option<Bytes> = None;
        while let Some(frame) = body.frame().await {
            let broken = |_| Problem::bad_request("the body ended early");
            let Ok(data) = frame.map_err(broken)?.into_data() else {
                continue;
            };
            let bytes = all.len() + only.as_ref().map_or(0, Bytes::len) + data.len();
            if bytes > bytes_max {
                return Err(too_large(u64::try_from(bytes).unwrap_or(u64::MAX)));
            }
            lent.grow_to(bytes)?;
            // One frame is kept as it is; several are put together.
            match (all.is_empty(), only.take()) {
                (true, None) => only = Some(data),
                (_, first) => {
                    all.extend_from_slice(&first.unwrap_or_default());
                    all.extend_from_slice(&data);
                }
            }
        }
        Ok(only.unwrap_or_else(|| all.freeze()))
    };
    match tokio::time::timeout(time, read).await {
        Ok(bytes) => bytes.map(|bytes| Some(Received { bytes, lent })),
        Err(_) => Ok(None),
    }
}

/// What it means that a body was not here within `time`, the shorter of `budget` and what any body may take.
pub(super) fn late(time: Duration, budget: Duration) -> Problem {
    if time < budget {
        timeout()
    } else {
        Problem::deadline_exceeded()
    }
}

/// The client sends too slowly.
pub(super) fn timeout() -> Problem {
    let message = format!("the body did not arrive within {INFER_BODY_MS_MAX} ms");
    Problem::new(
        StatusCode::REQUEST_TIMEOUT,
        "body_timeout",
        message,
        Outcome::BadRequest,
    )
}

/// How a body is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Plain,
    Gzip,
    Deflate,
}

/// What the head says of it.
pub(super) fn encoding(headers: &HeaderMap) -> Result<Encoding, Problem> {
    match headers.get(CONTENT_ENCODING).map(|value| value.as_bytes()) {
        None | Some(b"" | b"identity") => Ok(Encoding::Plain),
        Some(b"gzip" | b"x-gzip") => Ok(Encoding::Gzip),
        Some(b"deflate") => Ok(Encoding::Deflate),
        Some(_) => {
            let message = "the body's Content-Encoding is not read here: use gzip, deflate or none";
            let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            Err(
                Problem::new(status, "unsupported_encoding", message, Outcome::BadRequest)
                    .with("accept-encoding", "gzip, deflate"),
            )
        }
    }
}

/// Unpacks a body to at most `bytes_max` bytes. Blocks.
pub(super) fn unpack(received: Received, encoding: Encoding, bytes_max: usize) -> Result<Received, Problem> {
    let Received { bytes, mut lent } = received;
    let packed = bytes.len();
    let mut reader: Box<dyn Read> = match encoding {
        Encoding::Plain => return Ok(Received { bytes, lent }),
        Encoding::Gzip => Box::new(flate2::read::MultiGzDecoder::new(bytes.as_ref())),
        Encoding::Deflate => Box::new(flate2::read::ZlibDecoder::new(bytes.as_ref())),
    };
    let (mut out, mut piece) = (Vec::new(), vec![0; PIECE_BYTES]);
    loop {
        let n = reader
            .read(&mut piece)
            .map_err(|_| Problem::bad_request("the body is not compressed as its head says"))?;
        if n == 0 {
            drop(reader);
            return Ok(Received {
                bytes: out.into(),
                lent,
            });
        }
        if out.len() + n > bytes_max {
            return Err(Problem::too_large(format!(
                "a body that unpacks to more than the {bytes_max} bytes allowed"
            )));
        }
        lent.grow_to(packed + out.len() + n)?;
        out.extend_from_slice(&piece[..n]);
    }
}
