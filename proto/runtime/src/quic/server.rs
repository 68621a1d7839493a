//! The listening side: handshakes run side by side, within bounds, and only verified peers come out.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use proto::frame::ALPN;
use proto::ids::PrincipalName;
use proto::limits::{QUIC_CONNECTIONS_MAX, QUIC_HANDSHAKES_MAX};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};

use super::{Connection, HANDSHAKE_TIMEOUT, QuicError, Stream, code, transport};
use crate::identity::{Identity, Role};

/// Handshakes under way beyond which a caller must first prove its address: a forged one then costs us no state.
const HANDSHAKES_UNPROVEN_MAX: usize = QUIC_HANDSHAKES_MAX / 4;
/// How long a closing server waits for its peers to hear of it.
const CLOSE_GRACE: Duration = Duration::from_secs(1);

type Handshake = Pin<Box<dyn Future<Output = Result<Peer, QuicError>> + Send>>;

/// A QUIC listener. It makes progress while [`Server::accept`] is awaited.
pub struct Server {
    endpoint: quinn::Endpoint,
    fleet: PrincipalName,
    address: SocketAddr,
    handshakes: Mutex<FuturesUnordered<Handshake>>,
    room: Arc<Semaphore>,
}

/// A verified caller. The connection ends when the last of this and its clones of [`Peer::connection`] is dropped.
#[derive(Debug)]
pub struct Peer {
    /// Who it is, from its certificate.
    pub role: Role,
    /// Where it is.
    pub address: SocketAddr,
    connection: Connection,
    _room: OwnedSemaphorePermit,
}

impl Server {
    /// Listens on `address`; port 0 takes a free one.
    ///
    /// # Errors
    /// [`QuicError::Bind`], [`QuicError::Identity`].
    pub fn bind(address: SocketAddr, identity: &Identity) -> Result<Self, QuicError> {
        let config = transport::server(identity.server_config(&[ALPN])?)?;
        let failed = |source| QuicError::Bind { address, source };
        let endpoint = quinn::Endpoint::server(config, address).map_err(failed)?;
        Ok(Self {
            fleet: identity.fleet.clone(),
            address: endpoint.local_addr().map_err(failed)?,
            endpoint,
            handshakes: Mutex::default(),
            room: Arc::new(Semaphore::new(QUIC_CONNECTIONS_MAX)),
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Presents a renewed certificate to new connections; those that are open go on.
    ///
    /// # Errors
    /// [`QuicError::Identity`]; the old certificate stays.
    pub fn renew(&self, identity: &Identity) -> Result<(), QuicError> {
        self.endpoint
            .set_server_config(Some(transport::server(identity.server_config(&[ALPN])?)?));
        Ok(())
    }

    /// The next verified peer; none after [`Server::close`]. Failed handshakes are logged. Cancel-safe.
    pub async fn accept(&self) -> Option<Peer> {
        enum Next {
            Incoming(Option<quinn::Incoming>),
            Done(Result<Peer, QuicError>),
        }
        let mut handshakes = self.handshakes.lock().await;
        loop {
            let next = tokio::select! {
                Some(done) = handshakes.next() => Next::Done(done),
                incoming = self.endpoint.accept() => Next::Incoming(incoming),
            };
            match next {
                Next::Incoming(None) => return None,
                Next::Incoming(Some(incoming)) => self.start(incoming, &handshakes),
                Next::Done(Ok(peer)) => return Some(peer),
                Next::Done(Err(error)) => tracing::info!(error = crate::telemetry::chain(&error), "refused a peer"),
            }
        }
    }

    fn start(&self, incoming: quinn::Incoming, handshakes: &FuturesUnordered<Handshake>) {
        let under_way = handshakes.len();
        if under_way >= QUIC_HANDSHAKES_MAX {
            return incoming.refuse();
        }
        if under_way >= HANDSHAKES_UNPROVEN_MAX && !incoming.remote_address_validated() && incoming.may_retry() {
            return incoming.retry().unwrap_or_else(|e| e.into_incoming().refuse());
        }
        let Ok(room) = self.room.clone().try_acquire_owned() else {
            return incoming.refuse();
        };
        let address = incoming.remote_address();
        let (fleet, endpoint) = (self.fleet.clone(), self.endpoint.clone());
        handshakes.push(Box::pin(async move {
            let failed = |source| QuicError::Connection { peer: address, source };
            let connecting = incoming.accept().map_err(failed)?;
            let quic = tokio::time::timeout(HANDSHAKE_TIMEOUT, connecting)
                .await
                .map_err(|_| QuicError::Timeout {
                    what: "handshake",
                    after: HANDSHAKE_TIMEOUT,
                })?
                .map_err(failed)?;
            let connection = Connection::new(quic, &fleet, endpoint)?;
            Ok(Peer {
                role: connection.peer_role().clone(),
                address,
                connection,
                _room: room,
            })
        }));
    }

    /// Ends all connections and stops listening.
    pub async fn close(&self) {
        self.endpoint.close(code::DONE, b"stopping");
        // Peers that do not hear of it in time find out by their idle timeout.
        let _ = tokio::time::timeout(CLOSE_GRACE, self.endpoint.wait_idle()).await;
    }
}

impl Peer {
    /// The next stream that the peer opens; none when the connection is over.
    pub async fn accept(&self) -> Option<Stream> {
        self.connection.accept().await
    }

    /// The connection, to open streams towards the peer or to watch it end.
    #[must_use]
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Waits until the connection is over.
    pub async fn closed(&self) {
        self.connection.closed().await;
    }

    /// Ends the connection; the peer should try again later, or elsewhere.
    pub fn turn_away(&self, reason: &str) {
        self.connection.close_with(code::BUSY, reason);
    }
}
