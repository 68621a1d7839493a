//! Evidence on disk: one small file for each plan, so that a restart goes on where the rollout stood.
//!
//! What a file holds is checked as if a node had just sent it. A lost file only costs time: nodes report again.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use models::durable;
use proto::ids::{ContentHash, NodeId};
use proto::plan::ReadyReport;
use proto::signed::{Document, Signed};

use super::evidence::Evidence;
use crate::artifacts::documents::Plans;

/// Why evidence is not on disk.
#[derive(Debug, thiserror::Error)]
#[error("evidence file {path}")]
pub struct KeepError {
    path: PathBuf,
    #[source]
    source: std::io::Error,
}

/// The folder of evidence files.
#[derive(Debug)]
pub struct Keeper {
    dir: PathBuf,
}

impl Keeper {
    /// Keeps evidence in `dir`, which is made if it does not exist.
    ///
    /// # Errors
    /// [`KeepError`].
    pub fn open(dir: &Path) -> Result<Self, KeepError> {
        std::fs::create_dir_all(dir).map_err(|source| KeepError {
            path: dir.to_owned(),
            source,
        })?;
        Ok(Self { dir: dir.to_owned() })
    }

    /// Removes what is kept for plans that are not `needed`.
    ///
    /// # Errors
    /// [`KeepError`].
    pub fn sweep(&self, needed: &BTreeSet<ContentHash>) -> Result<(), KeepError> {
        let failed = |source| KeepError {
            path: self.dir.clone(),
            source,
        };
        for entry in std::fs::read_dir(&self.dir).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            let id = name.and_then(|name| name.parse::<ContentHash>().ok());
            if !id.is_some_and(|id| needed.contains(&id)) {
                std::fs::remove_file(&path).map_err(failed)?;
            }
        }
        Ok(())
    }

    /// Adds to `evidence` what is kept for those of `plans` that it does not know yet: after a start, and when a plan's
    /// document has come back. A damaged file is left out. Blocking.
    pub fn recall(&self, plans: &Plans, evidence: &mut Evidence) {
        for (id, doc) in plans {
            if evidence.knows(id) {
                continue;
            }
            evidence.begin(*id);
            let Ok(bytes) = std::fs::read(self.dir.join(id.hex())) else {
                continue;
            };
            let reports: Vec<Signed> = postcard::from_bytes(&bytes).unwrap_or_default();
            for report in reports {
                if let Some(node) = node_of(&report) {
                    evidence.keep(*id, &doc.plan, &node, &report);
                }
            }
        }
    }

    /// Writes what is known for `plan`. Blocking; on disk when it returns.
    ///
    /// # Errors
    /// [`KeepError`].
    pub fn save(&self, plan: &ContentHash, evidence: &Evidence) -> Result<(), KeepError> {
        let bytes = postcard::to_stdvec(&evidence.of(plan)).expect("reports hold only types that postcard writes");
        let path = self.dir.join(plan.hex());
        durable::write(&path, &bytes).map_err(|source| KeepError { path, source })
    }
}

/// Who claims to have written `report`; [`Evidence::keep`] verifies it.
fn node_of(report: &Signed) -> Option<NodeId> {
    ReadyReport::decode(&report.payload).ok().map(|said| said.node)
}
