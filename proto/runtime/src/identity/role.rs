//! Roles and how a certificate spells them: `meridian://FLEET/node/eu-fra/n1`.

use std::fmt;

use proto::ids::{IdError, NodeId, PrincipalName, RegionId, UnixMs};
use proto::signed::PublicKey;
use rustls::pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

const SCHEME: &str = "meridian://";

/// What a part or person is in the fleet. What each may ask is decided where the request is answered.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Role {
    /// The control plane.
    ControlPlane,
    /// A node of a region.
    Node(NodeId),
    /// A geo-router.
    Router(PrincipalName),
    /// A person who publishes and rolls out.
    Operator(PrincipalName),
    /// A person who may read about one region.
    Auditor {
        /// Who.
        name: PrincipalName,
        /// The only region they may read about.
        region: RegionId,
    },
}

/// Why a certificate or URI names no role of the fleet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RoleError {
    /// Not X.509.
    #[error("not a readable certificate")]
    Certificate,
    /// No role URI, or several.
    #[error("the certificate names {found} roles, needed is exactly one `{SCHEME}` URI")]
    Count {
        /// How many it names.
        found: usize,
    },
    /// A URI of our scheme that is none of the known forms.
    #[error("`{uri}` is not a role")]
    Form {
        /// The URI, cut to a printable length.
        uri: String,
    },
    /// A name in the URI breaks the rules for names.
    #[error("a role with a bad name")]
    Name(#[from] IdError),
    /// Somebody else's fleet.
    #[error("a certificate of fleet `{found}`, this is fleet `{expected}`")]
    Fleet {
        /// In the certificate.
        found: PrincipalName,
        /// Ours.
        expected: PrincipalName,
    },
}

impl Role {
    /// The URI that stands for this role in certificates of `fleet`.
    #[must_use]
    pub fn uri(&self, fleet: &PrincipalName) -> String {
        format!("{SCHEME}{fleet}/{self}")
    }

    /// Reads a role URI; gives the fleet too.
    ///
    /// # Errors
    /// [`RoleError::Form`], [`RoleError::Name`].
    pub fn from_uri(uri: &str) -> Result<(PrincipalName, Self), RoleError> {
        let form = || RoleError::Form {
            uri: uri.chars().take(120).collect(),
        };
        let mut parts = uri.strip_prefix(SCHEME).ok_or_else(form)?.split('/');
        let parts = [parts.next(), parts.next(), parts.next(), parts.next(), parts.next()];
        let (fleet, role) = match parts {
            [Some(fleet), Some("control-plane"), None, ..] => (fleet, Self::ControlPlane),
            [Some(fleet), Some("node"), Some(region), Some(name), None] => (
                fleet,
                Self::Node(NodeId {
                    region: region.parse()?,
                    name: name.parse()?,
                }),
            ),
            [Some(fleet), Some("router"), Some(name), None, _] => (fleet, Self::Router(name.parse()?)),
            [Some(fleet), Some("operator"), Some(name), None, _] => (fleet, Self::Operator(name.parse()?)),
            [Some(fleet), Some("auditor"), Some(region), Some(name), None] => (
                fleet,
                Self::Auditor {
                    name: name.parse()?,
                    region: region.parse()?,
                },
            ),
            _ => return Err(form()),
        };
        Ok((fleet.parse()?, role))
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ControlPlane => f.write_str("control-plane"),
            Self::Node(id) => write!(f, "node/{id}"),
            Self::Router(name) => write!(f, "router/{name}"),
            Self::Operator(name) => write!(f, "operator/{name}"),
            Self::Auditor { name, region } => write!(f, "auditor/{region}/{name}"),
        }
    }
}

/// The role in a certificate that TLS has verified, if it is of `fleet`.
///
/// # Errors
/// Any [`RoleError`].
pub fn role_of(certificate: &CertificateDer<'_>, fleet: &PrincipalName) -> Result<Role, RoleError> {
    let named = read(certificate)?;
    if named.fleet == *fleet {
        Ok(named.role)
    } else {
        Err(RoleError::Fleet {
            found: named.fleet,
            expected: fleet.clone(),
        })
    }
}

/// The Ed25519 key of a certificate that TLS has verified; none for another kind of key.
#[must_use]
pub fn key_of(certificate: &CertificateDer<'_>) -> Option<PublicKey> {
    <[u8; 32]>::try_from(read(certificate).ok()?.public_key)
        .ok()
        .map(PublicKey)
}

/// What a certificate says about its holder.
pub(super) struct Named {
    pub(super) fleet: PrincipalName,
    pub(super) role: Role,
    pub(super) expires_ms: UnixMs,
    pub(super) public_key: Vec<u8>,
}

pub(super) fn read(certificate: &CertificateDer<'_>) -> Result<Named, RoleError> {
    let (rest, certificate) = X509Certificate::from_der(certificate).map_err(|_| RoleError::Certificate)?;
    if !rest.is_empty() {
        return Err(RoleError::Certificate);
    }
    let uris = role_uris(&certificate)?;
    let [uri] = uris.as_slice() else {
        return Err(RoleError::Count { found: uris.len() });
    };
    let (fleet, role) = Role::from_uri(uri)?;
    let expires_s = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0);
    let public_key = certificate.public_key().subject_public_key.data.to_vec();
    Ok(Named {
        fleet,
        role,
        expires_ms: expires_s.saturating_mul(1000),
        public_key,
    })
}

fn role_uris<'a>(certificate: &'a X509Certificate<'_>) -> Result<Vec<&'a str>, RoleError> {
    let names = certificate
        .subject_alternative_name()
        .map_err(|_| RoleError::Certificate)?;
    let names = names
        .map(|extension| extension.value.general_names.as_slice())
        .unwrap_or_default();
    Ok(names
        .iter()
        .filter_map(|name| match name {
            GeneralName::URI(uri) if uri.starts_with(SCHEME) => Some(*uri),
            _ => None,
        })
        .collect())
}

/// The fleet that a CA certificate is for.
pub(super) fn fleet_of_ca(certificate: &CertificateDer<'_>) -> Result<PrincipalName, RoleError> {
    let (_, certificate) = X509Certificate::from_der(certificate).map_err(|_| RoleError::Certificate)?;
    let uris = role_uris(&certificate)?;
    let [uri] = uris.as_slice() else {
        return Err(RoleError::Count { found: uris.len() });
    };
    let form = || RoleError::Form {
        uri: uri.chars().take(120).collect(),
    };
    let fleet = uri
        .strip_prefix(SCHEME)
        .and_then(|rest| rest.strip_suffix("/ca"))
        .ok_or_else(form)?;
    Ok(fleet.parse()?)
}

/// The URI in a CA's own certificate. It is not a role: nobody can act as the CA.
pub(super) fn ca_uri(fleet: &PrincipalName) -> String {
    format!("{SCHEME}{fleet}/ca")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name() -> impl Strategy<Value = String> {
        "[a-z0-9][a-z0-9._-]{0,20}"
    }

    fn role() -> impl Strategy<Value = Role> {
        (name(), name(), 0..5).prop_map(|(a, b, kind)| match kind {
            0 => Role::ControlPlane,
            1 => Role::Node(NodeId {
                region: a.parse().unwrap(),
                name: b.parse().unwrap(),
            }),
            2 => Role::Router(a.parse().unwrap()),
            3 => Role::Operator(a.parse().unwrap()),
            _ => Role::Auditor {
                name: a.parse().unwrap(),
                region: b.parse().unwrap(),
            },
        })
    }

    proptest! {
        #[test]
        fn every_role_reads_back_from_its_uri(role in role(), fleet in name()) {
            let fleet: PrincipalName = fleet.parse().unwrap();
            prop_assert_eq!(Role::from_uri(&role.uri(&fleet)).unwrap(), (fleet, role));
        }

        #[test]
        fn a_uri_that_reads_is_spelled_in_the_only_way(uri in "meridian://[a-zA-Z0-9/._-]{0,60}") {
            if let Ok((fleet, role)) = Role::from_uri(&uri) {
                prop_assert_eq!(role.uri(&fleet), uri);
            }
        }

        #[test]
        fn a_uri_with_one_more_or_one_less_part_is_never_the_same_role(role in role(), part in name()) {
            let fleet: PrincipalName = "dev".parse().unwrap();
            let uri = role.uri(&fleet);
            let (shorter, _) = uri.rsplit_once('/').unwrap();
            for other in [format!("{uri}/{part}"), format!("{uri}/"), shorter.to_owned()] {
                let read = Role::from_uri(&other);
                prop_assert!(read.is_err() || read.unwrap().1 != role, "{}", other);
            }
        }

        #[test]
        fn no_bytes_make_the_certificate_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let fleet: PrincipalName = "dev".parse().unwrap();
            prop_assert!(role_of(&CertificateDer::from(bytes), &fleet).is_err());
        }
    }

    #[test]
    fn the_ca_is_not_a_role() {
        assert!(Role::from_uri(&ca_uri(&"dev".parse().unwrap())).is_err());
    }
}
