//! What the head of a request decides: whose it is, about whom, and whether this node may answer them at all.

use std::time::Instant;

use http::header::{CACHE_CONTROL, HeaderName};
use http::{HeaderMap, Request, StatusCode};
use proto::ids::TenantId;
use proto::limits::SUBJECT_BYTES_MAX;
use proto::purge::Subject;
use runtime::clock;

use super::super::Parts;
use super::super::auth::Caller;
use super::super::receipts::{self, Wish};
use super::super::reply::Problem;
use crate::batch::accounts::Payer;
use crate::cache::{self, Results};
use crate::metrics::Outcome;
use crate::residency;
use crate::serving::ServingSet;

/// A request of a known tenant that may be answered where this node stands.
#[derive(Debug)]
pub(in super::super) struct Admitted {
    /// When its head was here: deadlines count from then.
    pub(in super::super) arrived: Instant,
    /// Who asks.
    pub(in super::super) asker: Asker,
}

/// A tenant who may ask, with what finds their answers again.
#[derive(Debug)]
pub(in super::super) struct Asker {
    pub(in super::super) tenant: TenantId,
    subject: Option<Subject>,
    /// Wants the model itself to run: no kept answer is looked for, and none is kept.
    pub(in super::super) bypass: bool,
    /// Whether they get a receipt with the answer.
    pub(super) receipt: Wish,
    pub(super) results: Results,
}

impl Asker {
    /// One who names nobody, and wants no receipt.
    pub(in super::super) fn of(tenant: TenantId, bypass: bool, results: Results) -> Self {
        Self {
            tenant,
            subject: None,
            bypass,
            receipt: Wish::No,
            results,
        }
    }
    /// The same, where the answer has no head that could promise one.
    pub(in super::super) fn without_receipt(self) -> Self {
        Self {
            receipt: Wish::No,
            ..self
        }
    }
    /// As the cache knows them.
    pub(super) fn of_answers(&self) -> cache::Asker<'_> {
        cache::Asker {
            tenant: &self.tenant,
            subject: self.subject.as_ref(),
        }
    }
}

/// The person whose data a request carries, if its sender says.
pub(in super::super) const SUBJECT: HeaderName = HeaderName::from_static("meridian-subject");

fn subject(headers: &HeaderMap) -> Result<Option<Subject>, Problem> {
    let mut all = headers.get_all(SUBJECT).iter();
    let Some(first) = all.next() else {
        return Ok(None);
    };
    let one = all.next().is_none().then(|| first.to_str().ok()?.parse().ok());
    let wrong = || {
        let shape = format!("1 to {SUBJECT_BYTES_MAX} printable ASCII characters without blanks");
        Problem::bad_request(format!(
            "Meridian-Subject is not one id of {shape}: send a name that you made up for them"
        ))
    };
    one.flatten().map(Some).ok_or_else(wrong)
}

impl Admitted {
    /// Checks the key, the boundary and the rate, before anything else of the request is read.
    pub(in super::super) fn of<B>(parts: &Parts, set: &ServingSet, request: &Request<B>) -> Result<Self, Problem> {
        let arrived = clock::instant();
        let region = set.region.as_ref().ok_or_else(Problem::starting)?;
        let tenant = Caller::of(request, set).tenant()?;
        if !residency::may_answer(parts.boundaries, region, tenant) {
            return Err(outside(&tenant.boundary, &region.country));
        }
        parts.rates.check(Payer::of(&tenant.id), arrived)?;
        let asker = Asker {
            tenant: tenant.id.clone(),
            subject: subject(request.headers())?,
            bypass: bypasses(request.headers()),
            receipt: receipts::wish(parts, request.headers())?,
            results: parts.results.clone(),
        };
        Ok(Self { arrived, asker })
    }
}

/// Whether the client wants the model itself to run.
pub(in super::super) fn bypasses(headers: &HeaderMap) -> bool {
    let mut directives = headers
        .get_all(CACHE_CONTROL)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','));
    directives.any(|d| d.trim().eq_ignore_ascii_case("no-cache") || d.trim().eq_ignore_ascii_case("no-store"))
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
