//! Whether an entry may be appended, beyond what the fold itself demands: decided before a byte is written.
//!
//! The fold checks signatures and history. Here is what only the control plane can know: who holds the connection,
//! that a named document is really in the store and says what the entry says, and that the fleet stays in bounds.

use proto::entry::{Body, CONTROL_PLANE, EntryError, Fleet, Leaf};
use proto::ids::{PrincipalName, UnixMs};
use proto::limits::{MODELS_MAX, NODES_MAX, TENANTS_MAX};
use proto::message::ErrorCode;
use proto::plan::Plan;
use serde_json::value::RawValue;

use crate::artifacts::documents::Documents;
use crate::rollout::wave_too_long;

/// Why an entry is not appended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct Refusal {
    /// What kind.
    pub code: ErrorCode,
    /// What, why, and what to do next.
    pub what: String,
}

fn refuse<T>(code: ErrorCode, what: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal {
        code,
        what: what.into(),
    })
}

/// An operator's entry, as sent by the holder of `by`'s certificate, with its time set.
///
/// # Errors
/// [`Refusal`], also for all that only the control plane may say.
pub fn command(by: &PrincipalName, text: &str, time: UnixMs) -> Result<(Leaf, Body), Refusal> {
    let malformed = |e: EntryError| Refusal {
        code: ErrorCode::Invalid,
        what: e.to_string(),
    };
    let (leaf, body) = Leaf::decode(text.as_bytes()).map_err(malformed)?;
    if &leaf.by != by {
        return refuse(
            ErrorCode::Forbidden,
            format!("`{by}` cannot speak for `{}`: use that operator's certificate", leaf.by),
        );
    }
    if leaf.sig.is_none() || body.is_control_plane() {
        return refuse(
            ErrorCode::Forbidden,
            format!("`{}` is not for an operator to say, or it is not signed", body.kind()),
        );
    }
    Ok((Leaf { time, ..leaf }, body))
}

/// The control plane's own entry.
#[must_use]
pub fn own(body: &Body, time: UnixMs) -> Leaf {
    let by = CONTROL_PLANE.parse().expect("the control plane's name is a name");
    let body = RawValue::from_string(body.to_json()).expect("what JSON wrote is JSON");
    Leaf {
        time,
        by,
        sig: None,
        body,
    }
}

/// Checks `body` against the store and the bounds.
///
/// # Errors
/// [`Refusal`] says what is missing and how to provide it.
pub fn check(fleet: &Fleet, documents: &Documents, body: &Body, now: UnixMs) -> Result<(), Refusal> {
    let full = |what: &str, count: usize, max: usize| match count {
        count if count >= max => refuse(
            ErrorCode::Invalid,
            format!("the fleet has {count} {what}, allowed is {max}"),
        ),
        _ => Ok(()),
    };
    match body {
        Body::NodeEnrol { node, .. } if !fleet.nodes.contains_key(node) => full("nodes", fleet.nodes.len(), NODES_MAX),
        Body::TenantAdd { .. } => full("tenants", fleet.tenants.len(), TENANTS_MAX),
        Body::Publish {
            model,
            version,
            manifest,
        } => {
            let Some(kept) = documents.manifest(manifest) else {
                return refuse(
                    ErrorCode::NotFound,
                    format!("manifest {manifest} is not in the store: put it first"),
                );
            };
            if &kept.model != model || &kept.version != version {
                return refuse(
                    ErrorCode::Invalid,
                    format!("manifest {manifest} is {}, not {model}@{version}", kept.release()),
                );
            }
            if fleet.releases.contains_key(model) {
                Ok(())
            } else {
                full("models", fleet.releases.len(), MODELS_MAX)
            }
        }
        Body::Plan {
            plan,
            serial,
            model,
            version,
            manifest,
            waves,
            ..
        } => {
            let Some(doc) = documents.plan(plan) else {
                return refuse(
                    ErrorCode::NotFound,
                    format!("plan {plan} is not in the store with enough signatures: put it first"),
                );
            };
            let p = &doc.plan;
            let same = p.serial == *serial && &p.to.model == model && &p.to.version == version;
            if !same || &p.manifest != manifest || p.waves.len() != *waves {
                return refuse(
                    ErrorCode::Invalid,
                    format!("plan {plan} does not say what the entry says of it"),
                );
            }
            check_plan(fleet, documents, p, now)
        }
        _ => Ok(()),
    }
}

/// A plan that could never finish is refused now rather than found stuck later.
fn check_plan(fleet: &Fleet, documents: &Documents, plan: &Plan, now: UnixMs) -> Result<(), Refusal> {
    if plan.expires <= now {
        return refuse(
            ErrorCode::Invalid,
            format!("the plan expired at {}, now is {now}: sign a new one", plan.expires),
        );
    }
    if let Some(wave) = wave_too_long(plan) {
        return refuse(
            ErrorCode::Invalid,
            format!("wave {wave} names too many regions for one log entry: split it"),
        );
    }
    for region in plan.waves.iter().flat_map(|w| &w.regions) {
        if !fleet.regions.contains_key(region) {
            return refuse(ErrorCode::Invalid, format!("region `{region}` is not in the fleet"));
        }
    }
    for witness in plan.waves.iter().flat_map(|w| &w.witnesses) {
        let enrolled = fleet
            .nodes
            .get(&witness.node)
            .is_some_and(|n| n.enrolled && n.key == witness.key);
        if !enrolled {
            return refuse(
                ErrorCode::Conflict,
                format!("witness `{}` is not enrolled with this key: plan again", witness.node),
            );
        }
    }
    let Some(manifest) = documents.manifest(&plan.manifest) else {
        return refuse(
            ErrorCode::NotFound,
            format!("manifest {} is not in the store", plan.manifest),
        );
    };
    let regions: Vec<_> = plan.waves.iter().flat_map(|w| &w.regions).collect();
    for (id, node) in fleet
        .nodes
        .iter()
        .filter(|(id, n)| n.enrolled && regions.contains(&&id.region))
    {
        let runs = plan
            .variant_for(&node.class)
            .and_then(|variant| manifest.variant(variant));
        if runs.is_none() {
            return refuse(
                ErrorCode::Invalid,
                format!("node `{id}` of class `{}` gets no variant of {}", node.class, plan.to),
            );
        }
    }
    Ok(())
}

/// What the fold's refusal means to the operator who sent the entry. `command` has checked who speaks, so a signature
/// that does not hold was made for another position of the log.
#[must_use]
pub fn refusal_of(error: &EntryError) -> Refusal {
    let code = match error {
        EntryError::TooLong { .. } | EntryError::Malformed { .. } => ErrorCode::Invalid,
        _ => ErrorCode::Conflict,
    };
    Refusal {
        code,
        what: error.to_string(),
    }
}
