//! What the release log says, and the state of the fleet that follows from it.
//!
//! A log leaf is one [`Leaf`]: UTF-8 JSON of at most 1 KiB, kept and verified as it was written. [`Fleet::apply`] is the
//! one fold: the control plane's state, the router's view and the auditor's report are all made by it.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::ids::{
    BoundaryId, ContentHash, ModelName, ModelVersion, NodeClass, NodeId, PrincipalName, RegionId, Release, TenantId,
    UnixMs,
};
use crate::limits::LOG_ENTRY_BYTES_MAX;
use crate::region_state::{RegionInfo, Tenant};
use crate::signed::{Operator, PublicKey};

/// A fact that decides what runs where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    tag = "kind",
    rename_all = "kebab-case",
    rename_all_fields = "kebab-case",
    deny_unknown_fields
)]
pub enum Body {
    /// The first entry: who may sign.
    FleetInit {
        /// Name of the fleet.
        fleet: PrincipalName,
        /// People who sign manifests, plans and commands.
        operators: Vec<Operator>,
        /// How many of them a plan needs.
        threshold: usize,
    },
    /// A region exists, at a real place.
    RegionAdd {
        /// Name.
        region: RegionId,
        /// ISO 3166-1 alpha-2.
        country: String,
        /// Millionths of a degree north.
        lat_e6: i32,
        /// Millionths of a degree east.
        lon_e6: i32,
    },
    /// A node may join.
    NodeEnrol {
        /// Name.
        node: NodeId,
        /// Its hardware.
        class: NodeClass,
        /// Its HTTPS ingress.
        ingress: SocketAddr,
        /// Signs its reports; the key of its certificate.
        key: PublicKey,
    },
    /// A node may no longer join.
    NodeRevoke {
        /// Name.
        node: NodeId,
    },
    /// A customer may ask.
    TenantAdd {
        /// Name.
        tenant: TenantId,
        /// Where their data may be.
        boundary: BoundaryId,
        /// BLAKE3 of the API key's text.
        key_hash: ContentHash,
    },
    /// A customer may no longer ask.
    TenantRevoke {
        /// Name.
        tenant: TenantId,
    },
    /// A release exists.
    Publish {
        /// Model.
        model: ModelName,
        /// Version: one more than the model's last.
        version: ModelVersion,
        /// Its manifest.
        manifest: ContentHash,
    },
    /// People have signed a change.
    Plan {
        /// Digest of the signed plan document.
        plan: ContentHash,
        /// Counts up per model.
        serial: u64,
        /// Model.
        model: ModelName,
        /// Version to change to.
        version: ModelVersion,
        /// Its manifest.
        manifest: ContentHash,
        /// How many waves.
        waves: usize,
        /// Why.
        reason: String,
    },
    /// A wave began: its regions are to change.
    Step {
        /// Which plan.
        plan: ContentHash,
        /// Which wave, from 0.
        wave: usize,
        /// Model.
        model: ModelName,
        /// Version.
        version: ModelVersion,
        /// Manifest.
        manifest: ContentHash,
        /// Its regions.
        regions: Vec<RegionId>,
    },
    /// A quorum of a region's nodes serves the release: from here on it is what answers there.
    Active {
        /// Where.
        region: RegionId,
        /// Model.
        model: ModelName,
        /// Version.
        version: ModelVersion,
        /// Manifest.
        manifest: ContentHash,
        /// Nodes that reported it.
        nodes: Vec<NodeId>,
    },
    /// Every region of the plan is active.
    Complete {
        /// Which plan.
        plan: ContentHash,
    },
    /// No further step of this plan.
    Abort {
        /// Which plan.
        plan: ContentHash,
        /// Why.
        reason: String,
    },
}

/// One leaf of the log. `body` is kept as text, because operators sign those very bytes.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Leaf {
    /// When it was appended.
    pub time: UnixMs,
    /// Who said it: an operator's name, or `control-plane`.
    pub by: PrincipalName,
    /// The operator's signature over [`command_message`], base64; none where the control plane itself speaks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sig: Option<String>,
    /// The fact: a [`Body`] in JSON.
    pub body: Box<RawValue>,
}

/// The name under which the control plane itself writes: steps, activations, completions and aborts.
pub const CONTROL_PLANE: &str = "control-plane";

/// What an operator signs to say `body` at log position `epoch`: a command can neither be moved nor replayed.
#[must_use]
pub fn command_message(fleet: &PrincipalName, epoch: u64, body: &str) -> Vec<u8> {
    format!("meridian/command/v1\0{fleet}\0{epoch}\0{body}").into_bytes()
}

/// Why an entry cannot be appended, or a log is not a fleet's log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EntryError {
    /// Longer than a leaf may be.
    #[error("the entry has {bytes} bytes, allowed is {LOG_ENTRY_BYTES_MAX}")]
    TooLong {
        /// Found.
        bytes: usize,
    },
    /// Not an entry.
    #[error("not a log entry: {what}")]
    Malformed {
        /// Where it stopped making sense.
        what: String,
    },
    /// Not said by somebody who may.
    #[error("`{by}` may not say `{kind}`: {why}")]
    NotAllowed {
        /// Who.
        by: PrincipalName,
        /// What kind of entry.
        kind: &'static str,
        /// Why.
        why: &'static str,
    },
    /// Contradicts what the log already says.
    #[error("{what}")]
    Conflict {
        /// How, and what to do.
        what: String,
    },
}

/// A published release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// Its manifest.
    pub manifest: ContentHash,
    /// When.
    pub time: UnixMs,
}

/// Where a plan stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PlanStatus {
    /// Signed; the next step is this wave.
    Open {
        /// Waves begun so far.
        waves_begun: usize,
    },
    /// Every region is active.
    Complete,
    /// Stopped by people or by a newer plan.
    Aborted,
}

/// A signed plan, as the log knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanEntry {
    /// Digest of the document.
    pub id: ContentHash,
    /// Counts up per model.
    pub serial: u64,
    /// To which release.
    pub to: Release,
    /// Its manifest.
    pub manifest: ContentHash,
    /// How many waves.
    pub waves: usize,
    /// Where it stands.
    pub status: PlanStatus,
}

/// What a region must serve of one model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Which release.
    pub release: Release,
    /// Its manifest.
    pub manifest: ContentHash,
    /// On the word of which plan.
    pub plan: ContentHash,
}

/// An enrolled node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeEntry {
    /// Its hardware.
    pub class: NodeClass,
    /// Its HTTPS ingress.
    pub ingress: SocketAddr,
    /// Signs its reports.
    pub key: PublicKey,
    /// `false` once revoked.
    pub enrolled: bool,
}

/// What a region answers with: since which moment, from which release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activation {
    /// When the log said so.
    pub since: UnixMs,
    /// Which log entry said so, from 0.
    pub entry: u64,
    /// Which release.
    pub release: Release,
    /// Its manifest.
    pub manifest: ContentHash,
}

/// The fleet as the log describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fleet {
    /// Entries folded: the epoch.
    pub epoch: u64,
    /// Name of the fleet, once initialised.
    pub name: Option<PrincipalName>,
    /// Who may sign.
    pub operators: Vec<Operator>,
    /// How many must sign a plan.
    pub threshold: usize,
    /// Regions by name.
    pub regions: BTreeMap<RegionId, RegionInfo>,
    /// Nodes by name, revoked ones too.
    pub nodes: BTreeMap<NodeId, NodeEntry>,
    /// Customers who may ask.
    pub tenants: BTreeMap<TenantId, Tenant>,
    /// Releases by model and version.
    pub releases: BTreeMap<ModelName, BTreeMap<ModelVersion, Published>>,
    /// All plans, in log order.
    pub plans: Vec<PlanEntry>,
    /// What each region must serve.
    pub targets: BTreeMap<(RegionId, ModelName), Target>,
    /// What each region has answered with, oldest first.
    pub activations: BTreeMap<(RegionId, ModelName), Vec<Activation>>,
}

impl Body {
    /// The entry's kind, as written in JSON.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::FleetInit { .. } => "fleet-init",
            Self::RegionAdd { .. } => "region-add",
            Self::NodeEnrol { .. } => "node-enrol",
            Self::NodeRevoke { .. } => "node-revoke",
            Self::TenantAdd { .. } => "tenant-add",
            Self::TenantRevoke { .. } => "tenant-revoke",
            Self::Publish { .. } => "publish",
            Self::Plan { .. } => "plan",
            Self::Step { .. } => "step",
            Self::Active { .. } => "active",
            Self::Complete { .. } => "complete",
            Self::Abort { .. } => "abort",
        }
    }
    /// Whether the control plane may say this by itself; all else needs an operator's signature.
    #[must_use]
    pub fn is_control_plane(&self) -> bool {
        matches!(
            self,
            Self::FleetInit { .. } | Self::Step { .. } | Self::Active { .. } | Self::Complete { .. }
        )
    }
    /// The JSON that is signed and stored.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("an entry holds only types that JSON writes")
    }
}

impl Leaf {
    /// The leaf's bytes.
    ///
    /// # Errors
    /// [`EntryError::TooLong`].
    pub fn encode(&self) -> Result<Vec<u8>, EntryError> {
        let bytes = serde_json::to_vec(self).expect("a leaf holds only types that JSON writes");
        if bytes.len() > LOG_ENTRY_BYTES_MAX {
            return Err(EntryError::TooLong { bytes: bytes.len() });
        }
        Ok(bytes)
    }
    /// Reads a leaf and its body.
    ///
    /// # Errors
    /// [`EntryError::TooLong`] or [`EntryError::Malformed`].
    pub fn decode(bytes: &[u8]) -> Result<(Self, Body), EntryError> {
        if bytes.len() > LOG_ENTRY_BYTES_MAX {
            return Err(EntryError::TooLong { bytes: bytes.len() });
        }
        let malformed = |e: serde_json::Error| EntryError::Malformed { what: e.to_string() };
        let leaf: Self = serde_json::from_slice(bytes).map_err(malformed)?;
        let body = serde_json::from_str(leaf.body.get()).map_err(malformed)?;
        Ok((leaf, body))
    }
}

mod fold;

#[cfg(test)]
mod tests;
