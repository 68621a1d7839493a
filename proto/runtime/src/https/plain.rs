//! Listeners without TLS, for sidecars and local tools. The type exists only for this machine's own addresses.

use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use tokio::net::{TcpListener, UnixListener};

use super::HttpsError;

/// A loopback TCP or unix socket listener. A unix socket's file is removed with it.
#[derive(Debug)]
pub struct PlainListener(pub(super) Kind);

#[derive(Debug)]
pub(super) enum Kind {
    Tcp(TcpListener, SocketAddr),
    Unix(UnixListener, SocketFile),
}

/// The file of a unix socket, removed on drop.
#[derive(Debug)]
pub(super) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0); // a file that is gone already is what we want
    }
}

impl PlainListener {
    /// Opens `text`: `127.0.0.1:0`, `[::1]:8080` or `unix:/path`. A stale socket file is replaced, another file never.
    ///
    /// # Errors
    /// [`HttpsError::PlainNotLocal`] for an address that other machines can reach; [`HttpsError::Address`];
    /// [`HttpsError::Bind`].
    pub async fn bind(text: &str) -> Result<Self, HttpsError> {
        let failed = |source| HttpsError::Bind {
            address: text.to_owned(),
            source,
        };
        if let Some(path) = text.strip_prefix("unix:") {
            let path = Path::new(path);
            if std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket())
                && std::os::unix::net::UnixStream::connect(path).is_err()
            {
                std::fs::remove_file(path).map_err(failed)?;
            }
            let listener = UnixListener::bind(path).map_err(failed)?;
            return Ok(Self(Kind::Unix(listener, SocketFile(path.to_owned()))));
        }
        let address: SocketAddr = text
            .parse()
            .map_err(|_| HttpsError::Address { text: text.to_owned() })?;
        check_local(address)?;
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self(Kind::Tcp(listener, address)))
    }

    /// Takes a bound listener, if it is on a loopback address.
    ///
    /// # Errors
    /// [`HttpsError::PlainNotLocal`], [`HttpsError::Bind`] when the listener has no address.
    pub fn from_tcp(listener: TcpListener) -> Result<Self, HttpsError> {
        let address = listener.local_addr().map_err(|source| HttpsError::Bind {
            address: "a listener".to_owned(),
            source,
        })?;
        check_local(address)?;
        Ok(Self(Kind::Tcp(listener, address)))
    }

    /// Where it listens, in the form that [`PlainListener::bind`] takes.
    #[must_use]
    pub fn address(&self) -> String {
        match &self.0 {
            Kind::Tcp(_, address) => address.to_string(),
            Kind::Unix(_, file) => format!("unix:{}", file.0.display()),
        }
    }
}

fn check_local(address: SocketAddr) -> Result<(), HttpsError> {
    if address.ip().to_canonical().is_loopback() {
        Ok(())
    } else {
        Err(HttpsError::PlainNotLocal { address })
    }
}
