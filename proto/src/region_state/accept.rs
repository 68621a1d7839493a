//! The rules by which a node believes a state. Plain decisions: time, history and what was kept are arguments.
//!
//! ```text
//!   signed state --(whole: signature .. log consistency)--> each model --(its plan)--> permitted
//!                      | Refused: nothing changes               | Forbidden: stays at what was permitted before
//! ```
//! A key that was revoked must work no more, whatever became of some model's plan: so a model that is forbidden keeps
//! neither the tenants nor the other models back.
//!
//! Invariant: what is permitted of a model is the plan that its floor names, and nothing else. By it [`reopen`] tells,
//! after a restart, what was permitted from what was not.

use crate::ids::{ContentHash, ModelName, RegionId, Release, UnixMs};
use crate::plan::{NotPermitted, Plan};
use crate::signed::{DecodeError, Signed, TrustBundle, TrustError};

use super::{Desired, Floors, RegionState};

/// A plan in force on a node: it serves the plan's release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permitted {
    /// Digest of the document: ready reports name it.
    pub id: ContentHash,
    /// As it is read.
    pub plan: Plan,
    /// As enough operators signed it.
    pub signed: Signed,
}

/// A change of one model that a node does not make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forbidden {
    /// What the state names.
    pub release: Release,
    /// From which manifest.
    pub manifest: ContentHash,
    /// Why not.
    pub why: NotPermitted,
}

/// A state that every rule for whole states let in, and what may be done of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// As it was signed. What to serve is not its `desired` but [`Accepted::permitted`].
    pub state: RegionState,
    /// By model of `state.desired`: its plan, or the plan permitted last where its plan is forbidden. A model that is
    /// forbidden and was never permitted is not here.
    pub permitted: Vec<Permitted>,
    /// The rest of `state.desired`.
    pub forbidden: Vec<Forbidden>,
}

impl Accepted {
    /// The plans in force of the forbidden models: to be kept beside the state, for [`reopen`].
    #[must_use]
    pub fn held(&self) -> Vec<Signed> {
        let held = |f: &Forbidden| Some(self.plan_of(&f.release.model)?.signed.clone());
        self.forbidden.iter().filter_map(held).collect()
    }
    /// The plan in force for `model`.
    #[must_use]
    pub fn plan_of(&self, model: &ModelName) -> Option<&Permitted> {
        self.permitted.iter().find(|p| &p.plan.to.model == model)
    }
}

/// Whether a state's checkpoint belongs to the one history that this node knows. Passed in so that this module stays a plain decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// Signed by the log and an extension of what was seen.
    Proven,
    /// Not signed by the log, not for `epoch`, or the proof does not hold.
    Broken,
    /// Two signed checkpoints exclude each other.
    Fork,
}

/// Why a state is refused. What is active stays active.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// Not signed by the control plane's state key, or not readable.
    #[error("state: {0}")]
    Trust(#[from] TrustError),
    /// For another region.
    #[error("a state of region `{found}` was sent to a node of `{own}`")]
    OtherRegion {
        /// Named in the state.
        found: RegionId,
        /// This node's.
        own: RegionId,
    },
    /// Not newer than what was accepted before.
    #[error("seq {found}, accepted was {floor}")]
    Seq {
        /// Sent.
        found: u64,
        /// Kept.
        floor: u64,
    },
    /// Folded from a shorter log than what was accepted before.
    #[error("epoch {found}, accepted was {floor}")]
    Epoch {
        /// Sent.
        found: u64,
        /// Kept.
        floor: u64,
    },
    /// Too old.
    #[error("expired at {expires}, now is {now}")]
    Expired {
        /// Unix milliseconds.
        expires: UnixMs,
        /// Unix milliseconds.
        now: UnixMs,
    },
    /// The checkpoint is not part of the history this node knows.
    #[error("the checkpoint does not extend the log this node has seen")]
    Inconsistent,
    /// The log signed two histories. No activation until people have looked at it.
    #[error("the log has forked: activations are stopped; compare checkpoints with `fleet log verify`")]
    Fork,
}

/// Decides whether a node of `own` accepts `signed` after `floors`, with the plans `before` in force, and gives what may
/// be done of it and the new floors. The floor of a forbidden model stays where it is.
///
/// # Errors
/// [`Refused`], the first rule for whole states that does not hold, in the order of the parent module's header.
pub fn accept(
    signed: &Signed,
    own: &RegionId,
    trust: &TrustBundle,
    floors: &Floors,
    before: &[Permitted],
    now: UnixMs,
    consistency: impl FnOnce(&RegionState) -> Consistency,
) -> Result<(Accepted, Floors), Refused> {
    let state = opened(signed, own, trust)?;
    if state.seq <= floors.seq {
        return Err(Refused::Seq {
            found: state.seq,
            floor: floors.seq,
        });
    }
    if state.epoch < floors.epoch {
        return Err(Refused::Epoch {
            found: state.epoch,
            floor: floors.epoch,
        });
    }
    if state.expires < now {
        return Err(Refused::Expired {
            expires: state.expires,
            now,
        });
    }
    match consistency(&state) {
        Consistency::Proven => {}
        Consistency::Broken => return Err(Refused::Inconsistent),
        Consistency::Fork => return Err(Refused::Fork),
    }
    let mut next = Floors {
        seq: state.seq,
        epoch: state.epoch,
        plans: floors.plans.clone(),
    };
    let (mut permitted, mut forbidden) = (Vec::with_capacity(state.desired.len()), Vec::new());
    for desired in &state.desired {
        let model = &desired.release.model;
        match permit(desired, own, trust, floors, now) {
            Ok(allowed) => {
                next.raise(model, allowed.plan.serial, allowed.id);
                permitted.push(allowed);
            }
            Err(why) => {
                permitted.extend(before.iter().find(|p| &p.plan.to.model == model).cloned());
                forbidden.push(Forbidden::of(desired, why));
            }
        }
    }
    let accepted = Accepted {
        state,
        permitted,
        forbidden,
    };
    Ok((accepted, next))
}

/// What a node goes on with after a restart: the state it kept, with the plans it `held` beside it and the floors that
/// were written with both. Time is not asked: what was permitted stays so, and what was not is not judged again.
///
/// # Errors
/// [`Refused::Trust`] and [`Refused::OtherRegion`]: then the node waits for a new state.
pub fn reopen(
    signed: &Signed,
    held: &[Signed],
    own: &RegionId,
    trust: &TrustBundle,
    floors: &Floors,
) -> Result<Accepted, Refused> {
    let state = opened(signed, own, trust)?;
    let (mut permitted, mut forbidden) = (Vec::with_capacity(state.desired.len()), Vec::new());
    for desired in &state.desired {
        let model = &desired.release.model;
        let floor = floors.plan_of(model).map(|(_, id)| id);
        let in_force = |plan: &&Signed| Some(plan.id()) == floor;
        let open = |plan: &Signed| Permitted::open(plan, trust).ok();
        let asked = Some(&desired.plan).filter(in_force).and_then(open);
        if let Some(asked) = asked.filter(|asked| asked.is_for(desired)) {
            permitted.push(asked);
        } else {
            let before = held.iter().find(in_force).and_then(open);
            permitted.extend(before.filter(|before| &before.plan.to.model == model));
            forbidden.push(Forbidden::of(desired, NotPermitted::Before));
        }
    }
    Ok(Accepted {
        state,
        permitted,
        forbidden,
    })
}

fn opened(signed: &Signed, own: &RegionId, trust: &TrustBundle) -> Result<RegionState, Refused> {
    let state = signed.open::<RegionState>(&[trust.state_key], 1)?;
    if &state.region.id != own {
        return Err(Refused::OtherRegion {
            found: state.region.id,
            own: own.clone(),
        });
    }
    Ok(state)
}

/// The rules for one model, in order: the plan's signatures, that it names what is desired, its serial, its own word.
fn permit(
    desired: &Desired,
    own: &RegionId,
    trust: &TrustBundle,
    floors: &Floors,
    now: UnixMs,
) -> Result<Permitted, NotPermitted> {
    let asked = Permitted::open(&desired.plan, trust)?;
    if !asked.is_for(desired) {
        let what = format!("the plan is for {} {}", asked.plan.to, asked.plan.manifest);
        return Err(NotPermitted::Plan(DecodeError::Invalid { what }.into()));
    }
    match floors.plan_of(&desired.release.model) {
        // The same plan again: permitted when it was first accepted, however old it is by now.
        Some((serial, known)) if serial == asked.plan.serial && known == asked.id => {}
        Some((floor, _)) if floor >= asked.plan.serial => {
            let found = asked.plan.serial;
            return Err(NotPermitted::Serial { found, floor });
        }
        // A change, on a node that follows its region, was away for long, or is new: one rule for all.
        _ => asked.plan.permits(&asked.id, own, &desired.evidence, now)?,
    }
    Ok(asked)
}

impl Permitted {
    fn open(signed: &Signed, trust: &TrustBundle) -> Result<Self, TrustError> {
        let plan = signed.open::<Plan>(&trust.operator_keys(), trust.threshold)?;
        Ok(Self {
            id: signed.id(),
            plan,
            signed: signed.clone(),
        })
    }
    fn is_for(&self, desired: &Desired) -> bool {
        self.plan.to == desired.release && self.plan.manifest == desired.manifest
    }
}

impl Forbidden {
    fn of(desired: &Desired, why: NotPermitted) -> Self {
        Self {
            release: desired.release.clone(),
            manifest: desired.manifest,
            why,
        }
    }
}
