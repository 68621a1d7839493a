//! Answers that are given again without running the model.
//!
//! ```text
//!   look up key --> memory --> (lead or follow a flight) --> disk --> engine
//!                      ^                                      |         |
//!                      +-------- keep: memory now, disk by its writer --+
//! ```
//! The memory tier is bounded by bytes, the disk tier by bytes and age. Nothing here can be lost: all of it can be
//! computed again, so a disk tier that is broken is thrown away.
//!
//! Whoever has answers forgotten has keys destroyed, by which questions are named and answers on disk are sealed (`keys`):
//! nothing has to be found for that, so nothing can be missed.
//!
//! Invariant: an answer is kept before its flight leaves the list, so a question that has been answered once and is
//! still kept is never computed again.

mod disk;
pub mod flight;
pub mod key;
mod keys;
mod rows;
mod seal;
mod stored;

use std::cell::Cell;
use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::ids::{ContentHash, ModelName, UnixMs};
use proto::oip::Tensor;
use proto::purge::Purged;
use quick_cache::Weighter;
use runtime::clock;

use crate::metrics::Metrics;
use crate::serving::ModelSlot;
use disk::Disk;
use flight::{Boarding, Flights};
use key::Key;
use keys::{Keys, Slots};
use rows::Rows;

pub use keys::{Asker, Scope};
pub use rows::{Keeper, RowsOfRun};

/// Bounds of the cache.
#[derive(Clone, Debug)]
pub struct CacheConfig {
    /// Bytes of results in memory; 0 keeps none.
    pub memory_bytes: u64,
    /// Bytes of decoded pictures in memory; 0 keeps none.
    pub rows_bytes: u64,
    /// Bytes that the disk tier may take; 0 has none.
    pub disk_bytes: u64,
    /// How long an answer is given again.
    pub ttl: Ttl,
    /// Folder of the disk tier.
    pub folder: PathBuf,
}

/// How long answers are given again, by what they are.
///
/// The names of a model's outputs in its manifest decide: an answer all of whose outputs are named `..embed..` is an
/// embedding. It serves later look-ups of an unchanged text, so it is worth its place for longer than a prediction.
#[derive(Clone, Debug, Default)]
pub struct Ttl {
    /// Of everything but embeddings.
    pub results: Duration,
    /// Of embeddings.
    pub embeddings: Duration,
    /// Of all answers of these models, whatever they are.
    pub models: HashMap<ModelName, Duration>,
}

impl Ttl {
    fn of_ms(&self, key: &Key, outputs: &[Tensor]) -> u64 {
        let embeds = |t: &Tensor| t.name.to_ascii_lowercase().contains("embed");
        let all = || !outputs.is_empty() && outputs.iter().all(embeds);
        key.ttl_ms
            .unwrap_or_else(|| ms(if all() { self.embeddings } else { self.results }))
    }
    fn longest_ms(&self) -> u64 {
        let models = self.models.values().copied().max().unwrap_or_default();
        ms(self.results.max(self.embeddings).max(models))
    }
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// What tells the time: the machine's clock, but in tests.
type Clock = Arc<dyn Fn() -> UnixMs + Send + Sync>;

/// An answer, when it stops being one, and whose it is.
#[derive(Clone, Debug)]
struct Entry {
    outputs: Arc<Vec<Tensor>>,
    expires: UnixMs,
    slots: Slots,
}

#[derive(Clone, Debug)]
struct Weight;

impl Weighter<ContentHash, Entry> for Weight {
    fn weight(&self, _: &ContentHash, entry: &Entry) -> u64 {
        u64::try_from(stored::weight(&entry.outputs)).unwrap_or(u64::MAX)
    }
}

type Memory = quick_cache::sync::Cache<ContentHash, Entry, Weight>;

/// The result cache of a node. Clones share it.
#[derive(Clone, Debug)]
pub struct Results(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    tiers: Arc<Tiers>,
    flights: Flights,
    rows: Rows,
}

/// Where answers are kept.
struct Tiers {
    memory: Memory,
    keys: Arc<Keys>,
    disk: Option<Disk>,
    ttl: Ttl,
    clock: Clock,
    metrics: Metrics,
}

impl std::fmt::Debug for Tiers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tiers({} in memory)", self.memory.len())
    }
}

impl Results {
    /// Opens the tiers. A disk tier that cannot be opened is logged and left out: the node serves without it.
    #[must_use]
    pub fn open(config: &CacheConfig, metrics: &Metrics) -> Self {
        Self::by(config, metrics, Arc::new(clock::now_ms))
    }

    fn by(config: &CacheConfig, metrics: &Metrics, clock: Clock) -> Self {
        // An entry weighs a few hundred bytes at least: the estimate only sizes tables.
        let items = usize::try_from(config.memory_bytes / 1024)
            .unwrap_or(usize::MAX)
            .clamp(16, 1 << 20);
        let ttl = config.ttl.clone();
        let (keys, disk) = disk::open(config, ttl.longest_ms(), metrics, &clock);
        let tiers = Arc::new(Tiers {
            memory: Memory::with_weighter(items, config.memory_bytes, Weight),
            keys,
            disk,
            ttl,
            clock,
            metrics: metrics.clone(),
        });
        let keeping = Arc::clone(&tiers);
        let flights = Flights::new(Arc::new(move |key, outputs| keeping.keep(key, outputs)));
        let rows = Rows::of(config.rows_bytes, metrics.rows.clone());
        Self(Arc::new(Shared { tiers, flights, rows }))
    }

    /// Names what `asker` asks of `slot`: `outputs` are the names asked for, `parameters` those that may change the answer,
    /// rendered. What is forgotten later is not found by this key.
    #[must_use]
    pub fn key(
        &self,
        asker: Asker<'_>,
        slot: &ModelSlot,
        outputs: &[String],
        parameters: &str,
        inputs: &[Tensor],
    ) -> Key {
        let (tiers, model) = (&self.0.tiers, &slot.release.model);
        let owner = tiers.keys.owner(asker, model);
        let own = if tiers.ttl.models.is_empty() {
            None
        } else {
            tiers.ttl.models.get(model).copied()
        };
        let by = slot.answerer();
        Key {
            name: key::name(&owner, asker, (slot, by), outputs, parameters, inputs),
            owner,
            by,
            ttl_ms: own.map(ms),
        }
    }

    /// Keeps decoded rows of what `asker` asks; `None` where none are kept. What is forgotten later is not kept by it.
    #[must_use]
    pub fn keeper(&self, asker: Asker<'_>) -> Option<Keeper> {
        self.0.rows.keeper(&self.0.tiers.keys, asker)
    }

    /// What memory holds. Costs one hash look-up; never blocks.
    #[must_use]
    pub fn in_memory(&self, key: &Key) -> Option<Arc<Vec<Tensor>>> {
        let tiers = &self.0.tiers;
        let entry = tiers.memory.get(&key.name)?;
        ((tiers.clock)() < entry.expires).then_some(entry.outputs)
    }

    /// What disk holds, taken into memory. Blocks for a read: not for the async runtime's own threads.
    #[must_use]
    pub fn on_disk(&self, key: &Key) -> Option<Arc<Vec<Tensor>>> {
        let tiers = &self.0.tiers;
        let now = (tiers.clock)();
        let (outputs, expires) = tiers.disk.as_ref()?.read(key, now)?;
        let outputs = Arc::new(outputs);
        // The clock may have been set back since it was written: never keep longer than the time to live.
        let expires = expires.min(now.saturating_add(tiers.ttl.of_ms(key, &outputs)));
        tiers
            .keys
            .while_current(&key.owner, || tiers.remember(key, &outputs, expires))?;
        Some(outputs)
    }

    /// Whether the disk tier may hold `key`: `false` is certain. Costs one look-up in memory.
    #[must_use]
    pub fn may_be_on_disk(&self, key: &Key) -> bool {
        self.0.tiers.disk.as_ref().is_some_and(|disk| disk.may_hold(key))
    }

    /// Joins the flight of `key` or starts it. Between a look-up that missed and this call the answer may have landed:
    /// a leader looks into memory once more.
    #[must_use]
    pub fn board(&self, key: &Key, deadline: Instant) -> Boarding {
        self.0.flights.board(key, deadline)
    }

    /// Forgets all answers and decoded rows of `scope`, and at most some of others that share its keys. When this returns, whoever asks is
    /// given none of them, whatever crashes, and not the answer of a run that was under way either. Blocks for the disk.
    ///
    /// # Errors
    /// The keys on disk could not be overwritten: until a restart nothing of it is given, after one it may be.
    pub fn purge(&self, scope: Scope<'_>) -> io::Result<Purged> {
        let tiers = &self.0.tiers;
        let (gone, destroyed) = tiers.keys.forget(scope);
        let dropped = Cell::new(0);
        tiers.memory.retain(|_, entry| {
            let covered = gone.covers(entry.slots);
            dropped.set(dropped.get() + u64::from(covered));
            !covered
        });
        tiers.weigh();
        self.0.rows.forget(scope, gone, &tiers.keys);
        let disk_keys = destroyed?;
        tiers.metrics.cache_purges.inc();
        Ok(Purged {
            memory_entries: dropped.get(),
            disk_keys,
        })
    }

    /// How many wait for runs that are under way.
    #[cfg(test)]
    pub(crate) fn passengers(&self) -> usize {
        self.0.flights.passengers()
    }

    /// Writes what waits to disk. Called when the node stops, after the last answer.
    pub fn close(&self) {
        if let Some(disk) = &self.0.tiers.disk {
            disk.close();
        }
    }
}

impl Tiers {
    /// Keeps an answer, unless it was forgotten while the model ran.
    fn keep(&self, key: &Key, outputs: &Arc<Vec<Tensor>>) {
        let expires = (self.clock)().saturating_add(self.ttl.of_ms(key, outputs));
        let kept = self.keys.while_current(&key.owner, || {
            self.remember(key, outputs, expires);
        });
        if let (Some(()), Some(disk)) = (kept, &self.disk) {
            disk.keep(*key, Arc::clone(outputs), expires);
        }
    }
    fn remember(&self, key: &Key, outputs: &Arc<Vec<Tensor>>, expires: UnixMs) {
        let entry = Entry {
            outputs: Arc::clone(outputs),
            expires,
            slots: key.owner.slots,
        };
        self.memory.insert(key.name, entry);
        self.weigh();
    }
    fn weigh(&self) {
        let weight = i64::try_from(self.memory.weight()).unwrap_or(i64::MAX);
        self.metrics.cache_memory_bytes.set(weight);
    }
}

#[cfg(test)]
mod tests;
