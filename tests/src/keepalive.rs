//! Clients that hold their connections by hand, so that it is known of every request whether it was sent.
//!
//! ```text
//!   dial --refused--> the server is gone: that is lawful, nothing was sent
//!     | TLS, HTTP/1.1 or HTTP/2
//!     v
//!   ask, ask, ask .. until the server says that it closes, then dial again
//! ```
//! No pool and no repeat: what a pooling client would try again unseen is counted here as [`Ended::cut`].

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use bytes::Bytes;
use http::header::{CONNECTION, HOST};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::{TlsConnector, rustls};

/// Streams that one HTTP/2 connection has open at the same time.
const STREAMS: usize = 4;

/// Whom to ask, and how.
#[derive(Clone)]
pub struct Caller {
    /// Where.
    pub server: SocketAddr,
    /// Whose certificate it must be.
    pub server_name: String,
    /// Whom to trust.
    pub tls: rustls::ClientConfig,
    /// The n-th request.
    pub request: Arc<dyn Fn(u64) -> Request<Full<Bytes>> + Send + Sync>,
    /// Numbers requests; also how many were begun.
    pub begun: Arc<AtomicU64>,
}

/// What became of a client's requests.
#[derive(Debug, Default)]
pub struct Ended {
    /// Answered 200, the body complete.
    pub answered: u64,
    /// Answered something else.
    pub refused: Vec<StatusCode>,
    /// Sent, and the connection ended without an answer.
    pub cut: Vec<String>,
    /// Not sent: the connection had been closed before.
    pub unsent: u64,
    /// Connections that were made.
    pub connections: u64,
}

impl Ended {
    /// Both together.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.answered += other.answered;
        self.unsent += other.unsent;
        self.connections += other.connections;
        self.refused.extend(other.refused);
        self.cut.extend(other.cut);
        self
    }
    /// Counts one; whether the connection goes on.
    fn count(&mut self, outcome: Outcome) -> bool {
        match outcome {
            Outcome::Answered { last } => {
                self.answered += 1;
                return !last;
            }
            Outcome::Refused(status) => self.refused.push(status),
            Outcome::Cut(why) => self.cut.push(why),
            Outcome::Unsent => self.unsent += 1,
        }
        false
    }
}

enum Outcome {
    Answered { last: bool },
    Refused(StatusCode),
    Cut(String),
    Unsent,
}

impl Caller {
    /// Asks over one HTTP/1.1 connection after another, until none can be made any more.
    pub async fn over_http1(self) -> Ended {
        let mut ended = Ended::default();
        while let Ok(stream) = self.dial(b"http/1.1").await {
            let Ok((mut sender, connection)) = http1::handshake(TokioIo::new(stream)).await else {
                continue;
            };
            ended.connections += 1;
            let mut driver = JoinSet::new();
            driver.spawn(connection);
            let mut goes_on = true;
            while goes_on && sender.ready().await.is_ok() {
                let outcome = outcome(sender.send_request(self.next()).await).await;
                goes_on = ended.count(outcome);
            }
        }
        ended
    }

    /// Asks over one HTTP/2 connection after another, several requests at a time.
    pub async fn over_http2(self) -> Ended {
        let mut ended = Ended::default();
        while let Ok(stream) = self.dial(b"h2").await {
            let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
            let Ok((sender, connection)) = handshake else { continue };
            ended.connections += 1;
            let mut driver = JoinSet::new();
            driver.spawn(connection);
            let mut streams = JoinSet::new();
            for _ in 0..STREAMS {
                streams.spawn(self.clone().over_stream(sender.clone()));
            }
            drop(sender);
            while let Some(stream) = streams.join_next().await {
                ended = ended.and(stream.unwrap_or_default());
            }
        }
        ended
    }

    async fn over_stream(self, mut sender: http2::SendRequest<Full<Bytes>>) -> Ended {
        let mut ended = Ended::default();
        let mut goes_on = true;
        while goes_on && sender.ready().await.is_ok() {
            let outcome = outcome(sender.send_request(self.next()).await).await;
            goes_on = ended.count(outcome);
        }
        ended
    }

    fn next(&self) -> Request<Full<Bytes>> {
        let mut request = (self.request)(self.begun.fetch_add(1, Ordering::Relaxed));
        if let Ok(host) = self.server_name.parse() {
            request.headers_mut().insert(HOST, host);
        }
        request
    }

    async fn dial(&self, protocol: &[u8]) -> Result<TlsStream<TcpStream>> {
        let mut tls = self.tls.clone();
        tls.alpn_protocols = vec![protocol.to_vec()];
        let stream = TcpStream::connect(self.server).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from(self.server_name.clone())?;
        Ok(TlsConnector::from(Arc::new(tls)).connect(name, stream).await?)
    }
}

async fn outcome(sent: hyper::Result<Response<Incoming>>) -> Outcome {
    let answer = match sent {
        Ok(answer) => answer,
        Err(e) if e.is_canceled() => return Outcome::Unsent,
        Err(e) => return Outcome::Cut(runtime::telemetry::chain(&e)),
    };
    let (head, body) = answer.into_parts();
    match body.collect().await {
        Err(e) => Outcome::Cut(format!("in the body: {}", runtime::telemetry::chain(&e))),
        Ok(_) if head.status != StatusCode::OK => Outcome::Refused(head.status),
        Ok(_) => Outcome::Answered {
            last: head.headers.get(CONNECTION).is_some_and(|v| v == "close"),
        },
    }
}
