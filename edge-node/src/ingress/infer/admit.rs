//! What the head of a request decides: whose it is, and whether this node may answer them at all.

use std::time::Instant;

use http::{Request, StatusCode};
use proto::region_state::Tenant;
use runtime::clock;

use super::super::Parts;
use super::super::auth::Caller;
use super::super::reply::Problem;
use crate::batch::accounts::Payer;
use crate::metrics::Outcome;
use crate::residency;
use crate::serving::ServingSet;

/// A request of a known tenant that may be answered where this node stands.
#[derive(Debug)]
pub(in super::super) struct Admitted {
    /// When its head was here: deadlines count from then.
    pub(in super::super) arrived: Instant,
    /// Who asks.
    pub(in super::super) tenant: Tenant,
}

impl Admitted {
    /// Checks the key, the boundary and the rate, before anything else of the request is read.
    pub(in super::super) fn of<B>(parts: &Parts, set: &ServingSet, request: &Request<B>) -> Result<Self, Problem> {
        let arrived = clock::instant();
        let region = set.region.as_ref().ok_or_else(Problem::starting)?;
        let tenant = Caller::of(request, set).tenant()?.clone();
        if !residency::may_answer(parts.boundaries, region, &tenant) {
            return Err(outside(&tenant.boundary, &region.country));
        }
        parts.rates.check(Payer::of(&tenant.id), arrived)?;
        Ok(Self { arrived, tenant })
    }
}

/// Data of this boundary may not be here.
pub(in super::super) fn outside(boundary: &proto::ids::BoundaryId, country: &str) -> Problem {
    let message = format!(
        "data of this key stays inside `{boundary}`, this node stands in {country}: ask a node inside, or the router"
    );
    Problem::new(
        StatusCode::UNAVAILABLE_FOR_LEGAL_REASONS,
        "residency",
        message,
        Outcome::Residency,
    )
}
