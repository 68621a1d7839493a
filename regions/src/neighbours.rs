//! Which other nodes a node may name to those whom it refuses: near ones that are well, of every boundary it stands in.
//!
//! ```text
//!   nodes that are well -> room before full, own region, then nearest, then hashed -> the first few of each boundary
//! ```
//! Invariant: what is told for a boundary stands inside it. The node that names one compares again, tenant by tenant.

use std::cmp::Ordering;

use proto::limits::{ELSEWHERE_MAX, NEIGHBOURS_MAX, SPILL_QUEUED_ROWS};

use crate::geo::Position;
use crate::policy::Boundaries;
use crate::steer::mix;
use crate::topology::token;

/// A node that is well, as far as others may be sent there.
#[derive(Clone, Copy, Debug)]
pub struct Well<'a> {
    /// Its name, `region/node`.
    pub name: &'a str,
    /// Its region's name.
    pub region: &'a str,
    /// ISO 3166-1 alpha-2.
    pub country: &'a str,
    /// Where its region is.
    pub position: Position,
    /// Requests in its queues.
    pub queued: u32,
}

/// The nodes that `own` may name, as indices into `others`, best first and at most [`NEIGHBOURS_MAX`]: of each boundary
/// that holds its country the first [`ELSEWHERE_MAX`]. Nodes that are equally good come in an order of `own`'s, so that
/// those whom a region refuses do not all go to one. Cost: a sort of `others`.
#[must_use]
pub fn neighbours(own: &Well<'_>, others: &[Well<'_>], boundaries: &Boundaries) -> Vec<usize> {
    let affinity = token(own.name.as_bytes());
    let rank = |other: &Well<'_>| {
        let full = other.queued > SPILL_QUEUED_ROWS;
        let away = other.region != own.region;
        let km = own.position.km_to(other.position);
        (full, away, km, mix(token(other.name.as_bytes()) ^ affinity))
    };
    let mut ranked: Vec<_> = others.iter().map(rank).enumerate().collect();
    ranked.retain(|(index, _)| others[*index].name != own.name);
    let order = |a: &(bool, bool, f64, u64), b: &(bool, bool, f64, u64)| -> Ordering {
        let km = || a.2.total_cmp(&b.2);
        (a.0, a.1).cmp(&(b.0, b.1)).then_with(km).then(a.3.cmp(&b.3))
    };
    ranked.sort_by(|(_, a), (_, b)| order(a, b));
    let mut told = vec![false; others.len()];
    for boundary in boundaries.names().filter(|b| boundaries.allows(b, own.country)) {
        let inside = |index: &usize| boundaries.allows(boundary, others[*index].country);
        let indices = ranked.iter().map(|(index, _)| *index);
        for index in indices.filter(inside).take(ELSEWHERE_MAX) {
            told[index] = true;
        }
    }
    let indices = ranked.iter().map(|(index, _)| *index);
    indices.filter(|&index| told[index]).take(NEIGHBOURS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Name, region, country, degrees east on one parallel.
    type Row = (&'static str, &'static str, &'static str, i32);

    const FLEET: [Row; 9] = [
        ("fra/n1", "fra", "DE", 9),
        ("fra/n2", "fra", "DE", 9),
        ("fra/n3", "fra", "DE", 9),
        ("zrh/n1", "zrh", "CH", 9),
        ("osl/n1", "osl", "NO", 11),
        ("ams/n1", "ams", "NL", 5),
        ("lon/n1", "lon", "GB", 0),
        ("iad/n1", "iad", "US", -77),
        ("mad/n1", "mad", "ES", -4),
    ];

    fn well(row: &Row, queued: u32) -> Well<'static> {
        Well {
            name: row.0,
            region: row.1,
            country: row.2,
            position: Position::from_e6(50_000_000, row.3 * 1_000_000).unwrap(),
            queued,
        }
    }

    fn named(own: &str, boundary: &str, queued: impl Fn(&str) -> u32) -> Vec<&'static str> {
        let others: Vec<_> = FLEET.iter().map(|row| well(row, queued(row.0))).collect();
        let own = others.iter().find(|node| node.name == own).unwrap();
        let (all, boundary) = (Boundaries::builtin(), boundary.parse().unwrap());
        let inside = neighbours(own, &others, all).into_iter().map(|index| &others[index]);
        inside
            .filter(|node| all.allows(&boundary, node.country))
            .map(|node| node.name)
            .collect()
    }

    #[test]
    fn its_own_region_comes_first_and_then_the_nearest_of_each_boundary() {
        let all = named("fra/n1", "eea", |_| 0);
        let (near, far) = all.split_at(2);
        assert!(near.contains(&"fra/n2") && near.contains(&"fra/n3"), "{all:?}");
        assert_eq!(
            far,
            ["osl/n1", "ams/n1", "mad/n1"],
            "Madrid is there for tenants of the eu"
        );
        assert!(named("fra/n1", "global", |_| 0).contains(&"zrh/n1"));
    }

    #[test]
    fn a_node_that_is_full_is_named_after_those_that_are_not() {
        let full = |name: &str| if name == "fra/n2" { SPILL_QUEUED_ROWS + 1 } else { 0 };
        let all = named("fra/n1", "eu", full);
        assert_eq!(all.first(), Some(&"fra/n3"));
        assert!(!all.contains(&"fra/n1"));
    }

    #[test]
    fn nodes_of_one_region_do_not_all_name_the_same_one_first() {
        let first = |own| named(own, "eu", |_| 0)[0];
        let all: std::collections::BTreeSet<_> = ["fra/n1", "fra/n2", "fra/n3"].map(first).into();
        assert!(all.len() > 1);
    }

    proptest! {
        /// Goal: whoever is refused finds a lawful node in the list if there is one that is well.
        #[test]
        fn each_boundary_of_the_node_has_its_nearest_in_the_list(own in 0..FLEET.len(), well_bits in 0_u32..512) {
            let others: Vec<_> = FLEET.iter().enumerate().filter(|(i, _)| well_bits >> i & 1 == 1)
                .map(|(_, row)| well(row, 0)).collect();
            let own = well(&FLEET[own], 0);
            let all = Boundaries::builtin();
            let told = neighbours(&own, &others, all);
            prop_assert!(told.len() <= NEIGHBOURS_MAX);
            for boundary in all.names().filter(|b| all.allows(b, own.country)) {
                let may = |node: &&Well<'_>| node.name != own.name && all.allows(boundary, node.country);
                let there = others.iter().filter(may).count();
                let named = told.iter().map(|&i| &others[i]).filter(may).count();
                prop_assert!(named >= there.min(ELSEWHERE_MAX), "{boundary}");
            }
        }
    }
}
