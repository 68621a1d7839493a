//! What answered requests when the node last changed anything: read at start, so that a restart is no change.

use std::collections::BTreeMap;

use proto::ids::{ContentHash, ModelName, Release, UnixMs, VariantId};
use serde::{Deserialize, Serialize};

use crate::release::machine::Target;

/// By model.
pub type ActiveModels = BTreeMap<ModelName, ActiveModel>;

/// One model that answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActiveModel {
    /// Which release.
    pub serving: Held,
    /// By which plan and since when this node has been ready with it. None before a plan asked for it.
    pub ready: Option<Ready>,
    /// Which build of this software reproduced the golden vectors with it: another build does so again.
    pub checked_by: String,
    /// What answered before.
    pub previous: Option<Held>,
}

/// What a ready report rests on. It is kept through restarts, and begins anew with another plan, also with one that asks
/// for the same bytes: a bake is counted for each plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ready {
    /// Digest of the signed plan.
    pub plan: ContentHash,
    /// Since when, by this node's clock.
    pub since: UnixMs,
}

/// A [`Target`] as it lies on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Held {
    release: Release,
    manifest: ContentHash,
    variant: VariantId,
}

impl From<&Target> for Held {
    fn from(t: &Target) -> Self {
        Self {
            release: t.release.clone(),
            manifest: t.manifest,
            variant: t.variant.clone(),
        }
    }
}
impl From<Held> for Target {
    fn from(h: Held) -> Self {
        Self {
            release: h.release,
            manifest: h.manifest,
            variant: h.variant,
        }
    }
}
