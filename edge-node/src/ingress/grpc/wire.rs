//! Messages and trailers as they leave.

use std::io::Write;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue, Response};
use http_body_util::{BodyExt, Full};
use proto::oip::grpc::{PREFIX_BYTES, Prefix};
use runtime::https::Body;

use super::super::body::Encoding;
use super::super::reply::Problem;
use super::{GRPC, status};

const ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
const ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");
/// Shorter messages do not get shorter by compression.
const COMPRESS_BYTES_MIN: usize = 1 << 10;

/// Whoever compresses with gzip gets gzip: compressing for all who could read it would cost everybody time.
pub(super) fn packs(encoding: Encoding) -> bool {
    encoding == Encoding::Gzip
}

/// Room for a prefix, which a message is written behind.
pub(super) fn message() -> Vec<u8> {
    vec![0; PREFIX_BYTES]
}

/// Puts the prefix in front of a message that was begun by [`message`], compressed if `packed` and worth it.
pub(super) fn framed(message: Vec<u8>, packed: bool) -> Result<Bytes, Problem> {
    let compressed = packed && message.len() >= COMPRESS_BYTES_MIN;
    let mut message = if compressed {
        let mut encoder = GzEncoder::new(self::message(), Compression::fast());
        let written = encoder
            .write_all(&message[PREFIX_BYTES..])
            .and_then(|()| encoder.finish());
        written.expect("memory takes what is written")
    } else {
        message
    };
    let bytes = message.len() - PREFIX_BYTES;
    let prefix = Prefix { compressed, bytes }.encode();
    let prefix = prefix.ok_or_else(|| Problem::bad_request("the answer has 4 GiB and more: send fewer rows"))?;
    message[..PREFIX_BYTES].copy_from_slice(&prefix);
    Ok(message.into())
}

/// The answer to a call that goes well, with its one message.
pub(super) fn whole(message: Bytes, packed: bool) -> Response<Body> {
    let end = std::future::ready(Some(Ok(status::trailers(None))));
    let body = Full::new(message).with_trailers(end);
    answer(body.map_err(|never| match never {}).boxed_unsync(), packed)
}

/// The head of an answer whose messages and trailers are `body`.
pub(super) fn answer(body: Body, packed: bool) -> Response<Body> {
    let mut answer = Response::new(body);
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(GRPC));
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity, deflate, gzip"));
    if packed {
        headers.insert(ENCODING, HeaderValue::from_static("gzip"));
    }
    answer
}
