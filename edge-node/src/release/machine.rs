//! How one release of a model becomes the one that answers requests on this node.
//!
//! ```text
//!             Wanted             Stored            Warmed
//!   nothing ---------> Fetching --------> Warming ---------> serving (the candidate is gone)
//!                       ^  |  ^  Lacking     |
//!                       |  |  +--------------+
//!              RetryDue |  | Failed          | Failed, or lacking too often
//!                       |  v                 v
//!                       +-------- Refused <--+
//! ```
//! This module decides and does nothing else: no clock, no socket, no disk. The caller performs the returned [`Action`]
//! and reports back with the next [`Event`]. Which release is wanted, and that it may be an older one again, is the word
//! of the signed region state; what arrives late or twice about any other release changes nothing.
//!
//! Invariant: what is serving keeps answering until the release wanted last is warm, or until the model is no longer
//! wanted at all.

use proto::ids::{ContentHash, Release, VariantId};

/// How often one candidate is tried before the count stops counting. Waits between tries grow with it.
pub const TRIES_MAX: u8 = 8;
/// How often files may turn out bad between fetching and loading before the candidate is refused for a while.
pub const LACKING_MAX: u8 = 3;

/// What is to be served of one model: bytes and form, both fixed by the signed plan.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    /// Name and version, for people.
    pub release: Release,
    /// Which bytes.
    pub manifest: ContentHash,
    /// Which of the forms in the manifest this node's class runs.
    pub variant: VariantId,
}

/// The release that is on its way to serving.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Candidate {
    /// What is wanted is what serves.
    #[default]
    None,
    /// Its files are coming; `tries` were in vain so far.
    Fetching(Target, u8),
    /// Its files are here: checked by golden vectors, loading, warming.
    Warming(Target, u8),
    /// It failed and rests.
    Refused(Target, u8),
}

impl Candidate {
    /// Which release, if any.
    #[must_use]
    pub fn target(&self) -> Option<&Target> {
        match self {
            Self::None => None,
            Self::Fetching(t, _) | Self::Warming(t, _) | Self::Refused(t, _) => Some(t),
        }
    }
}

/// One model on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Machine {
    /// Answers requests.
    pub serving: Option<Target>,
    /// Answered before; its files stay, so that a rollback moves no bytes.
    pub previous: Option<Target>,
    /// On its way.
    pub candidate: Candidate,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The signed state names this release. Said again at every pass.
    Wanted(Target),
    /// The signed state does not name the model.
    Unwanted,
    /// All files are on disk, each matching its digest.
    Stored(Target),
    /// A file that was there is not, or is not what it was.
    Lacking(Target),
    /// The golden vectors were reproduced and the model is loaded and warm.
    Warmed(Target),
    /// Fetching or warming failed.
    Failed(Target),
    /// A refused candidate has rested long enough.
    RetryDue(Target),
}

/// What the caller does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing.
    Wait,
    /// Get the files.
    Fetch(Target),
    /// Check, load and warm.
    Warm(Target),
    /// Let it answer from now on. The only action that changes what users get.
    Switch(Target),
    /// Say why, and report [`Event::RetryDue`] after a wait that grows with the tries.
    Rest(Target, u8),
    /// Answer for this model no more.
    Withdraw,
}

impl Machine {
    /// A model that answered before the node was restarted, and was loaded again.
    #[must_use]
    pub fn resumed(serving: Target, previous: Option<Target>) -> Self {
        Self {
            serving: Some(serving),
            previous,
            candidate: Candidate::None,
        }
    }

    /// The next state and what to do.
    #[must_use]
    pub fn on(self, event: Event) -> (Self, Action) {
        use Candidate::{Fetching, Refused, Warming};
        match (self.candidate.clone(), event) {
            // What is wanted serves already: whatever was on its way is given up.
            (_, Event::Wanted(t)) if self.serving.as_ref() == Some(&t) => self.to(Candidate::None, Action::Wait),
            // Wanted again: a candidate goes on, a refused one rests on.
            (candidate, Event::Wanted(t)) if candidate.target() == Some(&t) => (self, Action::Wait),
            // Any => Fetching, for another release than before.
            (_, Event::Wanted(t)) => self.to(Fetching(t.clone(), 0), Action::Fetch(t)),
            // Any => nothing. Its files stay until they are swept.
            (_, Event::Unwanted) => {
                let action = if self.serving.is_some() {
                    Action::Withdraw
                } else {
                    Action::Wait
                };
                (
                    Self {
                        serving: None,
                        candidate: Candidate::None,
                        ..self
                    },
                    action,
                )
            }
            // Fetching => Warming.
            (Fetching(t, tries), Event::Stored(s)) if t == s => self.to(Warming(t.clone(), tries), Action::Warm(t)),
            // Warming => Fetching: a file went bad on disk after it was fetched, or long before.
            (Warming(t, tries), Event::Lacking(s)) if t == s && tries < LACKING_MAX => {
                self.to(Fetching(t.clone(), tries + 1), Action::Fetch(t))
            }
            // Warming => serving. The only edge that changes what users get.
            (Warming(t, _), Event::Warmed(s)) if t == s => {
                let previous = self.serving.or(self.previous);
                (
                    Self {
                        serving: Some(t.clone()),
                        previous,
                        candidate: Candidate::None,
                    },
                    Action::Switch(t),
                )
            }
            // Fetching | Warming => Refused. What served before goes on serving.
            (Fetching(t, tries) | Warming(t, tries), Event::Failed(s) | Event::Lacking(s)) if t == s => {
                let tries = (tries + 1).min(TRIES_MAX);
                self.to(Refused(t.clone(), tries), Action::Rest(t, tries))
            }
            // Refused => Fetching.
            (Refused(t, tries), Event::RetryDue(s)) if t == s => self.to(Fetching(t.clone(), tries), Action::Fetch(t)),
            // Late or repeated word about something else.
            _ => (self, Action::Wait),
        }
    }

    fn to(self, candidate: Candidate, action: Action) -> (Self, Action) {
        (Self { candidate, ..self }, action)
    }
}

#[cfg(test)]
mod tests;
