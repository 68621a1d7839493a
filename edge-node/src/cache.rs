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
//! Invariant: an answer is kept before its flight leaves the list, so a question that has been answered once and is
//! still kept is never computed again.

mod disk;
pub mod flight;
pub mod key;
mod stored;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::ids::{ContentHash, UnixMs};
use proto::oip::Tensor;
use quick_cache::Weighter;
use runtime::clock;

use crate::metrics::Metrics;
use disk::Disk;
use flight::{Boarding, Flights};

/// Bounds of the cache.
#[derive(Clone, Debug)]
pub struct CacheConfig {
    /// Bytes of results in memory; 0 keeps none.
    pub memory_bytes: u64,
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
#[derive(Clone, Copy, Debug)]
pub struct Ttl {
    /// Of everything but embeddings.
    pub results: Duration,
    /// Of embeddings.
    pub embeddings: Duration,
}

impl Ttl {
    fn of_ms(&self, outputs: &[Tensor]) -> u64 {
        let embeds = |t: &Tensor| t.name.to_ascii_lowercase().contains("embed");
        let all = !outputs.is_empty() && outputs.iter().all(embeds);
        ms(if all { self.embeddings } else { self.results })
    }
    fn longest_ms(&self) -> u64 {
        ms(self.results.max(self.embeddings))
    }
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// An answer and when it stops being one.
#[derive(Clone, Debug)]
struct Entry {
    outputs: Arc<Vec<Tensor>>,
    expires: UnixMs,
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
pub struct Results {
    memory: Arc<Memory>,
    disk: Option<Disk>,
    flights: Flights,
    ttl: Ttl,
}

impl Results {
    /// Opens the tiers. A disk tier that cannot be opened is logged and left out: the node serves without it.
    #[must_use]
    pub fn open(config: &CacheConfig, metrics: &Metrics) -> Self {
        let ttl = config.ttl;
        // An entry weighs a few hundred bytes at least: the estimate only sizes tables.
        let items = usize::try_from(config.memory_bytes / 1024)
            .unwrap_or(usize::MAX)
            .clamp(16, 1 << 20);
        let memory = Arc::new(Memory::with_weighter(items, config.memory_bytes, Weight));
        let disk = (config.disk_bytes > 0)
            .then(|| Disk::open(config, ttl.longest_ms(), metrics))
            .flatten();
        let (memory_, disk_, metrics) = (Arc::clone(&memory), disk.clone(), metrics.clone());
        let keep = move |key, outputs: &Arc<Vec<Tensor>>| {
            let expires = clock::now_ms().saturating_add(ttl.of_ms(outputs));
            memory_.insert(
                key,
                Entry {
                    outputs: Arc::clone(outputs),
                    expires,
                },
            );
            metrics
                .cache_memory_bytes
                .set(i64::try_from(memory_.weight()).unwrap_or(i64::MAX));
            if let Some(disk) = &disk_ {
                disk.keep(key, Arc::clone(outputs), expires);
            }
        };
        Self {
            memory,
            disk,
            flights: Flights::new(Arc::new(keep)),
            ttl,
        }
    }

    /// What memory holds. Costs one hash look-up; never blocks.
    #[must_use]
    pub fn in_memory(&self, key: &ContentHash) -> Option<Arc<Vec<Tensor>>> {
        let entry = self.memory.get(key)?;
        (clock::now_ms() < entry.expires).then_some(entry.outputs)
    }

    /// What disk holds, taken into memory. Blocks for a read: not for the async runtime's own threads.
    #[must_use]
    pub fn on_disk(&self, key: &ContentHash) -> Option<Arc<Vec<Tensor>>> {
        let now = clock::now_ms();
        let (outputs, expires) = self.disk.as_ref()?.read(key, now)?;
        let outputs = Arc::new(outputs);
        // The clock may have been set back since it was written: never keep longer than the time to live.
        let expires = expires.min(now.saturating_add(self.ttl.of_ms(&outputs)));
        self.memory.insert(
            *key,
            Entry {
                outputs: Arc::clone(&outputs),
                expires,
            },
        );
        Some(outputs)
    }

    /// Whether the disk tier may hold `key`: `false` is certain. Costs one look-up in memory.
    #[must_use]
    pub fn may_be_on_disk(&self, key: &ContentHash) -> bool {
        self.disk.as_ref().is_some_and(|disk| disk.may_hold(key))
    }

    /// Joins the flight of `key` or starts it. Between a look-up that missed and this call the answer may have landed:
    /// a leader looks into memory once more.
    #[must_use]
    pub fn board(&self, key: ContentHash, deadline: Instant) -> Boarding {
        self.flights.board(key, deadline)
    }

    /// Writes what waits to disk. Called when the node stops, after the last answer.
    pub fn close(&self) {
        if let Some(disk) = &self.disk {
            disk.close();
        }
    }
}

#[cfg(test)]
mod tests;
