//! What this node does with each model, for the report.

use std::sync::Arc;

use proto::ids::{ContentHash, Release};
use proto::message::Stage;

use super::progress::Progress;
use crate::store::Ready;

/// All models, and why nothing changes, if nothing may.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// What serves first, then what is on its way; then what the state names and its plan forbids.
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
    /// By which plan and since when it has answered; none while it does not.
    pub ready: Option<Ready>,
    /// Its bytes.
    pub progress: Arc<Progress>,
}

impl ModelStatus {
    /// A release that will not be served.
    pub(super) fn refused(release: &Release, manifest: ContentHash, why: String) -> Self {
        Self {
            release: release.clone(),
            manifest,
            stage: Stage::Refused(why),
            ready: None,
            progress: Arc::default(),
        }
    }
}
