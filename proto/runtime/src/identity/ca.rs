//! The fleet's private CA: makes the certificates that say who is who.
//!
//! `ca-key.pem` lies with the person who runs the fleet, on no part of it. It is never overwritten: a second CA under
//! the same name would cut off every part.

use std::path::Path;

use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey as _, EncodePrivateKey as _, KeypairBytes};
use proto::ids::PrincipalName;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PKCS_ED25519, SanType,
};
use time::{Duration, OffsetDateTime};

use super::{Identity, IdentityError, Role, files, role};
use crate::clock;

const CA_FILE: &str = "ca.pem";
const CA_KEY_FILE: &str = "ca-key.pem";
const CA_DAYS: u32 = 3650;
/// Certificates are valid from a little before now: other machines' clocks differ.
const CLOCK_SKEW: Duration = Duration::minutes(5);

/// A CA that can issue certificates.
pub struct Ca {
    /// Whose CA it is.
    pub fleet: PrincipalName,
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate with its key, not yet written anywhere.
pub struct Issued {
    /// The certificate.
    pub cert_pem: String,
    /// Its private key, PKCS#8 version 1.
    pub key_pem: String,
    /// The CA that issued it.
    pub ca_pem: String,
}

impl Ca {
    /// Makes a CA for `fleet` and writes `ca.pem` and `ca-key.pem` (mode 0600) into `dir`.
    ///
    /// # Errors
    /// [`IdentityError::Content`] when `dir` already holds a CA key; [`IdentityError::File`].
    pub fn create(fleet: &PrincipalName, dir: &Path) -> Result<Self, IdentityError> {
        let key_path = dir.join(CA_KEY_FILE);
        if key_path.exists() {
            let reason = "a CA key is here already, and it is never overwritten".to_owned();
            return Err(IdentityError::Content { path: key_path, reason });
        }
        std::fs::create_dir_all(dir).map_err(|source| IdentityError::File {
            doing: "create",
            path: dir.to_owned(),
            source,
        })?;
        let ca = Self::new(fleet)?;
        files::write(&key_path, &ca.issuer.key().serialize_pem(), 0o600)?;
        files::write(&dir.join(CA_FILE), &ca.pem, 0o644)?;
        Ok(ca)
    }

    fn new(fleet: &PrincipalName) -> Result<Self, IdentityError> {
        let key = KeyPair::generate_for(&PKCS_ED25519)?;
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, format!("{fleet} fleet CA"));
        params.subject_alt_names = vec![SanType::URI(role::ca_uri(fleet).try_into()?)];
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        (params.not_before, params.not_after) = validity(CA_DAYS);
        let pem = params.self_signed(&key)?.pem();
        Ok(Self {
            fleet: fleet.clone(),
            pem,
            issuer: Issuer::new(params, key),
        })
    }

    /// Reads the CA that [`Ca::create`] wrote into `dir`.
    ///
    /// # Errors
    /// [`IdentityError`] names the file.
    pub fn load(dir: &Path) -> Result<Self, IdentityError> {
        let path = dir.join(CA_FILE);
        let pem = files::read(&path)?;
        let certificate = files::certificates(&path, &pem)?.remove(0);
        let fleet = role::fleet_of_ca(&certificate).map_err(|source| IdentityError::Role { path, source })?;
        let key = KeyPair::from_pem(&files::read_key(&dir.join(CA_KEY_FILE))?)?;
        Ok(Self {
            fleet,
            issuer: Issuer::from_ca_cert_der(&certificate, key)?,
            pem,
        })
    }

    /// The CA's certificate.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A new Ed25519 key and a certificate that lets its holder act as `role`, on both ends of a connection.
    /// `names` are the DNS names and IP addresses it may be dialled by.
    ///
    /// # Errors
    /// [`IdentityError::Issue`] for a name that no certificate can carry.
    pub fn issue(&self, role: &Role, names: &[String], days: u32) -> Result<Issued, IdentityError> {
        let mut params = CertificateParams::new(names)?;
        params
            .subject_alt_names
            .push(SanType::URI(role.uri(&self.fleet).try_into()?));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate_for(&PKCS_ED25519)?;
        let mut issued = self.sign(params, &role.to_string(), &key, days)?;
        issued.key_pem = without_public_key(&key)?;
        Ok(issued)
    }

    /// A certificate for an ingress: a web server under `names` and nobody in the fleet. Its key is P-256, which
    /// every browser and HTTP client knows.
    ///
    /// # Errors
    /// [`IdentityError::Issue`] for a name that no certificate can carry.
    pub fn issue_ingress(&self, names: &[String], days: u32) -> Result<Issued, IdentityError> {
        let mut params = CertificateParams::new(names)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(
            params,
            "ingress",
            &KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?,
            days,
        )
    }

    fn sign(
        &self,
        mut params: CertificateParams,
        subject: &str,
        key: &KeyPair,
        days: u32,
    ) -> Result<Issued, IdentityError> {
        params.distinguished_name.push(DnType::CommonName, subject);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        (params.not_before, params.not_after) = validity(days);
        let cert_pem = params.signed_by(key, &self.issuer)?.pem();
        Ok(Issued {
            cert_pem,
            key_pem: key.serialize_pem(),
            ca_pem: self.pem.clone(),
        })
    }
}

/// An Ed25519 key as PKCS#8 version 1, which every tool reads. Version 2 adds the public key, and OpenSSL 3.0 (so curl,
/// Python) refuses it.
///
/// # Source
/// RFC 8410 section 7, RFC 5958 section 2.
fn without_public_key(key: &KeyPair) -> Result<String, IdentityError> {
    let unreadable = |_| IdentityError::Issue(rcgen::Error::CouldNotParseKeyPair);
    let mut pair = KeypairBytes::from_pkcs8_der(key.serialized_der()).map_err(unreadable)?;
    pair.public_key = None;
    Ok(pair.to_pkcs8_pem(LineEnding::LF).map_err(unreadable)?.to_string())
}

fn validity(days: u32) -> (OffsetDateTime, OffsetDateTime) {
    let now_s = i64::try_from(clock::now_ms() / 1000).unwrap_or(0);
    let now = OffsetDateTime::from_unix_timestamp(now_s).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    (
        now.saturating_sub(CLOCK_SKEW),
        now.saturating_add(Duration::days(i64::from(days))),
    )
}

impl Issued {
    /// Writes `ca.pem`, `cert.pem` and `key.pem` (mode 0600) into `dir`, as [`Identity::load`] reads them. Each file is
    /// replaced whole; a reader between two of them sees a pair that does not match and keeps what it has.
    ///
    /// # Errors
    /// [`IdentityError::File`].
    pub fn write(&self, dir: &Path) -> Result<(), IdentityError> {
        std::fs::create_dir_all(dir).map_err(|source| IdentityError::File {
            doing: "create",
            path: dir.to_owned(),
            source,
        })?;
        let [ca, cert, key] = Identity::FILES.map(|name| dir.join(name));
        files::write(&ca, &self.ca_pem, 0o644)?;
        files::write(&key, &self.key_pem, 0o600)?;
        files::write(&cert, &self.cert_pem, 0o644)
    }
}
