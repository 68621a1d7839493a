//! One model's place: there, gone, or on its way back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use proto::ids::ModelName;
use runtime::clock;
use tokio::sync::watch;

use super::{HOT, Memory};
use crate::cache::flight::Refusal;
use crate::engine::{Answerer, Model, device};

/// Loads a model again, on the calling thread.
pub type Load = Arc<dyn Fn() -> Result<Arc<dyn Model>, String> + Send + Sync>;

/// How near a model is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Warmth {
    /// On disk.
    Cold,
    /// On its way into memory.
    Loading,
    /// In memory.
    Warm,
    /// In memory, and asked within the last minute.
    Hot,
}

impl Warmth {
    /// As pages tell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cold => "cold",
            Self::Loading => "loading",
            Self::Warm => "warm",
            Self::Hot => "hot",
        }
    }
}

/// Where a slot finds its model.
pub struct Seat(Kind);

enum Kind {
    /// Always there.
    Fixed(Arc<dyn Model>),
    /// May leave.
    Kept(Arc<Place>),
}

impl Seat {
    /// For a model that always stays.
    #[must_use]
    pub fn fixed(model: Arc<dyn Model>) -> Self {
        Self(Kind::Fixed(model))
    }
    pub(super) fn kept(place: Arc<Place>) -> Self {
        Self(Kind::Kept(place))
    }

    /// The model, loaded where that can be done by `deadline`. Who holds it may run it, also when it has left meanwhile.
    ///
    /// # Errors
    /// [`Refusal::Unmeetable`] where loading takes longer; it goes on, and a later request finds the model.
    /// [`Refusal::Failed`] where it cannot be loaded; the log says why.
    pub async fn within(&self, deadline: Instant) -> Result<Arc<dyn Model>, Refusal> {
        match &self.0 {
            Kind::Fixed(model) => Ok(Arc::clone(model)),
            Kind::Kept(place) => place.within(deadline).await,
        }
    }

    /// Who would answer now; the signed variant where the model is not in memory.
    #[must_use]
    pub fn answerer(&self) -> Answerer {
        self.looked(|model| model.answerer()).unwrap_or(Answerer::Signed)
    }
    /// How its device is, where it is in memory and needs one.
    #[must_use]
    pub fn device(&self) -> Option<device::Standing> {
        self.looked(|model| model.device()).flatten()
    }
    /// Looks at the model, where it is in memory, without making it any younger.
    fn looked<T>(&self, at: impl FnOnce(&dyn Model) -> T) -> Option<T> {
        match &self.0 {
            Kind::Fixed(model) => Some(at(&**model)),
            Kind::Kept(place) => place.here.load().as_ref().map(|model| at(&***model)),
        }
    }

    /// How near it is.
    #[must_use]
    pub fn warmth(&self) -> Warmth {
        match &self.0 {
            Kind::Fixed(_) => Warmth::Warm,
            Kind::Kept(place) => place.warmth(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Rests,
    Loading,
    Failed,
}

/// What the keeper and a slot share.
pub(super) struct Place {
    pub(super) model: ModelName,
    pub(super) bytes: u64,
    here: ArcSwapOption<Arc<dyn Model>>,
    used_ms: AtomicU64,
    expected_us: AtomicU64,
    load: Load,
    step: watch::Sender<Step>,
    memory: Memory,
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Place({} {:?})", self.model, self.warmth())
    }
}

impl Place {
    pub(super) fn new(model: ModelName, bytes: u64, expected: Duration, load: Load, memory: Memory) -> Self {
        Self {
            model,
            bytes,
            here: ArcSwapOption::empty(),
            used_ms: AtomicU64::new(0),
            expected_us: AtomicU64::new(u64::try_from(expected.as_micros()).unwrap_or(u64::MAX)),
            load,
            step: watch::Sender::new(Step::Rests),
            memory,
        }
    }

    pub(super) fn is_here(&self) -> bool {
        self.here.load().is_some()
    }
    /// Whether it is on disk, not on its way, and nothing is known against it.
    pub(super) fn rests(&self) -> bool {
        !self.is_here() && *self.step.borrow() == Step::Rests
    }
    pub(super) fn used_ms(&self) -> u64 {
        self.used_ms.load(Ordering::Relaxed)
    }
    pub(super) fn take(&self, model: Arc<dyn Model>, now_ms: u64) {
        self.used_ms.store(now_ms, Ordering::Relaxed);
        self.here.store(Some(Arc::new(model)));
    }
    pub(super) fn leave(&self) {
        self.here.store(None);
    }

    fn warmth(&self) -> Warmth {
        let hot_ms = u64::try_from(HOT.as_millis()).unwrap_or(u64::MAX);
        match (self.is_here(), &*self.step.borrow()) {
            (true, _) if self.memory.since().saturating_sub(self.used_ms()) <= hot_ms => Warmth::Hot,
            (true, _) => Warmth::Warm,
            (false, Step::Loading) => Warmth::Loading,
            (false, Step::Rests | Step::Failed) => Warmth::Cold,
        }
    }

    fn now(&self) -> Option<Arc<dyn Model>> {
        let here = self.here.load();
        let model = Arc::clone(&**here.as_ref()?);
        self.used_ms.store(self.memory.since(), Ordering::Relaxed);
        Some(model)
    }

    async fn within(self: &Arc<Self>, deadline: Instant) -> Result<Arc<dyn Model>, Refusal> {
        if let Some(model) = self.now() {
            return Ok(model);
        }
        let mut step = self.step.subscribe();
        loop {
            let wait = Duration::from_micros(self.expected_us.load(Ordering::Relaxed));
            if !self.begin() {
                return Err(Refusal::Failed);
            }
            if clock::instant() + wait > deadline {
                return Err(Refusal::Unmeetable { wait });
            }
            let done = step.wait_for(|step| *step != Step::Loading);
            match tokio::time::timeout_at(deadline.into(), done).await {
                Ok(Ok(step)) if *step == Step::Failed => return Err(Refusal::Failed),
                Ok(Err(_)) => return Err(Refusal::Failed),
                Ok(Ok(_)) => {}
                Err(_) => return Err(Refusal::Unmeetable { wait }),
            }
            // Another model may have pushed it out before we looked: it is asked for again.
            if let Some(model) = self.now() {
                return Ok(model);
            }
        }
    }

    /// Asks for it once, however many wait; false where nobody takes the wish.
    pub(super) fn begin(self: &Arc<Self>) -> bool {
        let begun = self.step.send_if_modified(|step| {
            let begins = *step != Step::Loading && !self.is_here();
            if begins {
                *step = Step::Loading;
            }
            begins
        });
        let taken = !begun || self.memory.ask(self);
        if !taken {
            self.step.send_replace(Step::Rests);
        }
        taken
    }

    /// Makes room and loads. On the loading thread.
    pub(super) fn load(&self) {
        let began = clock::instant();
        let room = self.memory.make_room(self.bytes);
        let step = match (self.load)() {
            Ok(model) => {
                let took = clock::instant().saturating_duration_since(began);
                let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
                self.expected_us.store(took, Ordering::Relaxed);
                self.take(model, self.memory.since());
                self.memory.0.metrics.model_loads.inc();
                Step::Rests
            }
            Err(why) => {
                tracing::error!(model = %self.model, why, "could not be loaded again");
                Step::Failed
            }
        };
        drop(room);
        self.memory.tell();
        self.step.send_replace(step);
    }
}
