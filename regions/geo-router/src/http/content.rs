//! Lets what is asked choose the node, so that a repeated input meets the one that has its answer.
//!
//! Read whole before a node is chosen: only inference, only where several nodes are equally good, and only as far as the
//! replay would keep the body anyway. A client that names a session or an idempotency key keeps its node instead. What is
//! long, or slow to come, goes where its client's network goes.

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use proto::ids::TenantId;
use proto::limits::CONTENT_BODY_BYTES_MAX;

use super::door;
use super::proxy::{Failed, Job};
use super::replay::Gathered;
use crate::steering::Steering;

/// How long a body may take to come before the nodes' time is worth more than a kept answer.
const CONTENT_WAIT: Duration = Duration::from_secs(1);

/// Puts the nodes of `job` in the order of what `tenant` asks, if that decides anything.
///
/// # Errors
/// [`Failed::Client`] when the client breaks off.
pub(super) async fn choose(steering: &Steering, job: &mut Job, tenant: &TenantId) -> Result<(), Failed> {
    let asks = job.idempotent && job.head.method == Method::POST;
    if !asks || job.decision.equal < 2 || door::session(&job.head.headers).is_some() {
        return Ok(());
    }
    let until = job.deadline.min(runtime::clock::instant() + CONTENT_WAIT);
    let gather = job.body.gather(CONTENT_BODY_BYTES_MAX);
    let gathered = tokio::time::timeout_at(until.into(), gather).await;
    match gathered.unwrap_or(Gathered::InPart) {
        Gathered::Whole(frames) => {
            let content = number(tenant, &job.path, &frames);
            steering.choose_by(&mut job.decision, content, &job.fleet);
            Ok(())
        }
        Gathered::InPart => Ok(()),
        Gathered::Broke => Err(Failed::Client),
    }
}

/// A number that stands for a request: equal on every router, however its body was cut into frames. Two tenants share no
/// answers, so they share no number.
fn number(tenant: &TenantId, path: &str, frames: &[Bytes]) -> u64 {
    let mut hasher = blake3::Hasher::new();
    for part in [tenant.as_str(), path] {
        hasher.update(part.as_bytes()).update(&[0]);
    }
    for frame in frames {
        hasher.update(frame);
    }
    let digest = hasher.finalize();
    u64::from_le_bytes(*digest.as_bytes().first_chunk().expect("a digest has 32 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_its_own_number_however_it_is_cut() {
        let of = |tenant: &str, path, frames: &[&'static str]| {
            let frames: Vec<Bytes> = frames
                .iter()
                .map(|frame| Bytes::from_static(frame.as_bytes()))
                .collect();
            number(&tenant.parse().unwrap(), path, &frames)
        };
        let whole = of("acme", "/v2/models/m/infer", &["one two"]);
        assert_eq!(whole, of("acme", "/v2/models/m/infer", &["one", " ", "two"]));
        for other in [
            of("acme", "/v2/models/m/infer", &["one twO"]),
            of("acme", "/v2/models/n/infer", &["one two"]),
            of("bcme", "/v2/models/m/infer", &["one two"]),
        ] {
            assert_ne!(whole, other);
        }
    }
}
