//! QUIC between Meridian's parts: mutual TLS 1.3, protocol `meridian/1`, one stream per question.
//!
//! ```text
//!   connect() -> Connection --open()--> Stream  write, write, finish | read, read, None
//!   Server::bind() --accept()--> Peer { role } --accept()--> Stream
//! ```
//! A peer that is handed out has a verified role of our fleet. Every wait ends: handshakes and questions by a timeout,
//! silent connections by the idle timeout. Who may ask what is not decided here.

mod server;
mod stream;
mod transport;

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use proto::frame::{ALPN, FrameError};
use proto::ids::PrincipalName;
use proto::message::{Request, Response};
use proto::signed::PublicKey;
use quinn::VarInt;
use rustls::pki_types::CertificateDer;

use crate::identity::{Identity, IdentityError, Role, RoleError, key_of, role_of};

pub use server::{Peer, Server};
pub use stream::Stream;

/// How long a connection may take to be made.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long [`Connection::ask`] waits for its answer.
pub const ASK_TIMEOUT: Duration = Duration::from_secs(30);

/// Why two parts do not talk.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QuicError {
    /// The local address cannot be used.
    #[error("open a UDP socket on {address}")]
    Bind {
        /// Which address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Our own certificate or key cannot be used.
    #[error("prepare TLS")]
    Identity(#[from] IdentityError),
    /// The name to dial is not a DNS name or IP address.
    #[error("`{server_name}` cannot be dialled: {reason}")]
    Name {
        /// The name.
        server_name: String,
        /// Why.
        reason: String,
    },
    /// Nobody answered in time.
    #[error("no {what} within {} s", after.as_secs())]
    Timeout {
        /// "connection" or "answer".
        what: &'static str,
        /// How long was waited.
        after: Duration,
    },
    /// The connection could not be made or broke. A refused certificate shows here too.
    #[error("connection with {peer}")]
    Connection {
        /// The other end.
        peer: SocketAddr,
        /// Why.
        #[source]
        source: quinn::ConnectionError,
    },
    /// The peer's certificate names no role of our fleet.
    #[error("connection with {peer}")]
    Role {
        /// The other end.
        peer: SocketAddr,
        /// Why.
        #[source]
        source: RoleError,
    },
    /// The peer stopped the stream, or the connection under it broke.
    #[error("stream: {reason}")]
    Stream {
        /// What happened.
        reason: String,
    },
    /// The peer sent what is no frame, or we tried to.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The stream ended inside a frame, or before the answer.
    #[error("the stream ended before a whole message came")]
    Truncated,
}

/// Codes that tell the other end why something was closed.
pub(crate) mod code {
    use quinn::VarInt;
    /// In order.
    pub(crate) const DONE: VarInt = VarInt::from_u32(0);
    /// A frame over the bound or not of the protocol.
    pub(crate) const BAD_FRAME: VarInt = VarInt::from_u32(1);
    /// Too many connections.
    pub(crate) const BUSY: VarInt = VarInt::from_u32(2);
    /// A certificate without a role of the fleet.
    pub(crate) const NO_ROLE: VarInt = VarInt::from_u32(3);
}

/// A connection to another part, whose role is verified. Clones share it; it closes with the last one.
#[derive(Clone, Debug)]
pub struct Connection {
    quic: quinn::Connection,
    peer_role: Role,
    peer_key: Option<PublicKey>,
    /// Kept open as long as the connection that runs on it.
    _endpoint: quinn::Endpoint,
}

/// Connects to `address`, whose certificate must be of our fleet and carry `server_name`.
/// With TLS 1.3 the other end judges our certificate after this returns: a refusal shows at the first question.
///
/// # Errors
/// Any [`QuicError`] but those of streams.
pub async fn connect(address: SocketAddr, server_name: &str, identity: &Identity) -> Result<Connection, QuicError> {
    let any: SocketAddr = if address.is_ipv4() {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (Ipv6Addr::UNSPECIFIED, 0).into()
    };
    let config = transport::client(identity.client_config(&[ALPN])?)?;
    let endpoint = quinn::Endpoint::client(any).map_err(|source| QuicError::Bind { address: any, source })?;
    let name = |e: quinn::ConnectError| QuicError::Name {
        server_name: server_name.to_owned(),
        reason: e.to_string(),
    };
    let connecting = endpoint.connect_with(config, address, server_name).map_err(name)?;
    let quic = match tokio::time::timeout(HANDSHAKE_TIMEOUT, connecting).await {
        Ok(made) => made.map_err(|source| QuicError::Connection { peer: address, source })?,
        Err(_) => {
            return Err(QuicError::Timeout {
                what: "connection",
                after: HANDSHAKE_TIMEOUT,
            });
        }
    };
    Connection::new(quic, &identity.fleet, endpoint)
}

impl Connection {
    fn new(quic: quinn::Connection, fleet: &PrincipalName, endpoint: quinn::Endpoint) -> Result<Self, QuicError> {
        let peer = quic.remote_address();
        let chain = quic
            .peer_identity()
            .and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok());
        let certificate = chain.as_deref().and_then(|chain| chain.first());
        match certificate
            .ok_or(RoleError::Certificate)
            .and_then(|certificate| role_of(certificate, fleet))
        {
            Ok(peer_role) => Ok(Self {
                quic,
                peer_role,
                peer_key: certificate.and_then(key_of),
                _endpoint: endpoint,
            }),
            Err(source) => {
                quic.close(code::NO_ROLE, b"no role of this fleet");
                Err(QuicError::Role { peer, source })
            }
        }
    }

    /// Who is at the other end.
    #[must_use]
    pub fn peer_role(&self) -> &Role {
        &self.peer_role
    }

    /// The Ed25519 key of the other end's certificate: what an enrolment in the log is compared with.
    #[must_use]
    pub fn peer_key(&self) -> Option<PublicKey> {
        self.peer_key
    }

    /// Where the other end is.
    #[must_use]
    pub fn peer_address(&self) -> SocketAddr {
        self.quic.remote_address()
    }

    /// Opens a stream; waits while [`proto::limits::QUIC_STREAMS_MAX`] of them are open.
    ///
    /// # Errors
    /// [`QuicError::Connection`].
    pub async fn open(&self) -> Result<Stream, QuicError> {
        match self.quic.open_bi().await {
            Ok((send, receive)) => Ok(Stream::new(send, receive)),
            Err(source) => Err(QuicError::Connection {
                peer: self.peer_address(),
                source,
            }),
        }
    }

    /// The next stream that the other end opens; none when the connection is over.
    pub async fn accept(&self) -> Option<Stream> {
        match self.quic.accept_bi().await {
            Ok((send, receive)) => Some(Stream::new(send, receive)),
            Err(reason) => {
                tracing::debug!(peer = %self.peer_address(), role = %self.peer_role, %reason, "connection over");
                None
            }
        }
    }

    /// Asks one question with one answer. A [`Response::Error`] is an answer too.
    ///
    /// # Errors
    /// Any [`QuicError`]; [`QuicError::Timeout`] after [`ASK_TIMEOUT`].
    pub async fn ask(&self, request: &Request) -> Result<Response, QuicError> {
        let answer = async {
            let mut stream = self.open().await?;
            stream.write(request).await?;
            stream.finish();
            stream.read().await?.ok_or(QuicError::Truncated)
        };
        let late = |_| QuicError::Timeout {
            what: "answer",
            after: ASK_TIMEOUT,
        };
        tokio::time::timeout(ASK_TIMEOUT, answer).await.map_err(late)?
    }

    /// Waits until the connection is over, for whatever reason.
    pub async fn closed(&self) -> QuicError {
        QuicError::Connection {
            peer: self.peer_address(),
            source: self.quic.closed().await,
        }
    }

    /// Whether the connection is over.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.quic.close_reason().is_some()
    }

    /// Ends it now; what was not acknowledged may be lost.
    pub fn close(&self) {
        self.quic.close(code::DONE, b"done");
    }

    /// Smoothed round-trip time.
    #[must_use]
    pub fn rtt(&self) -> Duration {
        self.quic.rtt()
    }

    fn close_with(&self, code: VarInt, reason: &str) {
        self.quic.close(code, reason.as_bytes());
    }
}

#[cfg(test)]
mod tests;
