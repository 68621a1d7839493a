//! The disk tier: one sled tree per stretch of time, written by one thread behind a bounded queue.
//!
//! ```text
//!   FOLDER/keys       what opens the answers         FOLDER/answers/   sled, all of it sealed
//!   keep --try_send--> writer thread --sealed, in batches--> tree of this stretch
//!   read: newest tree first        expired stretch, or over the bound: the oldest tree is dropped whole, and its key
//! ```
//! Sled never gives freed pages back: what is to be forgotten is forgotten by its keys (`keys`).
//!
//! Dropping a tree costs a fraction of what sweeping its keys does (75,000 items: 0.55 s against 9 s), and sled keeps
//! about three bytes of disk for one of content under churn: so a third of the budget is filled.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use proto::ids::{ContentHash, UnixMs};
use proto::oip::Tensor;

use super::key::Key;
use super::keys::Keys;
use super::keys::layout::Row;
use super::seal::{self, Lock};
use super::{CacheConfig, Clock, stored};
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
    key: Key,
    outputs: Arc<Vec<Tensor>>,
    expires: UnixMs,
}

/// The trees by the stretch of time they were begun in.
struct Shelves {
    db: sled::Db,
    keys: Arc<Keys>,
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

/// The keys of a node's answers, and the disk tier if there is one.
pub(super) type Opened = (Arc<Keys>, Option<Disk>);

/// Opens the folder of `config`, whose answers are looked for up to `ttl_ms` after they were written.
///
/// Answers without their keys are rubbish, and answers of a version that sealed none must not stay: without a good key file
/// all that lies there goes. So it does where nothing is to be kept: what an earlier configuration kept, a later one must
/// not find again after it was forgotten in between.
pub(super) fn open(config: &CacheConfig, ttl_ms: u64, metrics: &Metrics, clock: &Clock) -> Opened {
    if config.disk_bytes == 0 {
        return match emptied(&config.folder) {
            Ok(()) => (Arc::new(Keys::in_memory()), None),
            Err(error) => lost(&error, config),
        };
    }
    let keys = match opened_keys(&config.folder) {
        Ok(keys) => Arc::new(keys),
        Err(error) => return lost(&error, config),
    };
    let disk = Disk::open(config, ttl_ms, Arc::clone(&keys), metrics, clock);
    (keys, disk)
}

fn lost(error: &std::io::Error, config: &CacheConfig) -> Opened {
    let folder = config.folder.display();
    tracing::error!(%error, %folder, "no result cache on disk, and nothing there can be forgotten: see to the folder");
    (Arc::new(Keys::lost()), None)
}

fn opened_keys(folder: &Path) -> std::io::Result<Keys> {
    let path = folder.join("keys");
    match Keys::open(&path) {
        Ok(Some(keys)) => return Ok(keys),
        Ok(None) => {}
        Err(error) => tracing::warn!(%error, "the keys of the result cache cannot be read: starting an empty one"),
    }
    emptied(folder)?;
    std::fs::create_dir_all(folder)?;
    Keys::create(&path)
}

/// Removes the tier that lies in `folder`, in today's form or in that of before answers were sealed.
fn emptied(folder: &Path) -> std::io::Result<()> {
    if !["keys", "answers", "db", "conf"]
        .iter()
        .any(|name| folder.join(name).exists())
    {
        return Ok(());
    }
    std::fs::remove_dir_all(folder)
}

impl Disk {
    /// Opens what lies beside `keys`. If that is broken it is emptied once; if that does not help there is no disk tier.
    fn open(config: &CacheConfig, ttl_ms: u64, keys: Arc<Keys>, metrics: &Metrics, clock: &Clock) -> Option<Self> {
        let bytes_max = config.disk_bytes / SLED_FACTOR;
        let folder = config.folder.join("answers");
        let open = || Shelves::open(&folder, Arc::clone(&keys), ttl_ms, bytes_max);
        let shelves = open().or_else(|error| {
            tracing::warn!(%error, "the result cache on disk is unreadable: starting an empty one");
            let _ = std::fs::remove_dir_all(&folder); // what cannot be removed shows in the next line
            open()
        });
        let shelves = match shelves {
            Ok(shelves) => Arc::new(shelves),
            Err(error) => {
                tracing::error!(%error, "no result cache on disk");
                return None;
            }
        };
        let now = clock();
        if let Err(error) = shelves.make_room(now / shelves.stretch_ms, 0, now) {
            tracing::warn!(%error, "expired results are not dropped yet");
        }
        let (queue, waiting) = sync_channel(WAITING_MAX);
        let (shelves_, metrics_, clock) = (Arc::clone(&shelves), metrics.clone(), clock.clone());
        let work = move || write_all(&shelves_, &waiting, &metrics_, &clock);
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
    pub(super) fn keep(&self, key: Key, outputs: Arc<Vec<Tensor>>, expires: UnixMs) {
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
    pub(super) fn may_hold(&self, key: &Key) -> bool {
        self.shelves
            .index
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .contains_key(&short(&key.name))
    }

    /// The answer of `key` and when it expires. Blocks.
    pub(super) fn read(&self, key: &Key, now: UnixMs) -> Option<(Vec<Tensor>, UnixMs)> {
        let shelves = &self.shelves;
        let stretch = *shelves
            .index
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&short(&key.name))?;
        let trees = shelves.trees.read().unwrap_or_else(PoisonError::into_inner);
        let tree = trees.get(&stretch)?.tree.clone();
        drop(trees);
        let sealed = tree.get(key.name.as_bytes()).ok().flatten()?;
        let expires = seal::expires(&sealed).filter(|&expires| now < expires)?;
        let stretch = shelves.keys.stretch(stretch);
        let answer = lock(key, &stretch).open(&sealed)?;
        stored::read(&answer).map(|outputs| (outputs, expires))
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

fn lock<'a>(key: &'a Key, stretch: &'a Row) -> Lock<'a> {
    Lock {
        secret: &key.owner.secret,
        stretch,
        question: &key.name,
    }
}

fn write_all(shelves: &Shelves, waiting: &Receiver<Waiting>, metrics: &Metrics, clock: &Clock) {
    while let Ok(first) = waiting.recv() {
        let batch = std::iter::once(first).chain(waiting.try_iter().take(WAITING_MAX));
        match shelves.put(batch, clock()) {
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
    fn open(folder: &Path, keys: Arc<Keys>, ttl_ms: u64, bytes_max: u64) -> Result<Self, sled::Error> {
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
            keys,
            trees,
            index,
            stretch_ms,
            ttl_ms,
            bytes_max,
        })
    }

    /// Writes answers into the stretch of `now`, and drops what is too old or too much. Gives the bytes kept.
    fn put(&self, waiting: impl Iterator<Item = Waiting>, now: UnixMs) -> Result<u64, sled::Error> {
        // What was forgotten while it waited would be sealed under a key that nobody has: it is not worth its place.
        let current = |one: &Waiting| self.keys.while_current(&one.key.owner, || ()).is_some();
        let answers: Vec<(Waiting, Vec<u8>)> = waiting
            .filter(current)
            .map(|one| {
                let answer = stored::write(&one.outputs);
                (one, answer)
            })
            .collect();
        let on_disk = |answer: &[u8]| u64::try_from(answer.len() + seal::OVERHEAD_BYTES + 32).unwrap_or(u64::MAX);
        let bytes: u64 = answers.iter().map(|(_, answer)| on_disk(answer)).sum();
        let number = now / self.stretch_ms;
        self.make_room(number, bytes, now)?;
        if bytes > self.bytes_max || answers.is_empty() {
            return Ok(self.bytes());
        }
        let (stretch, mut batch) = (self.keys.stretch(number), sled::Batch::default());
        for (one, answer) in &answers {
            if let Some(sealed) = lock(&one.key, &stretch).seal(answer, one.expires) {
                batch.insert(one.key.name.as_bytes(), sealed);
            }
        }
        let mut trees = self.trees.write().unwrap_or_else(PoisonError::into_inner);
        let shelf = match trees.entry(number) {
            Entry::Occupied(shelf) => shelf.into_mut(),
            Entry::Vacant(free) => {
                let tree = self.db.open_tree(format!("{TREE_PREFIX}{number}"))?;
                free.insert(Shelf { tree, bytes: 0 })
            }
        };
        shelf.tree.apply_batch(batch)?;
        shelf.bytes += bytes;
        drop(trees);
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        index.extend(answers.iter().map(|(one, _)| (short(&one.key.name), number)));
        drop(index);
        Ok(self.bytes())
    }

    fn bytes(&self) -> u64 {
        let trees = self.trees.read().unwrap_or_else(PoisonError::into_inner);
        trees.values().map(|shelf| shelf.bytes).sum()
    }

    /// Drops stretches that are too old, or too new, or whose place `bytes` need, and destroys their keys.
    fn make_room(&self, stretch: u64, bytes: u64, now: UnixMs) -> Result<(), sled::Error> {
        let mut gone = Vec::new();
        let mut trees = self.trees.write().unwrap_or_else(PoisonError::into_inner);
        let total = |trees: &BTreeMap<u64, Shelf>| trees.values().map(|shelf| shelf.bytes).sum::<u64>();
        while let (Some((&oldest, _)), Some((&newest, _))) = (trees.first_key_value(), trees.last_key_value()) {
            let too_old = (oldest + 1) * self.stretch_ms + self.ttl_ms <= now;
            // A stretch from the future was written before the clock was set back.
            let too_new = newest > stretch;
            if !too_old && !too_new && total(&trees) + bytes <= self.bytes_max {
                break;
            }
            let number = if too_new { newest } else { oldest };
            self.db.drop_tree(format!("{TREE_PREFIX}{number}"))?;
            trees.remove(&number);
            gone.push(number);
        }
        drop(trees);
        if gone.is_empty() {
            return Ok(());
        }
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        index.retain(|_, at| !gone.contains(at));
        drop(index);
        self.keys.forget_stretches(&gone).map_err(sled::Error::Io)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn of_two_answers_the_newer_one_is_found_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let keys = Arc::new(Keys::in_memory());
        let key = crate::cache::tests::key(&keys, b"question");
        let open = || {
            let end = runtime::clock::instant() + Duration::from_secs(30);
            loop {
                match Shelves::open(dir.path(), Arc::clone(&keys), STRETCHES * 1_000, 1 << 20) {
                    Ok(shelves) => return shelves,
                    // The lock of the store that was just closed was found held a moment longer; by whom is not known.
                    Err(sled::Error::Io(_)) if runtime::clock::instant() < end => std::thread::yield_now(),
                    Err(error) => panic!("{error}"),
                }
            }
        };
        let shelves = open();
        for second in 0..20 {
            let outputs = Arc::new(Vec::new());
            let (expires, one) = (u64::MAX, std::iter::once);
            shelves
                .put(one(Waiting { key, outputs, expires }), second * 1_000)
                .unwrap();
        }
        shelves.db.flush().unwrap();
        drop(shelves);
        assert_eq!(open().index.read().unwrap().get(&short(&key.name)), Some(&19));
    }
}
