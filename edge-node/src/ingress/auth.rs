//! Who asks: a tenant by its key, a part of the fleet by its certificate, or a process of this machine.

use http::header::AUTHORIZATION;
use http::{HeaderValue, Request, StatusCode};
use proto::ids::{ContentHash, RegionId};
use proto::region_state::Tenant;
use runtime::https::{Origin, Transport};
use runtime::identity::Role;

use super::reply::Problem;
use crate::metrics::Outcome;
use crate::serving::ServingSet;

/// Who a request shows itself to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caller<'s> {
    tenant: Option<&'s Tenant>,
    /// A part of the fleet or an operator. Auditors ask the control plane, which knows what is theirs to see.
    fleet: bool,
    operator: bool,
    /// The region that an auditor's certificate names.
    audits: Option<&'s RegionId>,
    local: bool,
}

impl<'s> Caller<'s> {
    pub(super) fn of<B>(request: &'s Request<B>, set: &'s ServingSet) -> Self {
        let extensions = request.extensions();
        let role = Origin::of(extensions).and_then(|origin| origin.role.as_ref());
        let fleet = role.is_some_and(|role| !matches!(role, Role::Auditor { .. }));
        let local = Self::is_local(request);
        let headers = request.headers();
        let tenant = match headers.get(AUTHORIZATION) {
            Some(told) => tenant(told, set),
            None => extensions.get::<AssumedKey>().and_then(|key| set.tenants.get(&key.0)),
        };
        Self {
            tenant,
            fleet,
            operator: role.is_some_and(|role| matches!(role, Role::Operator(_))),
            audits: role.and_then(|role| match role {
                Role::Auditor { region, .. } => Some(region),
                _ => None,
            }),
            local,
        }
    }
    /// Whether `request` came over a plain listener, which only processes of this machine reach.
    pub(super) fn is_local<B>(request: &Request<B>) -> bool {
        Origin::of(request.extensions()).is_some_and(|origin| origin.transport == Transport::Plain)
    }
    /// Whether an operator's certificate was shown.
    pub(super) fn is_operator(self) -> bool {
        self.operator
    }
    /// Anybody with a key, a certificate or a process on this machine.
    pub(super) fn known(self) -> Result<(), Problem> {
        if self.tenant.is_some() || self.fleet || self.local {
            Ok(())
        } else {
            Err(no_key())
        }
    }
    /// A part of the fleet, or a process on this machine.
    pub(super) fn of_the_fleet(self) -> Result<(), Problem> {
        if self.fleet || self.local {
            return Ok(());
        }
        let message = "this page is for the fleet: present a certificate of it, or ask over the plain listener";
        Err(Problem::new(
            StatusCode::FORBIDDEN,
            "forbidden",
            message,
            Outcome::Unauthorized,
        ))
    }
    /// A part of the fleet, a process on this machine, or an auditor of `region`.
    pub(super) fn may_audit(self, region: &RegionId) -> Result<(), Problem> {
        if self.audits == Some(region) {
            return Ok(());
        }
        self.of_the_fleet()
    }
    /// The tenant: only they get answers of models.
    pub(super) fn tenant(self) -> Result<&'s Tenant, Problem> {
        self.tenant.ok_or_else(no_key)
    }
}

/// Nobody that this fleet knows.
pub(super) fn no_key() -> Problem {
    let message = "no valid API key: send `Authorization: Bearer mk_..`, a key of this fleet that is not revoked";
    Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", message, Outcome::Unauthorized)
        .with("www-authenticate", "Bearer")
}

/// What a request without a key is taken to carry, by its hash: in the extensions of requests that came over a plain
/// listener whose operator said so.
#[derive(Clone, Copy, Debug)]
pub(super) struct AssumedKey(pub(super) ContentHash);

/// The tenant of the key that `told` holds. Keys are compared by their hashes only: how long a look-up takes tells about the
/// hash of a guess and nothing about any key.
fn tenant<'s>(told: &HeaderValue, set: &'s ServingSet) -> Option<&'s Tenant> {
    let (scheme, key) = told.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    set.tenants.get(&ContentHash::of(key.trim().as_bytes()))
}
