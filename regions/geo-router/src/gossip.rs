//! The checkpoints that nodes and the control plane were seen with: two roots for one size are a forked log.
//!
//! The router compares and passes on; it decides nothing. A node that is shown a fork stops its activations.

use std::collections::BTreeMap;

use proto::limits::CHECKPOINTS_KEPT;
use proto::note;

/// Two signed checkpoints of one log that exclude each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fork {
    /// The tree size that has two roots.
    pub size: u64,
    /// Both notes, as signed: evidence that anybody can check.
    pub notes: [String; 2],
}

/// What a checkpoint told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A size not seen before.
    New,
    /// Known, and the same.
    Known,
    /// Known with another root.
    Forked,
    /// Not a checkpoint signed by the fleet's log.
    NotSigned,
}

/// The newest checkpoints, by size.
#[derive(Clone, Debug)]
pub struct Gossip {
    vkey: String,
    seen: BTreeMap<u64, ([u8; 32], String)>,
    fork: Option<Fork>,
}

impl Gossip {
    /// Nothing seen yet of the log with this verifier key.
    #[must_use]
    pub fn new(vkey: String) -> Self {
        Self {
            vkey,
            seen: BTreeMap::new(),
            fork: None,
        }
    }
    /// Compares one more signed note with all that are kept.
    pub fn see(&mut self, text: &str) -> Seen {
        // Most nodes show the note that the last one showed: that one needs no second look at its signature.
        if self.seen.values().any(|(_, known)| known == text) {
            return Seen::Known;
        }
        let Ok(checkpoint) = note::open_checkpoint(text, &self.vkey) else {
            return Seen::NotSigned;
        };
        match self.seen.get(&checkpoint.size) {
            Some((root, _)) if *root == checkpoint.root => Seen::Known,
            Some((_, other)) => {
                let notes = [other.clone(), text.to_owned()];
                self.fork.get_or_insert(Fork {
                    size: checkpoint.size,
                    notes,
                });
                Seen::Forked
            }
            None => {
                self.seen.insert(checkpoint.size, (checkpoint.root, text.to_owned()));
                if self.seen.len() > CHECKPOINTS_KEPT {
                    self.seen.pop_first();
                }
                Seen::New
            }
        }
    }
    /// The first fork that was seen. It is never forgotten while this process lives.
    #[must_use]
    pub fn fork(&self) -> Option<&Fork> {
        self.fork.as_ref()
    }
    /// What to pass on: the newest checkpoints, and both sides of a fork.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        let newest = self.seen.values().rev().take(4).map(|(_, text)| text);
        self.fork
            .iter()
            .flat_map(|fork| &fork.notes)
            .chain(newest)
            .cloned()
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::note::Signer;

    fn log() -> Signer {
        Signer::new("dev.meridian/log", [1; 32]).unwrap()
    }

    #[test]
    fn two_roots_for_one_size_are_a_fork_with_both_notes_as_evidence() {
        let log = log();
        let mut gossip = Gossip::new(log.vkey());
        let (one, other) = (log.sign_checkpoint(5, &[1; 32]), log.sign_checkpoint(5, &[2; 32]));
        assert_eq!(gossip.see(&one), Seen::New);
        assert_eq!(gossip.see(&one), Seen::Known);
        assert_eq!(gossip.see(&log.sign_checkpoint(6, &[2; 32])), Seen::New);
        assert_eq!(gossip.fork(), None);
        assert_eq!(gossip.see(&other), Seen::Forked);
        assert_eq!(
            gossip.fork(),
            Some(&Fork {
                size: 5,
                notes: [one.clone(), other.clone()]
            })
        );
        assert_eq!(
            gossip.notes()[..2],
            [one, other],
            "a fork is passed on before anything else"
        );
    }

    #[test]
    fn a_note_of_another_key_is_no_evidence() {
        let mut gossip = Gossip::new(log().vkey());
        let other = Signer::new("dev.meridian/log", [2; 32]).unwrap();
        assert_eq!(gossip.see(&other.sign_checkpoint(5, &[1; 32])), Seen::NotSigned);
        assert_eq!(gossip.see("garbage"), Seen::NotSigned);
        assert!(gossip.notes().is_empty());
    }

    #[test]
    fn what_is_kept_is_bounded_and_the_newest() {
        let log = log();
        let mut gossip = Gossip::new(log.vkey());
        (1..=100).for_each(|size| {
            gossip.see(&log.sign_checkpoint(size, &[1; 32]));
        });
        assert_eq!(gossip.seen.len(), CHECKPOINTS_KEPT);
        assert_eq!(gossip.notes()[0], log.sign_checkpoint(100, &[1; 32]));
    }
}
