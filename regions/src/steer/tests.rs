use proptest::prelude::*;
use proto::ids::{ContentHash, NodeId, Release};
use proto::region_state::{NodeInfo, RegionInfo, RouterView, Tenant};

use super::*;
use crate::explain;
use crate::geo::Places;
use crate::health::Event;

/// A fleet with `nodes` nodes in each of `places`; every region serves `minilm@1`.
pub(crate) fn fleet(places: &[&str], nodes: usize) -> Topology {
    let mut view = RouterView {
        seq: 7,
        epoch: 41,
        expires: 1,
        regions: Vec::new(),
        nodes: Vec::new(),
        serving: Vec::new(),
        tenants: vec![Tenant {
            id: "acme".parse().unwrap(),
            boundary: "eea".parse().unwrap(),
            key_hash: ContentHash::of(b"k"),
        }],
        checkpoint: String::new(),
    };
    for (i, id) in places.iter().enumerate() {
        let place = Places::builtin().get(id).unwrap();
        let region: proto::ids::RegionId = format!("r{i}-{id}").parse().unwrap();
        let (lat_e6, lon_e6) = place.position.to_e6();
        view.regions.push(RegionInfo {
            id: region.clone(),
            country: place.country.to_string(),
            lat_e6,
            lon_e6,
        });
        view.serving
            .push((region.clone(), "minilm@1".parse::<Release>().unwrap()));
        for n in 0..nodes {
            let id = NodeId {
                region: region.clone(),
                name: format!("n{n}").parse().unwrap(),
            };
            view.nodes.push(NodeInfo {
                id,
                ingress: "127.0.0.1:1".parse().unwrap(),
            });
        }
    }
    Topology::of(&view).unwrap()
}

fn at(place: &str) -> Position {
    Places::builtin().get(place).unwrap().position
}

fn known(place: &str) -> Option<Position> {
    Some(at(place))
}

fn up() -> Event {
    Event::Answered {
        readiness: Readiness::Ready,
        queued: 0,
        models: vec!["minilm".parse().unwrap()],
    }
}

pub(crate) fn all_up(fleet: &Topology) -> Health {
    let mut health = Health::default();
    fleet.nodes.iter().for_each(|n| {
        health.on(&n.id, up(), 0);
    });
    health
}

fn kill(health: &mut Health, fleet: &Topology, region: &str) {
    for n in fleet.nodes.iter().filter(|n| n.id.region.as_str().ends_with(region)) {
        (0..2).for_each(|_| {
            health.on(&n.id, Event::Unanswered, 0);
        });
    }
}

fn ask_from(place: &str, boundary: &str, fleet: &Topology, health: &Health) -> Result<String, Refusal> {
    let (boundary, model) = (boundary.parse().unwrap(), "minilm".parse().unwrap());
    let ask = Ask {
        client: known(place),
        boundary: &boundary,
        model: Some(&model),
        affinity: 3,
    };
    pick(&ask, Boundaries::builtin(), fleet, health, 0)
        .outcome
        .map(|n| fleet.nodes[n].id.region.to_string())
}

#[test]
fn a_client_gets_the_nearest_region_and_the_next_one_when_it_is_down() {
    let fleet = fleet(&["fra", "cdg", "iad"], 2);
    let mut health = all_up(&fleet);
    assert_eq!(ask_from("ber", "eea", &fleet, &health).unwrap(), "r0-fra");
    assert_eq!(ask_from("bos", "global", &fleet, &health).unwrap(), "r2-iad");
    kill(&mut health, &fleet, "fra");
    assert_eq!(ask_from("ber", "eea", &fleet, &health).unwrap(), "r1-cdg");
}

#[test]
fn with_the_whole_boundary_dead_the_answer_is_residency_and_not_another_continent() {
    let fleet = fleet(&["fra", "cdg", "iad"], 2);
    let mut health = all_up(&fleet);
    kill(&mut health, &fleet, "fra");
    kill(&mut health, &fleet, "cdg");
    assert_eq!(ask_from("ber", "eea", &fleet, &health), Err(Refusal::Residency));
    assert_eq!(ask_from("ber", "global", &fleet, &health).unwrap(), "r2-iad");
    kill(&mut health, &fleet, "iad");
    assert_eq!(ask_from("ber", "global", &fleet, &health), Err(Refusal::NoneHealthy));
    assert_eq!(ask_from("ber", "atlantis", &fleet, &health), Err(Refusal::Residency));
}

#[test]
fn a_model_nobody_serves_is_unknown_and_one_served_only_outside_is_a_matter_of_residency() {
    let mut fleet = fleet(&["fra", "iad"], 1);
    let health = Health::default();
    let eea = "eea".parse().unwrap();
    let ask = |fleet: &Topology, model: &str| {
        let model = model.parse().unwrap();
        let ask = Ask {
            client: known("fra"),
            boundary: &eea,
            model: Some(&model),
            affinity: 0,
        };
        pick(&ask, Boundaries::builtin(), fleet, &health, 0).outcome
    };
    assert_eq!(ask(&fleet, "no-such-model"), Err(Refusal::UnknownModel));
    assert!(ask(&fleet, "minilm").is_ok(), "nodes never heard of are worth a try");
    let mut view = view_of(&fleet);
    view.serving.remove(0);
    fleet = Topology::of(&view).unwrap();
    assert_eq!(ask(&fleet, "minilm"), Err(Refusal::Residency));
}

fn view_of(fleet: &Topology) -> RouterView {
    RouterView {
        seq: fleet.seq,
        epoch: fleet.epoch,
        expires: fleet.expires,
        regions: fleet
            .regions
            .iter()
            .map(|r| {
                let (lat_e6, lon_e6) = r.position.to_e6();
                RegionInfo {
                    id: r.id.clone(),
                    country: r.country.clone(),
                    lat_e6,
                    lon_e6,
                }
            })
            .collect(),
        nodes: fleet
            .nodes
            .iter()
            .map(|n| NodeInfo {
                id: n.id.clone(),
                ingress: n.ingress,
            })
            .collect(),
        serving: fleet
            .regions
            .iter()
            .map(|r| (r.id.clone(), "minilm@1".parse().unwrap()))
            .collect(),
        tenants: Vec::new(),
        checkpoint: String::new(),
    }
}

#[test]
fn equally_near_nodes_share_clients_and_a_loss_moves_only_its_own() {
    let fleet = fleet(&["fra"], 4);
    let (health, global) = (all_up(&fleet), "global".parse().unwrap());
    let chosen = |health: &Health, affinity: u64| {
        let ask = Ask {
            client: known("fra"),
            boundary: &global,
            model: None,
            affinity,
        };
        pick(&ask, Boundaries::builtin(), &fleet, health, 0).outcome.unwrap()
    };
    let mut counts = [0u32; 4];
    (0..4_000).for_each(|client| counts[chosen(&health, client)] += 1);
    assert!(counts.iter().all(|&c| (850..1150).contains(&c)), "{counts:?}");
    let mut one_down = all_up(&fleet);
    (0..2).for_each(|_| {
        one_down.on(&fleet.nodes[2].id, Event::Broke, 0);
    });
    for client in (0..4_000).filter(|&c| chosen(&health, c) != 2) {
        assert_eq!(chosen(&one_down, client), chosen(&health, client));
    }
}

#[test]
fn a_full_node_is_asked_after_the_others_but_is_not_refused() {
    let fleet = fleet(&["fra", "cdg"], 1);
    let mut health = all_up(&fleet);
    health.on(&fleet.nodes[0].id, Event::TurnedAway, 0);
    assert_eq!(ask_from("fra", "eea", &fleet, &health).unwrap(), "r1-cdg");
    kill(&mut health, &fleet, "cdg");
    assert_eq!(ask_from("fra", "eea", &fleet, &health).unwrap(), "r0-fra");
}

#[test]
fn the_explanation_names_every_node_with_its_reason() {
    let fleet = fleet(&["fra", "cdg", "iad"], 1);
    let mut health = all_up(&fleet);
    kill(&mut health, &fleet, "fra");
    let (eea, model) = ("eea".parse().unwrap(), "minilm".parse().unwrap());
    let ask = Ask {
        client: known("ber"),
        boundary: &eea,
        model: Some(&model),
        affinity: 0,
    };
    let decision = pick(&ask, Boundaries::builtin(), &fleet, &health, 0);
    let json = explain::to_json(&ask, &decision, &fleet);
    assert_eq!(json["chosen"], "r1-cdg/n0");
    assert_eq!(json["seq"], 7);
    assert_eq!(json["client"], "ber");
    assert_eq!(json["candidates"][1]["reason"], "down");
    assert_eq!(json["candidates"][2]["reason"], "outside-boundary");
    let table = explain::to_table(&decision, &fleet);
    assert_eq!(
        table,
        "node            km  verdict\nr1-cdg/n0      877  chosen\nr0-fra/n0      423  down\nr2-iad/n0     6727  outside-boundary\n"
    );
}

proptest! {
    /// Goal: the four promises of steering hold for every fleet, client, boundary and history of health. Method: compare
    /// with a search that does not share code with `pick`.
    #[test]
    fn the_pick_is_allowed_healthy_nearest_and_repeatable(
        picks in proptest::collection::vec(0usize..90, 1..12), nodes in 1usize..4, client in 0usize..90,
        boundary in prop_oneof![Just("eea"), Just("eu"), Just("us"), Just("jp"), Just("global"), Just("atlantis")],
        sick in proptest::collection::vec((any::<prop::sample::Index>(), 0u8..4), 0..20), affinity: u64
    ) {
        let ids: Vec<&str> = Places::builtin().iter().map(|p| p.id.as_str()).collect();
        let places: Vec<&str> = picks.iter().map(|&i| ids[i % ids.len()]).collect();
        let fleet = fleet(&places, nodes);
        let mut health = all_up(&fleet);
        for (which, how) in sick {
            let id = &fleet.nodes[which.index(fleet.nodes.len())].id;
            match how {
                0 => { health.on(id, Event::Broke, 0); }
                1 => (0..2).for_each(|_| { health.on(id, Event::Unanswered, 0); }),
                2 => { health.on(id, Event::LeavingSoon, 0); }
                _ => { health.on(id, Event::TurnedAway, 0); }
            }
        }
        let client = at(ids[client % ids.len()]);
        let boundary: BoundaryId = boundary.parse().unwrap();
        let ask = Ask { client: Some(client), boundary: &boundary, model: None, affinity };
        let decision = pick(&ask, Boundaries::builtin(), &fleet, &health, 0);
        prop_assert_eq!(&decision, &pick(&ask, Boundaries::builtin(), &fleet, &health, 0));
        prop_assert_eq!(decision.candidates.len(), fleet.nodes.len());

        let allowed = |n: usize| Boundaries::builtin().allows(&boundary, &fleet.region_of(n).country);
        let state = |n: usize| health.get(&fleet.nodes[n].id).unwrap().state(0);
        let usable = |n: usize| allowed(n) && state(n) != State::Down
            && health.get(&fleet.nodes[n].id).unwrap().readiness() == Readiness::Ready;
        for c in decision.accepted() {
            prop_assert!(usable(c.node));
        }
        let usable: Vec<usize> = (0..fleet.nodes.len()).filter(|&n| usable(n)).collect();
        prop_assert_eq!(decision.accepted().count(), usable.len());
        let Ok(chosen) = decision.outcome else {
            prop_assert!(usable.is_empty());
            return Ok(());
        };
        let spills = |n: usize| health.get(&fleet.nodes[n].id).unwrap().load().spills(0);
        let tier = |n: usize| (state(n) != State::Up, spills(n));
        let best = usable.iter().map(|&n| tier(n)).min().unwrap();
        prop_assert_eq!(tier(chosen), best);
        let km = |n: usize| client.km_to(fleet.region_of(n).position);
        let nearest = usable.iter().filter(|&&n| tier(n) == best).map(|&n| km(n)).fold(f64::INFINITY, f64::min);
        prop_assert_eq!(km(chosen), nearest);
    }
}
