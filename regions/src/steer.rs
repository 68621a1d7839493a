//! The one decision: which node answers. Pure, so that the proxy, the redirect, DNS and `?explain=1` cannot disagree.
//!
//! ```text
//!   all nodes -> inside the boundary? -> serves the model? -> takes requests? -> rank
//!                 fails closed            view and node         not down           sound before doubtful, idle before
//!                                                                                  full, then nearest, then hashed
//! ```
//! Invariant: what is not inside the tenant's boundary is never accepted, whatever else is down.

use std::cmp::Ordering;

use proto::ids::{BoundaryId, ModelName};

use crate::geo::Position;
use crate::health::{Health, Readiness, State};
use crate::policy::Boundaries;
use crate::topology::Topology;

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// Where the client is; `None` if nobody knows: then all nodes are equally near.
    pub client: Option<Position>,
    /// Where their data may go.
    pub boundary: &'a BoundaryId,
    /// What they want answered; `None` for requests that any node can answer.
    pub model: Option<&'a ModelName>,
    /// Spreads clients over nodes that are equally near; the same number goes to the same node while it is there.
    pub affinity: u64,
}

/// Why a node was passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Its country is outside the tenant's boundary.
    OutsideBoundary,
    /// Its region does not serve the model.
    NotServed,
    /// Its region does, but the node does not hold it ready yet.
    NotLoaded,
    /// It does not answer.
    Down,
    /// It is not ready yet.
    Starting,
    /// It is about to stop.
    Draining,
}

/// What became of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// May answer; 0 is the best.
    Accepted(usize),
    /// May not, and why: the first reason in the order of the module's header.
    Rejected(Reason),
}

/// One node in a decision.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Index into [`Topology::nodes`].
    pub node: usize,
    /// How far it is from the client; 0 for a client that is nowhere.
    pub km: f64,
    /// What became of it.
    pub verdict: Verdict,
}

/// Why nobody may answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Nobody inside the tenant's boundary can answer, and nobody outside may: HTTP 451.
    Residency,
    /// Nobody can answer: HTTP 503.
    NoneHealthy,
    /// No region serves this model: HTTP 404.
    UnknownModel,
}

/// A decision with its reasons.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// `seq` of the view it was made by.
    pub seq: u64,
    /// Size of the release log behind that view.
    pub epoch: u64,
    /// Every node: first the accepted ones by rank, then the others by distance.
    pub candidates: Vec<Candidate>,
    /// How many of the first ones are equally good: only a hash has put them in their order.
    pub equal: usize,
    /// Index of the chosen node in [`Topology::nodes`], or why there is none.
    pub outcome: Result<usize, Refusal>,
}

impl Decision {
    /// Nodes that may answer, best first.
    pub fn accepted(&self) -> impl Iterator<Item = &Candidate> {
        self.candidates
            .iter()
            .take_while(|c| matches!(c.verdict, Verdict::Accepted(_)))
    }

    /// Leaves only nodes that hold what is asked for. Boundary and health stay what they are: where none of those may
    /// answer, nobody does.
    pub fn only(&mut self, holds: impl Fn(usize) -> bool) {
        let equals = &self.candidates[..self.equal];
        self.equal = equals.iter().filter(|candidate| holds(candidate.node)).count();
        self.candidates.retain(|candidate| holds(candidate.node));
        let first = self.accepted().next().map(|candidate| candidate.node);
        self.outcome = match (first, self.outcome) {
            (Some(node), _) => Ok(node),
            (None, Err(refusal)) => Err(refusal),
            (None, Ok(_)) => Err(Refusal::NoneHealthy),
        };
    }
}

/// What decides between nodes that may all answer; smaller is better.
#[derive(Clone, Copy, PartialEq)]
struct Rank {
    doubtful: bool,
    spills: bool,
    km: f64,
    hashed: u64,
}

impl Rank {
    fn is_as_good_as(&self, other: &Self) -> bool {
        Self { hashed: 0, ..*self }.cmp(&Self { hashed: 0, ..*other }).is_eq()
    }
    fn cmp(&self, other: &Self) -> Ordering {
        (self.doubtful, self.spills)
            .cmp(&(other.doubtful, other.spills))
            .then(self.km.total_cmp(&other.km))
            .then(self.hashed.cmp(&other.hashed))
    }
}

/// Decides who answers `ask`. Cost: one pass over all nodes, and a sort of the accepted ones.
#[must_use]
pub fn pick(ask: &Ask<'_>, boundaries: &Boundaries, fleet: &Topology, health: &Health, now_ms: u64) -> Decision {
    let allowed: Vec<bool> = fleet
        .regions
        .iter()
        .map(|r| boundaries.allows(ask.boundary, &r.country))
        .collect();
    let km: Vec<f64> = fleet
        .regions
        .iter()
        .map(|r| ask.client.map_or(0.0, |c| c.km_to(r.position)))
        .collect();
    let serving = ask.model.map(|model| fleet.serving(model));
    let (mut accepted, mut rejected) = (Vec::new(), Vec::new());
    for (node, info) in fleet.nodes.iter().enumerate() {
        let km = km[info.region];
        let served = serving.is_none_or(|regions| regions.contains(&info.region));
        match judge(ask, allowed[info.region], served, fleet, health, node, now_ms) {
            Ok((doubtful, spills)) => {
                let hashed = mix(info.token ^ ask.affinity);
                accepted.push((
                    node,
                    Rank {
                        doubtful,
                        spills,
                        km,
                        hashed,
                    },
                ));
            }
            Err(reason) => rejected.push(Candidate {
                node,
                km,
                verdict: Verdict::Rejected(reason),
            }),
        }
    }
    accepted.sort_by(|(a, x), (b, y)| x.cmp(y).then(a.cmp(b)));
    rejected.sort_by(|a, b| a.km.total_cmp(&b.km).then(a.node.cmp(&b.node)));
    let outcome = match accepted.first() {
        Some(&(node, _)) => Ok(node),
        None if serving.is_some_and(<[usize]>::is_empty) => Err(Refusal::UnknownModel),
        None if boundaries.is_bounded(ask.boundary) => Err(Refusal::Residency),
        None => Err(Refusal::NoneHealthy),
    };
    let best = accepted.first().map(|(_, rank)| *rank);
    let equal = accepted
        .iter()
        .take_while(|(_, rank)| best.is_some_and(|best| best.is_as_good_as(rank)));
    let equal = equal.count();
    let ranked = accepted.iter().enumerate();
    let mut candidates: Vec<Candidate> = ranked
        .map(|(i, &(node, rank))| Candidate {
            node,
            km: rank.km,
            verdict: Verdict::Accepted(i),
        })
        .collect();
    candidates.append(&mut rejected);
    Decision {
        seq: fleet.seq,
        epoch: fleet.epoch,
        candidates,
        equal,
        outcome,
    }
}

/// Whether one node may answer: (doubtful, spills) if so.
fn judge(
    ask: &Ask<'_>,
    allowed: bool,
    served: bool,
    fleet: &Topology,
    health: &Health,
    node: usize,
    now_ms: u64,
) -> Result<(bool, bool), Reason> {
    if !allowed {
        return Err(Reason::OutsideBoundary);
    }
    if !served {
        return Err(Reason::NotServed);
    }
    let Some(known) = health.get(&fleet.nodes[node].id) else {
        return Ok((true, false));
    };
    let state = known.state(now_ms);
    if state == State::Down {
        return Err(Reason::Down);
    }
    match known.readiness() {
        Readiness::Starting => return Err(Reason::Starting),
        Readiness::Draining => return Err(Reason::Draining),
        Readiness::Ready => {}
    }
    if ask.model.is_some_and(|model| !known.may_hold(model)) {
        return Err(Reason::NotLoaded);
    }
    Ok((state != State::Up, known.load().spills(now_ms)))
}

/// Spreads the bits of `x`: the finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014, figure 16).
pub(crate) fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
pub(crate) mod tests;
