//! Names and digests that are right by construction: holding one proves that its text was checked.

use std::borrow::Borrow;
use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::limits::NAME_BYTES_MAX;

/// Why a text is not a name, digest or version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdError {
    /// The text does not have the shape of a name.
    #[error(
        "`{text}` is not a {what}: use 1 to {NAME_BYTES_MAX} of a-z, 0-9, '-', '.', '_', starting with a letter or digit"
    )]
    Name {
        /// What it should have named.
        what: &'static str,
        /// The text, cut to a printable length.
        text: String,
    },
    /// The text is not `b3:` and 64 lowercase hex digits.
    #[error("`{text}` is not a digest: write `b3:` and 64 lowercase hex digits")]
    Digest {
        /// The text, cut to a printable length.
        text: String,
    },
    /// The text is not a positive whole number.
    #[error("`{text}` is not a version: write a whole number from 1")]
    Version {
        /// The text, cut to a printable length.
        text: String,
    },
    /// The text is not `name@version`.
    #[error("`{text}` is not a model release: write `name@version`, such as `minilm@7`")]
    Release {
        /// The text, cut to a printable length.
        text: String,
    },
    /// The text is not `region/node`.
    #[error("`{text}` is not a node: write `region/node`, such as `eu-fra/n1`")]
    Node {
        /// The text, cut to a printable length.
        text: String,
    },
}

fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}

fn check_name(what: &'static str, text: &str) -> Result<(), IdError> {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.' | b'_');
    let first = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let good = text.len() <= NAME_BYTES_MAX && text.as_bytes().first().is_some_and(first) && text.bytes().all(inner);
    if good {
        Ok(())
    } else {
        Err(IdError::Name { what, text: cut(text) })
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(String);

        impl $type {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl TryFrom<String> for $type {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                check_name($what, &text)?;
                Ok(Self(text))
            }
        }
        impl FromStr for $type {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                text.to_owned().try_into()
            }
        }
        impl Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0
            }
        }
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// A place where nodes live, such as `eu-fra`.
    RegionId,
    "region"
);
name!(
    /// A set of regions that data may not leave, such as `eea`. Defined in `regions/data`.
    BoundaryId,
    "boundary"
);
name!(
    /// A model, such as `minilm`, without its version.
    ModelName,
    "model"
);
name!(
    /// A customer of the fleet, holder of one API key.
    TenantId,
    "tenant"
);
name!(
    /// A node inside its region, such as `n1`; [`NodeId`] is its full name.
    NodeName,
    "node name"
);
name!(
    /// A variant of a model's weights, such as `cpu-f32` or `cpu-int8`.
    VariantId,
    "variant"
);
name!(
    /// What hardware a node offers, such as `cpu`: the signed state fixes one variant per class.
    NodeClass,
    "node class"
);
name!(
    /// A person or machine that signs or asks: an operator, auditor or router.
    PrincipalName,
    "principal"
);

/// A node's full name: region and name, `eu-fra/n1`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeId {
    /// Where it stands.
    pub region: RegionId,
    /// Which one of that region.
    pub name: NodeName,
}

impl FromStr for NodeId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let (region, name) = text.split_once('/').ok_or_else(|| IdError::Node { text: cut(text) })?;
        Ok(Self {
            region: region.parse()?,
            name: name.parse()?,
        })
    }
}
impl TryFrom<String> for NodeId {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}
impl From<NodeId> for String {
    fn from(id: NodeId) -> String {
        id.to_string()
    }
}
impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.region, self.name)
    }
}
impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The identity of a byte string: its 32-byte BLAKE3 digest, nothing else.
/// Two nodes that hold the same `ContentHash` hold the same bytes. Text: `b3:` and 64 lowercase hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentHash([u8; 32]);

impl ContentHash {
    /// Hashes `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
    /// Takes a digest that BLAKE3 has made.
    #[must_use]
    pub const fn from_bytes(digest: [u8; 32]) -> Self {
        Self(digest)
    }
    /// The digest itself.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
    /// 64 lowercase hex digits without the prefix: the name of a file in an artifact store.
    #[must_use]
    pub fn hex(&self) -> String {
        hex(&self.0)
    }
    /// The first 12 hex digits, for tables and logs that people read.
    #[must_use]
    pub fn short(&self) -> String {
        hex(&self.0[..6])
    }
}

impl From<blake3::Hash> for ContentHash {
    fn from(hash: blake3::Hash) -> Self {
        Self(*hash.as_bytes())
    }
}
impl FromStr for ContentHash {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let digits = text.strip_prefix("b3:").unwrap_or(text);
        unhex32(digits)
            .map(Self)
            .ok_or_else(|| IdError::Digest { text: cut(text) })
    }
}
impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b3:{}", self.hex())
    }
}
impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b3:{}..", self.short())
    }
}
impl Serialize for ContentHash {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if s.is_human_readable() {
            s.collect_str(self)
        } else {
            self.0.serialize(s)
        }
    }
}
impl<'de> Deserialize<'de> for ContentHash {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        if d.is_human_readable() {
            String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
        } else {
            <[u8; 32]>::deserialize(d).map(Self)
        }
    }
}

/// Lowercase hex.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from(b"0123456789abcdef"[usize::from(value)]);
    bytes.iter().flat_map(|b| [digit(b >> 4), digit(b & 15)]).collect()
}

/// Reads exactly 64 lowercase hex digits.
#[must_use]
pub fn unhex32(text: &str) -> Option<[u8; 32]> {
    let digit = |b: u8| match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'a'..=b'f' => Some(b - b'a' + 10),
        _ => None,
    };
    let bytes = text.as_bytes();
    if bytes.len() != 64 {
        return None;
    }
    let mut out = [0; 32];
    for (out, pair) in out.iter_mut().zip(bytes.chunks_exact(2)) {
        *out = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(out)
}

/// Position in one model's release history: 1 is the first release, and the log only ever counts up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ModelVersion(pub NonZeroU32);

impl ModelVersion {
    /// The first version of any model.
    pub const FIRST: Self = Self(NonZeroU32::MIN);
    /// The version after this one; the last possible one is its own successor.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}
impl FromStr for ModelVersion {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        text.parse().map(Self).map_err(|_| IdError::Version { text: cut(text) })
    }
}
impl fmt::Display for ModelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A model and one version of it, `minilm@7`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Release {
    /// Which model.
    pub model: ModelName,
    /// Which version of it.
    pub version: ModelVersion,
}

impl FromStr for Release {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let (model, version) = text
            .split_once('@')
            .ok_or_else(|| IdError::Release { text: cut(text) })?;
        Ok(Self {
            model: model.parse()?,
            version: version.parse()?,
        })
    }
}
impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.model, self.version)
    }
}
impl fmt::Debug for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Milliseconds since 1970-01-01T00:00:00Z, the one clock reading that documents carry.
pub type UnixMs = u64;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn region_refuses_uppercase_so_two_spellings_cannot_name_one_place() {
        assert!("EU-fra".parse::<RegionId>().is_err());
        assert_eq!("eu-fra".parse::<RegionId>().unwrap().as_str(), "eu-fra");
    }

    #[test]
    fn a_name_cannot_climb_out_of_a_folder() {
        for bad in ["", ".", "..", ".hidden", "a/b", "a\\b", "a b", &"a".repeat(65)] {
            assert!(bad.parse::<ModelName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_digest_reads_back_as_itself_in_text_json_and_postcard() {
        let hash = ContentHash::of(b"meridian");
        assert_eq!(hash.to_string().parse::<ContentHash>().unwrap(), hash);
        let json = serde_json::to_string(&hash).unwrap();
        assert_eq!(serde_json::from_str::<ContentHash>(&json).unwrap(), hash);
        let wire = postcard::to_stdvec(&hash).unwrap();
        assert_eq!(wire.len(), 32);
        assert_eq!(postcard::from_bytes::<ContentHash>(&wire).unwrap(), hash);
    }

    proptest! {
        #[test]
        fn no_text_makes_a_parser_panic(text in ".{0,100}") {
            let _ = text.parse::<NodeId>();
            let _ = text.parse::<Release>();
            let _ = text.parse::<ContentHash>();
        }
        #[test]
        fn a_node_reads_back_as_itself(region in "[a-z0-9][a-z0-9-]{0,20}", name in "[a-z0-9][a-z0-9._-]{0,20}") {
            let id: NodeId = format!("{region}/{name}").parse().unwrap();
            prop_assert_eq!(id.to_string().parse::<NodeId>().unwrap(), id);
        }
    }
}
