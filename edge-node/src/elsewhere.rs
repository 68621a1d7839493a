//! Where else a request may go that this node refuses: what the control plane told of other nodes, by the tenant's boundary.
//!
//! Invariant: a node outside the tenant's boundary is never named, whatever was told.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use proto::ids::{BoundaryId, ModelName, NodeId};
use proto::limits::{ELSEWHERE_MAX, NEIGHBOURS_MAX};
use proto::message::Neighbour;
use regions::affinity::place;
use regions::policy::Boundaries;

/// How long what was told is passed on: later, those nodes may be gone.
const FRESH: Duration = Duration::from_secs(30);

/// Other nodes, as they were told last.
#[derive(Debug, Default)]
pub struct Elsewhere {
    neighbours: Vec<Neighbour>,
    told: Option<Instant>,
}

impl Elsewhere {
    /// What was told at `now`, best first. More than [`NEIGHBOURS_MAX`] are not kept.
    #[must_use]
    pub fn told(mut neighbours: Vec<Neighbour>, now: Instant) -> Self {
        neighbours.truncate(NEIGHBOURS_MAX);
        Self {
            neighbours,
            told: Some(now),
        }
    }

    /// Addresses of at most [`ELSEWHERE_MAX`] nodes that answer for `model` and may do so for tenants of `boundary`:
    /// `https://HOST:PORT`, with commas between. None when nobody is known.
    #[must_use]
    pub fn of(
        &self,
        boundaries: &Boundaries,
        boundary: &BoundaryId,
        model: &ModelName,
        now: Instant,
    ) -> Option<String> {
        let told = self.told?;
        if now.saturating_duration_since(told) > FRESH {
            return None;
        }
        let may = |n: &&Neighbour| boundaries.allows(boundary, &n.country) && n.models.contains(model);
        let addresses = self.neighbours.iter().filter(may).take(ELSEWHERE_MAX);
        let addresses: Vec<String> = addresses.map(|n| format!("https://{}", n.ingress)).collect();
        (!addresses.is_empty()).then(|| addresses.join(", "))
    }

    /// How many nodes of `own`'s region stand before it where copies of a model are to be kept, by model; none of a model that is not
    /// told. Of a large region few nodes are told, so more may stand before it than it knows: then it keeps a copy that need not be.
    #[must_use]
    pub fn ahead(&self, own: &NodeId) -> BTreeMap<ModelName, usize> {
        let name = own.to_string();
        let mut ahead = BTreeMap::new();
        for other in self.neighbours.iter().filter(|n| n.node.region == own.region) {
            let theirs = other.node.to_string();
            for model in &other.models {
                if place(&theirs, model.as_str()) < place(&name, model.as_str()) {
                    *ahead.entry(model.clone()).or_default() += 1;
                }
            }
        }
        ahead
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn neighbour(last: usize, country: &str, model: &str) -> Neighbour {
        Neighbour {
            node: format!("r/n{last}").parse().unwrap(),
            ingress: format!("192.0.2.{last}:443").parse().unwrap(),
            country: country.to_owned(),
            models: vec![model.parse().unwrap()],
        }
    }

    fn of(neighbours: Vec<Neighbour>, boundary: &str, age: Duration) -> Option<String> {
        let now = runtime::clock::instant();
        let elsewhere = Elsewhere::told(neighbours, now);
        let (boundary, model) = (boundary.parse().unwrap(), "m".parse().unwrap());
        elsewhere.of(Boundaries::builtin(), &boundary, &model, now + age)
    }

    #[test]
    fn only_nodes_that_hold_the_model_inside_the_boundary_are_named_in_the_order_told() {
        let all = || {
            vec![
                neighbour(1, "CH", "m"),
                neighbour(2, "NL", "m"),
                neighbour(3, "DE", "other"),
                neighbour(4, "DE", "m"),
            ]
        };
        let named = Some("https://192.0.2.2:443, https://192.0.2.4:443".to_owned());
        assert_eq!(of(all(), "eu", Duration::ZERO), named);
        assert_eq!(of(all(), "uk", Duration::ZERO), None);
        assert_eq!(of(all(), "eu", FRESH), named);
        assert_eq!(
            of(all(), "eu", FRESH + Duration::from_millis(1)),
            None,
            "they may be gone"
        );
    }

    #[test]
    fn of_each_model_as_many_nodes_keep_a_copy_as_are_asked_to() {
        let nodes: Vec<usize> = (1..=5).collect();
        for model in ["m", "n", "o"] {
            let ahead = |own: usize| {
                let others = nodes.iter().filter(|n| **n != own);
                let told = others.map(|n| neighbour(*n, "DE", model)).collect();
                let ahead =
                    Elsewhere::told(told, runtime::clock::instant()).ahead(&format!("r/n{own}").parse().unwrap());
                ahead.get(model).copied().unwrap_or(0)
            };
            let mut all: Vec<usize> = nodes.iter().map(|own| ahead(*own)).collect();
            all.sort_unstable();
            assert_eq!(all, [0, 1, 2, 3, 4], "each stands in a place of its own");
        }
        let abroad = Elsewhere::told(vec![neighbour(1, "DE", "m")], runtime::clock::instant());
        assert_eq!(
            abroad.ahead(&"s/n2".parse().unwrap()),
            BTreeMap::new(),
            "another region"
        );
    }

    #[test]
    fn who_has_been_told_nothing_names_nobody() {
        let (boundary, model) = ("global".parse().unwrap(), "m".parse().unwrap());
        let named = Elsewhere::default().of(Boundaries::builtin(), &boundary, &model, runtime::clock::instant());
        assert_eq!(named, None);
    }

    proptest! {
        /// Goal: the list is never a way out of a boundary, also when the control plane tells nonsense.
        #[test]
        fn whatever_is_told_nobody_outside_is_named_and_never_more_than_four(
            told in prop::collection::vec((0..40_usize, prop::sample::select(vec!["DE", "NO", "US", "CH", "", "de", "XX"])), 0..60),
            boundary in prop::sample::select(vec!["eu", "eea", "us", "global", "nowhere"]),
        ) {
            let neighbours = told.iter().map(|(last, country)| neighbour(*last, country, "m")).collect();
            let named = of(neighbours, boundary, Duration::ZERO).unwrap_or_default();
            let named: Vec<&str> = named.split(", ").filter(|name| !name.is_empty()).collect();
            prop_assert!(named.len() <= ELSEWHERE_MAX);
            for name in named {
                let inside = |(last, country): &(usize, &str)| {
                    format!("https://192.0.2.{last}:443") == name
                        && Boundaries::builtin().allows(&boundary.parse().unwrap(), country)
                };
                prop_assert!(told.iter().any(inside), "{name}");
            }
        }
    }
}
