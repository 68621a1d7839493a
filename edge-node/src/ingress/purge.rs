//! `POST /v1/purge`: a tenant has kept answers of its own forgotten, an operator anybody's.
//!
//! What is forgotten here says nothing about other nodes: each has its own keys.

use http::header::AUTHORIZATION;
use http::{Request, StatusCode};
use proto::ids::TenantId;
use proto::limits::PURGE_BODY_BYTES_MAX;
use proto::purge::{PurgeRequest, Purged, read_purge};
use runtime::https::Unread;

use super::auth::Caller;
use super::infer::{Admitted, SUBJECT};
use super::reply::{self, Problem};
use super::{Answer, Door, manage};
use crate::batch::accounts::Payer;
use crate::cache::Scope;
use crate::metrics::Outcome;

/// Answers once what was asked for is forgotten for good.
pub(super) async fn answer(door: &Door, request: &Request<()>, body: &mut Unread) -> Result<Answer, Problem> {
    let tenant = asker(door, request)?;
    if request.headers().contains_key(SUBJECT) {
        let message = "Meridian-Subject says whose data a question is: here, name the person in the body, as `subject`";
        return Err(Problem::bad_request(message));
    }
    let place = door.purges.try_acquire();
    let _place = place.map_err(|_| Problem::full("too many purges wait", std::time::Duration::from_secs(1)))?;
    let asked = manage::read(door, request.headers(), body, PURGE_BODY_BYTES_MAX).await?;
    let asked = read_purge(&asked).map_err(|error| Problem::bad_request(error.to_string()))?;
    let asked = allowed(asked, tenant)?;
    let results = door.parts.results.clone();
    let purged = tokio::task::spawn_blocking(move || results.purge(scope(&asked)));
    match purged.await.map_err(std::io::Error::other).flatten() {
        Ok(purged) => {
            let Purged {
                memory_entries,
                disk_keys,
            } = purged;
            tracing::info!(
                memory_entries,
                disk_keys,
                "results were forgotten because somebody asked"
            );
            Ok(reply::json(&purged))
        }
        Err(error) => {
            tracing::error!(%error, "results that are to be forgotten may come back after a restart");
            let message = "the keys on this node's disk could not be overwritten: nothing of it is given until the node \
                           starts again; have its operator look at the disk, and purge again";
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            Err(Problem::new(status, "purge_failed", message, Outcome::Failed))
        }
    }
}

/// The tenant who asks; `None` for an operator, who shows a certificate and no key. No process of this machine may do it
/// just because it is there: something may stand there that passes on what others send.
fn asker(door: &Door, request: &Request<()>) -> Result<Option<TenantId>, Problem> {
    let set = door.parts.serving.load();
    let caller = Caller::of(request, &set);
    if caller.is_operator() && !request.headers().contains_key(AUTHORIZATION) {
        return Ok(None);
    }
    caller.tenant()?;
    let Admitted { arrived, asker } = Admitted::of(&door.parts, &set, request)?;
    door.parts.rates.take(Payer::of(&asker.tenant), arrived)?;
    Ok(Some(asker.tenant))
}

/// What may be asked: a tenant speaks for itself alone, and whoever names a person says whose person it is.
fn allowed(asked: PurgeRequest, tenant: Option<TenantId>) -> Result<PurgeRequest, Problem> {
    let foreign = tenant.is_some() && asked.tenant.is_some() && asked.tenant != tenant;
    if foreign {
        let message = "this key is not that tenant's: leave `tenant` out, or send the tenant's own key";
        let status = StatusCode::FORBIDDEN;
        return Err(Problem::new(status, "forbidden", message, Outcome::Unauthorized));
    }
    let tenant = tenant.or(asked.tenant);
    if tenant.is_none() && asked.subject.is_some() {
        return Err(Problem::bad_request(
            "`subject` is a tenant's own word for a person: name the `tenant` too",
        ));
    }
    Ok(PurgeRequest { tenant, ..asked })
}

/// A person's answers hang on one key for all models: with the answers of one model those of the others go.
fn scope(asked: &PurgeRequest) -> Scope<'_> {
    match (&asked.tenant, &asked.model, &asked.subject) {
        (Some(tenant), _, Some(subject)) => Scope::Subject(tenant, subject),
        (Some(tenant), Some(model), None) => Scope::TenantModel(tenant, model),
        (Some(tenant), None, None) => Scope::Tenant(tenant),
        (None, Some(model), _) => Scope::Model(model),
        (None, None, _) => Scope::All,
    }
}
