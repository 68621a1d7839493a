//! Messages of a call as they arrive: bounded in length, in time from their first byte, and in what all bodies take together.

use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt;
use proto::limits::{INFER_BODY_BYTES_MAX, INFER_BODY_MS_MAX};
use proto::oip::grpc::{PREFIX_BYTES, prefix};
use runtime::clock;
use runtime::https::{Inbound, Unread};
use tokio::time::{timeout, timeout_at};

use super::super::Door;
use super::super::body::{self, Encoding, Lent, Received, Room};
use super::super::reply::Problem;
use super::wire;
use crate::metrics::Outcome;

const ENCODING: &str = "grpc-encoding";

/// One message and the memory it lies in.
#[derive(Debug)]
pub(super) struct Message {
    received: Received,
    /// Its own: a call that compresses need not compress every message.
    pub(super) encoding: Encoding,
}

impl Message {
    /// As it travelled, bytes.
    pub(super) fn bytes(&self) -> usize {
        self.received.bytes.len()
    }
    /// Its protobuf. Blocks while it unpacks.
    pub(super) fn unpack(self, bytes_max: usize) -> Result<Received, Problem> {
        body::unpack(self.received, self.encoding, bytes_max)
    }
}

/// What a client sends in one call.
#[derive(Debug)]
pub(super) struct Messages {
    body: Inbound,
    encoding: Encoding,
    bytes_max: usize,
    room: Room,
    /// The beginning of the next message, and its memory.
    held: BytesMut,
    lent: Lent,
    /// When its first byte was here.
    begun: Option<Instant>,
}

impl Messages {
    /// Takes the body of a call with the head `headers`.
    pub(super) fn of(door: &Door, headers: &HeaderMap, body: &mut Unread, bytes_max: usize) -> Result<Self, Problem> {
        let encoding = match headers.get(ENCODING).map(|value| value.as_bytes()) {
            None | Some(b"identity") => Encoding::Plain,
            Some(b"gzip") => Encoding::Gzip,
            Some(b"deflate") => Encoding::Deflate,
            Some(_) => {
                let message = "the call's grpc-encoding is not read here: use gzip, deflate or none";
                let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
                let problem = Problem::new(status, "unsupported_encoding", message, Outcome::BadRequest);
                return Err(problem.with("grpc-accept-encoding", "identity, deflate, gzip"));
            }
        };
        Ok(Self {
            body: body.take(),
            encoding,
            bytes_max: bytes_max.min(INFER_BODY_BYTES_MAX),
            lent: door.room.none(),
            room: door.room.clone(),
            held: BytesMut::new(),
            begun: None,
        })
    }

    /// Whether answers to it may be compressed.
    pub(super) fn packs(&self) -> bool {
        wire::packs(self.encoding)
    }

    /// The next message; none when the client has sent its last. May be dropped at any time and asked again.
    pub(super) async fn next(&mut self) -> Result<Option<Message>, Problem> {
        loop {
            if let Some(message) = self.cut()? {
                return Ok(Some(message));
            }
            let frame = match self.begun {
                None => self.body.frame().await,
                Some(begun) => {
                    let end = begun + Duration::from_millis(INFER_BODY_MS_MAX);
                    timeout_at(end.into(), self.body.frame())
                        .await
                        .map_err(|_| body::timeout())?
                }
            };
            let broken = || Problem::bad_request("the call ended inside a message");
            match frame {
                None if self.held.is_empty() => return Ok(None),
                None => return Err(broken()),
                Some(frame) => {
                    if let Ok(data) = frame.map_err(|_| broken())?.into_data() {
                        self.begun = self.begun.or_else(|| Some(clock::instant()));
                        self.lent.grow_to(self.held.len() + data.len())?;
                        self.held.extend_from_slice(&data);
                    }
                }
            }
        }
    }

    /// The first message of what is held, if it is whole.
    fn cut(&mut self) -> Result<Option<Message>, Problem> {
        let flag = |flag| Problem::bad_request(format!("a message begins with {flag}, not with 0 or 1"));
        let Some(prefix) = prefix(&self.held).map_err(flag)? else {
            return Ok(None);
        };
        if prefix.bytes > self.bytes_max {
            let (bytes, max) = (prefix.bytes, self.bytes_max);
            return Err(Problem::too_large(format!(
                "a message of {bytes} bytes, allowed is {max}"
            )));
        }
        let encoding = match (prefix.compressed, self.encoding) {
            (false, _) => Encoding::Plain,
            (true, Encoding::Plain) => {
                return Err(Problem::bad_request(
                    "a message is compressed, and the call's grpc-encoding names no way",
                ));
            }
            (true, encoding) => encoding,
        };
        if self.held.len() < PREFIX_BYTES + prefix.bytes {
            return Ok(None);
        }
        let mut bytes = self.held.split_to(PREFIX_BYTES + prefix.bytes);
        bytes.advance(PREFIX_BYTES);
        let mut rest = self.room.none();
        rest.grow_to(self.held.len())?;
        self.begun = (!self.held.is_empty()).then(clock::instant);
        let received = Received {
            bytes: bytes.freeze(),
            lent: std::mem::replace(&mut self.lent, rest),
        };
        Ok(Some(Message { received, encoding }))
    }

    /// The one message of a call that has one, within `budget`.
    pub(super) async fn only(mut self, budget: Duration) -> Result<Message, Problem> {
        let time = budget.min(Duration::from_millis(INFER_BODY_MS_MAX));
        let read = async {
            let none = || Problem::bad_request("the call ended without a message");
            let only = self.next().await?.ok_or_else(none)?;
            match self.next().await? {
                None => Ok(only),
                Some(_) => Err(Problem::bad_request("this call takes one message")),
            }
        };
        timeout(time, read)
            .await
            .unwrap_or_else(|_| Err(body::late(time, budget)))
    }
}
