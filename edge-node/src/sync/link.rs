//! The way to the control plane: one connection that several loops share, and fresh ones for fetching.

use std::net::SocketAddr;
use std::sync::Arc;

use runtime::identity::Identity;
use runtime::quic::{Connection, QuicError};
use tokio::sync::watch;

/// The name in the control plane's certificate.
const SERVER_NAME: &str = "control-plane";

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// The configured name has no address.
    #[error("`control-plane` names {address}, which has no address")]
    Resolve {
        /// As configured.
        address: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// No connection.
    #[error("connect to the control plane at {peer}")]
    Quic {
        /// Where.
        peer: SocketAddr,
        /// Why.
        #[source]
        source: QuicError,
    },
}

/// How to reach the control plane, and the connection in use. Clones share both.
#[derive(Clone)]
pub struct Link {
    address: Arc<str>,
    identity: Arc<Identity>,
    current: Arc<watch::Sender<Option<Connection>>>,
}

impl Link {
    /// `address` is `host:port`, resolved at each try.
    #[must_use]
    pub fn new(address: &str, identity: Arc<Identity>) -> Self {
        Self {
            address: address.into(),
            identity,
            current: Arc::new(watch::Sender::new(None)),
        }
    }

    /// A new connection.
    ///
    /// # Errors
    /// [`DialError`].
    pub async fn dial(&self) -> Result<Connection, DialError> {
        let failed = |source| DialError::Resolve {
            address: self.address.to_string(),
            source,
        };
        let peer = tokio::net::lookup_host(&*self.address).await.map_err(failed)?.next();
        let peer = peer.ok_or_else(|| failed(std::io::ErrorKind::NotFound.into()))?;
        let quic = runtime::quic::connect(peer, SERVER_NAME, &self.identity).await;
        quic.map_err(|source| DialError::Quic { peer, source })
    }

    /// The connection that the follower keeps up, while it is up.
    #[must_use]
    pub fn current(&self) -> Option<Connection> {
        self.current.borrow().clone()
    }

    /// Wakes when the connection comes or goes.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<Option<Connection>> {
        self.current.subscribe()
    }

    pub(super) fn set(&self, connection: Option<Connection>) {
        self.current.send_replace(connection);
    }
}
