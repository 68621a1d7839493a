//! What this node believes: the accepted state, its floors, the log's history, and a fork if one was found.
//!
//! Order of a state: every rule of [`proto::region_state::accept`], then the disk, then the loops that act on it. A
//! refused state changes nothing here and nothing on disk. A model that is forbidden in an accepted one stays at the plan
//! that was in force, also after a restart: that plan lies on disk beside the state.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use proto::ids::{RegionId, UnixMs};
use proto::region_state::{Accepted, Consistency, Floors, Forbidden, Refused, accept, reopen};
use proto::signed::{Signed, TrustBundle};
use tokio::sync::watch;

use super::history::{Heard, History, Seen, proven};
use crate::store::{Fork, Kept, KeptState, StoreError};

/// What the rest of the node acts on.
#[derive(Clone, Debug, Default)]
pub struct Orders {
    /// None before the first state.
    pub accepted: Option<Arc<Accepted>>,
    /// The log has told two stories.
    pub forked: bool,
    /// Why the state sent last was refused; none once one is accepted.
    pub refused: Option<String>,
}

impl Orders {
    /// Why no release may change now, if so: what is active goes on serving.
    #[must_use]
    pub fn stopped(&self, now: UnixMs) -> Option<String> {
        if self.forked {
            return Some(Refused::Fork.to_string());
        }
        let expires = self.accepted.as_ref()?.state.expires;
        (expires < now).then(|| format!("the state expired at {expires} and no newer one has come"))
    }
}

/// Why a state that was sent is not acted on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OfferError {
    /// A rule does not hold.
    #[error("refused a state")]
    Refused(#[source] Refused),
    /// It could not be kept, and what is not kept is not acted on.
    #[error("could not keep a state")]
    Store(#[from] StoreError),
}

/// Shared by the loops that hear of states and checkpoints. Cloning gives the same belief.
#[derive(Clone)]
pub struct Belief {
    inner: Arc<Mutex<Inner>>,
    orders: watch::Receiver<Orders>,
}

struct Inner {
    own: RegionId,
    trust: TrustBundle,
    kept: Arc<Kept>,
    floors: Floors,
    history: History,
    orders: watch::Sender<Orders>,
}

impl Belief {
    /// Reads back what was believed before the restart. The kept state's signatures are checked again; that it has
    /// expired is no reason to forget it.
    ///
    /// # Errors
    /// [`StoreError`] when the floors or a fork marker cannot be read.
    pub fn restore(kept: Arc<Kept>, own: RegionId, trust: TrustBundle) -> Result<Self, StoreError> {
        let restored = kept.restore()?;
        let forked = kept.fork()?.is_some();
        let reopened = |kept: &KeptState| {
            let judged = reopen(&kept.state, &kept.held, &own, &trust, &restored.floors);
            let distrusted = |e| tracing::error!(error = %e, "the kept state is not trusted; waiting for a new one");
            judged.map_err(distrusted).ok().map(Arc::new)
        };
        let accepted = restored.accepted.as_ref().and_then(reopened);
        let notes = restored
            .checkpoint
            .into_iter()
            .chain(accepted.as_ref().map(|a| a.state.checkpoint.clone()));
        let history = History::new(&trust.log_vkey, notes);
        let (sender, orders) = watch::channel(Orders {
            accepted,
            forked,
            refused: None,
        });
        let inner = Inner {
            own,
            trust,
            kept,
            floors: restored.floors,
            history,
            orders: sender,
        };
        Ok(Self {
            inner: Arc::new(Mutex::new(inner)),
            orders,
        })
    }

    /// Judges a state, keeps it, and lets the node act on it. Gives the changes that are forbidden in it and were not
    /// named in the state before. Blocks on the disk.
    ///
    /// # Errors
    /// [`OfferError`]; then nothing has changed.
    #[tracing::instrument(name = "sync.offer", skip_all)]
    pub fn offer(&self, signed: &Signed, proof: &[[u8; 32]], now: UnixMs) -> Result<Vec<Forbidden>, OfferError> {
        let mut inner = self.lock();
        let Orders { accepted, forked, .. } = inner.orders.borrow().clone();
        let (in_force, known) = accepted.as_ref().map_or((&[][..], &[][..]), |before| {
            (&before.permitted[..], &before.forbidden[..])
        });
        let mut told = None;
        let judged = accept(
            signed,
            &inner.own,
            &inner.trust,
            &inner.floors,
            in_force,
            now,
            |state| {
                told = Some(state.checkpoint.clone());
                if forked {
                    Consistency::Fork
                } else {
                    inner.history.judge(state, proof)
                }
            },
        );
        let (accepted, floors) = match judged {
            Ok(accepted) => accepted,
            Err(refused) => {
                if let (Refused::Fork, Some(theirs)) = (&refused, told) {
                    let ours = inner.history.note().to_owned();
                    inner.fork(ours, theirs, now);
                }
                inner
                    .orders
                    .send_modify(|orders| orders.refused = Some(refused.to_string()));
                return Err(OfferError::Refused(refused));
            }
        };
        let kept = KeptState {
            state: signed.clone(),
            held: accepted.held(),
            floors,
        };
        inner.kept.save_accepted(&kept, &accepted.state.checkpoint)?;
        inner.floors = kept.floors;
        inner.history.advance(&accepted.state.checkpoint);
        let is_known = |new: &Forbidden| {
            let same = |old: &Forbidden| (&old.release, old.manifest) == (&new.release, new.manifest);
            known.iter().any(same)
        };
        let news = accepted
            .forbidden
            .iter()
            .filter(|new| !is_known(new))
            .cloned()
            .collect();
        let accepted = Some(Arc::new(accepted));
        inner.orders.send_modify(|orders| {
            *orders = Orders {
                accepted,
                forked,
                refused: None,
            }
        });
        Ok(news)
    }

    /// What a checkpoint from elsewhere means; a fork is kept at once. Blocks on the disk when it is one.
    pub fn hear(&self, note: &str, now: UnixMs) -> Heard {
        let mut inner = self.lock();
        let heard = inner.history.hear(note);
        if let Heard::Fork(theirs) = &heard {
            let ours = inner.history.note().to_owned();
            inner.fork(ours, theirs.note.clone(), now);
        }
        heard
    }

    /// Takes the log's answer to [`Heard::Ask`]: `None` is the log's word that it has no such proof. True if the
    /// history is one. Blocks on the disk when it is not.
    pub fn settle(&self, older: &Seen, newer: &Seen, proof: Option<&[[u8; 32]]>, now: UnixMs) -> bool {
        let good = proof.is_some_and(|proof| proven(older, newer, proof));
        if !good {
            self.lock().fork(older.note.clone(), newer.note.clone(), now);
        }
        good
    }

    /// What to act on, and when it changes.
    #[must_use]
    pub fn orders(&self) -> watch::Receiver<Orders> {
        self.orders.clone()
    }

    /// The highest `seq` accepted, the size of the log followed, and its newest checkpoint.
    #[must_use]
    pub fn position(&self) -> (u64, u64, String) {
        let inner = self.lock();
        (inner.floors.seq, inner.history.size(), inner.history.note().to_owned())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Stops activations for good: only people remove the marker.
    fn fork(&mut self, ours: String, theirs: String, found: UnixMs) {
        if self.orders.borrow().forked {
            return;
        }
        tracing::error!(ours, theirs, "the release log has forked: activations are stopped");
        if let Err(e) = self.kept.save_fork(&Fork { ours, theirs, found }) {
            // Stopping goes on in memory; gossip will tell again after a restart.
            tracing::error!(error = runtime::telemetry::chain(&e), "could not keep the fork marker");
        }
        self.orders.send_modify(|orders| orders.forked = true);
    }
}

#[cfg(test)]
mod tests;
