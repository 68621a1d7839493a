//! How messages lie on a QUIC stream: a 4-byte little-endian length, then that many bytes of postcard.
//!
//! The version is the connection's ALPN, [`ALPN`]: a message that changes gets a new protocol name.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::limits::FRAME_BYTES_MAX;

/// The application protocol of all connections between Meridian's parts.
pub const ALPN: &[u8] = b"meridian/1";
/// Bytes before each message.
pub const HEADER_BYTES: usize = 4;

/// Why bytes are not a frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// Longer than any valid one: the peer is broken or hostile.
    #[error("a frame of {bytes} bytes, allowed is {FRAME_BYTES_MAX}")]
    TooLong {
        /// Announced or needed.
        bytes: usize,
    },
    /// Not the expected message.
    #[error("a frame that is not a {expected}")]
    Malformed {
        /// The message's Rust type.
        expected: &'static str,
    },
}

/// Header and body of `message`, ready to send.
///
/// # Errors
/// [`FrameError::TooLong`]: the message must be split by its maker.
pub fn encode<M: Serialize>(message: &M) -> Result<Vec<u8>, FrameError> {
    let mut bytes = vec![0; HEADER_BYTES];
    bytes = postcard::to_extend(message, bytes).map_err(|_| malformed::<M>())?;
    let body = bytes.len() - HEADER_BYTES;
    match u32::try_from(body) {
        Ok(len) if body <= FRAME_BYTES_MAX => bytes[..HEADER_BYTES].copy_from_slice(&len.to_le_bytes()),
        _ => return Err(FrameError::TooLong { bytes: body }),
    }
    Ok(bytes)
}

/// How many bytes of body follow `header`.
///
/// # Errors
/// [`FrameError::TooLong`], before anything is allocated.
pub fn body_bytes(header: [u8; HEADER_BYTES]) -> Result<usize, FrameError> {
    let bytes = usize::try_from(u32::from_le_bytes(header)).unwrap_or(usize::MAX);
    if bytes > FRAME_BYTES_MAX {
        Err(FrameError::TooLong { bytes })
    } else {
        Ok(bytes)
    }
}

/// Reads a body; trailing bytes are refused.
///
/// # Errors
/// [`FrameError::Malformed`].
pub fn decode<M: DeserializeOwned>(body: &[u8]) -> Result<M, FrameError> {
    match postcard::take_from_bytes(body) {
        Ok((message, [])) => Ok(message),
        _ => Err(malformed::<M>()),
    }
}

fn malformed<M>() -> FrameError {
    FrameError::Malformed {
        expected: std::any::type_name::<M>(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Request, Response};
    use proptest::prelude::*;

    #[test]
    fn an_announced_length_over_the_bound_is_refused_before_allocation() {
        assert_eq!(
            body_bytes(u32::MAX.to_le_bytes()),
            Err(FrameError::TooLong { bytes: 0xffff_ffff })
        );
    }

    #[test]
    fn a_frame_reads_back_as_itself() {
        let sent = Request::Missing {
            chunks: vec![crate::ids::ContentHash::of(b"x")],
        };
        let bytes = encode(&sent).unwrap();
        let header = bytes[..HEADER_BYTES].try_into().unwrap();
        assert_eq!(body_bytes(header).unwrap(), bytes.len() - HEADER_BYTES);
        assert_eq!(decode::<Request>(&bytes[HEADER_BYTES..]).unwrap(), sent);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = decode::<Request>(&bytes);
            let _ = decode::<Response>(&bytes);
        }
    }
}
