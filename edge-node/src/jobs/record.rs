//! One job as it lies in sled: a format byte, then postcard.

use proto::ids::{ContentHash, TenantId, UnixMs};
use serde::{Deserialize, Serialize};

/// Leading byte; another one is not read.
const FORMAT: u8 = 1;

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum State {
    /// Waits until it is due and the engine has time.
    Queued,
    /// Is being run; after a crash it is queued again.
    Running,
    /// Its answer is kept.
    Done,
    /// Given up: the dead letters.
    Failed,
}

impl State {
    /// All, in the order of a job's life.
    pub const ALL: [Self; 4] = [Self::Queued, Self::Running, Self::Done, Self::Failed];

    /// As clients read it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }
    /// Whether nothing is done for it any more.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Done | Self::Failed)
    }
}

/// What is to be run. The body lies in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// The model, as the path named it.
    pub model: String,
    /// Its version, where the path named one.
    pub version: Option<String>,
    /// `Content-Encoding` of the body as it is kept.
    pub encoding: Option<String>,
    /// Where the JSON of the body ends, if tensors follow it.
    pub json_bytes: Option<u64>,
    /// The model itself is to run, kept answers do not count.
    pub bypass: bool,
}

/// What makes two submissions one job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Twin {
    /// Digest of tenant and idempotency key.
    pub key: ContentHash,
    /// Digest of all that was asked.
    pub asked: ContentHash,
}

/// Why a job has no answer yet, or never will.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// The status that a direct request would have got.
    pub status: u16,
    /// One word for programs.
    pub code: String,
    /// A sentence for people.
    pub message: String,
}

/// Whom to tell, once there is something to tell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// Where.
    pub url: String,
    /// How often that was tried.
    pub attempts: u32,
    /// What became of it.
    pub progress: Progress,
}

/// How far a webhook is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Progress {
    /// The job is not finished.
    Idle,
    /// To be sent, not before then.
    Due(UnixMs),
    /// The receiver has confirmed it.
    Sent,
    /// Tried as often as may be.
    GivenUp,
}

/// A job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Whose it is.
    pub tenant: TenantId,
    /// What is to be run.
    pub ask: Ask,
    /// What makes another submission the same job.
    pub twin: Option<Twin>,
    /// Where it stands.
    pub state: State,
    /// Runs that began and were not called off.
    pub attempts: u32,
    /// When it was accepted.
    pub created: UnixMs,
    /// Not run before then.
    pub due: UnixMs,
    /// Given up then if it is not finished, forgotten then if it is.
    pub expires: UnixMs,
    /// Bytes of its files.
    pub bytes: u64,
    /// The last trouble.
    pub trouble: Option<Trouble>,
    /// Whom to tell.
    pub hook: Option<Hook>,
}

impl Record {
    /// The bytes on disk.
    #[must_use]
    pub fn write(&self) -> Vec<u8> {
        let body = postcard::to_stdvec(self).expect("names, numbers and texts are all that postcard needs to write");
        [&[FORMAT], body.as_slice()].concat()
    }
    /// What [`Record::write`] of this version wrote, nothing else.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let (&[FORMAT], rest) = bytes.split_first_chunk::<1>()? else {
            return None;
        };
        postcard::from_bytes(rest).ok()
    }
    /// When its webhook is to be sent.
    #[must_use]
    pub fn hook_due(&self) -> Option<UnixMs> {
        match self.hook.as_ref()?.progress {
            Progress::Due(at) => Some(at),
            Progress::Idle | Progress::Sent | Progress::GivenUp => None,
        }
    }
}

/// An answer as it lies in its file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Headers that belong to the answer, whoever fetches it.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Kept {
    /// The bytes on disk.
    #[must_use]
    pub fn write(&self) -> Vec<u8> {
        let body = postcard::to_stdvec(self).expect("texts and bytes are all that postcard needs to write");
        [&[FORMAT], body.as_slice()].concat()
    }
    /// What [`Kept::write`] of this version wrote, nothing else.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let (&[FORMAT], rest) = bytes.split_first_chunk::<1>()? else {
            return None;
        };
        postcard::from_bytes(rest).ok()
    }
}
