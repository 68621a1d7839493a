//! The folder of small files. See the table in the parent module.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use models::durable;
use proto::ids::UnixMs;
use proto::limits::{MODELS_MAX, PLAN_BYTES_MAX};
use proto::region_state::{Floors, RegionState};
use proto::signed::{Document, Signed};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::active::ActiveModels;

const ACCEPTED: &str = "accepted.bin";
const FLOORS: &str = "floors.json";
const ACTIVE: &str = "active.json";
const FORK: &str = "fork.json";
/// Leading byte of `accepted.bin`.
const ACCEPTED_FORMAT: u8 = 2;
/// Longest file that is read: a whole state, a plan held for every model, their signatures and floors.
const FILE_BYTES_MAX: u64 = 72 << 20;
const _: () = assert!(RegionState::BYTES_MAX + MODELS_MAX * (PLAN_BYTES_MAX + (16 << 10)) < 72 << 20);

/// Why something could not be kept or read back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The disk refused.
    #[error("{what} {path:?}")]
    Io {
        /// Reading or writing.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Both copies of the floors are unreadable: starting without them would let an old state in.
    #[error(
        "both {ACCEPTED} and {FLOORS} in {dir:?} are damaged: restore one of them, or enrol this node anew with an empty data folder"
    )]
    FloorsLost {
        /// The folder.
        dir: PathBuf,
    },
    /// The fork marker is there but cannot be read.
    #[error("{path:?} is damaged: compare the log's checkpoints with `fleet log verify` before removing it")]
    ForkUnreadable {
        /// The marker.
        path: PathBuf,
    },
}

/// Two checkpoints that the log signed and that exclude each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fork {
    /// The one this node has followed, signed-note text.
    pub ours: String,
    /// The one it was shown.
    pub theirs: String,
    /// When it was found.
    pub found: UnixMs,
}

/// What was accepted before the restart.
#[derive(Debug, Default)]
pub struct Restored {
    /// The state accepted last, with what belongs to it.
    pub accepted: Option<KeptState>,
    /// Never to go below: the higher ones of both files.
    pub floors: Floors,
    /// The checkpoint that `floors.json` holds; the state may hold a newer one.
    pub checkpoint: Option<String>,
}

/// What [`proto::region_state::reopen`] needs, of one moment. Signatures are to be checked again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptState {
    /// The state, whole: what is forbidden in it too.
    pub state: Signed,
    /// The plans that stayed in force for the models that are forbidden in it.
    pub held: Vec<Signed>,
    /// The floors that it raised: they name the plan in force for each model.
    pub floors: Floors,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FloorsFile {
    floors: Floors,
    checkpoint: String,
}

/// The node's folder of small files. One process uses it at a time.
#[derive(Debug)]
pub struct Kept {
    dir: PathBuf,
}

impl Kept {
    /// Opens or makes the folder.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let fail = |source| StoreError::Io {
            what: "making the folder",
            path: dir.to_owned(),
            source,
        };
        std::fs::create_dir_all(dir).map_err(fail)?;
        Ok(Self { dir: dir.to_owned() })
    }

    /// Keeps a state that every rule accepted, before anything acts on it. `accepted.bin` is the one that counts; a
    /// crash between both files is harmless, because the higher floor wins when they are read.
    ///
    /// # Errors
    /// [`StoreError::Io`]: then the state must not be acted on.
    pub fn save_accepted(&self, accepted: &KeptState, checkpoint: &str) -> Result<(), StoreError> {
        let bytes = postcard::to_extend(accepted, vec![ACCEPTED_FORMAT]).expect("these types are written by postcard");
        self.replace(ACCEPTED, &bytes)?;
        self.save_json(
            FLOORS,
            &FloorsFile {
                floors: accepted.floors.clone(),
                checkpoint: checkpoint.to_owned(),
            },
        )
    }

    /// What was kept; a damaged copy of the floors is made up for by the other one.
    ///
    /// # Errors
    /// [`StoreError::FloorsLost`] when both copies are damaged, [`StoreError::Io`] when the disk refuses.
    pub fn restore(&self) -> Result<Restored, StoreError> {
        let accepted = self.read(ACCEPTED)?.map(|bytes| accepted_from(&bytes));
        let mirror = self
            .read(FLOORS)?
            .map(|bytes| serde_json::from_slice::<FloorsFile>(&bytes).ok());
        for (name, damaged) in [
            (ACCEPTED, matches!(accepted, Some(None))),
            (FLOORS, matches!(mirror, Some(None))),
        ] {
            if damaged {
                tracing::error!(file = name, "damaged; going on with the other copy of the floors");
            }
        }
        match (accepted, mirror) {
            (Some(None), None | Some(None)) | (None, Some(None)) => {
                Err(StoreError::FloorsLost { dir: self.dir.clone() })
            }
            (accepted, mirror) => {
                let (accepted, mirror) = (accepted.flatten(), mirror.flatten());
                let mut restored = Restored::default();
                if let Some(mirror) = mirror {
                    restored.floors = mirror.floors;
                    restored.checkpoint = Some(mirror.checkpoint);
                }
                if let Some(accepted) = accepted {
                    restored.floors = higher(restored.floors, accepted.floors.clone());
                    restored.accepted = Some(accepted);
                }
                Ok(restored)
            }
        }
    }

    /// Keeps the proof of a fork.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn save_fork(&self, fork: &Fork) -> Result<(), StoreError> {
        self.save_json(FORK, fork)
    }

    /// The proof of a fork, if one was found.
    ///
    /// # Errors
    /// [`StoreError::ForkUnreadable`]: a damaged marker is still a marker.
    pub fn fork(&self) -> Result<Option<Fork>, StoreError> {
        let damaged = |_| StoreError::ForkUnreadable {
            path: self.dir.join(FORK),
        };
        self.read(FORK)?
            .map(|bytes| serde_json::from_slice(&bytes).map_err(damaged))
            .transpose()
    }

    /// Keeps what answers now.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn save_active(&self, active: &ActiveModels) -> Result<(), StoreError> {
        self.save_json(ACTIVE, active)
    }

    /// What answered before the restart; nothing when the file is missing or damaged, which costs time and no safety.
    #[must_use]
    pub fn active(&self) -> ActiveModels {
        self.json_or_default(ACTIVE)
    }

    fn json_or_default<T: DeserializeOwned + Default>(&self, name: &'static str) -> T {
        let read = self.read(name).map(|bytes| bytes.map(|b| serde_json::from_slice(&b)));
        match read {
            Ok(None) => T::default(),
            Ok(Some(Ok(value))) => value,
            Ok(Some(Err(e))) => {
                tracing::warn!(file = name, error = %e, "damaged; starting without it");
                T::default()
            }
            Err(e) => {
                tracing::warn!(file = name, error = %e, "unreadable; starting without it");
                T::default()
            }
        }
    }

    fn save_json<T: Serialize>(&self, name: &'static str, value: &T) -> Result<(), StoreError> {
        let bytes = serde_json::to_vec_pretty(value).expect("these types are written by JSON");
        self.replace(name, &bytes)
    }

    fn replace(&self, name: &'static str, bytes: &[u8]) -> Result<(), StoreError> {
        let path = self.dir.join(name);
        durable::write(&path, bytes).map_err(|source| StoreError::Io {
            what: "writing",
            path,
            source,
        })
    }

    /// `None` where there is no such file; one that is longer than it can be reads as an empty, damaged one.
    fn read(&self, name: &'static str) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.dir.join(name);
        let mut bytes = Vec::new();
        let read = File::open(&path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes));
        match read {
            Ok(len) if u64::try_from(len).is_ok_and(|len| len <= FILE_BYTES_MAX) => Ok(Some(bytes)),
            Ok(_) => Ok(Some(Vec::new())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(StoreError::Io {
                what: "reading",
                path,
                source,
            }),
        }
    }
}

fn accepted_from(bytes: &[u8]) -> Option<KeptState> {
    let (&ACCEPTED_FORMAT, body) = bytes.split_first()? else {
        return None;
    };
    match postcard::take_from_bytes(body) {
        Ok((file, [])) => Some(file),
        _ => None,
    }
}

/// The higher of both in every place.
fn higher(mut a: Floors, b: Floors) -> Floors {
    (a.seq, a.epoch) = (a.seq.max(b.seq), a.epoch.max(b.epoch));
    for plan in b.plans {
        match a.plans.iter_mut().find(|p| p.0 == plan.0) {
            Some(known) if known.1 < plan.1 => *known = plan,
            Some(_) => {}
            None => a.plans.push(plan),
        }
    }
    a
}

#[cfg(test)]
mod tests;
