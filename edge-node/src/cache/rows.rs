//! Decoded rows of inputs, kept in memory, so that a picture that is asked about again need not be decoded again: with other
//! parameters, by another model that scales to the same size, or when the answer of the first time is no longer kept.
//!
//! ```text
//!   order --owner of its rows--> run --row, stage--> named by a keyed hash --found--> the engine goes on behind the stage
//!                                                                          '-made---> kept, unless something was forgotten meanwhile
//! ```
//! A row is named under the secret of its tenant and person, as answers are (decision 0024), and with both names besides: nobody
//! comes upon what is another's. It is nobody's model's: what is forgotten of a model takes all rows of the tenant along, or of all.
//! Memory alone: nothing of it outlives the process or leaves the node.
//!
//! Invariant: what was begun before a purge is not kept after it.

use std::cell::Cell;
use std::sync::{Arc, PoisonError, RwLock};

use engine::pre::KeptRows;
use proto::ids::ContentHash;
use quick_cache::Weighter;

use super::keys::{Asker, Forgotten, Keys, Owner, Scope};
use crate::metrics::rows::RowMetrics;

/// A row as a stage made it, and whose it is.
#[derive(Clone, Debug)]
struct Row {
    bytes: Arc<[u8]>,
    owner: Owner,
}

#[derive(Clone, Debug)]
struct Weight;

/// What a row takes besides its bytes.
const BOOKKEEPING_BYTES: usize = 160;

impl Weighter<ContentHash, Row> for Weight {
    fn weight(&self, _: &ContentHash, row: &Row) -> u64 {
        u64::try_from(row.bytes.len() + BOOKKEEPING_BYTES).unwrap_or(u64::MAX)
    }
}

/// The rows that a node keeps. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Rows(Arc<Shared>);

struct Shared {
    memory: quick_cache::sync::Cache<ContentHash, Row, Weight>,
    /// Purges so far. Whoever keeps holds it meanwhile.
    purges: RwLock<u64>,
    metrics: RowMetrics,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Rows({} in memory)", self.memory.len())
    }
}

/// Whose rows of a request are, and where they are kept.
#[derive(Clone)]
pub struct Keeper {
    rows: Rows,
    owner: Owner,
    /// Purges when it was made.
    purges: u64,
}

impl std::fmt::Debug for Keeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keeper({:?})", self.owner)
    }
}

impl Rows {
    /// Keeps at most `bytes`.
    pub(super) fn of(bytes: u64, metrics: RowMetrics) -> Self {
        // A picture of 224 x 224: the estimate only sizes tables.
        let items = usize::try_from(bytes / (147 << 10))
            .unwrap_or(usize::MAX)
            .clamp(16, 1 << 16);
        Self(Arc::new(Shared {
            memory: quick_cache::sync::Cache::with_weighter(items, bytes, Weight),
            purges: RwLock::default(),
            metrics,
        }))
    }

    /// Keeps rows that `asker` gives from now on; `None` where none are kept.
    pub(super) fn keeper(&self, keys: &Keys, asker: Asker<'_>) -> Option<Keeper> {
        (self.0.memory.capacity() > 0).then(|| Keeper {
            rows: self.clone(),
            purges: *self.0.purges.read().unwrap_or_else(PoisonError::into_inner),
            owner: keys.owner_of_rows(asker),
        })
    }

    /// Drops what `gone` covers of tenants and persons. What is forgotten of a model covers rows of whatever model.
    pub(super) fn forget(&self, scope: Scope<'_>, gone: Forgotten, keys: &Keys) {
        let shared = &self.0;
        *shared.purges.write().unwrap_or_else(PoisonError::into_inner) += 1;
        let tenants = match scope {
            Scope::TenantModel(tenant, _) => Some(keys.rows_of(Scope::Tenant(tenant))),
            Scope::All | Scope::Model(_) => None,
            Scope::Tenant(_) | Scope::Subject(..) => Some(gone),
        };
        let dropped = Cell::new(0_u64);
        shared.memory.retain(|_, row| {
            let covered = tenants.is_none_or(|gone| gone.covers(row.owner.slots));
            dropped.set(dropped.get() + u64::from(covered));
            !covered
        });
        self.weigh();
    }

    fn find(&self, name: &ContentHash) -> Option<Arc<[u8]>> {
        self.0.memory.get(name).map(|row| row.bytes)
    }

    /// Keeps a row, unless something was forgotten since its keeper was made.
    fn keep(&self, name: ContentHash, bytes: &Arc<[u8]>, keeper: &Keeper) {
        let purges = self.0.purges.read().unwrap_or_else(PoisonError::into_inner);
        if *purges != keeper.purges {
            return;
        }
        let row = Row {
            bytes: Arc::clone(bytes),
            owner: keeper.owner,
        };
        self.0.memory.insert(name, row);
        drop(purges);
        self.weigh();
    }

    fn weigh(&self) {
        let weight = i64::try_from(self.0.memory.weight()).unwrap_or(i64::MAX);
        self.0.metrics.bytes.set(weight);
    }
}

impl Keeper {
    fn made(
        &self,
        stage: &str,
        from: &[u8],
        make: &mut dyn FnMut() -> Result<Vec<u8>, String>,
    ) -> Result<Arc<[u8]>, String> {
        let name = self.name(stage, from);
        let metrics = &self.rows.0.metrics;
        if let Some(found) = self.rows.find(&name) {
            metrics.found.inc();
            return Ok(found);
        }
        let bytes: Arc<[u8]> = make()?.into();
        metrics.made.inc();
        self.rows.keep(name, &bytes, self);
        Ok(bytes)
    }

    /// Each part carries its length, so that no two rows have one name.
    fn name(&self, stage: &str, from: &[u8]) -> ContentHash {
        let mut name = blake3::Hasher::new_keyed(&self.owner.secret);
        name.update(&u64::try_from(stage.len()).unwrap_or(u64::MAX).to_le_bytes());
        name.update(stage.as_bytes());
        name.update(from);
        name.finalize().into()
    }
}

/// The rows of one run, each with its keeper; where all are one request's, one keeper for all.
#[derive(Clone, Debug)]
enum Of {
    One(Option<Keeper>),
    Each(Vec<Option<Keeper>>),
}

/// What is kept of the rows of one run.
#[derive(Clone, Debug)]
pub struct RowsOfRun {
    of: Arc<Of>,
    /// Which of them the first row of a call is.
    first: usize,
}

impl RowsOfRun {
    /// Of requests that run together: how many rows of each, and their keepers. `None` where nothing of them is kept.
    #[must_use]
    pub fn joined<'a>(requests: impl Iterator<Item = (usize, Option<&'a Keeper>)> + Clone) -> Option<Self> {
        requests.clone().find_map(|(_, keeper)| keeper)?;
        let each = requests.flat_map(|(rows, keeper)| std::iter::repeat_n(keeper.cloned(), rows));
        Some(Self::new(Of::Each(each.collect())))
    }
    /// Of a request that runs alone, however many rows it has.
    #[must_use]
    pub fn alone(keeper: Option<&Keeper>) -> Option<Self> {
        keeper.map(|keeper| Self::new(Of::One(Some(keeper.clone()))))
    }
    fn new(of: Of) -> Self {
        Self {
            of: Arc::new(of),
            first: 0,
        }
    }
    /// The rows from `first` on.
    #[must_use]
    pub fn from(&self, first: usize) -> Self {
        Self {
            of: Arc::clone(&self.of),
            first: self.first + first,
        }
    }
}

impl KeptRows for RowsOfRun {
    fn made(
        &self,
        row: usize,
        stage: &str,
        from: &[u8],
        make: &mut dyn FnMut() -> Result<Vec<u8>, String>,
    ) -> Result<Arc<[u8]>, String> {
        let keeper = match &*self.of {
            Of::One(keeper) => keeper.as_ref(),
            Of::Each(each) => each.get(self.first + row).and_then(Option::as_ref),
        };
        match keeper {
            Some(keeper) => keeper.made(stage, from, make),
            None => make().map(Arc::from),
        }
    }
}

#[cfg(test)]
mod tests;
