//! One HTTPS request over a connection of its own, for servers that are not of the fleet: TLS 1.3, HTTP/1.1, only the status
//! of the answer is read, nothing is followed.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::identity::{IdentityError, anonymous_client_config};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OnceError {
    /// The name can be in no certificate.
    #[error("`{0}` is not a server name")]
    Name(String),
    /// No connection, or not to the server that it should be.
    #[error("connect: {0}")]
    Connect(#[from] std::io::Error),
    /// The connection broke.
    #[error("request: {0}")]
    Request(#[from] hyper::Error),
}

/// Whom to believe. Clones share it.
#[derive(Clone)]
pub struct Tls(TlsConnector);

impl Tls {
    /// Believes servers with certificates of `roots_pem`.
    ///
    /// # Errors
    /// There are none in it.
    pub fn of(roots_pem: &str) -> Result<Self, IdentityError> {
        let mut tls = anonymous_client_config(roots_pem)?;
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self(Arc::new(tls).into()))
    }

    /// Sends `request`, whose URI is a path and which names its host, to `name` at `address`. The caller bounds the time;
    /// dropping the future drops the connection.
    ///
    /// # Errors
    /// [`OnceError`]; after [`OnceError::Request`] the server may have seen the request.
    pub async fn send(
        &self,
        address: SocketAddr,
        name: &str,
        request: Request<Full<Bytes>>,
    ) -> Result<StatusCode, OnceError> {
        let server = ServerName::try_from(name.to_owned()).map_err(|_| OnceError::Name(name.to_owned()))?;
        let stream = self.0.connect(server, TcpStream::connect(address).await?).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let mut answer = std::pin::pin!(sender.send_request(request));
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            answer = &mut answer => Ok(answer?.status()),
            // The connection may end with the answer.
            ended = &mut connection => {
                ended?;
                Ok(answer.await?.status())
            }
        }
    }
}
