//! HTTPS to a known address under a known name: pooled, HTTP/2 where the server speaks it, TLS 1.3 only.
//!
//! The name is never looked up: callers know the address from the fleet's own view, and the certificate must carry the
//! name. Time limits for a whole request are the caller's.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::uri::{Authority, Scheme};
use http::{Request, Response, Uri};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::{self, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use proto::limits::HTTP_CLIENT_NAMES_MAX;
use rustls::pki_types::ServerName;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Shorter than any server of ours keeps an idle connection: a pooled one is then seldom a closed one.
const POOL_IDLE: Duration = Duration::from_secs(15);
const POOL_IDLE_MAX: usize = 32;
/// How often a used HTTP/2 connection is asked whether it is there, and how long it may take to say so.
const PING: Duration = Duration::from_secs(3);

/// What a request carries.
pub type Body = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// A body of no bytes.
#[must_use]
pub fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// A body of these bytes.
#[must_use]
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The server name or path makes no request.
    #[error("no request can be made to `{server_name}`: {reason}")]
    Target {
        /// The name.
        server_name: String,
        /// Why.
        reason: String,
    },
    /// No connection: refused, timed out or not the server it should be. Nothing was sent.
    #[error("connect to {address} as `{server_name}`")]
    Connect {
        /// Where.
        address: SocketAddr,
        /// Who it should have been.
        server_name: String,
        /// Why.
        #[source]
        source: legacy::Error,
    },
    /// The connection broke; the server may have seen the request.
    #[error("request to {address}")]
    Request {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: legacy::Error,
    },
}

impl ClientError {
    /// Whether it is certain that the server has not seen any of the request.
    #[must_use]
    pub fn nothing_was_sent(&self) -> bool {
        !matches!(self, Self::Request { .. })
    }
}

type Pool = legacy::Client<HttpsConnector<HttpConnector>, Body>;

/// An HTTPS client. Clones share its connections.
#[derive(Clone)]
pub struct Client(Arc<Shared>);

struct Shared {
    tls: rustls::ClientConfig,
    /// The local address that connections start from; the system's choice otherwise.
    from: Option<IpAddr>,
    /// One pool per server name: a connection made for one name is never used for another.
    pools: Mutex<HashMap<String, Pool>>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Client")
    }
}

impl Client {
    /// A client that trusts and presents what `tls` says, see [`Identity`](crate::identity::Identity). Its protocols
    /// are set here.
    #[must_use]
    pub fn new(tls: rustls::ClientConfig) -> Self {
        Self::build(tls, None)
    }

    /// A client whose connections start from the local address `from`: servers see it stand there.
    #[must_use]
    pub fn standing_at(tls: rustls::ClientConfig, from: IpAddr) -> Self {
        Self::build(tls, Some(from))
    }

    fn build(mut tls: rustls::ClientConfig, from: Option<IpAddr>) -> Self {
        tls.alpn_protocols.clear(); // the connector fills in those that it speaks
        Self(Arc::new(Shared {
            tls,
            from,
            pools: Mutex::default(),
        }))
    }

    /// Sends `request` to `address`, which must present a certificate for `server_name`. Only path and query of the
    /// request's URI count: the authority that the server sees is the address. The answer's body streams.
    /// Cancelling by dropping the future is safe.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn request(
        &self,
        address: SocketAddr,
        server_name: &str,
        mut request: Request<Body>,
    ) -> Result<Response<Incoming>, ClientError> {
        let target = |reason: String| ClientError::Target {
            server_name: server_name.to_owned(),
            reason,
        };
        let pool = self.pool(server_name).map_err(target)?;
        let mut parts = std::mem::take(request.uri_mut()).into_parts();
        parts.scheme = Some(Scheme::HTTPS);
        parts.authority = Some(
            address
                .to_string()
                .parse::<Authority>()
                .map_err(|e| target(e.to_string()))?,
        );
        parts
            .path_and_query
            .get_or_insert_with(|| http::uri::PathAndQuery::from_static("/"));
        *request.uri_mut() = Uri::from_parts(parts).map_err(|e| target(e.to_string()))?;
        *request.version_mut() = http::Version::HTTP_11; // HTTP/2 is taken where TLS agrees on it
        pool.request(request).await.map_err(|source| {
            if source.is_connect() {
                ClientError::Connect {
                    address,
                    server_name: server_name.to_owned(),
                    source,
                }
            } else {
                ClientError::Request { address, source }
            }
        })
    }

    fn pool(&self, server_name: &str) -> Result<Pool, String> {
        let mut pools = self.0.pools.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = pools.get(server_name) {
            return Ok(pool.clone());
        }
        let name = ServerName::try_from(server_name.to_owned()).map_err(|e| e.to_string())?;
        let pool = pool(self.0.tls.clone(), name, self.0.from);
        if pools.len() >= HTTP_CLIENT_NAMES_MAX {
            pools.clear(); // requests that are under way keep their own pool
        }
        pools.insert(server_name.to_owned(), pool.clone());
        Ok(pool)
    }
}

fn pool(tls: rustls::ClientConfig, name: ServerName<'static>, from: Option<IpAddr>) -> Pool {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_local_address(from);
    tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_only()
        .with_server_name_resolver(FixedServerNameResolver::new(name))
        .enable_all_versions()
        .wrap_connector(tcp);
    legacy::Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(POOL_IDLE)
        .pool_max_idle_per_host(POOL_IDLE_MAX)
        .http2_keep_alive_interval(PING)
        .http2_keep_alive_timeout(PING)
        .build(connector)
}
