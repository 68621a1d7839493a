//! What both fronts share: the newest view, how the nodes feel, and where clients are. One question: who answers?

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Instant;

use arc_swap::ArcSwapOption;
use proto::ids::{BoundaryId, ModelName, NodeId};
use regions::affinity::InFlight;
use regions::health::{Event, Health, State};
use regions::policy::Boundaries;
use regions::prefix::{Located, PrefixTable, network_of};
use regions::steer::{self, Ask, Decision};
use regions::topology::{Node, Topology, token};

/// Leading bits of a client's address that count as one client: /24 and /48, as for canary sessions.
const CLIENT_V4_LEN: u8 = 24;
const CLIENT_V6_LEN: u8 = 48;

/// Shared by the fronts, which ask, and by snapshot and probes, which tell.
#[derive(Debug)]
pub struct Steering {
    fleet: ArcSwapOption<Topology>,
    health: RwLock<Health>,
    in_flight: Mutex<InFlight>,
    clients: PrefixTable,
    started: Instant,
}

impl Steering {
    /// Knows where clients are, and of no fleet yet.
    #[must_use]
    pub fn new(clients: PrefixTable) -> Self {
        let (fleet, health) = (ArcSwapOption::empty(), RwLock::default());
        Self {
            fleet,
            health,
            in_flight: Mutex::default(),
            clients,
            started: runtime::clock::instant(),
        }
    }
    /// The newest view; `None` until the first one came.
    #[must_use]
    pub fn fleet(&self) -> Option<Arc<Topology>> {
        self.fleet.load_full()
    }
    /// Steers by `fleet` from now on and forgets the health of nodes that left.
    pub fn follow(&self, fleet: Topology) {
        let ids: std::collections::HashSet<NodeId> = fleet.nodes.iter().map(|n| n.id.clone()).collect();
        self.fleet.store(Some(Arc::new(fleet)));
        self.health
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|id| ids.contains(id));
    }
    /// Takes in what was learnt about `node`. A change of state is logged here and nowhere else.
    pub fn learn(&self, node: &NodeId, event: Event) {
        let now_ms = self.now_ms();
        let (before, after) = self
            .health
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .on(node, event, now_ms);
        if before != after {
            tracing::info!(%node, ?before, ?after, "node health");
        }
    }
    /// What `node` is good for now.
    #[must_use]
    pub fn state(&self, node: &NodeId) -> State {
        let health = self.health.read().unwrap_or_else(PoisonError::into_inner);
        health
            .get(node)
            .map_or(State::Unknown, |known| known.state(self.now_ms()))
    }
    /// Where the client behind `ip` is.
    #[must_use]
    pub fn locate(&self, ip: IpAddr) -> Located<'_> {
        self.clients.locate(ip)
    }
    /// Who answers a client of `boundary` for `model`.
    #[must_use]
    pub fn decide(&self, fleet: &Topology, ask: &Ask<'_>) -> Decision {
        let health = self.health.read().unwrap_or_else(PoisonError::into_inner);
        steer::pick(ask, Boundaries::builtin(), fleet, &health, self.now_ms())
    }
    /// Lets `content`, a number that stands for what is asked, choose among nodes that are equally good.
    pub fn choose_by(&self, decision: &mut Decision, content: u64, fleet: &Topology) {
        decision.choose_by(content, fleet, &self.lock());
    }
    /// Counts a request as on its way to `node` until what this gives is dropped.
    #[must_use]
    pub fn sent<'a>(&'a self, node: &'a Node) -> OnItsWay<'a> {
        self.lock().began(node);
        OnItsWay { steering: self, node }
    }
    fn lock(&self) -> MutexGuard<'_, InFlight> {
        self.in_flight.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// The question that `ip` asks; `session` tells clients of one network apart.
    #[must_use]
    pub fn ask<'a>(
        &self,
        ip: IpAddr,
        boundary: &'a BoundaryId,
        model: Option<&'a ModelName>,
        session: Option<&[u8]>,
    ) -> Ask<'a> {
        let affinity = match session {
            Some(session) => token(session),
            None => token(
                network_of(ip.to_canonical(), CLIENT_V4_LEN, CLIENT_V6_LEN)
                    .to_string()
                    .as_bytes(),
            ),
        };
        Ask {
            client: self.locate(ip).place.map(|p| p.position),
            boundary,
            model,
            affinity,
        }
    }
    /// Milliseconds since this part started, by the steady clock: the time that health is kept in.
    fn now_ms(&self) -> u64 {
        let elapsed = runtime::clock::instant().saturating_duration_since(self.started);
        u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
    }
}

/// A request that a node has and has not answered.
#[derive(Debug)]
pub struct OnItsWay<'a> {
    steering: &'a Steering,
    node: &'a Node,
}

impl Drop for OnItsWay<'_> {
    fn drop(&mut self) {
        self.steering.lock().ended(self.node);
    }
}
