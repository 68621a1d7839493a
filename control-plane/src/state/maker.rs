//! Gives states and views their numbers and signatures, and hands the newest one to whoever follows.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use ed25519_dalek::SigningKey;
use proto::ids::{ContentHash, RegionId, UnixMs};
use proto::signed::Signed;
use tokio::sync::watch;

use super::seq::{SeqError, SeqFile};
use super::{Moment, StateError, plans_behind, region_state_for, router_view_for};

/// How many changes of a region's plans are remembered, to tell what a node that lags behind has been asked for.
const CHANGES_KEPT: usize = 64;

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

#[derive(Default)]
struct Inner {
    states: BTreeMap<RegionId, watch::Sender<Option<Arc<Made>>>>,
    /// By region: from which number on its states rest on which plans.
    asked: BTreeMap<RegionId, VecDeque<(u64, BTreeSet<ContentHash>)>>,
}

/// Where followers read. Cheap to clone.
#[derive(Clone)]
pub struct Outbox {
    inner: Arc<Mutex<Inner>>,
    view: watch::Sender<Option<Arc<Made>>>,
}

impl Default for Outbox {
    fn default() -> Self {
        Self {
            inner: Arc::default(),
            view: watch::channel(None).0,
        }
    }
}

impl Outbox {
    /// The states of `region`. Only regions of the log ever get one; ask for no other.
    #[must_use]
    pub fn states_of(&self, region: &RegionId) -> Newest {
        self.lock()
            .states
            .entry(region.clone())
            .or_insert_with(|| watch::channel(None).0)
            .subscribe()
    }

    /// The views for routers.
    #[must_use]
    pub fn views(&self) -> Newest {
        self.view.subscribe()
    }

    /// The plans behind the state of `region` with number `seq`; none for a number from before the last restart.
    #[must_use]
    pub fn asked_by(&self, region: &RegionId, seq: u64) -> BTreeSet<ContentHash> {
        let inner = self.lock();
        let asked = inner.asked.get(region).into_iter().flatten();
        asked
            .take_while(|(from, _)| *from <= seq)
            .last()
            .map(|(_, plans)| plans.clone())
            .unwrap_or_default()
    }

    fn put(&self, region: &RegionId, plans: BTreeSet<ContentHash>, made: Made) {
        let mut inner = self.lock();
        let asked = inner.asked.entry(region.clone()).or_default();
        if asked.back().is_none_or(|(_, last)| *last != plans) {
            asked.push_back((made.seq, plans));
        }
        if asked.len() > CHANGES_KEPT {
            asked.pop_front();
        }
        let sender = inner
            .states
            .entry(region.clone())
            .or_insert_with(|| watch::channel(None).0);
        sender.send_replace(Some(Arc::new(made)));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
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
                    self.outbox
                        .put(region, plans_behind(moment.fleet, region), Made { signed, seq, epoch });
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
