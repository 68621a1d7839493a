use std::collections::{HashSet, VecDeque};

use proptest::prelude::*;

use super::*;
use crate::geo::Places;
use crate::health::{Event, Health};
use crate::policy::Boundaries;
use crate::steer::tests::{all_up, fleet};
use crate::steer::{Ask, pick};

/// The decision about a client near the first region, whose nodes are equally good.
fn decide(fleet: &Topology, health: &Health, client: u64) -> Decision {
    let boundary = "global".parse().unwrap();
    let ask = Ask {
        client: Some(Places::builtin().get("fra").unwrap().position),
        boundary: &boundary,
        model: None,
        affinity: mix(client),
    };
    pick(&ask, Boundaries::builtin(), fleet, health, 1_000)
}

fn chosen(fleet: &Topology, health: &Health, content: u64, in_flight: &InFlight) -> usize {
    let mut decision = decide(fleet, health, content ^ 77);
    decision.choose_by(content, fleet, in_flight);
    decision.outcome.unwrap()
}

#[test]
fn the_same_input_meets_the_same_node_whoever_asks() {
    let fleet = fleet(&["fra", "dub"], 5);
    let health = all_up(&fleet);
    let mut met = HashSet::new();
    for content in 0..200 {
        let of = |client| {
            let mut decision = decide(&fleet, &health, client);
            assert_eq!(decision.equal, 5, "only nodes of the nearest region");
            decision.choose_by(mix(content), &fleet, &InFlight::default());
            decision.outcome.unwrap()
        };
        let first = of(0);
        assert!((1..20).all(|client| of(client) == first));
        met.insert(first);
    }
    assert_eq!(met.len(), 5, "and all nodes have their share");
}

#[test]
fn a_node_that_falls_takes_only_its_own_inputs_along() {
    let fleet = fleet(&["fra"], 6);
    let (well, mut hurt) = (all_up(&fleet), all_up(&fleet));
    for _ in 0..2 {
        hurt.on(&fleet.nodes[2].id, Event::Unanswered, 1_000);
    }
    let (mut moved, none) = (0, InFlight::default());
    for content in (0..6_000).map(mix) {
        let (before, after) = (
            chosen(&fleet, &well, content, &none),
            chosen(&fleet, &hurt, content, &none),
        );
        assert_ne!(after, 2);
        moved += usize::from(before != after);
        assert!(before == 2 || before == after, "an input of another node stays there");
    }
    assert!((800..1_200).contains(&moved), "a sixth of 6,000 moves: {moved}");
}

#[test]
fn a_loaded_node_passes_on_to_the_next_in_order_and_to_the_same_one_each_time() {
    let fleet = fleet(&["fra"], 4);
    let (health, mut in_flight) = (all_up(&fleet), InFlight::default());
    let mut decision = decide(&fleet, &health, 1);
    decision.choose_by(5, &fleet, &in_flight);
    let order: Vec<usize> = decision.accepted().map(|c| c.node).collect();
    for _ in 0..FREE_IN_FLIGHT {
        assert_eq!(chosen(&fleet, &health, 5, &in_flight), order[0], "so few are no load");
        in_flight.began(&fleet.nodes[order[0]]);
    }
    decision.choose_by(5, &fleet, &in_flight);
    let after: Vec<usize> = decision.accepted().map(|c| c.node).collect();
    assert_eq!(after, [order[1], order[2], order[3], order[0]]);
    assert_eq!(decision.candidates[0].verdict, Verdict::Accepted(0));
    in_flight.ended(&fleet.nodes[order[0]]);
    assert_eq!(chosen(&fleet, &health, 5, &in_flight), order[0]);
}

/// A number below `2^17`, each octave as likely as the other: few inputs are asked often, most of them seldom.
fn popular(seed: u64) -> u64 {
    let (octave, rest) = (seed % 17, mix(seed ^ 1));
    (1 << octave) + rest % (1 << octave)
}

/// Hits of 1,000 when `requests` of `popular` inputs are asked with `window` in flight, and the largest load over the
/// bound that ever was. Each node remembers all that it answered.
fn hits(nodes: usize, window: usize, requests: u64, by_content: bool) -> (u64, u64) {
    let fleet = fleet(&["fra"], nodes);
    let (health, mut in_flight) = (all_up(&fleet), InFlight::default());
    let mut kept: Vec<HashSet<u64>> = vec![HashSet::new(); nodes];
    let (mut flying, mut found, mut over) = (VecDeque::new(), 0, 0);
    for n in 0..requests {
        let input = popular(mix(n));
        let mut decision = decide(&fleet, &health, mix(n ^ 0xabc));
        if by_content {
            decision.choose_by(mix(input), &fleet, &in_flight);
        }
        let node = decision.outcome.unwrap();
        found += u64::from(!kept[node].insert(input));
        in_flight.began(&fleet.nodes[node]);
        flying.push_back(node);
        let total = u64::try_from(flying.len()).unwrap();
        let load = u64::from(in_flight.of(&fleet.nodes[node]));
        // 1.25 times the mean, and the request that fills it up; or so few that they are no load.
        let quarters = 4 * u64::try_from(nodes).unwrap();
        let allowed = (5 * total).div_ceil(quarters).max(8);
        over = over.max(load.saturating_sub(allowed));
        if flying.len() > window {
            let node = flying.pop_front().unwrap();
            in_flight.ended(&fleet.nodes[node]);
        }
    }
    (found * 1_000 / requests, over)
}

#[test]
fn repeated_inputs_over_many_nodes_are_found_about_as_often_as_on_one() {
    const REQUESTS: u64 = 40_000;
    let (one, _) = hits(1, 1, REQUESTS, true);
    println!("one node {one}");
    for (nodes, window, lost_max) in [(4, 16, 15), (4, 256, 15), (8, 32, 25), (8, 512, 25)] {
        let (content, over) = hits(nodes, window, REQUESTS, true);
        let (client, _) = hits(nodes, window, REQUESTS, false);
        println!("{nodes} nodes, {window} in flight: by content {content}, by client {client}, of 1,000");
        assert_eq!(over, 0, "no node is ever above its bound");
        assert!(content + lost_max >= one, "{content} of {one}");
        assert!(
            client + lost_max < content,
            "{client} by client is no worse than {content}"
        );
    }
}

proptest! {
    /// Goal: whatever is in flight, content takes nobody in who was not equally good, loses nobody, and goes to no node
    /// that is over its bound.
    #[test]
    fn content_only_orders_equals_and_keeps_the_bound(
        content: u64, loads in prop::collection::vec(0..60_u32, 8), sick in 0..8_usize,
    ) {
        let fleet = fleet(&["fra", "dub"], 4);
        let mut health = all_up(&fleet);
        health.on(&fleet.nodes[sick].id, Event::Unanswered, 1_000);
        let mut in_flight = InFlight::default();
        for (node, load) in fleet.nodes.iter().zip(&loads) {
            (0..*load).for_each(|_| in_flight.began(node));
        }
        let before = decide(&fleet, &health, content);
        let mut after = before.clone();
        after.choose_by(content, &fleet, &in_flight);
        let equal = before.equal;
        let nodes = |d: &Decision, range: std::ops::Range<usize>| -> Vec<usize> {
            d.candidates[range].iter().map(|c| c.node).collect()
        };
        let all = before.candidates.len();
        prop_assert_eq!(nodes(&before, equal..all), nodes(&after, equal..all));
        let (mut a, mut b) = (nodes(&before, 0..equal), nodes(&after, 0..equal));
        let first = b[0];
        a.sort_unstable();
        b.sort_unstable();
        prop_assert_eq!(&a, &b);
        let total: u64 = a.iter().map(|&n| u64::from(loads[n])).sum();
        let bound = bound(total + 1, u64::try_from(equal).unwrap());
        prop_assert!(u64::from(loads[first]) < bound, "somebody is always below the mean");
    }

    /// Goal: what has ended is no load, in whatever order it began and ended.
    #[test]
    fn all_that_began_and_ended_leaves_nothing(order in prop::collection::vec(0..4_usize, 0..64)) {
        let fleet = fleet(&["fra"], 4);
        let mut in_flight = InFlight::default();
        order.iter().for_each(|&n| in_flight.began(&fleet.nodes[n]));
        order.iter().rev().for_each(|&n| in_flight.ended(&fleet.nodes[n]));
        in_flight.ended(&fleet.nodes[0]);
        prop_assert!(in_flight.0.is_empty());
    }
}
