//! HTTP for everybody: TLS 1.3 listeners and clients, and plain listeners that cannot leave the machine.
//!
//! ```text
//!   Listener --accept--> TLS handshake --> HTTP/1.1, 2 or 3 --> service(Request + Origin)
//!       | drain: no new connection, open ones finish what they took
//! ```
//! Every connection has a bound in number, head size and time for handshake and head. What a request may do, and how
//! long its body may take, is decided by the service.

mod client;
mod gather;
mod http3;
mod inbound;
pub mod once;
mod patience;
mod plain;
mod ports;
mod server;
mod tls;
mod unread;
mod waking;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use http::Extensions;

use crate::identity::{IdentityError, Role};

pub use client::{Body, Client, ClientError, empty, full};

pub use inbound::Inbound;
pub use plain::PlainListener;
pub use ports::{Ports, serve_ports};
pub use server::{serve, serve_plain};
pub use tls::ServerTls;
pub use unread::Unread;

/// Why a listener cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpsError {
    /// The address cannot be used.
    #[error("listen on {address}")]
    Bind {
        /// As configured.
        address: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Without TLS only this machine may connect.
    #[error(
        "{address} is not on this machine: without TLS listen on a loopback address or `unix:/path`, or configure a certificate"
    )]
    PlainNotLocal {
        /// As configured.
        address: SocketAddr,
    },
    /// Not an address.
    #[error("`{text}` is neither `IP:PORT` nor `unix:/path`")]
    Address {
        /// As configured.
        text: String,
    },
    /// The certificate or key cannot be used.
    #[error("load the certificate {path}")]
    Certificate {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<IdentityError>,
    },
}

/// Where a request comes from and how: what its connection tells of it. In every request's extensions, for [`Origin::of`]: as one, since
/// each entry there is memory of its own.
#[derive(Clone, Debug)]
pub struct Origin {
    /// From whom.
    pub peer: PeerAddr,
    /// How.
    pub transport: Transport,
    /// Of a verified client certificate.
    pub role: Option<Role>,
}

impl Origin {
    /// That of the request with these extensions; none where no listener of ours took it.
    #[must_use]
    pub fn of(extensions: &Extensions) -> Option<&Self> {
        extensions.get::<Arc<Self>>().map(|origin| &**origin)
    }
}

/// Where a request comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerAddr {
    /// A TCP or UDP peer.
    Ip(SocketAddr),
    /// A process of this machine, over a unix socket.
    Unix,
}

/// How a request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Encrypted.
    Tls,
    /// From this machine, over a plain listener.
    Plain,
}

#[cfg(test)]
mod tests;
