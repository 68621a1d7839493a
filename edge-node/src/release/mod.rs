//! How a release that the signed state names becomes the one that answers: fetched, verified, checked by its golden
//! vectors in a child process, loaded, warmed, switched to.
//!
//! ```text
//!   orders -> wishes -> machine (decides) -> works (does) -> machine -> .. -> serving
//! ```
//! [`machine`] and `wishes` are pure. `fetch` and `shelf` move bytes, `works` runs jobs, `releases` is the loop that
//! owns it all. What was not hashed is never loaded; what serves stays until the next one is warm.

mod fetch;
mod loader;
pub mod machine;
mod package;
mod progress;
mod releases;
mod shelf;
mod status;
mod track;
mod wishes;
mod works;

use std::collections::BTreeMap;
use std::sync::Arc;

use proto::ids::NodeClass;
use proto::limits::MODELS_MAX;
use runtime::lifecycle::Lifecycle;
use tokio::sync::{mpsc, watch};

pub use fetch::FetchError;
pub use loader::EngineLoader;
pub use package::{Loader, Package};
pub use progress::Progress;
pub use status::{ModelStatus, Status};

pub(crate) use fetch::Fetcher;
pub(crate) use releases::Releases;
pub(crate) use shelf::Shelf;

use crate::memory::Memory;
use crate::serving::Serving;
use crate::store::Kept;
use crate::sync::Orders;

/// What the loop of releases works with.
pub(crate) struct Tools {
    pub(crate) fetcher: Fetcher,
    pub(crate) loader: Arc<dyn Loader>,
    pub(crate) memory: Memory,
    pub(crate) kept: Arc<Kept>,
    pub(crate) serving: Serving,
    pub(crate) class: NodeClass,
    pub(crate) orders: watch::Receiver<Orders>,
    pub(crate) lifecycle: Lifecycle,
}

/// The loop, ready to run, and what it tells the reporter.
pub(crate) fn releases(tools: Tools) -> (Releases, watch::Receiver<Status>) {
    let Tools {
        fetcher,
        loader,
        memory,
        kept,
        serving,
        class,
        orders,
        lifecycle,
    } = tools;
    let (instruments, seed) = (fetcher.instruments.clone(), fetcher.seed);
    let (status, told) = watch::channel(Status::default());
    let (send_done, done) = mpsc::channel(MODELS_MAX);
    let works = works::Works::new(fetcher, loader, memory, lifecycle.clone(), send_done);
    let releases = Releases {
        works,
        done,
        kept,
        serving,
        class,
        orders,
        status,
        instruments,
        lifecycle,
        seed,
        tracks: BTreeMap::new(),
        before: BTreeMap::new(),
        stopped: None,
        changed: releases::Changed::default(),
    };
    (releases, told)
}
