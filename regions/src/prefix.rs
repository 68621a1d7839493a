//! Which place a client's address belongs to: longest matching prefix, told once at start from a file.
//!
//! The prefixes are flattened into ranges that do not overlap, so a look-up is one binary search, and the answer also says
//! how far around the address it holds: that is the scope a DNS answer may be cached for.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use proto::limits::{PREFIX_TABLE_BYTES_MAX, PREFIXES_MAX};
use serde::Deserialize;

use crate::geo::{Place, Places};

/// Why a table is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PrefixError {
    /// Longer than a table may be.
    #[error("{found} {what}, allowed is {max}")]
    TooMany {
        /// Bytes or prefixes.
        what: &'static str,
        /// Found.
        found: usize,
        /// Allowed.
        max: usize,
    },
    /// Not of the right shape.
    #[error("client table: {what}")]
    File {
        /// What is wrong.
        what: String,
    },
    /// Not a prefix.
    #[error("`{text}` is not a prefix: write address/length with no bits set behind the length, such as 192.0.2.0/24")]
    Cidr {
        /// What stood there.
        text: String,
    },
    /// The same prefix names two places.
    #[error("prefix `{text}` stands there twice")]
    Twice {
        /// Which one.
        text: String,
    },
    /// A place that nobody knows.
    #[error("`{id}` is not a place: see regions/data/places.toml")]
    Place {
        /// What stood there.
        id: String,
    },
}

/// A network: an address and how many of its leading bits count. IPv4 lives inside IPv6 as `::ffff:a.b.c.d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cidr {
    base: u128,
    len: u8,
}

fn bits(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(v4) => u128::from(v4.to_ipv6_mapped()),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

/// The bits behind the first `len`.
fn host_mask(len: u8) -> u128 {
    u128::MAX.checked_shr(u32::from(len)).unwrap_or(0)
}

impl Cidr {
    /// Whether `ip` lies inside.
    #[must_use]
    pub fn contains(self, ip: IpAddr) -> bool {
        bits(ip) & !host_mask(self.len) == self.base
    }
    fn last(self) -> u128 {
        self.base | host_mask(self.len)
    }
}

impl FromStr for Cidr {
    type Err = PrefixError;
    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let wrong = || PrefixError::Cidr {
            text: text.chars().take(64).collect(),
        };
        let (address, len) = text.split_once('/').ok_or_else(wrong)?;
        let (address, len) = (
            address.parse::<IpAddr>().map_err(|_| wrong())?,
            len.parse::<u8>().map_err(|_| wrong())?,
        );
        let len = match address {
            IpAddr::V4(_) if len <= 32 => len + 96,
            IpAddr::V6(_) if len <= 128 => len,
            _ => return Err(wrong()),
        };
        let base = bits(address);
        if base & host_mask(len) == 0 {
            Ok(Self { base, len })
        } else {
            Err(wrong())
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TableFile {
    default: Option<String>,
    #[serde(default)]
    prefix: Vec<RowFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RowFile {
    cidr: String,
    place: String,
}

/// Where a client is, and for how many leading bits of its address that holds.
#[derive(Clone, Copy, Debug)]
pub struct Located<'a> {
    /// The place; `None` for an address in no prefix of a table without default.
    pub place: Option<&'a Place>,
    /// Every address that shares this many leading bits is at the same place: 0 to 32 for IPv4, 0 to 128 for IPv6.
    pub scope_len: u8,
}

/// Prefixes and their places.
///
/// ```toml
/// default = "fra"                 # for addresses in no prefix; may be left out
/// [[prefix]]
/// cidr = "2001:db8::/32"
/// place = "nrt"
/// ```
/// or, for large tables, lines of `prefix,place`, where the first may be `default,place`.
#[derive(Clone, Debug)]
pub struct PrefixTable {
    /// First address of each range, ascending; the first is 0, so every address has one.
    starts: Vec<u128>,
    /// Index into `places` for each range; neighbours differ.
    owners: Vec<Option<usize>>,
    places: Vec<Place>,
}

impl PrefixTable {
    /// Reads the TOML form.
    ///
    /// # Errors
    /// [`PrefixError`], the first thing that is wrong.
    pub fn parse_toml(text: &str, places: &Places) -> Result<Self, PrefixError> {
        check("bytes", text.len(), PREFIX_TABLE_BYTES_MAX)?;
        let file: TableFile = toml::from_str(text).map_err(|e| PrefixError::File { what: e.to_string() })?;
        let rows = file.prefix.iter().map(|row| (row.cidr.as_str(), row.place.as_str()));
        Self::build(file.default.as_deref(), rows, places)
    }
    /// Reads the form of one `prefix,place` a line.
    ///
    /// # Errors
    /// [`PrefixError`], the first thing that is wrong.
    pub fn parse_csv(text: &str, places: &Places) -> Result<Self, PrefixError> {
        check("bytes", text.len(), PREFIX_TABLE_BYTES_MAX)?;
        let mut rows = Vec::new();
        for line in text
            .lines()
            .map(str::trim)
            .filter(|l| !l.is_empty() && !l.starts_with('#'))
        {
            let what = || format!("`{}`: write `prefix,place`", line.chars().take(64).collect::<String>());
            rows.push(line.split_once(',').ok_or_else(|| PrefixError::File { what: what() })?);
        }
        let (default, rows) = match rows.split_first() {
            Some((&("default", default), rest)) => (Some(default), rest),
            _ => (None, rows.as_slice()),
        };
        Self::build(default, rows.iter().copied(), places)
    }
    fn build<'a>(
        default: Option<&str>,
        rows: impl Iterator<Item = (&'a str, &'a str)>,
        known: &Places,
    ) -> Result<Self, PrefixError> {
        let mut places: Vec<Place> = Vec::new();
        let mut index: BTreeMap<String, usize> = BTreeMap::new();
        let mut place = |id: &str| -> Result<usize, PrefixError> {
            if let Some(&i) = index.get(id) {
                return Ok(i);
            }
            let place = known.get(id).ok_or_else(|| PrefixError::Place {
                id: id.chars().take(64).collect(),
            })?;
            places.push(place.clone());
            index.insert(id.to_owned(), places.len() - 1);
            Ok(places.len() - 1)
        };
        let default = default.map(&mut place).transpose()?;
        let mut prefixes: BTreeMap<Cidr, usize> = BTreeMap::new();
        for (cidr, id) in rows {
            check("prefixes", prefixes.len() + 1, PREFIXES_MAX)?;
            if prefixes.insert(cidr.parse()?, place(id)?).is_some() {
                return Err(PrefixError::Twice { text: cidr.to_owned() });
            }
        }
        let (starts, owners) = flatten(default, &prefixes);
        Ok(Self { starts, owners, places })
    }
    /// Where `ip` is.
    #[must_use]
    pub fn locate(&self, ip: IpAddr) -> Located<'_> {
        let v4 = match ip {
            IpAddr::V4(_) => true,
            IpAddr::V6(v6) => v6.to_ipv4_mapped().is_some(),
        };
        let address = bits(ip);
        let range = self.starts.partition_point(|&start| start <= address) - 1;
        let first = self.starts[range];
        let last = self.starts.get(range + 1).map_or(u128::MAX, |&next| next - 1);
        // The shortest prefix around the address that stays inside its range.
        let inside = |len: &u8| address & !host_mask(*len) >= first && address | host_mask(*len) <= last;
        let len = (0..=128).find(inside).unwrap_or(128);
        let scope_len = if v4 { len.saturating_sub(96) } else { len };
        Located {
            place: self.owners[range].map(|owner| &self.places[owner]),
            scope_len,
        }
    }
}

fn check(what: &'static str, found: usize, max: usize) -> Result<(), PrefixError> {
    if found > max {
        Err(PrefixError::TooMany { what, found, max })
    } else {
        Ok(())
    }
}

/// Turns nested prefixes, sorted by base and then by length, into ranges that follow one another.
fn flatten(default: Option<usize>, prefixes: &BTreeMap<Cidr, usize>) -> (Vec<u128>, Vec<Option<usize>>) {
    let (mut starts, mut owners) = (vec![0], vec![default]);
    let mut begin = |at: u128, owner: Option<usize>| {
        if starts.last() == Some(&at) {
            owners.pop();
            starts.pop();
        }
        if owners.last() != Some(&owner) {
            starts.push(at);
            owners.push(owner);
        }
    };
    // Prefixes that hold the present address, outermost first.
    let mut open: Vec<Open> = Vec::new();
    for (cidr, &owner) in prefixes {
        close(&mut open, Some(cidr.base), default, &mut begin);
        begin(cidr.base, Some(owner));
        open.push((cidr.last(), Some(owner)));
    }
    close(&mut open, None, default, &mut begin);
    (starts, owners)
}

/// A prefix that is not over yet: its last address and its place.
type Open = (u128, Option<usize>);

/// Ends every open prefix that lies before `next`; after each the one around it, or the default, goes on.
fn close(
    open: &mut Vec<Open>,
    next: Option<u128>,
    default: Option<usize>,
    begin: &mut impl FnMut(u128, Option<usize>),
) {
    while let Some(&(last, _)) = open.last() {
        if next.is_some_and(|next| next <= last) {
            return;
        }
        open.pop();
        if let Some(after) = last.checked_add(1) {
            begin(after, open.last().map_or(default, |&(_, owner)| owner));
        }
    }
}

/// The first `len` bits of `ip`, the rest zero: what an address may be shortened to before it is used as a key.
#[must_use]
pub fn network_of(ip: IpAddr, v4_len: u8, v6_len: u8) -> IpAddr {
    match ip {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shr(u32::from(v4_len)).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from(u32::from(v4) & !mask))
        }
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from(u128::from(v6) & !host_mask(v6_len))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn table(rows: &[(&str, &str)]) -> Result<PrefixTable, PrefixError> {
        PrefixTable::build(Some("fra"), rows.iter().copied(), Places::builtin())
    }

    fn id(table: &PrefixTable, ip: &str) -> String {
        table
            .locate(ip.parse().unwrap())
            .place
            .map_or_else(String::new, |p| p.id.clone())
    }

    #[test]
    fn the_longest_prefix_wins_and_the_default_covers_the_rest() {
        let t = table(&[
            ("10.0.0.0/8", "iad"),
            ("10.1.0.0/16", "nrt"),
            ("10.1.2.0/24", "syd"),
            ("2001:db8::/32", "sin"),
        ]);
        let t = t.unwrap();
        let at = |ip: &str| (id(&t, ip), t.locate(ip.parse().unwrap()).scope_len);
        assert_eq!(at("10.1.2.3"), ("syd".to_owned(), 24));
        assert_eq!(
            at("10.1.3.3"),
            ("nrt".to_owned(), 24),
            "10.1.3.0/24 is the largest block beside 10.1.2.0/24"
        );
        assert_eq!(at("10.1.255.255"), ("nrt".to_owned(), 17));
        assert_eq!(at("10.9.9.9").0, "iad");
        assert_eq!(at("192.0.2.1").0, "fra");
        assert_eq!(at("2001:db8::1"), ("sin".to_owned(), 32));
        assert_eq!(at("::ffff:10.1.2.3"), ("syd".to_owned(), 24));
    }

    #[test]
    fn toml_and_csv_say_the_same() {
        let toml = "default = \"fra\"\n[[prefix]]\ncidr = \"127.1.0.0/16\"\nplace = \"iad\"\n";
        let csv = "# clients\ndefault,fra\n127.1.0.0/16,iad\n";
        for table in [
            PrefixTable::parse_toml(toml, Places::builtin()),
            PrefixTable::parse_csv(csv, Places::builtin()),
        ] {
            let table = table.unwrap();
            assert_eq!(
                (id(&table, "127.1.3.4"), id(&table, "127.2.3.4")),
                ("iad".to_owned(), "fra".to_owned())
            );
        }
    }

    #[test]
    fn ambiguous_or_malformed_prefixes_are_refused() {
        for bad in [
            "10.0.0.1/8",
            "10.0.0.0/33",
            "10.0.0.0",
            "x/8",
            "2001:db8::/129",
            "/",
            "",
        ] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
        assert!(matches!(
            table(&[("10.0.0.0/8", "iad"), ("10.0.0.0/8", "nrt")]),
            Err(PrefixError::Twice { .. })
        ));
        assert!(matches!(
            table(&[("10.0.0.0/8", "nowhere")]),
            Err(PrefixError::Place { .. })
        ));
        assert!(PrefixTable::parse_csv("10.0.0.0/8", Places::builtin()).is_err());
    }

    #[test]
    fn the_whole_address_space_can_be_one_prefix() {
        let t = table(&[("::/0", "iad"), ("255.255.255.255/32", "nrt")]).unwrap();
        assert_eq!(id(&t, "::"), "iad");
        assert_eq!(t.locate("255.255.255.255".parse().unwrap()).scope_len, 32);
    }

    #[test]
    fn without_a_default_an_address_in_no_prefix_is_nowhere() {
        let t = PrefixTable::parse_csv("10.0.0.0/8,iad", Places::builtin()).unwrap();
        assert_eq!(
            (id(&t, "10.1.1.1"), id(&t, "11.1.1.1")),
            ("iad".to_owned(), String::new())
        );
        assert_eq!(t.locate("11.1.1.1".parse().unwrap()).scope_len, 8);
    }

    proptest! {
        /// Goal: flattening never changes what the longest match says. Method: compare with the obvious search, also at the
        /// edges of each prefix, and check the scope's whole block at its two ends.
        #[test]
        fn ranges_agree_with_the_obvious_longest_match(
            raw in proptest::collection::vec((any::<u16>(), 0u8..=16, 0usize..4), 0..24), probes in proptest::collection::vec(any::<u16>(), 8)
        ) {
            let ids = ["iad", "nrt", "syd", "sin"];
            let mut rows: BTreeMap<String, &str> = BTreeMap::new();
            for (net, len, id) in raw {
                let base = u32::from(net) << 16 & !u32::MAX.checked_shr(u32::from(len)).unwrap_or(0);
                rows.insert(format!("{}/{len}", Ipv4Addr::from(base)), ids[id]);
            }
            let list: Vec<(&str, &str)> = rows.iter().map(|(a, b)| (a.as_str(), *b)).collect();
            let t = table(&list).unwrap();
            let obvious = |ip: IpAddr| list.iter()
                .map(|(c, id)| (c.parse::<Cidr>().unwrap(), *id))
                .filter(|(c, _)| c.contains(ip)).max_by_key(|(c, _)| c.len).map_or("fra", |(_, id)| id);
            for probe in probes {
                let ip = IpAddr::V4(Ipv4Addr::from(u32::from(probe) << 16));
                let found = t.locate(ip);
                let owner = found.place.unwrap().id.as_str();
                prop_assert_eq!(owner, obvious(ip));
                let first = network_of(ip, found.scope_len, 128);
                let IpAddr::V4(v4) = first else { unreachable!() };
                let last = IpAddr::V4(Ipv4Addr::from(u32::from(v4) | u32::MAX.checked_shr(u32::from(found.scope_len)).unwrap_or(0)));
                prop_assert_eq!(obvious(first), owner);
                prop_assert_eq!(obvious(last), owner);
            }
        }
        #[test]
        fn no_text_makes_a_table_panic(text in ".{0,200}") {
            let _ = PrefixTable::parse_toml(&text, Places::builtin());
            let _ = PrefixTable::parse_csv(&text, Places::builtin());
        }
    }
}
