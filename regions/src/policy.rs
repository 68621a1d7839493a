//! Residency: which countries may answer for a tenant. What is not known is not allowed.
//!
//! The router asks this before it sends, and every node asks it again before it answers: two fences, one rule.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use proto::ids::BoundaryId;
use serde::Deserialize;

use crate::geo::Country;

/// Why a file of boundaries is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// Not TOML of the right shape.
    #[error("boundaries: {what}")]
    File {
        /// What is wrong with it.
        what: String,
    },
    /// One boundary breaks a rule.
    #[error("boundary `{boundary}`: {what}")]
    Boundary {
        /// Which one.
        boundary: String,
        /// Which rule.
        what: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BoundaryFile {
    #[serde(default)]
    everywhere: bool,
    #[serde(default)]
    countries: Vec<String>,
}

#[derive(Clone, Debug)]
enum Extent {
    Everywhere,
    Countries(BTreeSet<Country>),
}

/// All boundaries that tenants can have.
#[derive(Clone, Debug)]
pub struct Boundaries(BTreeMap<BoundaryId, Extent>);

impl Boundaries {
    /// Those of `regions/data/boundaries.toml`.
    #[must_use]
    pub fn builtin() -> &'static Self {
        static BOUNDARIES: LazyLock<Boundaries> = LazyLock::new(|| {
            Boundaries::parse(include_str!("../data/boundaries.toml"))
                .expect("the built-in boundaries are read by a test")
        });
        &BOUNDARIES
    }
    /// Reads a file of the same shape.
    ///
    /// # Errors
    /// [`PolicyError`] names the boundary that has neither countries nor `everywhere`, or both, or a country that is none.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        let file: BTreeMap<String, BoundaryFile> =
            toml::from_str(text).map_err(|e| PolicyError::File { what: e.to_string() })?;
        let mut boundaries = BTreeMap::new();
        for (name, boundary) in file {
            let wrong = |what: String| PolicyError::Boundary {
                boundary: name.clone(),
                what,
            };
            let id: BoundaryId = name.parse().map_err(|e: proto::ids::IdError| wrong(e.to_string()))?;
            if boundary.everywhere != boundary.countries.is_empty() {
                return Err(wrong("needs either `countries` or `everywhere = true`".to_owned()));
            }
            let countries = boundary
                .countries
                .iter()
                .map(|c| c.parse())
                .collect::<Result<BTreeSet<Country>, _>>();
            let countries = countries.map_err(|e| wrong(e.to_string()))?;
            let extent = if boundary.everywhere {
                Extent::Everywhere
            } else {
                Extent::Countries(countries)
            };
            boundaries.insert(id, extent);
        }
        Ok(Self(boundaries))
    }
    /// Whether a node in `country` may answer for a tenant of `boundary`. Unknown boundaries and malformed countries: no.
    #[must_use]
    pub fn allows(&self, boundary: &BoundaryId, country: &str) -> bool {
        let Ok(country) = country.parse::<Country>() else {
            return false;
        };
        match self.0.get(boundary) {
            Some(Extent::Everywhere) => true,
            Some(Extent::Countries(countries)) => countries.contains(&country),
            None => false,
        }
    }
    /// Whether `boundary` keeps data anywhere at all; an unknown one keeps it from everywhere.
    #[must_use]
    pub fn is_bounded(&self, boundary: &BoundaryId) -> bool {
        !matches!(self.0.get(boundary), Some(Extent::Everywhere))
    }
    /// Whether `boundary` is defined.
    #[must_use]
    pub fn contains(&self, boundary: &BoundaryId) -> bool {
        self.0.contains_key(boundary)
    }
    /// Names of all boundaries.
    pub fn names(&self) -> impl Iterator<Item = &BoundaryId> {
        self.0.keys()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn allows(boundary: &str, country: &str) -> bool {
        Boundaries::builtin().allows(&boundary.parse().unwrap(), country)
    }

    #[test]
    fn the_eu_has_27_members_and_the_eea_three_more() {
        let count = |name: &str| match &Boundaries::builtin().0[name] {
            Extent::Countries(countries) => countries.len(),
            Extent::Everywhere => 0,
        };
        assert_eq!((count("eu"), count("eea")), (27, 30));
        assert!(allows("eea", "NO") && !allows("eu", "NO"));
        assert!(!allows("eea", "GB") && !allows("eu", "CH"));
    }

    #[test]
    fn an_unknown_boundary_allows_nothing() {
        assert!(!allows("atlantis", "DE"));
        assert!(Boundaries::builtin().is_bounded(&"atlantis".parse().unwrap()));
    }

    #[test]
    fn global_allows_every_country_but_no_garbage() {
        assert!(allows("global", "US") && allows("global", "ZW"));
        assert!(!allows("global", "") && !allows("global", "de") && !allows("global", "DEU"));
        assert!(!Boundaries::builtin().is_bounded(&"global".parse().unwrap()));
    }

    #[test]
    fn a_boundary_without_countries_is_an_error_and_not_a_hole() {
        for bad in [
            "[x]",
            "[x]\ncountries = []",
            "[x]\neverywhere = true\ncountries = [\"DE\"]",
            "[x]\ncountries = [\"de\"]",
        ] {
            assert!(Boundaries::parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_fence_panic_or_open(boundary in "[a-z]{5,9}", country in ".{0,4}") {
            prop_assume!(boundary != "global");
            prop_assert!(!allows(&boundary, &country));
        }
    }
}
