//! The fleet as routers steer by it: a signed [`RouterView`], indexed once so that each decision is a walk over arrays.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;

use proto::ids::{BoundaryId, ContentHash, ModelName, NodeId, RegionId, TenantId, UnixMs};
use proto::region_state::RouterView;

use crate::geo::{GeoError, Position};

/// Why a view, though signed, cannot be steered by.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TopologyError {
    /// A region stands nowhere.
    #[error("region `{region}`: {source}")]
    Region {
        /// Which one.
        region: RegionId,
        /// Why.
        source: GeoError,
    },
    /// Two entries under one name.
    #[error("`{name}` stands in the view twice")]
    Twice {
        /// A region or node.
        name: String,
    },
    /// A node or release of a region that the view does not hold.
    #[error("the view names region `{region}` without saying where it is")]
    UnknownRegion {
        /// Which one.
        region: RegionId,
    },
}

/// A region: where it is and which jurisdiction it is in.
#[derive(Clone, Debug)]
pub struct Region {
    /// Name.
    pub id: RegionId,
    /// ISO 3166-1 alpha-2, as signed.
    pub country: String,
    /// Where.
    pub position: Position,
}

/// A node and how to reach it.
#[derive(Clone, Debug)]
pub struct Node {
    /// Name.
    pub id: NodeId,
    /// Where its HTTPS ingress listens.
    pub ingress: SocketAddr,
    /// Index into [`Topology::regions`].
    pub region: usize,
    /// Stands for the node's name in rendezvous hashing.
    pub(crate) token: u64,
}

/// Who a key belongs to and where their data may go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Customer {
    /// Name.
    pub id: TenantId,
    /// Their data never leaves it.
    pub boundary: BoundaryId,
}

/// One version of the fleet.
#[derive(Clone, Debug)]
pub struct Topology {
    /// `seq` of the view.
    pub seq: u64,
    /// Size of the release log behind it.
    pub epoch: u64,
    /// After this moment it is stale.
    pub expires: UnixMs,
    /// All regions, in the view's order.
    pub regions: Vec<Region>,
    /// All nodes, in the view's order.
    pub nodes: Vec<Node>,
    serving: BTreeMap<ModelName, Vec<usize>>,
    customers: HashMap<ContentHash, Customer>,
}

impl Topology {
    /// Indexes `view`.
    ///
    /// # Errors
    /// [`TopologyError`] names what contradicts itself; the caller keeps the view before.
    pub fn of(view: &RouterView) -> Result<Self, TopologyError> {
        let mut index: HashMap<&RegionId, usize> = HashMap::new();
        let mut regions = Vec::with_capacity(view.regions.len());
        for r in &view.regions {
            let position = Position::from_e6(r.lat_e6, r.lon_e6).map_err(|source| TopologyError::Region {
                region: r.id.clone(),
                source,
            })?;
            if index.insert(&r.id, regions.len()).is_some() {
                return Err(TopologyError::Twice { name: r.id.to_string() });
            }
            regions.push(Region {
                id: r.id.clone(),
                country: r.country.clone(),
                position,
            });
        }
        let find = |region: &RegionId| {
            index
                .get(region)
                .copied()
                .ok_or_else(|| TopologyError::UnknownRegion { region: region.clone() })
        };
        let mut nodes = Vec::with_capacity(view.nodes.len());
        let mut names = std::collections::HashSet::new();
        for n in &view.nodes {
            if !names.insert(&n.id) {
                return Err(TopologyError::Twice { name: n.id.to_string() });
            }
            let region = find(&n.id.region)?;
            nodes.push(Node {
                id: n.id.clone(),
                ingress: n.ingress,
                region,
                token: token(n.id.to_string().as_bytes()),
            });
        }
        let mut serving: BTreeMap<ModelName, Vec<usize>> = BTreeMap::new();
        for (region, release) in &view.serving {
            let regions = serving.entry(release.model.clone()).or_default();
            let region = find(region)?;
            if !regions.contains(&region) {
                regions.push(region);
            }
        }
        let customer = |t: &proto::region_state::Tenant| {
            (
                t.key_hash,
                Customer {
                    id: t.id.clone(),
                    boundary: t.boundary.clone(),
                },
            )
        };
        let customers = view.tenants.iter().map(customer).collect();
        let (seq, epoch, expires) = (view.seq, view.epoch, view.expires);
        Ok(Self {
            seq,
            epoch,
            expires,
            regions,
            nodes,
            serving,
            customers,
        })
    }
    /// Who holds the key with this digest.
    #[must_use]
    pub fn customer(&self, key_hash: &ContentHash) -> Option<&Customer> {
        self.customers.get(key_hash)
    }
    /// Regions that serve `model`, as indices; empty if nobody does.
    #[must_use]
    pub fn serving(&self, model: &ModelName) -> &[usize] {
        self.serving.get(model).map_or(&[], Vec::as_slice)
    }
    /// Models that anybody serves, by name.
    pub fn models(&self) -> impl Iterator<Item = &ModelName> {
        self.serving.keys()
    }
    /// The region that node `node` stands in.
    #[must_use]
    pub fn region_of(&self, node: usize) -> &Region {
        &self.regions[self.nodes[node].region]
    }
    /// Whether `now` is past the view's expiry.
    #[must_use]
    pub fn is_stale(&self, now: UnixMs) -> bool {
        self.expires < now
    }
}

/// A number that stands for `bytes`: equal on every router, evenly spread.
#[must_use]
pub fn token(bytes: &[u8]) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&ContentHash::of(bytes).as_bytes()[..8]);
    u64::from_le_bytes(first)
}
