//! What a node tells the fleet's people of its use: the answer to `GET /v1/usage`, in JSON. Counts since the node started.

use serde::{Deserialize, Serialize};

use crate::ids::{ModelName, TenantId, UnixMs};

/// What one tenant has had of one model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Used {
    /// Requests that were answered.
    pub requests: u64,
    /// Rows that were answered, kept ones too.
    pub predictions: u64,
    /// Requests of them that needed no run of their own.
    pub kept: u64,
    /// Time of engine threads, microseconds; of a run with others the share of its rows.
    pub engine_us: u64,
}

/// One line of the answer to `GET /v1/usage`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageLine {
    /// Which model.
    pub model: ModelName,
    /// Who asked; none for all those beyond the bound on accounts, and for those who are no longer known.
    pub tenant: Option<TenantId>,
    /// How much.
    #[serde(flatten)]
    pub used: Used,
}

/// The answer to `GET /v1/usage`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsagePage {
    /// When counting began: the node's start.
    pub since: UnixMs,
    /// When this was made.
    pub now: UnixMs,
    /// Threads that run models.
    pub engine_threads: usize,
    /// By model and tenant.
    pub lines: Vec<UsageLine>,
}
