//! The signed documents that the log names by digest: looked up, verified, and plans kept decoded.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use models::store::Store;
use proto::entry::{Fleet, PlanStatus};
use proto::ids::ContentHash;
use proto::manifest::Manifest;
use proto::plan::Plan;
use proto::signed::{Document, PublicKey, Signed, TrustBundle, TrustError};

/// A plan that enough operators have signed, and the very bytes they signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanDoc {
    /// As it is sent to nodes.
    pub signed: Signed,
    /// As it is read.
    pub plan: Plan,
}

/// The plans a decision needs, by digest.
pub type Plans = BTreeMap<ContentHash, Arc<PlanDoc>>;

/// Reads documents out of the store. Cheap to clone.
#[derive(Clone)]
pub struct Documents {
    store: Store,
    operators: Arc<Vec<PublicKey>>,
    threshold: usize,
    plans: Arc<Mutex<Plans>>,
}

/// The plans that matter to `fleet` now, whether their documents are here or not.
#[must_use]
pub fn plans_needed(fleet: &Fleet) -> BTreeSet<ContentHash> {
    let open = fleet
        .plans
        .iter()
        .filter(|p| matches!(p.status, PlanStatus::Open { .. }))
        .map(|p| p.id);
    open.chain(fleet.targets.values().map(|t| t.plan)).collect()
}

impl Documents {
    /// Documents of `store` that are signed as `trust` asks.
    #[must_use]
    pub fn new(store: Store, trust: &TrustBundle) -> Self {
        let operators = Arc::new(trust.operator_keys());
        Self {
            store,
            operators,
            threshold: trust.threshold,
            plans: Arc::default(),
        }
    }

    /// The envelope with this digest, not verified: the reader verifies. Blocking.
    #[must_use]
    pub fn signed(&self, id: &ContentHash) -> Option<Signed> {
        self.store
            .document(id)
            .ok()
            .flatten()
            .filter(|signed| &signed.id() == id)
    }

    /// The manifest with this digest, signed by an operator. Blocking.
    #[must_use]
    pub fn manifest(&self, id: &ContentHash) -> Option<Manifest> {
        self.open_manifest(&self.signed(id)?).ok()
    }

    /// Verifies a manifest's envelope.
    ///
    /// # Errors
    /// [`TrustError`].
    pub fn open_manifest(&self, signed: &Signed) -> Result<Manifest, TrustError> {
        signed.open::<Manifest>(&self.operators, 1)
    }

    /// Verifies a plan's envelope.
    ///
    /// # Errors
    /// [`TrustError`].
    pub fn open_plan(&self, signed: &Signed) -> Result<Plan, TrustError> {
        signed.open::<Plan>(&self.operators, self.threshold)
    }

    /// The plan with this digest, signed by as many operators as the fleet asks. Blocking at first sight.
    #[must_use]
    pub fn plan(&self, id: &ContentHash) -> Option<Arc<PlanDoc>> {
        if let Some(known) = self.known().get(id) {
            return Some(Arc::clone(known));
        }
        let signed = self.signed(id)?;
        let plan = self.open_plan(&signed).ok()?;
        let doc = Arc::new(PlanDoc { signed, plan });
        self.known().insert(*id, Arc::clone(&doc));
        Some(doc)
    }

    /// The plans that matter to `fleet` now: the open ones, and those that some region's target rests on. Others are
    /// forgotten. Blocking at first sight.
    #[must_use]
    pub fn plans_of(&self, fleet: &Fleet) -> Plans {
        let ids = plans_needed(fleet).into_iter();
        let plans: Plans = ids.filter_map(|id| Some((id, self.plan(&id)?))).collect();
        self.known().retain(|id, _| plans.contains_key(id));
        plans
    }

    /// Keeps an envelope, under the digest of what it holds. Blocking; on disk when it returns.
    ///
    /// # Errors
    /// What the store says.
    pub fn keep(&self, signed: &Signed) -> Result<ContentHash, models::store::StoreError> {
        self.store.put_document(signed)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Plans> {
        self.plans.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether `signed` is under `D`'s bound, before anything is verified or kept.
#[must_use]
pub fn is_bounded<D: Document>(signed: &Signed) -> bool {
    signed.payload.len() <= D::BYTES_MAX && signed.signatures.len() <= Signed::SIGNATURES_MAX
}
