//! Which other nodes a node may name to those whom it refuses: told from the log and the last reports.

use std::collections::{BTreeMap, HashMap};

use proto::entry::Fleet;
use proto::ids::{ContentHash, ModelName, NodeId, UnixMs};
use proto::limits::MODELS_MAX;
use proto::message::{Neighbour, NodeReport, Response, Stage};
use regions::geo::Position;
use regions::neighbours::{Well, neighbours};
use regions::policy::Boundaries;
use runtime::clock;
use runtime::identity::Role;

use super::answer::blocking;
use super::{Caller, Refused, Service};
use crate::registry::Seen;

/// A node that has not reported for this long may be gone: a report comes every second.
const SILENT_MS: u64 = 5_000;

impl Service {
    pub(super) async fn neighbours(&self, caller: &Caller) -> Result<Response, Refused> {
        let Role::Node(node) = &caller.role else {
            return Err(super::forbidden("only nodes have neighbours"));
        };
        let (ledger, registry, node) = (self.ledger.clone(), self.registry.clone(), node.clone());
        let told = blocking(move || {
            let snapshot = ledger.snapshot();
            registry.look(|seen| neighbours_of(&node, &snapshot.fleet, seen, clock::now_ms()))
        });
        told.await.map(Response::Neighbours)
    }
}

/// The neighbours of `node`: enrolled, heard of lately and answering for at least one model.
fn neighbours_of(node: &NodeId, fleet: &Fleet, seen: &BTreeMap<NodeId, Seen>, now: UnixMs) -> Vec<Neighbour> {
    let named = |id: &NodeId| id.to_string();
    let own_name = named(node);
    let heard = seen.iter().filter(|(_, seen)| now <= seen.at.saturating_add(SILENT_MS));
    let serving = heard.filter(|(_, seen)| serves(&seen.report).next().is_some());
    let enrolled = serving.filter_map(|(id, seen)| Some((id, fleet.nodes.get(id).filter(|n| n.enrolled)?, seen)));
    let all: Vec<_> = enrolled.map(|(id, entry, seen)| (named(id), id, entry, seen)).collect();
    let place = |name, id: &NodeId, queued| {
        let (region, info) = fleet.regions.get_key_value(&id.region)?;
        let position = Position::from_e6(info.lat_e6, info.lon_e6).ok()?;
        Some((region.as_str(), info.country.as_str(), position)).map(|(region, country, position)| Well {
            name,
            region,
            country,
            position,
            queued,
        })
    };
    let Some(own) = place(&own_name, node, 0) else {
        return Vec::new();
    };
    let placed = all.iter().filter_map(|line| {
        let (name, id, _, seen) = line;
        Some((place(name, id, seen.report.queued)?, line))
    });
    let (wells, lines): (Vec<_>, Vec<_>) = placed.unzip();
    let models = models_of(fleet);
    let told = neighbours(&own, &wells, Boundaries::builtin()).into_iter();
    told.map(|index| {
        let (_, id, entry, seen) = lines[index];
        let served = serves(&seen.report).filter_map(|manifest| models.get(manifest).copied().cloned());
        Neighbour {
            node: (*id).clone(),
            ingress: entry.ingress,
            country: wells[index].country.to_owned(),
            models: served.take(MODELS_MAX).collect(),
        }
    })
    .collect()
}

/// Manifests of what a node answers with.
fn serves(report: &NodeReport) -> impl Iterator<Item = &ContentHash> {
    let serving = report.models.iter().filter(|model| model.stage == Stage::Serving);
    serving.map(|model| &model.manifest)
}

fn models_of(fleet: &Fleet) -> HashMap<ContentHash, &ModelName> {
    let releases = fleet.releases.iter();
    let of = |(model, versions): (_, &'_ BTreeMap<_, proto::entry::Published>)| -> Vec<_> {
        versions.values().map(|published| (published.manifest, model)).collect()
    };
    releases.flat_map(of).collect()
}

#[cfg(test)]
mod tests {
    use proto::entry::{NodeEntry, Published};
    use proto::message::ModelReport;
    use proto::region_state::RegionInfo;
    use proto::signed::PublicKey;

    use super::*;

    const NOW: UnixMs = 1_000_000;

    fn manifest() -> ContentHash {
        ContentHash::of(b"manifest")
    }

    fn seen(stage: Stage, at: UnixMs) -> Seen {
        let model = ModelReport {
            manifest: manifest(),
            stage,
            fetched_bytes: 0,
            need_bytes: 0,
            ready: None,
        };
        let report = NodeReport {
            seq: 1,
            checkpoint: String::new(),
            models: vec![model],
            queued: 0,
            stopped: None,
        };
        Seen { report, at }
    }

    fn fleet(nodes: &[&str]) -> Fleet {
        let mut fleet = Fleet::default();
        for (region, country, lon_e6) in [
            ("fra", "DE", 9_000_000),
            ("ams", "NL", 5_000_000),
            ("zrh", "CH", 9_000_000),
        ] {
            let id: proto::ids::RegionId = region.parse().unwrap();
            let info = RegionInfo {
                id: id.clone(),
                country: country.to_owned(),
                lat_e6: 50_000_000,
                lon_e6,
            };
            fleet.regions.insert(id, info);
        }
        for name in nodes {
            let entry = NodeEntry {
                class: "cpu".parse().unwrap(),
                ingress: "192.0.2.1:443".parse().unwrap(),
                key: PublicKey::of(&ed25519_dalek::SigningKey::from_bytes(&[1; 32])),
                enrolled: *name != "fra/revoked",
            };
            fleet.nodes.insert(name.parse().unwrap(), entry);
        }
        let published = Published {
            manifest: manifest(),
            time: 0,
        };
        let versions = [("1".parse().unwrap(), published)];
        fleet.releases.insert("minilm".parse().unwrap(), versions.into());
        fleet
    }

    #[test]
    fn only_nodes_that_are_enrolled_heard_of_lately_and_serving_are_told() {
        let lines = [
            ("fra/n1", Stage::Serving, NOW),
            ("fra/n2", Stage::Serving, NOW - SILENT_MS),
            ("fra/silent", Stage::Serving, NOW - SILENT_MS - 1),
            ("fra/warming", Stage::Warming, NOW),
            ("fra/revoked", Stage::Serving, NOW),
            ("ams/n1", Stage::Serving, NOW),
            ("zrh/n1", Stage::Serving, NOW),
        ];
        let fleet = fleet(&lines.each_ref().map(|line| line.0));
        let seen = lines
            .map(|(name, stage, at)| (name.parse().unwrap(), seen(stage, at)))
            .into();
        let told = neighbours_of(&"fra/n1".parse().unwrap(), &fleet, &seen, NOW);
        let lines: Vec<_> = told.iter().map(|n| (n.node.to_string(), n.country.as_str())).collect();
        let want = [("fra/n2", "DE"), ("zrh/n1", "CH"), ("ams/n1", "NL")];
        assert_eq!(lines, want.map(|(name, country)| (name.to_owned(), country)));
        assert_eq!(told[0].models, ["minilm".parse().unwrap()]);
    }
}
