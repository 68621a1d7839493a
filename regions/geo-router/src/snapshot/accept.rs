//! Whether a view is believed: pure. The order is signature, `seq`, epoch, checkpoint, consistency, and only then use.

use proto::merkle;
use proto::note::{self, Checkpoint};
use proto::region_state::RouterView;
use proto::signed::{Signed, TrustBundle, TrustError};
use regions::topology::{Topology, TopologyError};

/// Why a view is not believed. The one before stays in use.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// Not signed by the state key, or not readable.
    #[error("view: {0}")]
    Trust(#[from] TrustError),
    /// Not newer than the one in use.
    #[error("view {found} came after view {used}")]
    Seq {
        /// Sent.
        found: u64,
        /// In use.
        used: u64,
    },
    /// Folded from a shorter log.
    #[error("the view's log has {found} entries, that of the view in use has {used}")]
    Epoch {
        /// Sent.
        found: u64,
        /// In use.
        used: u64,
    },
    /// Its checkpoint is not one of the fleet's log at that size.
    #[error("the view's checkpoint is not signed by the fleet's log for {epoch} entries")]
    Checkpoint {
        /// What the view says.
        epoch: u64,
    },
    /// Its checkpoint does not extend the one before.
    #[error("the view's checkpoint does not extend the log seen before, from {used} to {found} entries")]
    Inconsistent {
        /// Sent.
        found: u64,
        /// Seen before.
        used: u64,
    },
    /// It contradicts itself.
    #[error("view: {0}")]
    Topology(#[from] TopologyError),
}

/// A view that is believed, ready to steer by.
#[derive(Clone, Debug)]
pub struct Believed {
    /// As signed, for the disk.
    pub signed: Signed,
    /// Indexed.
    pub topology: Topology,
    /// Where the log stood, proven.
    pub checkpoint: Checkpoint,
    /// The same as signed text, to compare with those of nodes.
    pub note: String,
}

/// Decides whether `signed` is believed after `used`; `consistency` proves that its log extends that of `used`.
///
/// # Errors
/// [`Refused`], the first rule that does not hold.
pub fn accept(
    signed: Signed,
    consistency: &[[u8; 32]],
    trust: &TrustBundle,
    used: Option<&Believed>,
) -> Result<Believed, Refused> {
    let view: RouterView = signed.open(&[trust.state_key], 1)?;
    if let Some(used) = used {
        if view.seq <= used.topology.seq {
            return Err(Refused::Seq {
                found: view.seq,
                used: used.topology.seq,
            });
        }
        if view.epoch < used.topology.epoch {
            return Err(Refused::Epoch {
                found: view.epoch,
                used: used.topology.epoch,
            });
        }
    }
    let wrong = Refused::Checkpoint { epoch: view.epoch };
    let checkpoint = match note::open_checkpoint(&view.checkpoint, &trust.log_vkey) {
        Ok(checkpoint) if checkpoint.size == view.epoch => checkpoint,
        _ => return Err(wrong),
    };
    if let Some(used) = used {
        let (old, new) = (&used.checkpoint, &checkpoint);
        if !merkle::verify_consistency(old.size, &old.root, new.size, &new.root, consistency) {
            return Err(Refused::Inconsistent {
                found: new.size,
                used: old.size,
            });
        }
    }
    let topology = Topology::of(&view)?;
    Ok(Believed {
        signed,
        topology,
        checkpoint,
        note: view.checkpoint,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::SigningKey;
    use proto::note::Signer;
    use proto::signed::PublicKey;

    struct Fleet {
        log: Signer,
        key: SigningKey,
        leaves: Vec<merkle::Hash>,
    }

    impl Fleet {
        fn new() -> Self {
            let leaves = (0u8..20).map(|i| merkle::leaf_hash(&[i])).collect();
            let log = Signer::new("dev.meridian/log", [1; 32]).unwrap();
            Self {
                log,
                key: SigningKey::from_bytes(&[2; 32]),
                leaves,
            }
        }
        fn trust(&self) -> TrustBundle {
            TrustBundle {
                fleet: "dev".parse().unwrap(),
                log_vkey: self.log.vkey(),
                state_key: PublicKey::of(&self.key),
                operators: Vec::new(),
                threshold: 1,
            }
        }
        fn root(&self, size: usize) -> merkle::Hash {
            merkle::root_of(&self.leaves[..size])
        }
        fn view(&self, seq: u64, epoch: u64, checkpoint: String) -> Signed {
            let (regions, nodes, serving, tenants) = Default::default();
            let view = RouterView {
                seq,
                epoch,
                expires: 0,
                regions,
                nodes,
                serving,
                tenants,
                checkpoint,
            };
            Signed::seal(&view, &self.key)
        }
        fn good(&self, seq: u64, epoch: usize) -> Signed {
            let size = u64::try_from(epoch).unwrap();
            self.view(seq, size, self.log.sign_checkpoint(size, &self.root(epoch)))
        }
        fn proof(&self, old: u64, new: u64) -> Vec<merkle::Hash> {
            let read = |level: u32, index: u64| {
                let width = 1usize << level;
                let first = usize::try_from(index).unwrap() * width;
                Ok::<_, ()>(merkle::root_of(&self.leaves[first..first + width]))
            };
            merkle::consistency_proof(old, new, &read).unwrap()
        }
    }

    #[test]
    fn a_newer_view_whose_log_provably_extends_the_old_one_is_believed() {
        let fleet = Fleet::new();
        let used = accept(fleet.good(1, 7), &[], &fleet.trust(), None).unwrap();
        let next = accept(fleet.good(2, 13), &fleet.proof(7, 13), &fleet.trust(), Some(&used)).unwrap();
        assert_eq!((next.topology.seq, next.checkpoint.size), (2, 13));
        accept(fleet.good(3, 13), &[], &fleet.trust(), Some(&next)).expect("the same log again needs no proof");
    }

    #[test]
    fn each_rule_refuses_alone() {
        let fleet = Fleet::new();
        let used = accept(fleet.good(5, 13), &[], &fleet.trust(), None).unwrap();
        let refused = |signed, proof: &[merkle::Hash]| accept(signed, proof, &fleet.trust(), Some(&used)).unwrap_err();
        assert_eq!(refused(fleet.good(5, 13), &[]), Refused::Seq { found: 5, used: 5 });
        assert_eq!(refused(fleet.good(6, 7), &[]), Refused::Epoch { found: 7, used: 13 });
        let inconsistent = Refused::Inconsistent { found: 20, used: 13 };
        assert_eq!(refused(fleet.good(6, 20), &[]), inconsistent);
        let other_history = fleet.view(6, 20, fleet.log.sign_checkpoint(20, &[7; 32]));
        assert_eq!(refused(other_history, &fleet.proof(13, 20)), inconsistent);
        let fork = fleet.view(6, 13, fleet.log.sign_checkpoint(13, &[7; 32]));
        assert_eq!(refused(fork, &[]), Refused::Inconsistent { found: 13, used: 13 });
        let other_size = fleet.view(6, 14, fleet.log.sign_checkpoint(13, &fleet.root(13)));
        assert_eq!(refused(other_size, &[]), Refused::Checkpoint { epoch: 14 });
        let stranger = Signer::new("dev.meridian/log", [9; 32]).unwrap();
        let unsigned = fleet.view(6, 13, stranger.sign_checkpoint(13, &fleet.root(13)));
        assert_eq!(refused(unsigned, &[]), Refused::Checkpoint { epoch: 13 });
        let mut forged = fleet.good(6, 13);
        forged.payload.push(0);
        assert!(matches!(
            refused(forged, &[]),
            Refused::Trust(TrustError::Threshold { .. })
        ));
    }
}
