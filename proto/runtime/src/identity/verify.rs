//! What TLS asks of a peer's certificate: first the chain, as rustls checks it, then fleet and role.
//!
//! A certificate of the same CA that names another fleet or no role is refused inside the handshake, so no code behind
//! it ever sees such a peer.

use std::path::Path;
use std::sync::Arc;

use proto::ids::PrincipalName;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, ConfigBuilder, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use super::{Identity, IdentityError, files, role};

/// The only protocol version, everywhere.
pub(crate) const VERSIONS: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// The only cryptography, everywhere.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Whether a client may come without a certificate.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Certificates {
    Required,
    Optional,
}

pub(super) fn clients(
    identity: &Identity,
    certificates: Certificates,
) -> Result<Arc<dyn ClientCertVerifier>, IdentityError> {
    let builder = WebPkiClientVerifier::builder_with_provider(identity.roots.clone(), provider());
    let builder = if certificates == Certificates::Optional {
        builder.allow_unauthenticated()
    } else {
        builder
    };
    let chain = builder.build().map_err(|e| Error::General(e.to_string()))?;
    Ok(Arc::new(FleetClients {
        chain,
        fleet: identity.fleet.clone(),
    }))
}

pub(super) fn servers(identity: &Identity) -> Result<Arc<dyn ServerCertVerifier>, IdentityError> {
    let chain = WebPkiServerVerifier::builder_with_provider(identity.roots.clone(), provider())
        .build()
        .map_err(|e| Error::General(e.to_string()))?;
    Ok(Arc::new(FleetServers {
        chain,
        fleet: identity.fleet.clone(),
    }))
}

/// A caller that verifies servers by chain and name only.
pub(super) fn web_client(
    roots_pem: &str,
) -> Result<ConfigBuilder<rustls::ClientConfig, rustls::client::WantsClientCert>, IdentityError> {
    let roots = files::roots(Path::new("the CA certificate"), roots_pem)?;
    Ok(rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(VERSIONS)?
        .with_root_certificates(roots))
}

fn check_role(certificate: &CertificateDer<'_>, fleet: &PrincipalName) -> Result<(), Error> {
    match role::role_of(certificate, fleet) {
        Ok(_) => Ok(()),
        Err(e) => {
            tracing::warn!(reason = %e, "refused a certificate of our CA");
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }
}

#[derive(Debug)]
struct FleetClients {
    chain: Arc<dyn ClientCertVerifier>,
    fleet: PrincipalName,
}

impl ClientCertVerifier for FleetClients {
    fn client_auth_mandatory(&self) -> bool {
        self.chain.client_auth_mandatory()
    }
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }
    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.chain.verify_client_cert(certificate, intermediates, now)?;
        check_role(certificate, &self.fleet)?;
        Ok(verified)
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, certificate, signed)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, certificate, signed)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

#[derive(Debug)]
struct FleetServers {
    chain: Arc<WebPkiServerVerifier>,
    fleet: PrincipalName,
}

impl ServerCertVerifier for FleetServers {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self
            .chain
            .verify_server_cert(certificate, intermediates, server_name, ocsp, now)?;
        check_role(certificate, &self.fleet)?;
        Ok(verified)
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, certificate, signed)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, certificate, signed)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}
