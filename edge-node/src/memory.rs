//! Which models lie in memory, where not all of them fit: the least recently used leaves, who is asked comes back.
//!
//! ```text
//!            asked            loaded               used within a minute
//!   Cold ------------> Loading ------> Warm <------------------------------> Hot
//!     ^                                  |  room is needed, least recently used first
//!     +----------------------------------+
//! ```
//! A model is counted by the bytes of its files. Whoever runs one holds it: a model that leaves while it runs goes when that
//! run has ended. Loading happens on one thread of low priority, in the order of the asking, so that other models do not feel it.
//! Who cannot wait for it by its deadline is refused at once, and the loading begins all the same: the next try finds it.
//!
//! Of each model some nodes of the region keep a copy, so that nobody there waits for its loading: which ones follows from the names
//! of nodes and model, as long as they are told of each other. Such a copy leaves last, and is loaded where those that stay leave
//! room for it.
//!
//! Invariant: what is loaded again was hashed again, by whoever gave the [`Load`].

mod budget;
mod seat;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use engine::leisure::at_leisure;
use proto::ids::ModelName;
use proto::limits::MODELS_MAX;
use runtime::clock;

use crate::metrics::Metrics;
use budget::Resident;
use seat::Place;
pub use seat::{Load, Seat, Warmth};

/// How long after its last request a model is called hot.
const HOT: Duration = Duration::from_secs(60);
/// Stack of the loading thread: graph optimisers recurse.
const STACK_BYTES: usize = 16 << 20;

/// What an operator says of models and memory.
#[derive(Clone, Debug, Default)]
pub struct MemoryConfig {
    /// Bytes of model files that may lie in memory; none for no bound.
    pub bytes_max: Option<u64>,
    /// Models that never leave.
    pub pinned: BTreeSet<ModelName>,
    /// Of each model, how many nodes of a region keep a copy.
    pub warm_copies: usize,
}

/// The keeper of the models of one node. Clones share it.
#[derive(Clone, Debug)]
pub struct Memory(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    config: MemoryConfig,
    metrics: Metrics,
    began: Instant,
    places: Mutex<Vec<Weak<Place>>>,
    /// How many nodes of the region come before this one where a copy is to be kept.
    ahead: ArcSwap<BTreeMap<ModelName, usize>>,
    /// Bytes of models that are being loaded: their room is taken already.
    claimed: Mutex<u64>,
    /// To the loading thread, which ends when this is gone.
    asked: SyncSender<Weak<Place>>,
}

/// Room that is held while a model is loaded: drop it when the model has its seat. Several are loaded at once after a restart.
#[derive(Debug)]
pub struct Claim(Memory, u64);

impl Drop for Claim {
    fn drop(&mut self) {
        let mut claimed = self.0.claimed();
        *claimed = claimed.saturating_sub(self.1);
    }
}

impl Memory {
    /// Starts the loading thread.
    ///
    /// # Errors
    /// The system gives no more threads.
    pub fn start(config: MemoryConfig, metrics: Metrics) -> std::io::Result<Self> {
        let (asked, asks) = sync_channel(MODELS_MAX);
        std::thread::Builder::new()
            .name("model-load".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || load_in_turn(&asks))?;
        Ok(Self(Arc::new(Shared {
            config,
            metrics,
            began: clock::instant(),
            places: Mutex::default(),
            ahead: ArcSwap::default(),
            claimed: Mutex::default(),
            asked,
        })))
    }

    /// Room for `bytes` more, if they fit without another model leaving.
    #[must_use]
    pub fn room(&self, bytes: u64) -> Option<Claim> {
        let mut claimed = self.claimed();
        let used: u64 = self.residents().iter().map(|(_, resident)| resident.bytes).sum();
        let wanted = used.saturating_add(*claimed).saturating_add(bytes);
        self.0
            .config
            .bytes_max
            .is_none_or(|max| wanted <= max)
            .then(|| self.claim(&mut claimed, bytes))
    }

    /// Whether `model` never leaves.
    #[must_use]
    pub fn is_pinned(&self, model: &ModelName) -> bool {
        self.0.config.pinned.contains(model)
    }

    /// Whether this node is one of those that keep a copy of `model`. Who has been told of no others keeps all.
    fn keeps(&self, model: &ModelName) -> bool {
        let ahead = self.0.ahead.load();
        ahead.get(model).copied().unwrap_or(0) < self.0.config.warm_copies
    }

    /// Takes what was told of the region's other nodes: how many come before this one, by model. Copies that this node is to keep
    /// are loaded as far as they fit beside each other; one that could not be loaded is left to whoever asks for it.
    pub fn stand(&self, ahead: BTreeMap<ModelName, usize>) {
        self.0.ahead.store(Arc::new(ahead));
        let residents = self.residents();
        let staying = residents
            .iter()
            .filter(|(_, resident)| resident.pinned || resident.kept);
        let mut used: u64 = staying.map(|(_, resident)| resident.bytes).sum();
        for place in self.places().into_iter().filter(|place| place.rests()) {
            let with = used.saturating_add(place.bytes);
            let fits = self.0.config.bytes_max.is_none_or(|max| with <= max);
            if fits && self.keeps(&place.model) && place.begin() {
                used = with;
            }
        }
    }

    /// Room for `bytes`: lets others leave until they fit, or nobody is left who may.
    pub fn make_room(&self, bytes: u64) -> Claim {
        let mut claimed = self.claimed();
        if let Some(max) = self.0.config.bytes_max {
            let residents = self.residents();
            let all: Vec<Resident> = residents.iter().map(|(_, resident)| *resident).collect();
            for leaver in budget::leavers(&all, max, claimed.saturating_add(bytes)) {
                let (place, _) = &residents[leaver];
                tracing::info!(model = %place.model, "leaves memory: others need the room");
                place.leave();
                self.0.metrics.model_unloads.inc();
            }
            self.tell();
        }
        self.claim(&mut claimed, bytes)
    }

    fn claim(&self, claimed: &mut u64, bytes: u64) -> Claim {
        *claimed = claimed.saturating_add(bytes);
        Claim(self.clone(), bytes)
    }

    /// A seat for `model`, whose files have `bytes` bytes and which `load` loads in about `expected`. It is taken by `loaded`
    /// if that is given; who gives it has made room.
    #[must_use]
    pub fn seat(
        &self,
        model: &ModelName,
        bytes: u64,
        expected: Duration,
        load: Load,
        loaded: Option<Arc<dyn crate::engine::Model>>,
    ) -> Seat {
        let place = Arc::new(Place::new(model.clone(), bytes, expected, load, self.clone()));
        if let Some(loaded) = loaded {
            place.take(loaded, self.since());
        }
        let mut places = self.lock();
        places.retain(|place| place.strong_count() > 0);
        places.push(Arc::downgrade(&place));
        drop(places);
        self.tell();
        Seat::kept(place)
    }

    /// Asks the loading thread for `place`; false where more wait than it takes.
    fn ask(&self, place: &Arc<Place>) -> bool {
        match self.0.asked.try_send(Arc::downgrade(place)) {
            Ok(()) => true,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
        }
    }

    /// Milliseconds of this keeper's own clock.
    fn since(&self) -> u64 {
        let since = clock::instant().saturating_duration_since(self.0.began);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    fn residents(&self) -> Vec<(Arc<Place>, Resident)> {
        let here = self.places().into_iter().filter(|place| place.is_here());
        here.map(|place| {
            let resident = Resident {
                bytes: place.bytes,
                used_ms: place.used_ms(),
                pinned: self.is_pinned(&place.model),
                kept: self.keeps(&place.model),
            };
            (place, resident)
        })
        .collect()
    }

    fn places(&self) -> Vec<Arc<Place>> {
        self.lock().iter().filter_map(Weak::upgrade).collect()
    }

    fn tell(&self) {
        let residents = self.residents();
        let bytes: u64 = residents.iter().map(|(_, resident)| resident.bytes).sum();
        let metrics = &self.0.metrics;
        metrics
            .models_in_memory
            .set(i64::try_from(residents.len()).unwrap_or(i64::MAX));
        metrics
            .models_memory_bytes
            .set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    fn claimed(&self) -> std::sync::MutexGuard<'_, u64> {
        self.0.claimed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Weak<Place>>> {
        self.0.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Loads whoever is asked for, one after the other, until the keeper is gone.
fn load_in_turn(asks: &Receiver<Weak<Place>>) {
    while let Ok(place) = asks.recv() {
        // A model that was withdrawn meanwhile needs no loading.
        if let Some(place) = place.upgrade() {
            at_leisure(NICE_ON_DEMAND, PATIENCE_ON_DEMAND, || place.load());
        }
    }
}

/// Niceness of the thread that loads what somebody waits for, and how long it leaves the cores to requests altogether where it does
/// not get on.
const NICE_ON_DEMAND: i32 = 5;
const PATIENCE_ON_DEMAND: Duration = Duration::from_millis(250);
/// Of threads, and their children, that make releases ready: nobody waits for them.
pub const NICE_AHEAD: i32 = 10;

#[cfg(test)]
mod tests;
