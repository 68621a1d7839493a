//! One stream: whole messages in, whole messages out.

use proto::frame::{self, HEADER_BYTES};
use quinn::{ReadError, ReadExactError, RecvStream, SendStream, WriteError};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{QuicError, code};

/// Memory taken on the word of a header alone; a longer message gets more as its bytes arrive.
const BODY_START_BYTES: usize = 64 << 10;

/// Both directions of one stream. Dropping it ends our direction in order and tells the peer to stop sending.
#[derive(Debug)]
pub struct Stream {
    send: SendStream,
    receive: RecvStream,
}

impl Stream {
    pub(super) fn new(send: SendStream, receive: RecvStream) -> Self {
        Self { send, receive }
    }

    /// The next message; none when the peer has finished. After an error the stream is of no more use.
    /// Not cancel-safe: drop the stream when a read was cut short.
    ///
    /// # Errors
    /// [`QuicError::Frame`] ends the stream on both sides; [`QuicError::Truncated`]; [`QuicError::Stream`].
    pub async fn read<M: DeserializeOwned>(&mut self) -> Result<Option<M>, QuicError> {
        let mut header = [0; HEADER_BYTES];
        match self.receive.read_exact(&mut header).await {
            Ok(()) => {}
            Err(ReadExactError::FinishedEarly(0)) => return Ok(None),
            Err(ReadExactError::FinishedEarly(_)) => return Err(QuicError::Truncated),
            Err(ReadExactError::ReadError(e)) => return Err(broken(&e)),
        }
        let bytes = match frame::body_bytes(header) {
            Ok(bytes) => bytes,
            Err(e) => return Err(self.refuse(e)),
        };
        let body = self.body(bytes).await?;
        frame::decode(&body).map(Some).map_err(|e| self.refuse(e))
    }

    async fn body(&mut self, bytes: usize) -> Result<Vec<u8>, QuicError> {
        let mut body = Vec::with_capacity(bytes.min(BODY_START_BYTES));
        while body.len() < bytes {
            match self.receive.read_chunk(bytes - body.len(), true).await {
                Ok(Some(chunk)) => body.extend_from_slice(&chunk.bytes),
                Ok(None) => return Err(QuicError::Truncated),
                Err(e) => return Err(broken(&e)),
            }
        }
        Ok(body)
    }

    /// Ends both directions: a peer that cannot frame its messages is not listened to further.
    fn refuse(&mut self, error: frame::FrameError) -> QuicError {
        let _ = self.receive.stop(code::BAD_FRAME); // both only say that the stream is over already
        let _ = self.send.reset(code::BAD_FRAME);
        error.into()
    }

    /// Sends one message; waits while the peer's window is full. Not cancel-safe, as [`Stream::read`].
    ///
    /// # Errors
    /// [`QuicError::Frame`] when the message is too long to be sent; [`QuicError::Stream`].
    pub async fn write<M: Serialize>(&mut self, message: &M) -> Result<(), QuicError> {
        let bytes = frame::encode(message)?;
        self.send
            .write_chunk(bytes.into())
            .await
            .map_err(|e: WriteError| QuicError::Stream { reason: e.to_string() })
    }

    /// Says that nothing more comes from this side.
    pub fn finish(&mut self) {
        let _ = self.send.finish(); // only says that the stream is over already
    }

    /// Waits until the peer stopped reading or took everything after [`Stream::finish`]: for a writer of long answers
    /// that has nothing to write at the moment.
    pub async fn stopped(&self) {
        let _ = self.send.stopped().await; // how it ended does not matter to the writer
    }
}

fn broken(e: &ReadError) -> QuicError {
    QuicError::Stream { reason: e.to_string() }
}
