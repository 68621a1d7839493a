//! What this node may serve right now: where the two rivers meet.
//!
//! River 2 (sync) builds a [`ServingSet`] from its region's accepted state and publishes it; river 1 (ingress) loads it
//! once per request. The set is swapped whole, so no request ever sees the tenants of one state with the models of
//! another. A slot that is replaced finishes what it started: each request holds an [`Arc`] of its slot, and the slot's
//! memory goes when the last of them has answered.
//!
//! Rules for whoever publishes:
//! - Publish as soon as a state is accepted, with the new tenants and the models that serve already: a revoked key is
//!   refused by the next request, whatever is still being fetched.
//! - Before the first publication the node is `starting` and refuses everything. After a restart, load what is on disk
//!   and then publish once.
//! - A slot that goes on serving is published again as the same `Arc`: it keeps its measured pace.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use engine::onnxruntime::stand_in;
use http::HeaderValue;
use proto::ids::{ContentHash, ModelName, Release};
use proto::manifest::{Manifest, PreStep, Variant};
use proto::region_state::{RegionInfo, Tenant};
use tokio::sync::mpsc;

use crate::batch::cost::Cost;
use crate::batch::gain::Gain;
use crate::batch::join;
use crate::batch::plain::PlainMap;
use crate::elsewhere::Elsewhere;
use crate::engine::{Answerer, Model};
use crate::ingress::statistics::{Runs, Statistics};
use crate::memory::Seat;

/// Checkpoints that wait for sync to compare them. More are dropped: gossip comes again.
pub const GOSSIP_QUEUE_MAX: usize = 64;

/// One consistent picture of what may be served, and to whom.
#[derive(Debug, Default)]
pub struct ServingSet {
    /// Where this node stands; `None` until a state has been accepted, and then nothing is served.
    pub region: Option<RegionInfo>,
    /// Who may ask, by the hash of their key's text.
    pub tenants: PlainMap<ContentHash, Tenant>,
    /// Models that are loaded and warm.
    pub models: PlainMap<ModelName, Arc<ModelSlot>>,
    /// Models that the state names and that are not loaded: on their way, or refused.
    pub awaited: BTreeSet<ModelName>,
    /// Whether one of them has a plan in force and a variant for this node: without one there is nothing to wait for.
    pub coming: bool,
    /// The state this set was made from.
    pub seq: u64,
    /// Size of the release log behind that state.
    pub epoch: u64,
    /// The newest checkpoint of the release log this node has accepted, signed-note text.
    pub checkpoint: String,
    /// Why activations are stopped, if they are: a fork of the log, an expired state. What is active goes on serving.
    pub stopped: Option<String>,
}

/// One loaded release of one model.
pub struct ModelSlot {
    /// Which release.
    pub release: Release,
    /// Identity of its manifest.
    pub manifest_id: ContentHash,
    /// What it is made of.
    pub manifest: Arc<Manifest>,
    /// The form of the weights that the signed plan fixes for this node's class.
    pub variant: Variant,
    /// Identity of the variant's weights file.
    pub weights: ContentHash,
    /// Digest of the steps around the weights.
    pub pipeline: ContentHash,
    /// Release and identity, as every answer carries them.
    pub label: HeaderValue,
    /// The numerics of the processor that stands in for the variant's device; `None` for a variant that needs no device.
    pub stand_in: Option<HeaderValue>,
    /// Whether some signature decodes pictures, which are kept decoded.
    pub keeps_rows: bool,
    /// Where the model is that runs it.
    pub seat: Seat,
    /// For each signature what its requests are joined by, where that is the same for all of them.
    pub lanes: Vec<Option<ContentHash>>,
    /// How long its rows take on this node.
    pub pace: Pace,
    /// What it has been asked since it was loaded.
    pub statistics: Statistics,
}

impl ModelSlot {
    /// Puts a model that always stays in memory beside what is known of it. `None` when the variant's file is not in the
    /// manifest.
    #[must_use]
    pub fn new(
        manifest_id: ContentHash,
        manifest: Arc<Manifest>,
        variant: Variant,
        model: Arc<dyn Model>,
    ) -> Option<Self> {
        Self::seated(manifest_id, manifest, variant, Seat::fixed(model))
    }
    /// As [`ModelSlot::new`], of a model that may leave memory.
    #[must_use]
    pub fn seated(manifest_id: ContentHash, manifest: Arc<Manifest>, variant: Variant, seat: Seat) -> Option<Self> {
        let weights = manifest.file(&variant.file)?.blake3;
        let pace = Pace::starting_at(variant.measured.row_us, variant.measured.rows8_us);
        let (release, pipeline) = (manifest.release(), manifest.pipeline_digest());
        let lanes = manifest.signatures.iter().map(|of| join::fixed_key(&weights, of));
        let lanes = lanes.collect();
        let label = HeaderValue::try_from(format!("{release} {manifest_id}")).ok()?;
        let steps = || manifest.signatures.iter().flat_map(|signature| &signature.pre);
        let keeps_rows = steps().any(|step| matches!(step, PreStep::Image { .. }));
        let stand_in = stand_in(&manifest, &variant).ok().flatten();
        let stand_in = stand_in.and_then(|variant| HeaderValue::try_from(&variant.numerics).ok());
        Some(Self {
            release,
            manifest_id,
            manifest,
            variant,
            weights,
            pipeline,
            label,
            stand_in,
            keeps_rows,
            seat,
            lanes,
            pace,
            statistics: Statistics::default(),
        })
    }
    /// Who would answer now. Without a look at the model where it needs no device.
    #[must_use]
    pub fn answerer(&self) -> Answerer {
        if self.stand_in.is_none() {
            return Answerer::Signed;
        }
        self.seat.answerer()
    }
    /// The numerics of answers of `by`.
    #[must_use]
    pub fn numerics(&self, by: Answerer) -> &str {
        let stand_in = self.stand_in.as_ref().filter(|_| by == Answerer::StandIn);
        let stand_in = stand_in.and_then(|numerics| numerics.to_str().ok());
        stand_in.unwrap_or(&self.variant.numerics)
    }
    /// Rows that are joined into one run.
    #[must_use]
    pub fn rows_max(&self) -> usize {
        usize::try_from(self.variant.batch_rows_max)
            .unwrap_or(usize::MAX)
            .max(1)
    }
}

impl std::fmt::Debug for ModelSlot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "ModelSlot({} {:?} {})",
            self.release, self.manifest_id, self.variant.id
        )
    }
}

/// What runs of one model take on this node, from the publisher's figure on. And the runs that it was learnt from.
#[derive(Debug)]
pub struct Pace {
    /// What a request takes alone.
    pub cost: Cost,
    /// Whether that is the time of a device's stand-in.
    of_stand_in: AtomicBool,
    runs: Mutex<Runs>,
    /// What joining rows gives.
    pub gain: Gain,
}

impl Pace {
    /// Starts from published measurements: of one row, and of eight in one run (0 where there is none), microseconds.
    #[must_use]
    pub fn starting_at(row_us: u32, rows8_us: u32) -> Self {
        Self {
            cost: Cost::starting_at(Duration::from_micros(u64::from(row_us))),
            of_stand_in: AtomicBool::new(false),
            runs: Mutex::default(),
            gain: Gain::starting_at(row_us, rows8_us),
        }
    }
    /// Learns from a run of `rows` rows, `bytes` bytes of input in all. What joining gives is told by rows as large as usual.
    pub fn learn(&self, rows: usize, bytes: usize, run: Duration) {
        self.lock().add(rows, run);
        let expected = self.cost.of(rows, bytes).as_secs_f64();
        let usual = self.cost.usual(rows).as_secs_f64();
        let as_usual = if expected > 0.0 { usual / expected } else { 1.0 };
        self.gain.learn(rows, run.mul_f64(as_usual));
        self.cost.learn(rows, bytes, run);
    }
    /// Learns from a run of whoever answered. When that is another than before, its time is taken as it is: a step of the way
    /// from a device to a processor would let requests in that cannot be answered.
    pub fn learn_of(&self, by: Answerer, rows: usize, bytes: usize, run: Duration) {
        let of_stand_in = by == Answerer::StandIn;
        if self.of_stand_in.swap(of_stand_in, Ordering::Relaxed) != of_stand_in {
            let rows = u32::try_from(rows).unwrap_or(u32::MAX).max(1);
            self.cost.begin_again(run / rows);
        }
        self.learn(rows, bytes, run);
    }
    /// The runs so far.
    #[must_use]
    pub fn runs(&self) -> Runs {
        self.lock().clone()
    }
    fn lock(&self) -> std::sync::MutexGuard<'_, Runs> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The handle both rivers share. Cloning it is cheap and gives the same handle.
#[derive(Clone, Debug, Default)]
pub struct Serving {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    set: ArcSwap<ServingSet>,
    elsewhere: ArcSwap<Elsewhere>,
    queued: AtomicU32,
}

impl Serving {
    /// Starts with the empty set: region unknown, nothing served.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
    /// What may be served now. One atomic operation.
    #[must_use]
    pub fn load(&self) -> Arc<ServingSet> {
        self.shared.set.load_full()
    }
    /// Makes `set` what the next request sees.
    pub fn publish(&self, set: ServingSet) {
        self.shared.set.store(Arc::new(set));
    }
    /// Who else may answer what this node refuses.
    #[must_use]
    pub fn elsewhere(&self) -> Arc<Elsewhere> {
        self.shared.elsewhere.load_full()
    }
    /// Makes `elsewhere` what the next refusal names.
    pub fn point_to(&self, elsewhere: Elsewhere) {
        self.shared.elsewhere.store(Arc::new(elsewhere));
    }
    /// Requests waiting for an engine thread, for the node's report.
    #[must_use]
    pub fn queued(&self) -> u32 {
        self.shared.queued.load(Ordering::Relaxed)
    }
    /// Tells how many requests wait. The batch stage alone calls this.
    pub fn set_queued(&self, requests: usize) {
        self.shared
            .queued
            .store(u32::try_from(requests).unwrap_or(u32::MAX), Ordering::Relaxed);
    }
}

/// Hands checkpoints that a router has seen to sync, which compares them with its own: `POST /v1/checkpoints`.
#[derive(Clone, Debug)]
pub struct Gossip(mpsc::Sender<String>);

impl Gossip {
    /// Both ends. The receiver belongs to sync.
    #[must_use]
    pub fn channel() -> (Self, mpsc::Receiver<String>) {
        let (sender, receiver) = mpsc::channel(GOSSIP_QUEUE_MAX);
        (Self(sender), receiver)
    }
    /// Offers one checkpoint's text; `false` when sync is behind and it was dropped.
    #[must_use]
    pub fn offer(&self, checkpoint: String) -> bool {
        self.0.try_send(checkpoint).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::gain::Plan;

    #[test]
    fn a_request_keeps_the_set_it_began_with_while_another_is_published() {
        let serving = Serving::new();
        let before = serving.load();
        serving.publish(ServingSet {
            seq: 7,
            ..ServingSet::default()
        });
        assert_eq!((before.seq, serving.load().seq), (0, 7));
    }

    #[test]
    fn long_rows_alone_and_short_ones_together_are_no_gain_of_joining() {
        let (pace, us) = (Pace::starting_at(1_000, 0), Duration::from_micros(1));
        for n in 0..400 {
            let (rows, bytes) = if n % 2 == 0 {
                (1, 1_000 + n)
            } else {
                (8, 8 * (100 + n / 8))
            };
            pace.learn(rows, bytes, u32::try_from(bytes).unwrap() * us);
        }
        assert_eq!(pace.gain.plan(8), Plan::ALONE);
    }

    #[test]
    fn gossip_beyond_the_bound_is_dropped_not_queued() {
        let (gossip, _receiver) = Gossip::channel();
        let taken = (0..GOSSIP_QUEUE_MAX + 5)
            .filter(|_| gossip.offer(String::new()))
            .count();
        assert_eq!(taken, GOSSIP_QUEUE_MAX);
    }
}
