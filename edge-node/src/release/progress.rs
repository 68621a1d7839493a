//! How much of a release has come, read by the report while it is being written by the fetcher.

use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of one release on their way.
#[derive(Debug, Default)]
pub struct Progress {
    fetched: AtomicU64,
    need: AtomicU64,
}

impl Progress {
    /// Of a release whose files need `bytes` in all.
    pub fn set_need(&self, bytes: u64) {
        self.need.store(bytes, Ordering::Relaxed);
    }
    /// That `bytes` came over the network.
    pub fn add_fetched(&self, bytes: u64) {
        self.fetched.fetch_add(bytes, Ordering::Relaxed);
    }
    /// Bytes that came over the network.
    #[must_use]
    pub fn fetched(&self) -> u64 {
        self.fetched.load(Ordering::Relaxed)
    }
    /// Bytes of all its files.
    #[must_use]
    pub fn need(&self) -> u64 {
        self.need.load(Ordering::Relaxed)
    }
}
