//! The disk tier: one sled tree per stretch of time, written by one thread behind a bounded queue.
//!
//! ```text
//!   keep --try_send--> writer thread --batch--> tree of this stretch
//!   read: newest tree first        expired stretch, or over the bound: the oldest tree is dropped whole
//! ```
//! Dropping a tree costs a fraction of what sweeping its keys does (75,000 items: 0.55 s against 9 s), and sled keeps
//! about three bytes of disk for one of content under churn: so a third of the budget is filled.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use proto::ids::{ContentHash, UnixMs};
use proto::oip::Tensor;
use runtime::clock;

use super::{CacheConfig, stored};
use crate::metrics::Metrics;

/// Answers that wait to be written; more are not written.
const WAITING_MAX: usize = 256;
/// A larger answer is kept in memory only: sled is no place for large values.
const VALUE_BYTES_MAX: usize = 256 << 10;
/// Stretches that the longest time to live is cut into: answers lie here for that and a hundredth more, and a full tier
/// loses a quarter of an hour of a day. One with a shorter time to live is not given after it, but goes with its stretch.
const STRETCHES: u64 = 96;
/// The shortest stretch: a tree costs some writes to begin and to drop.
const STRETCH_MS_MIN: u64 = 1_000;
/// Sled's own page cache; answers that are asked for often are in our memory tier.
const SLED_CACHE_BYTES: u64 = 16 << 20;
/// Disk bytes that sled takes for one byte of content, measured.
const SLED_FACTOR: u64 = 3;
const TREE_PREFIX: &str = "results-";

/// The disk tier. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Disk {
    shelves: Arc<Shelves>,
    writer: Arc<Mutex<Option<Writer>>>,
    metrics: Metrics,
}

#[derive(Debug)]
struct Writer {
    queue: SyncSender<Waiting>,
    thread: std::thread::JoinHandle<()>,
}

struct Waiting {
    key: ContentHash,
    outputs: Arc<Vec<Tensor>>,
    expires: UnixMs,
}

/// The trees by the stretch of time they were begun in.
struct Shelves {
    db: sled::Db,
    trees: RwLock<BTreeMap<u64, Shelf>>,
    /// Which stretch holds a key, by the key's first eight bytes: a miss costs no read.
    index: RwLock<HashMap<u64, u64>>,
    stretch_ms: u64,
    ttl_ms: u64,
    bytes_max: u64,
}

struct Shelf {
    tree: sled::Tree,
    bytes: u64,
}

impl std::fmt::Debug for Shelves {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Shelves({} bytes at most)", self.bytes_max)
    }
}

impl Disk {
    /// Opens the folder of `config`. One that is broken is emptied once; if that does not help there is no disk tier.
    pub(super) fn open(config: &CacheConfig, ttl_ms: u64, metrics: &Metrics) -> Option<Self> {
        let bytes_max = config.disk_bytes / SLED_FACTOR;
        let open = || Shelves::open(&config.folder, ttl_ms, bytes_max);
        let shelves = open().or_else(|error| {
            tracing::warn!(%error, "the result cache on disk is unreadable: starting an empty one");
            let _ = std::fs::remove_dir_all(&config.folder); // what cannot be removed shows in the next line
            open()
        });
        let shelves = match shelves {
            Ok(shelves) => Arc::new(shelves),
            Err(error) => {
                tracing::error!(%error, "no result cache on disk");
                return None;
            }
        };
        let (queue, waiting) = sync_channel(WAITING_MAX);
        let (shelves_, metrics_) = (Arc::clone(&shelves), metrics.clone());
        let work = move || write_all(&shelves_, &waiting, &metrics_);
        let thread = std::thread::Builder::new()
            .name("result-writer".to_owned())
            .spawn(work)
            .ok()?;
        let writer = Arc::new(Mutex::new(Some(Writer { queue, thread })));
        Some(Self {
            shelves,
            writer,
            metrics: metrics.clone(),
        })
    }

    /// Hands an answer to the writer; drops it when the writer is behind.
    pub(super) fn keep(&self, key: ContentHash, outputs: Arc<Vec<Tensor>>, expires: UnixMs) {
        if stored::weight(&outputs) > VALUE_BYTES_MAX {
            return;
        }
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(writer) = writer.as_ref() else { return };
        if let Err(TrySendError::Full(_)) = writer.queue.try_send(Waiting { key, outputs, expires }) {
            self.metrics.cache_dropped.inc();
        }
    }

    /// Whether a read could find `key`.
    pub(super) fn may_hold(&self, key: &ContentHash) -> bool {
        self.shelves
            .index
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .contains_key(&short(key))
    }

    /// The answer of `key` and when it expires. Blocks.
    pub(super) fn read(&self, key: &ContentHash, now: UnixMs) -> Option<(Vec<Tensor>, UnixMs)> {
        let stretch = *self
            .shelves
            .index
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&short(key))?;
        let trees = self.shelves.trees.read().unwrap_or_else(PoisonError::into_inner);
        let tree = trees.get(&stretch)?.tree.clone();
        drop(trees);
        let bytes = tree.get(key.as_bytes()).ok().flatten()?;
        let expires = stored::expires(&bytes)?;
        (now < expires)
            .then(|| stored::read(&bytes))
            .flatten()
            .map(|outputs| (outputs, expires))
    }

    /// Writes what waits, flushes and ends the writer.
    pub(super) fn close(&self) {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Writer { queue, thread }) = writer {
            drop(queue);
            if thread.join().is_err() {
                tracing::error!("the writer of the result cache panicked");
            }
        }
    }
}

fn short(key: &ContentHash) -> u64 {
    u64::from_le_bytes(*key.as_bytes().first_chunk().expect("a digest has 32 bytes"))
}

fn write_all(shelves: &Shelves, waiting: &Receiver<Waiting>, metrics: &Metrics) {
    while let Ok(first) = waiting.recv() {
        let (mut batch, mut keys, mut bytes) = (sled::Batch::default(), Vec::new(), 0);
        for one in std::iter::once(first).chain(waiting.try_iter().take(WAITING_MAX)) {
            let value = stored::write(&one.outputs, one.expires);
            bytes += u64::try_from(value.len() + 32).unwrap_or(u64::MAX);
            keys.push(short(&one.key));
            batch.insert(one.key.as_bytes(), value);
        }
        match shelves.put(batch, &keys, bytes, clock::now_ms()) {
            Ok(total) => {
                metrics.cache_disk_bytes.set(i64::try_from(total).unwrap_or(i64::MAX));
            }
            Err(error) => tracing::warn!(%error, "results are not written to disk"),
        }
    }
    if let Err(error) = shelves.db.flush() {
        tracing::warn!(%error, "the result cache was not flushed");
    }
}

impl Shelves {
    fn open(folder: &std::path::Path, ttl_ms: u64, bytes_max: u64) -> Result<Self, sled::Error> {
        let db = sled::Config::new()
            .path(folder)
            .cache_capacity(SLED_CACHE_BYTES)
            .mode(sled::Mode::LowSpace)
            .flush_every_ms(Some(1_000))
            .open()?;
        let (mut trees, mut index) = (BTreeMap::new(), HashMap::new());
        for name in db.tree_names() {
            let text = String::from_utf8_lossy(&name);
            let Some(stretch) = text.strip_prefix(TREE_PREFIX).and_then(|n| n.parse::<u64>().ok()) else {
                continue;
            };
            let (tree, mut bytes) = (db.open_tree(&name)?, 0_u64);
            for item in &tree {
                let (key, value) = item?;
                bytes += u64::try_from(key.len() + value.len()).unwrap_or(u64::MAX);
                if let Some(first) = key.first_chunk() {
                    // Trees come in no order, and an answer that expired may lie in an older one.
                    let newest: &mut u64 = index.entry(u64::from_le_bytes(*first)).or_default();
                    *newest = stretch.max(*newest);
                }
            }
            trees.insert(stretch, Shelf { tree, bytes });
        }
        let stretch_ms = (ttl_ms / STRETCHES).max(STRETCH_MS_MIN);
        let (trees, index) = (RwLock::new(trees), RwLock::new(index));
        Ok(Self {
            db,
            trees,
            index,
            stretch_ms,
            ttl_ms,
            bytes_max,
        })
    }

    /// Writes a batch into the stretch of `now` and drops what is too old or too much. Gives the bytes kept.
    fn put(&self, batch: sled::Batch, keys: &[u64], bytes: u64, now: UnixMs) -> Result<u64, sled::Error> {
        let stretch = now / self.stretch_ms;
        let mut trees = self.trees.write().unwrap_or_else(PoisonError::into_inner);
        let total = |trees: &BTreeMap<u64, Shelf>| trees.values().map(|shelf| shelf.bytes).sum::<u64>();
        while let Some((&oldest, _)) = trees.first_key_value() {
            let too_old = (oldest + 1) * self.stretch_ms + self.ttl_ms <= now;
            // A stretch from the future was written before the clock was set back.
            let too_new = trees.last_key_value().is_some_and(|(&newest, _)| newest > stretch);
            if !too_old && !too_new && total(&trees) + bytes <= self.bytes_max {
                break;
            }
            let gone = if too_new {
                trees.pop_last()
            } else {
                trees.remove_entry(&oldest)
            };
            if let Some((gone, _)) = gone {
                self.db.drop_tree(format!("{TREE_PREFIX}{gone}"))?;
                self.index
                    .write()
                    .unwrap_or_else(PoisonError::into_inner)
                    .retain(|_, at| *at != gone);
            }
        }
        if bytes > self.bytes_max {
            return Ok(total(&trees));
        }
        let shelf = match trees.entry(stretch) {
            Entry::Occupied(shelf) => shelf.into_mut(),
            Entry::Vacant(free) => {
                let tree = self.db.open_tree(format!("{TREE_PREFIX}{stretch}"))?;
                free.insert(Shelf { tree, bytes: 0 })
            }
        };
        shelf.tree.apply_batch(batch)?;
        shelf.bytes += bytes;
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        index.extend(keys.iter().map(|&key| (key, stretch)));
        Ok(total(&trees))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_answers_the_newer_one_is_found_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let key = ContentHash::of(b"question");
        let open = || Shelves::open(dir.path(), STRETCHES * 1_000, 1 << 20).unwrap();
        let shelves = open();
        for second in 0..20 {
            let mut batch = sled::Batch::default();
            batch.insert(key.as_bytes(), b"answer".as_slice());
            shelves.put(batch, &[short(&key)], 38, second * 1_000).unwrap();
        }
        shelves.db.flush().unwrap();
        drop(shelves);
        assert_eq!(open().index.read().unwrap().get(&short(&key)), Some(&19));
    }
}
