//! One kept-alive connection: a request is written whole, its answer read whole, then the next.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::answer::{Answer, Frame};

/// What is read at once, and what a connection holds at least.
const READ_BYTES: usize = 16 << 10;

/// A connection, and what came over it last.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    filled: usize,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// Nobody listens there.
    pub async fn open(to: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(to)
            .await
            .with_context(|| format!("connect to {to}"))?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            buffer: vec![0; READ_BYTES],
            filled: 0,
        })
    }

    /// Asks, and waits for the whole answer.
    ///
    /// # Errors
    /// The connection ended, or what came is no answer or more than one.
    pub async fn ask(&mut self, request: &[u8]) -> Result<Answer<'_>> {
        self.filled = 0;
        self.stream.write_all(request).await.context("send a request")?;
        let frame = loop {
            if self.buffer.len() - self.filled < READ_BYTES / 4 {
                self.buffer.resize(self.buffer.len() * 2, 0);
            }
            let read = self.stream.read(&mut self.buffer[self.filled..]).await;
            let read = read.context("read an answer")?;
            if read == 0 {
                bail!(
                    "the server closed the connection after {} bytes of an answer",
                    self.filled
                );
            }
            self.filled += read;
            if let Some(frame) = Frame::read(&self.buffer[..self.filled])? {
                break frame;
            }
        };
        ensure!(frame.bytes() == self.filled, "more than the answer came");
        Ok(frame.of(&self.buffer[..self.filled]))
    }
}
