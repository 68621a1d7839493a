//! Gives states and views their numbers and signatures, and hands the newest one to whoever follows.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use ed25519_dalek::SigningKey;
use proto::ids::{RegionId, UnixMs};
use proto::signed::Signed;
use tokio::sync::watch;

use super::seq::{SeqError, SeqFile};
use super::{Moment, StateError, region_state_for, router_view_for};

/// One signed state or view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// The document.
    pub signed: Signed,
    /// Its number.
    pub seq: u64,
    /// Size of the log it was folded from.
    pub epoch: u64,
}

/// The newest one, and word of each newer one; `None` until the first is made.
pub type Newest = watch::Receiver<Option<Arc<Made>>>;
type Sender = watch::Sender<Option<Arc<Made>>>;

/// Where followers read. Cheap to clone.
#[derive(Clone)]
pub struct Outbox {
    states: Arc<Mutex<BTreeMap<RegionId, Sender>>>,
    view: Sender,
}

impl Default for Outbox {
    fn default() -> Self {
        Self {
            states: Arc::default(),
            view: watch::channel(None).0,
        }
    }
}

impl Outbox {
    /// The states of `region`. Only regions of the log ever get one; ask for no other.
    #[must_use]
    pub fn states_of(&self, region: &RegionId) -> Newest {
        self.with(region, watch::Sender::subscribe)
    }

    /// The views for routers.
    #[must_use]
    pub fn views(&self) -> Newest {
        self.view.subscribe()
    }

    fn put(&self, region: &RegionId, made: Made) {
        self.with(region, |sender| sender.send_replace(Some(Arc::new(made))));
    }

    fn with<T>(&self, region: &RegionId, act: impl FnOnce(&Sender) -> T) -> T {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        act(states.entry(region.clone()).or_insert_with(|| watch::channel(None).0))
    }
}

/// How long a state holds, and how early it is renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// From making to expiry.
    pub ttl_ms: u64,
    /// From making to renewal.
    pub renew_ms: u64,
}

/// Makes states and views.
pub struct Maker {
    key: SigningKey,
    seq: SeqFile,
    terms: Terms,
    outbox: Outbox,
    made_for: Option<(u64, UnixMs)>,
}

impl Maker {
    /// A maker that signs with `key` and puts into `outbox`.
    #[must_use]
    pub fn new(key: SigningKey, seq: SeqFile, terms: Terms, outbox: Outbox) -> Self {
        Self {
            key,
            seq,
            terms,
            outbox,
            made_for: None,
        }
    }

    /// Whether the log has grown to `epoch` since the last round, or that round is old enough to be renewed.
    #[must_use]
    pub fn is_due(&self, epoch: u64, now: UnixMs) -> bool {
        self.made_for
            .is_none_or(|(made, at)| made != epoch || now >= at + self.terms.renew_ms)
    }

    /// When the states of a round begun at `now` expire.
    #[must_use]
    pub fn expires(&self, now: UnixMs) -> UnixMs {
        now + self.terms.ttl_ms
    }

    /// Makes all states and the view. Blocking. Gives the regions whose state could not be made.
    ///
    /// # Errors
    /// [`SeqError`]: nothing was made.
    pub fn round(&mut self, moment: &Moment<'_>, now: UnixMs) -> Result<Vec<StateError>, SeqError> {
        let regions: Vec<&RegionId> = moment.fleet.regions.keys().collect();
        let count = u64::try_from(regions.len()).expect("a count of regions in memory fits in 64 bits") + 1;
        let mut numbers = self.seq.take(now, count)?;
        let epoch = moment.fleet.epoch;
        let mut failed = Vec::new();
        for region in regions {
            let seq = numbers.next().expect("as many numbers were taken as there are regions");
            match region_state_for(moment, region, seq) {
                Ok(state) => {
                    let signed = Signed::seal(&state, &self.key);
                    self.outbox.put(region, Made { signed, seq, epoch });
                }
                Err(error) => failed.push(error),
            }
        }
        let seq = numbers.next().expect("one number was taken for the view");
        let signed = Signed::seal(&router_view_for(moment, seq), &self.key);
        self.outbox
            .view
            .send_replace(Some(Arc::new(Made { signed, seq, epoch })));
        self.made_for = Some((epoch, now));
        Ok(failed)
    }
}
