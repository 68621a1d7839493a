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
    /// Since when this node has been ready with it. Kept through restarts as long as it is the same one.
    pub ready_since: UnixMs,
    /// Which build of this software reproduced the golden vectors with it: another build does so again.
    pub checked_by: String,
    /// What answered before.
    pub previous: Option<Held>,
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
