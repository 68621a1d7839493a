//! Runs a job as the direct request would have been run, last in the queue.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use proto::ids::TenantId;
use proto::limits::DEADLINE_MS_MAX;
use proto::region_state::Tenant;
use runtime::clock;
use tracing::Span;

use super::super::auth;
use super::super::body::{self, Received};
use super::super::infer::{self, Asker};
use super::super::reply::Problem;
use super::super::rest::{self, Sent};
use super::super::route::Target;
use super::super::{Answer, Door, Ingress, deadline};
use super::head;
use crate::jobs::record::{Kept, Trouble};
use crate::jobs::worker::{Outcome as Ended, Runner, Taken};
use crate::metrics::Outcome;
use crate::residency;
use crate::serving::ServingSet;

/// Headers that belong to the answer itself; timing and cache use are of one fetching.
const KEPT: [&str; 3] = ["content-type", "inference-header-content-length", "meridian-model"];

impl Runner for Ingress {
    fn has_room(&self, running: usize) -> bool {
        let parts = &self.0.parts;
        let queued = usize::try_from(parts.serving.queued()).unwrap_or(usize::MAX);
        !parts.draining.is_cancelled() && queued <= running
    }

    /// A tenant that is unknown here now may come back with another key: their jobs wait, and nobody can read them.
    fn may_hold(&self, tenant: &TenantId) -> bool {
        let parts = &self.0.parts;
        let set = parts.serving.load();
        let held = set.region.as_ref().zip(of_name(&set, tenant));
        held.is_none_or(|(region, tenant)| residency::may_answer(parts.boundaries, region, tenant))
    }

    async fn run(&self, taken: Taken) -> Ended {
        let door = &*self.0;
        match infer::observed(door, &HeaderMap::new(), |span| walk(door, &taken, span)).await {
            Ok(answer) => Ended::Answered(kept(answer)),
            Err(problem) => ended(problem),
        }
    }
}

async fn walk(door: &Door, taken: &Taken, span: Span) -> Result<Answer, Problem> {
    let ask = &taken.record.ask;
    let set = door.parts.serving.load();
    let region = set.region.as_ref().ok_or_else(Problem::starting)?;
    let tenant = of_name(&set, &taken.record.tenant).ok_or_else(auth::no_key)?;
    if !residency::may_answer(door.parts.boundaries, region, tenant) {
        return Err(infer::outside(&tenant.boundary, &region.country));
    }
    let target = Target::of(ask.model.clone(), ask.version.clone().unwrap_or_default());
    let slot = Arc::clone(target.find(&set)?);
    drop(set);
    infer::record_model(&span, &slot);
    let mut lent = door.room.none();
    lent.grow_to(taken.body.len())?;
    let sent = Sent {
        received: Received {
            bytes: taken.body.clone(),
            lent,
        },
        encoding: body::encoding(&head(ask))?,
        json_bytes: ask.json_bytes.and_then(|bytes| usize::try_from(bytes).ok()),
    };
    let asker = Asker::of(taken.record.tenant.clone(), ask.bypass, door.parts.results.clone());
    let mut question = rest::question(slot, asker, sent).await?;
    question.go_last();
    let budget = deadline::with_body(Duration::from_millis(DEADLINE_MS_MAX), question.request.timeout_us);
    let deadline = clock::instant() + budget;
    rest::told(door, &question, deadline, clock::instant(), &span).await
}

fn of_name<'s>(set: &'s ServingSet, name: &TenantId) -> Option<&'s Tenant> {
    set.tenants.values().find(|tenant| tenant.id == *name)
}

fn kept(answer: Answer) -> Kept {
    let (head, body) = answer.into_parts();
    let header = |name: &&str| Some(((*name).to_owned(), head.headers.get(*name)?.to_str().ok()?.to_owned()));
    Kept {
        headers: KEPT.iter().filter_map(header).collect(),
        body: body.into(),
    }
}

/// Whose fault it was, and whether another time may be better.
fn ended(problem: Problem) -> Ended {
    let trouble = Trouble {
        status: problem.status.as_u16(),
        code: problem.code.to_owned(),
        message: problem.message,
    };
    match problem.outcome {
        Outcome::BadRequest | Outcome::TooLarge | Outcome::Residency => Ended::Refused(trouble),
        Outcome::Failed | Outcome::DeadlineExceeded | Outcome::Answered | Outcome::ClientGone => Ended::Failed(trouble),
        Outcome::NotFound
        | Outcome::Unauthorized
        | Outcome::RateLimited
        | Outcome::QueueFull
        | Outcome::Draining
        | Outcome::Starting
        | Outcome::DeadlineUnmeetable => Ended::Later(trouble),
    }
}
