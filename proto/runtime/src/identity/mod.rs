//! Who a part is: a certificate of the fleet's private CA whose URI names fleet and role.
//!
//! ```text
//!   ca-key.pem --signs--> cert.pem  URI SAN meridian://FLEET/node/eu-fra/n1   key.pem (Ed25519, also signs reports)
//!                             |
//!   both ends of every connection verify: chain -> URI -> same fleet -> role
//! ```
//! A peer's role is read only from a certificate that TLS has verified. This module decides who somebody is, never
//! what they may do.

mod ca;
mod files;
mod role;
mod trust;
mod verify;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::DecodePrivateKey;
use proto::ids::{PrincipalName, UnixMs};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

pub use ca::{Ca, Issued};
pub use role::{Role, RoleError, key_of, role_of};
pub use trust::load as load_trust;

/// Why an identity, CA or trust bundle cannot be loaded or made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// A file cannot be read or written.
    #[error("{doing} {path}")]
    File {
        /// "read" or "write".
        doing: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file does not hold what its name promises.
    #[error("{path}: {reason}")]
    Content {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Others can read a private key.
    #[error("{path} is a private key with mode {mode:o}: run `chmod 600` on it")]
    KeyMode {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The certificate names no role of this fleet.
    #[error("{path}")]
    Role {
        /// Which certificate.
        path: PathBuf,
        /// What it says instead.
        #[source]
        source: RoleError,
    },
    /// A certificate cannot be made of these names.
    #[error("make a certificate")]
    Issue(#[from] rcgen::Error),
    /// TLS does not accept the certificate or key.
    #[error("use the certificate for TLS")]
    Tls(#[from] rustls::Error),
}

/// A part's own certificate, key and the CA it trusts. Cloning is cheap.
#[derive(Clone)]
pub struct Identity {
    /// Which fleet it belongs to.
    pub fleet: PrincipalName,
    /// Who it is in that fleet.
    pub role: Role,
    /// When its certificate expires. What an expired part still does is its own decision.
    pub expires_ms: UnixMs,
    chain: Vec<CertificateDer<'static>>,
    key: Arc<PrivateKeyDer<'static>>,
    signing_key: SigningKey,
    roots: Arc<RootCertStore>,
    ca_pem: Arc<str>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.role.uri(&self.fleet))
    }
}

impl Identity {
    /// Names of the files in an identity's folder.
    pub const FILES: [&str; 3] = ["ca.pem", "cert.pem", "key.pem"];

    /// Reads `ca.pem`, `cert.pem` and `key.pem` of `dir`. An expired certificate loads.
    ///
    /// # Errors
    /// [`IdentityError`] names the file. The key must be Ed25519, match the certificate and be readable by its owner only.
    pub fn load(dir: &Path) -> Result<Self, IdentityError> {
        let [ca_path, cert_path, key_path] = Self::FILES.map(|name| dir.join(name));
        let ca_pem = files::read(&ca_path)?;
        let chain = files::certificates(&cert_path, &files::read(&cert_path)?)?;
        let key_pem = files::read_key(&key_path)?;
        let bad_key = |reason: String| IdentityError::Content {
            path: key_path.clone(),
            reason,
        };
        let signing_key = SigningKey::from_pkcs8_pem(&key_pem).map_err(|e| bad_key(format!("no Ed25519 key: {e}")))?;
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|e| bad_key(e.to_string()))?;
        let named = role::read(&chain[0]).map_err(|source| IdentityError::Role {
            path: cert_path.clone(),
            source,
        })?;
        if named.public_key != signing_key.verifying_key().as_bytes() {
            return Err(bad_key(format!("is not the key of {}", cert_path.display())));
        }
        Ok(Self {
            fleet: named.fleet,
            role: named.role,
            expires_ms: named.expires_ms,
            chain,
            key: Arc::new(key),
            signing_key,
            roots: Arc::new(files::roots(&ca_path, &ca_pem)?),
            ca_pem: ca_pem.into(),
        })
    }

    /// The key behind the certificate, for reports and commands that this part signs.
    #[must_use]
    pub fn signing_key(&self) -> &SigningKey {
        &self.signing_key
    }

    /// The fleet's CA certificate.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// TLS 1.3 for a listener that only certificates of this fleet may reach.
    ///
    /// # Errors
    /// [`IdentityError::Tls`].
    pub fn server_config(&self, alpn: &[&[u8]]) -> Result<rustls::ServerConfig, IdentityError> {
        let mut config = rustls::ServerConfig::builder_with_provider(verify::provider())
            .with_protocol_versions(verify::VERSIONS)?
            .with_client_cert_verifier(self.required_clients()?)
            .with_single_cert(self.chain.clone(), self.key.clone_key())?;
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        Ok(config)
    }

    /// TLS 1.3 for a caller that presents this identity and accepts only a role of the same fleet, under the name it dials.
    ///
    /// # Errors
    /// [`IdentityError::Tls`].
    pub fn client_config(&self, alpn: &[&[u8]]) -> Result<rustls::ClientConfig, IdentityError> {
        let mut config = rustls::ClientConfig::builder_with_provider(verify::provider())
            .with_protocol_versions(verify::VERSIONS)?
            .dangerous()
            .with_custom_certificate_verifier(verify::servers(self)?)
            .with_client_auth_cert(self.chain.clone(), self.key.clone_key())?;
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        Ok(config)
    }

    /// As a caller of listeners that are not parts of the fleet themselves, such as ingresses: any certificate of
    /// `roots_pem` under the dialled name is accepted, and this identity is presented to whoever asks for it.
    ///
    /// # Errors
    /// [`IdentityError::Tls`], [`IdentityError::Content`] when `roots_pem` holds no certificate.
    pub fn ingress_client_config(&self, roots_pem: &str) -> Result<rustls::ClientConfig, IdentityError> {
        Ok(verify::web_client(roots_pem)?.with_client_auth_cert(self.chain.clone(), self.key.clone_key())?)
    }

    /// Accepts a TLS client without a certificate; one that presents a certificate must be of this fleet.
    pub(crate) fn optional_clients(
        &self,
    ) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, IdentityError> {
        verify::clients(self, verify::Certificates::Optional)
    }

    /// Accepts only TLS clients with a certificate of this fleet.
    pub(crate) fn required_clients(
        &self,
    ) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, IdentityError> {
        verify::clients(self, verify::Certificates::Required)
    }
}

/// TLS 1.3 for a caller without an identity: any certificate of `roots_pem` under the dialled name is accepted.
///
/// # Errors
/// [`IdentityError::Tls`], [`IdentityError::Content`] when `roots_pem` holds no certificate.
pub fn anonymous_client_config(roots_pem: &str) -> Result<rustls::ClientConfig, IdentityError> {
    Ok(verify::web_client(roots_pem)?.with_no_client_auth())
}

pub(crate) use files::{certificates, read as read_file};
pub(crate) use verify::{VERSIONS, provider};

#[cfg(test)]
pub(crate) mod samples;
#[cfg(test)]
mod tests;
