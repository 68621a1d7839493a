//! Authoritative DNS: `<boundary>.<zone>` and `<zone>` have the addresses of the nearest allowed nodes.
//!
//! ```text
//!   eea.infer.meridian.test  A/AAAA  nearest nodes inside the EEA       infer.meridian.test  = global; SOA, NS
//!                                    nobody allowed is up: NODATA + EDE 18, cached only briefly
//! ```
//! Near is measured from the client subnet (RFC 7871) where the resolver sends it, else from the resolver. A name server
//! cannot know a key, so the name says the boundary; the node's own fence holds whatever DNS said. Not signed (no DNSSEC),
//! no transfers, no recursion.

mod answer;
mod server;

pub use answer::{Answer, Nearest, Transport, Zone, answer};
pub use server::{Server, serve};

use std::net::IpAddr;

use proto::ids::BoundaryId;
use regions::policy::Boundaries;
use regions::steer::Decision;
use regions::topology::Topology;

use crate::steering::Steering;

/// Nodes named in one answer.
const ADDRESSES_MAX: usize = 2;

/// The nearest allowed nodes for a client at `ip`; `None` without a view.
#[must_use]
pub fn nearest(steering: &Steering, boundary: &BoundaryId, ip: IpAddr) -> Option<Nearest> {
    let fleet = steering.fleet()?;
    let ask = steering.ask(ip, boundary, None, None);
    let decision = steering.decide(&fleet, &ask);
    Some(Nearest {
        addresses: addresses(&fleet, &decision),
        bounded: Boundaries::builtin().is_bounded(boundary),
        scope_len: steering.locate(ip).scope_len,
        serial: fleet.seq,
    })
}

/// The best node and others as near as it.
fn addresses(fleet: &Topology, decision: &Decision) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = Vec::new();
    let best = decision.accepted().next().map(|c| fleet.nodes[c.node].region);
    for candidate in decision.accepted().filter(|c| Some(fleet.nodes[c.node].region) == best) {
        let ip = fleet.nodes[candidate.node].ingress.ip().to_canonical();
        if !addresses.contains(&ip) && addresses.len() < ADDRESSES_MAX {
            addresses.push(ip);
        }
    }
    addresses
}
