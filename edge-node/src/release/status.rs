//! What this node does with each model, for the report.

use std::sync::Arc;

use proto::ids::{ContentHash, Release, UnixMs};
use proto::message::Stage;

use super::progress::Progress;

/// All models, and why nothing changes, if nothing may.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// What serves first, then what is on its way.
    pub models: Vec<ModelStatus>,
    /// A fork of the log or an expired state.
    pub stopped: Option<String>,
}

/// One release.
#[derive(Clone, Debug)]
pub struct ModelStatus {
    /// Which.
    pub release: Release,
    /// Its manifest.
    pub manifest: ContentHash,
    /// How far it is.
    pub stage: Stage,
    /// Since when it has answered; none while it does not.
    pub ready_since: Option<UnixMs>,
    /// Its bytes.
    pub progress: Arc<Progress>,
}
