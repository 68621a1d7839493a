//! The one history of the release log that this node knows, and what may be said against it.
//!
//! Pure: proofs are arguments. A checkpoint counts only if the log's key signed it; of two such checkpoints the larger
//! must extend the smaller. Where that cannot be, the log has told two stories: a fork.

use proto::merkle;
use proto::note::{self, Checkpoint};
use proto::region_state::{Consistency, RegionState};

/// A checkpoint that the log's key signed, with the text that proves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// What it says.
    pub checkpoint: Checkpoint,
    /// C2SP signed-note text.
    pub note: String,
}

/// What a checkpoint that somebody else has seen means here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Not signed by the log's key: says nothing.
    Foreign,
    /// The same history as far as can be told without a proof.
    Known,
    /// Good only if the log proves that the second extends the first.
    Ask(Box<(Seen, Seen)>),
    /// Excludes what this node has followed.
    Fork(Box<Seen>),
}

/// What this node has followed.
#[derive(Clone, Debug)]
pub struct History {
    vkey: String,
    last: Option<Seen>,
}

impl History {
    /// Starts from what was kept, if it is still signed by the log.
    #[must_use]
    pub fn new(vkey: &str, kept: impl IntoIterator<Item = String>) -> Self {
        let mut history = Self {
            vkey: vkey.to_owned(),
            last: None,
        };
        for note in kept {
            match history.open(&note) {
                Some(seen) if seen.checkpoint.size >= history.size() => history.last = Some(seen),
                _ => {}
            }
        }
        history
    }

    /// Reads a checkpoint that the log's key signed.
    #[must_use]
    pub fn open(&self, note: &str) -> Option<Seen> {
        let checkpoint = note::open_checkpoint(note, &self.vkey).ok()?;
        Some(Seen {
            checkpoint,
            note: note.to_owned(),
        })
    }

    /// Size of the log as followed; 0 before the first state.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.last.as_ref().map_or(0, |seen| seen.checkpoint.size)
    }

    /// The newest checkpoint followed; empty before the first.
    #[must_use]
    pub fn note(&self) -> &str {
        self.last.as_ref().map_or("", |seen| &seen.note)
    }

    /// Whether the checkpoint of `state` is for its epoch and extends what was followed, on the word of `proof`.
    #[must_use]
    pub fn judge(&self, state: &RegionState, proof: &[[u8; 32]]) -> Consistency {
        let Some(seen) = self.open(&state.checkpoint) else {
            return Consistency::Broken;
        };
        if seen.checkpoint.size != state.epoch {
            return Consistency::Broken;
        }
        match self.compare(seen) {
            Heard::Known => Consistency::Proven,
            Heard::Fork(_) => Consistency::Fork,
            Heard::Ask(pair) if pair.0.checkpoint.size == self.size() && proven(&pair.0, &pair.1, proof) => {
                Consistency::Proven
            }
            Heard::Ask(_) | Heard::Foreign => Consistency::Broken,
        }
    }

    /// Goes on to the checkpoint of an accepted state.
    pub fn advance(&mut self, note: &str) {
        if let Some(seen) = self.open(note) {
            self.last = Some(seen);
        }
    }

    /// What a checkpoint from somewhere else means.
    #[must_use]
    pub fn hear(&self, note: &str) -> Heard {
        self.open(note).map_or(Heard::Foreign, |seen| self.compare(seen))
    }

    fn compare(&self, seen: Seen) -> Heard {
        let Some(last) = &self.last else { return Heard::Known };
        let (ours, theirs) = (&last.checkpoint, &seen.checkpoint);
        if ours.size == theirs.size {
            return if ours.root == theirs.root {
                Heard::Known
            } else {
                Heard::Fork(Box::new(seen))
            };
        }
        // The empty log is the beginning of every log.
        if ours.size == 0 || theirs.size == 0 {
            return Heard::Known;
        }
        let newer = theirs.size > ours.size;
        let pair = if newer {
            (last.clone(), seen)
        } else {
            (seen, last.clone())
        };
        Heard::Ask(Box::new(pair))
    }
}

/// Whether `proof` shows that `newer` extends `older`.
#[must_use]
pub(super) fn proven(older: &Seen, newer: &Seen, proof: &[[u8; 32]]) -> bool {
    let (o, n) = (&older.checkpoint, &newer.checkpoint);
    merkle::verify_consistency(o.size, &o.root, n.size, &n.root, proof)
}

#[cfg(test)]
mod tests;
