//! Points on the globe, how far apart they are, and the cities that the fleet knows by name.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;

/// Why a place is not one.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum GeoError {
    /// Off the globe, or not a number.
    #[error("{lat}, {lon} is no point on the globe: latitude is -90 to 90, longitude -180 to 180")]
    Position {
        /// Degrees north.
        lat: f64,
        /// Degrees east.
        lon: f64,
    },
    /// Not an ISO 3166-1 alpha-2 code.
    #[error("`{text}` is not a country: write two capital letters, such as `DE`")]
    Country {
        /// What stood there.
        text: String,
    },
    /// The file of places is not readable.
    #[error("places: {what}")]
    File {
        /// What is wrong with it.
        what: String,
    },
}

/// A point on the globe. Holding one proves that it is finite and in range.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Position {
    lat_deg: f64,
    lon_deg: f64,
}

impl Position {
    /// Mean radius of the Earth, km: the sphere on which [`Position::km_to`] measures (IUGG mean radius R1).
    pub const EARTH_RADIUS_KM: f64 = 6371.0088;

    /// The point at `lat_deg` degrees north and `lon_deg` degrees east.
    ///
    /// # Errors
    /// [`GeoError::Position`] outside -90..=90 or -180..=180, and for what is not a number.
    pub fn new(lat_deg: f64, lon_deg: f64) -> Result<Self, GeoError> {
        if (-90.0..=90.0).contains(&lat_deg) && (-180.0..=180.0).contains(&lon_deg) {
            Ok(Self { lat_deg, lon_deg })
        } else {
            Err(GeoError::Position {
                lat: lat_deg,
                lon: lon_deg,
            })
        }
    }
    /// The point at millionths of degrees, as documents carry it.
    ///
    /// # Errors
    /// As [`Position::new`].
    pub fn from_e6(lat_e6: i32, lon_e6: i32) -> Result<Self, GeoError> {
        Self::new(f64::from(lat_e6) / 1e6, f64::from(lon_e6) / 1e6)
    }
    /// Millionths of degrees north and east, rounded: what [`Position::from_e6`] reads.
    #[must_use]
    #[allow(
        clippy::as_conversions,
        reason = "at most 180 million by construction, and no other conversion from f64"
    )]
    pub fn to_e6(self) -> (i32, i32) {
        let e6 = |degrees: f64| (degrees * 1e6).round() as i32;
        (e6(self.lat_deg), e6(self.lon_deg))
    }
    /// Degrees north.
    #[must_use]
    pub fn lat_deg(self) -> f64 {
        self.lat_deg
    }
    /// Degrees east.
    #[must_use]
    pub fn lon_deg(self) -> f64 {
        self.lon_deg
    }
    /// Great-circle distance in km, 0 to about 20015, symmetric; off by at most 0.56 % from the ellipsoid.
    ///
    /// # Source
    /// The haversine formula: R. W. Sinnott, "Virtues of the Haversine", Sky and Telescope 68 (1984), p. 159.
    #[must_use]
    pub fn km_to(self, other: Self) -> f64 {
        let (a, b) = (self.lat_deg.to_radians(), other.lat_deg.to_radians());
        let half = |from: f64, to: f64| ((to - from).to_radians() / 2.0).sin().powi(2);
        let h = half(self.lat_deg, other.lat_deg) + a.cos() * b.cos() * half(self.lon_deg, other.lon_deg);
        2.0 * Self::EARTH_RADIUS_KM * h.clamp(0.0, 1.0).sqrt().asin()
    }
}

/// An ISO 3166-1 alpha-2 code by shape; whether such a country exists is not known here.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Country([u8; 2]);

impl Country {
    /// The two letters.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("two ASCII letters")
    }
}
impl std::str::FromStr for Country {
    type Err = GeoError;
    fn from_str(text: &str) -> Result<Self, GeoError> {
        match text.as_bytes() {
            &[a, b] if a.is_ascii_uppercase() && b.is_ascii_uppercase() => Ok(Self([a, b])),
            _ => Err(GeoError::Country {
                text: text.chars().take(8).collect(),
            }),
        }
    }
}
impl std::fmt::Debug for Country {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
impl std::fmt::Display for Country {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A city by name.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    /// Short name, such as `fra`.
    pub id: String,
    /// Name for people.
    pub city: String,
    /// Country it lies in.
    pub country: Country,
    /// Where.
    pub position: Position,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlaceFile {
    id: String,
    city: String,
    country: String,
    lat: f64,
    lon: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlacesFile {
    place: Vec<PlaceFile>,
}

/// The cities that are known by name.
#[derive(Clone, Debug)]
pub struct Places(BTreeMap<String, Place>);

impl Places {
    /// Those of `regions/data/places.toml`.
    #[must_use]
    pub fn builtin() -> &'static Self {
        static PLACES: LazyLock<Places> = LazyLock::new(|| {
            Places::parse(include_str!("../data/places.toml")).expect("the built-in places are read by a test")
        });
        &PLACES
    }
    /// Reads a file of the same shape.
    ///
    /// # Errors
    /// [`GeoError`], the first thing that is wrong.
    pub fn parse(text: &str) -> Result<Self, GeoError> {
        let file: PlacesFile = toml::from_str(text).map_err(|e| GeoError::File { what: e.to_string() })?;
        let mut places = BTreeMap::new();
        for p in file.place {
            let (country, position) = (p.country.parse()?, Position::new(p.lat, p.lon)?);
            let place = Place {
                id: p.id.clone(),
                city: p.city,
                country,
                position,
            };
            if places.insert(p.id.clone(), place).is_some() {
                return Err(GeoError::File {
                    what: format!("`{}` stands there twice", p.id),
                });
            }
        }
        Ok(Self(places))
    }
    /// The place called `id`.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&Place> {
        self.0.get(id)
    }
    /// All places, by id.
    pub fn iter(&self) -> impl Iterator<Item = &Place> {
        self.0.values()
    }
    /// The place closest to `position`, for tables that people read.
    #[must_use]
    pub fn nearest(&self, position: Position) -> Option<&Place> {
        self.iter()
            .min_by(|a, b| a.position.km_to(position).total_cmp(&b.position.km_to(position)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn km(a: &str, b: &str) -> f64 {
        let place = |id| Places::builtin().get(id).unwrap().position;
        place(a).km_to(place(b))
    }

    #[test]
    fn known_distances_between_cities_are_met_within_one_percent() {
        // Great-circle figures of the usual airline tables, city to city.
        for (a, b, want) in [
            ("fra", "iad", 6540.0),
            ("lhr", "nrt", 9560.0),
            ("syd", "akl", 2155.0),
            ("gru", "jnb", 7430.0),
        ] {
            let got = km(a, b);
            assert!(
                (got / want - 1.0).abs() < 0.01,
                "{a}-{b}: {got:.0} km, expected about {want}"
            );
        }
    }

    #[test]
    fn every_builtin_place_reads_and_there_are_at_least_sixty() {
        assert!(Places::builtin().iter().count() >= 60);
        assert_eq!(Places::builtin().get("fra").unwrap().country.as_str(), "DE");
    }

    #[test]
    fn points_off_the_globe_are_refused() {
        for (lat, lon) in [(90.1, 0.0), (0.0, -180.1), (f64::NAN, 0.0), (0.0, f64::INFINITY)] {
            assert!(Position::new(lat, lon).is_err(), "{lat} {lon}");
        }
    }

    proptest! {
        #[test]
        fn distance_is_symmetric_bounded_and_zero_only_at_home(
            a in (-90.0..=90.0f64, -180.0..=180.0f64), b in (-90.0..=90.0f64, -180.0..=180.0f64)
        ) {
            let (a, b) = (Position::new(a.0, a.1).unwrap(), Position::new(b.0, b.1).unwrap());
            let there = a.km_to(b);
            prop_assert!((there - b.km_to(a)).abs() < 1e-6);
            prop_assert!((0.0..=20_016.0).contains(&there));
            prop_assert!(a.km_to(a) == 0.0);
        }
    }
}
