//! A listener's certificate: read from files, read again when they change, never replaced by a bad one.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::danger::ClientCertVerifier;

use super::HttpsError;
use crate::clock;
use crate::identity::{Identity, IdentityError, VERSIONS, certificates, provider, read_file};
use proto::ids::PrincipalName;

/// How often the files are looked at, at most.
const CHECK_EVERY: Duration = Duration::from_secs(2);

/// TLS 1.3 for a listener, HTTP/1.1 and HTTP/2. Clones share it.
#[derive(Clone)]
pub struct ServerTls(Arc<Shared>);

struct Shared {
    files: Files,
    /// The fleet whose roles clients may present.
    fleet: Option<PrincipalName>,
    clients: Option<Arc<dyn ClientCertVerifier>>,
    current: Mutex<Current>,
}

struct Files {
    certificate: PathBuf,
    key: PathBuf,
}

struct Current {
    config: Arc<ServerConfig>,
    stamp: Stamp,
    checked: Instant,
}

/// What tells one state of the files from the next: time and length of both.
type Stamp = [Option<(SystemTime, u64)>; 2];

impl std::fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ServerTls({})", self.0.files.certificate.display())
    }
}

impl ServerTls {
    /// Serves with the chain in `certificate` and the key in `key`. With `client_ca`, clients may present a
    /// certificate of that identity's fleet, and one that they present must be good.
    ///
    /// # Errors
    /// [`HttpsError::Certificate`].
    pub fn load(certificate: &Path, key: &Path, client_ca: Option<&Identity>) -> Result<Self, HttpsError> {
        let files = Files {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
        };
        let clients = client_ca
            .map(Identity::optional_clients)
            .transpose()
            .map_err(|e| files.failed(e))?;
        Self::new(files, client_ca.map(|identity| identity.fleet.clone()), clients)
    }

    /// Serves with the identity in `dir`; only clients with a certificate of its fleet are let in.
    ///
    /// # Errors
    /// [`HttpsError::Certificate`].
    pub fn load_mutual(dir: &Path) -> Result<Self, HttpsError> {
        let [_, certificate, key] = Identity::FILES.map(|name| dir.join(name));
        let files = Files { certificate, key };
        let identity = Identity::load(dir).map_err(|e| files.failed(e))?;
        let clients = identity.required_clients().map_err(|e| files.failed(e))?;
        Self::new(files, Some(identity.fleet), Some(clients))
    }

    fn new(
        files: Files,
        fleet: Option<PrincipalName>,
        clients: Option<Arc<dyn ClientCertVerifier>>,
    ) -> Result<Self, HttpsError> {
        let stamp = files.stamp();
        let config = files.read(clients.as_ref()).map_err(|e| files.failed(e))?;
        let current = Mutex::new(Current {
            config,
            stamp,
            checked: clock::instant(),
        });
        Ok(Self(Arc::new(Shared {
            files,
            fleet,
            clients,
            current,
        })))
    }

    /// The configuration for the next connection; looks at the files if the last look is a while ago.
    pub(super) fn current(&self) -> Arc<ServerConfig> {
        let now = clock::instant();
        let due = now.saturating_duration_since(self.lock().checked) >= CHECK_EVERY;
        if due {
            self.reload();
        }
        self.lock().config.clone()
    }

    /// Looks at the files now. Connections that are open go on. True if a changed certificate was taken; a bad one is
    /// logged and the old one stays.
    pub fn reload(&self) -> bool {
        let stamp = self.0.files.stamp();
        let mut current = self.lock();
        current.checked = clock::instant();
        if stamp == current.stamp {
            return false;
        }
        current.stamp = stamp;
        match self.0.files.read(self.0.clients.as_ref()) {
            Ok(config) => {
                current.config = config;
                tracing::info!(path = %self.0.files.certificate.display(), "took the renewed certificate");
                true
            }
            Err(error) => {
                let path = self.0.files.certificate.display();
                tracing::warn!(%path, error = crate::telemetry::chain(&error), "keeping the old certificate");
                false
            }
        }
    }

    /// The fleet whose roles clients may present.
    pub(super) fn fleet(&self) -> Option<&PrincipalName> {
        self.0.fleet.as_ref()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Current> {
        self.0.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Files {
    fn stamp(&self) -> Stamp {
        [&self.certificate, &self.key].map(|path| {
            let file = std::fs::metadata(path).ok()?;
            Some((file.modified().ok()?, file.len()))
        })
    }

    fn read(&self, clients: Option<&Arc<dyn ClientCertVerifier>>) -> Result<Arc<ServerConfig>, IdentityError> {
        let chain = certificates(&self.certificate, &read_file(&self.certificate)?)?;
        let key =
            PrivateKeyDer::from_pem_slice(read_file(&self.key)?.as_bytes()).map_err(|e| IdentityError::Content {
                path: self.key.clone(),
                reason: format!("no private key: {e}"),
            })?;
        let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(VERSIONS)?;
        let mut config = match clients {
            Some(clients) => builder.with_client_cert_verifier(clients.clone()),
            None => builder.with_no_client_auth(),
        }
        .with_single_cert(chain, key)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }

    fn failed(&self, source: IdentityError) -> HttpsError {
        HttpsError::Certificate {
            path: self.certificate.clone(),
            source: Box::new(source),
        }
    }
}
