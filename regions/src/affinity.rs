//! A repeated input meets the node that has its answer: among nodes that are equally good, the content of a request
//! chooses, and load bounds what it may choose.
//!
//! ```text
//!   decision -> nodes equally good: sound, with room, equally near -> rendezvous order of the content -> those over the bound last
//! ```
//! Nodes that are not equally good keep their places: near before far, and nobody who was rejected comes back. Requests in
//! flight are those of this router: each router bounds what it sends.
//!
//! Sources: Thaler and Ravishankar 1998 (rendezvous hashing); Mirrokni, Thorup and Zadimoghaddam 2018, arXiv:1608.01350
//! (bounded loads). Numbers: `docs/decisions/0028-content-chooses-the-node.md`.

use std::collections::HashMap;

use crate::steer::{Decision, Verdict, mix};
use crate::topology::{Node, Topology, token};

/// A node has at most this many quarters of the mean of requests in flight, and one.
pub const BOUND_QUARTERS: u64 = 5;
/// So few requests in flight are no load: the same input asked twice at once stays with one node, which joins both.
pub const FREE_IN_FLIGHT: u32 = 8;

/// Requests that were sent to nodes and are not answered yet.
#[derive(Debug, Default)]
pub struct InFlight(HashMap<u64, u32>);

impl InFlight {
    /// One more was sent to `node`.
    pub fn began(&mut self, node: &Node) {
        *self.0.entry(node.token).or_default() += 1;
    }
    /// One of them is answered, or given up.
    pub fn ended(&mut self, node: &Node) {
        if let Some(count) = self.0.get_mut(&node.token) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(&node.token);
            }
        }
    }
    /// How many there are at `node`.
    #[must_use]
    pub fn of(&self, node: &Node) -> u32 {
        self.0.get(&node.token).copied().unwrap_or(0)
    }
}

/// How many requests one of `nodes` nodes may have in flight before the next one goes on, `total` being all of them
/// with the next: the mean and a quarter, rounded up, and never less than [`FREE_IN_FLIGHT`].
#[must_use]
pub fn bound(total: u64, nodes: u64) -> u64 {
    let mean = (total * BOUND_QUARTERS).div_ceil(4 * nodes.max(1));
    mean.max(FREE_IN_FLIGHT.into())
}

/// Where `node` stands among nodes that keep `what`: those with the lowest numbers do. Equal wherever it is asked.
#[must_use]
pub fn place(node: &str, what: &str) -> u64 {
    mix(token(node.as_bytes()) ^ token(what.as_bytes()))
}

impl Decision {
    /// Lets `content`, a number that stands for what is asked, choose among the nodes that are equally good. Nodes that
    /// have reached their [`bound`] come after those that have not. Cost: a sort of those nodes.
    pub fn choose_by(&mut self, content: u64, fleet: &Topology, in_flight: &InFlight) {
        let equal = self.equal;
        let group = &mut self.candidates[..equal];
        let node = |index: usize| &fleet.nodes[index];
        let total: u64 = group.iter().map(|c| u64::from(in_flight.of(node(c.node)))).sum();
        let bound = bound(total + 1, u64::try_from(equal).unwrap_or(u64::MAX));
        group.sort_by_cached_key(|c| {
            let loaded = u64::from(in_flight.of(node(c.node))) >= bound;
            (loaded, mix(node(c.node).token ^ content), c.node)
        });
        for (rank, candidate) in group.iter_mut().enumerate() {
            candidate.verdict = Verdict::Accepted(rank);
        }
        if let Some(first) = group.first() {
            self.outcome = Ok(first.node);
        }
    }
}

#[cfg(test)]
mod tests;
