//! `fleet audit model-at`: which release and digest a region answered with at a moment, and the proof.

use std::fmt;
use std::path::Path;

use proto::ids::{ContentHash, ModelName, RegionId, Release};
use serde::Serialize;

use super::history::History;
use super::{AuditError, moment};

/// What the log says of one region, model and moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// Where.
    pub region: RegionId,
    /// Which model.
    pub model: ModelName,
    /// When, RFC 3339.
    pub time: String,
    /// What was active; `None` before the first activation.
    pub active: Option<Active>,
    /// Entries of the log that the answer rests on: all.
    pub log_size: u64,
    /// When the last of them was written, RFC 3339: of later changes this copy of the log knows nothing.
    pub log_until: Option<String>,
}

/// An activation, and what proves it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Active {
    /// Which release.
    pub release: Release,
    /// Digest of its manifest.
    pub manifest: ContentHash,
    /// Since when, RFC 3339.
    pub since: String,
    /// Index of the log entry that says so, from 0.
    pub entry: u64,
    /// That entry as it lies in the log: the proof is about these bytes.
    pub leaf: String,
    /// That the entry stands under the signed checkpoint: C2SP `tlog-proof` text.
    pub proof: String,
}

/// Asks the log in `folder`, after checking all of it, what `region` answered with for `model` at `time`.
///
/// # Errors
/// [`AuditError`]: the log is not sound, the moment is none, or the region is unknown.
pub fn model_at(
    folder: &Path,
    vkey: &str,
    region: &RegionId,
    time: &str,
    model: &ModelName,
) -> Result<Answer, AuditError> {
    let at = moment::read(time)?;
    let history = History::read(folder, vkey)?;
    if !history.fleet.regions.contains_key(region) {
        let known: Vec<String> = history.fleet.regions.keys().map(|known| format!("`{known}`")).collect();
        return Err(AuditError::Region {
            name: region.to_string(),
            known: known.join(", "),
        });
    }
    let active = history.fleet.active_at(region, model, at).map(|activation| Active {
        release: activation.release.clone(),
        manifest: activation.manifest,
        since: moment::write(activation.since),
        entry: activation.entry,
        leaf: history.entry(activation.entry),
        proof: history.proof(activation.entry),
    });
    Ok(Answer {
        region: region.clone(),
        model: model.clone(),
        time: moment::write(at),
        active,
        log_size: history.checkpoint.size,
        log_until: history.span.map(|(_, last)| moment::write(last)),
    })
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            region, model, time, ..
        } = self;
        match &self.active {
            None => write!(
                f,
                "{region} answered with no release of {model} at {time}: none was active"
            )?,
            Some(active) => {
                write!(
                    f,
                    "{region} answered with {} at {time}\n  manifest    {}",
                    active.release, active.manifest
                )?;
                write!(f, "\n  since       {}, log entry {}", active.since, active.entry)?;
            }
        }
        let until = self.log_until.as_deref().unwrap_or("its beginning");
        write!(
            f,
            "\n  rests on    {} entries, all checked; the log knows nothing after {until}",
            self.log_size
        )?;
        if let Some(Active { leaf, proof, .. }) = &self.active {
            write!(f, "\n  entry       {leaf}\n\n{proof}")?;
        }
        Ok(())
    }
}
