//! Who changes to what, when, and on whose word: signed by people whose keys never lie on the control plane.
//!
//! A node obeys a change only if a plan permits it. So a stolen control plane can neither skip a wave nor
//! forge the bake of the one before: the plan names the witnesses and their keys.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::{ContentHash, NodeClass, NodeId, PrincipalName, RegionId, Release, UnixMs, VariantId};
use crate::limits::{PLAN_BYTES_MAX, WAVES_MAX, WITNESSES_MAX};
use crate::signed::{DecodeError, Document, PublicKey, Signed, TrustError};

/// A node whose report counts as evidence that a wave is good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Witness {
    /// Which node.
    pub node: NodeId,
    /// The key of its identity: signs its reports.
    pub key: PublicKey,
}

/// Regions that change together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wave {
    /// Which regions.
    pub regions: Vec<RegionId>,
    /// Nodes of these regions as enrolled when the plan was signed.
    pub witnesses: Vec<Witness>,
    /// How many witnesses of each region must report ready before the region counts as changed.
    pub quorum_per_region: u32,
    /// How long they must have been ready before the next wave may start, milliseconds.
    pub bake_ms: u64,
}

/// A change of one model from one release to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Counts up per model: a node that has accepted plan 5 refuses plan 4 for ever.
    pub serial: u64,
    /// From which release; `None` for the first one.
    pub from: Option<Release>,
    /// To which release.
    pub to: Release,
    /// The manifest of `to`.
    pub manifest: ContentHash,
    /// Which variant each class of nodes runs. Fixed here, never chosen by a node.
    pub variants: Vec<(NodeClass, VariantId)>,
    /// In order; a region stands in one wave only.
    pub waves: Vec<Wave>,
    /// After this moment no region begins; one that has begun goes on, see [`Plan::permits`].
    pub expires: UnixMs,
    /// Who wrote it.
    pub author: PrincipalName,
    /// Why, for the log's readers. A rollback says so here.
    pub reason: String,
}

impl Document for Plan {
    const CONTEXT: &'static str = "meridian/plan/v1";
    const FORMAT: u8 = 1;
    const BYTES_MAX: usize = PLAN_BYTES_MAX;
    fn check(&self) -> Result<(), DecodeError> {
        let wrong = |what: String| Err(DecodeError::Invalid { what });
        if self.waves.is_empty() || self.waves.len() > WAVES_MAX {
            return wrong(format!("{} waves, allowed is 1 to {WAVES_MAX}", self.waves.len()));
        }
        if self.from.as_ref().is_some_and(|from| from.model != self.to.model) {
            return wrong("a plan changes one model: `from` and `to` differ in name".to_owned());
        }
        let mut seen: Vec<&RegionId> = Vec::new();
        for wave in &self.waves {
            if wave.regions.is_empty() || wave.witnesses.len() > WITNESSES_MAX || wave.quorum_per_region == 0 {
                return wrong(
                    "a wave needs a region, a quorum of at least 1 and a bounded list of witnesses".to_owned(),
                );
            }
            for (i, w) in wave.witnesses.iter().enumerate() {
                if wave.witnesses[..i]
                    .iter()
                    .any(|other| other.node == w.node || other.key == w.key)
                {
                    let what = "would count twice: its name or its key stands there already";
                    return wrong(format!("witness `{}` {what}", w.node));
                }
            }
            for region in &wave.regions {
                if seen.contains(&region) {
                    return wrong(format!("region `{region}` stands in two places of the plan"));
                }
                seen.push(region);
                let witnesses = wave.witnesses.iter().filter(|w| &w.node.region == region).count();
                if witnesses < usize::try_from(wave.quorum_per_region).unwrap_or(usize::MAX) {
                    return wrong(format!(
                        "region `{region}` has {witnesses} witnesses, its quorum is {}",
                        wave.quorum_per_region
                    ));
                }
            }
        }
        Ok(())
    }
}

/// A node's word that it holds ready what one plan asks for. It counts for no other plan, also not for one to the same
/// release: what was ready in an earlier rollout has not been ready since this one began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadyReport {
    /// Which node.
    pub node: NodeId,
    /// Digest of the signed [`Plan`] by which it serves.
    pub plan: ContentHash,
    /// What it serves.
    pub release: Release,
    /// The manifest it serves it from.
    pub manifest: ContentHash,
    /// Since when it has been ready under this plan, by its own clock.
    pub ready_since: UnixMs,
    /// When it wrote this, by its own clock.
    pub at: UnixMs,
}

impl Document for ReadyReport {
    const CONTEXT: &'static str = "meridian/ready-report/v1";
    const FORMAT: u8 = 2;
    const BYTES_MAX: usize = 1024;
    fn check(&self) -> Result<(), DecodeError> {
        if self.at < self.ready_since {
            return Err(DecodeError::Invalid {
                what: "ready since a moment after the report".to_owned(),
            });
        }
        Ok(())
    }
}

/// Why a plan does not permit a step.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotPermitted {
    /// The plan itself is not trusted or not readable.
    #[error("plan: {0}")]
    Plan(#[from] TrustError),
    /// The plan does not name this region.
    #[error("the plan does not name region `{region}`")]
    Region {
        /// Asked for.
        region: RegionId,
    },
    /// The wave before is not good yet.
    #[error("wave {wave}: {ready} nodes of `{region}` reported {release} ready for the bake time, needed are {quorum}")]
    Evidence {
        /// Which wave lacks evidence, counted from 0.
        wave: usize,
        /// Which of its regions.
        region: RegionId,
        /// Of what.
        release: Release,
        /// How many good reports.
        ready: usize,
        /// How many are needed.
        quorum: u32,
    },
    /// Too late to begin, and the region is not known to have begun in time.
    #[error(
        "the plan expired at {expires}, now is {now}, and {begun} nodes of `{region}` are known to have begun before, needed are {quorum}: sign a new plan"
    )]
    Expired {
        /// Unix milliseconds.
        expires: UnixMs,
        /// Unix milliseconds.
        now: UnixMs,
        /// Which region.
        region: RegionId,
        /// How many of its witnesses were ready before the plan expired.
        begun: usize,
        /// How many are needed.
        quorum: u32,
    },
    /// A plan older than one accepted before, or another plan of the same serial.
    #[error("plan serial {found}, accepted was {floor}")]
    Serial {
        /// Sent.
        found: u64,
        /// Kept.
        floor: u64,
    },
    /// What was kept says that it was not permitted when it came, or its plan is not trusted any more.
    #[error("it was not permitted before the restart; the next state is judged anew")]
    Before,
}

impl Plan {
    /// The wave that `region` belongs to.
    #[must_use]
    pub fn wave_of(&self, region: &RegionId) -> Option<usize> {
        self.waves.iter().position(|w| w.regions.contains(region))
    }
    /// The variant that nodes of `class` run.
    #[must_use]
    pub fn variant_for(&self, class: &NodeClass) -> Option<&VariantId> {
        self.variants.iter().find(|(c, _)| c == class).map(|(_, v)| v)
    }
    /// What `report` says, if `from` is a witness of this plan, whose digest is `id`, and signed it about this plan.
    #[must_use]
    pub fn vouched(&self, id: &ContentHash, from: &NodeId, report: &Signed) -> Option<ReadyReport> {
        let wave = self.waves.get(self.wave_of(&from.region)?)?;
        let witness = wave.witnesses.iter().find(|w| &w.node == from)?;
        let said = report.open::<ReadyReport>(&[witness.key], 1).ok()?;
        (said.node == *from && self.is_meant_by(id, &said)).then_some(said)
    }
    /// Whether wave `wave` is good on the word of `evidence`: each of its regions has a quorum of witnesses that were
    /// ready under this plan, whose digest is `id`, for the bake time.
    ///
    /// # Errors
    /// [`NotPermitted::Evidence`] names the first region that lacks it.
    pub fn wave_is_good(&self, id: &ContentHash, wave: usize, evidence: &[Signed]) -> Result<(), NotPermitted> {
        self.is_good(wave, &self.claims(id, evidence))
    }
    /// Whether `region` may change now: it is in the plan, every wave before its own is good, and the plan has not
    /// expired or a quorum of the region's own witnesses was ready before it did. So a node that was away, or that is
    /// new, joins what its region began in time, and no region begins late. `id` is the digest of the signed plan.
    ///
    /// # Errors
    /// [`NotPermitted`] says what is missing.
    pub fn permits(
        &self,
        id: &ContentHash,
        region: &RegionId,
        evidence: &[Signed],
        now: UnixMs,
    ) -> Result<(), NotPermitted> {
        let lacks = || NotPermitted::Region { region: region.clone() };
        let at = self.wave_of(region).ok_or_else(lacks)?;
        let wave = self.waves.get(at).ok_or_else(lacks)?;
        let claims = self.claims(id, evidence);
        if now > self.expires {
            let begun = witnesses(wave, region, &claims, |said| said.ready_since <= self.expires);
            if !wave.is_quorum(begun) {
                return Err(NotPermitted::Expired {
                    expires: self.expires,
                    now,
                    region: region.clone(),
                    begun,
                    quorum: wave.quorum_per_region,
                });
            }
        }
        (0..at).try_for_each(|before| self.is_good(before, &claims))
    }
    fn is_good(&self, wave: usize, claims: &Claims<'_>) -> Result<(), NotPermitted> {
        let Some(w) = self.waves.get(wave) else { return Ok(()) };
        for region in &w.regions {
            let ready = witnesses(w, region, claims, |said| w.is_baked(said));
            if !w.is_quorum(ready) {
                return Err(NotPermitted::Evidence {
                    wave,
                    region: region.clone(),
                    release: self.to.clone(),
                    ready,
                    quorum: w.quorum_per_region,
                });
            }
        }
        Ok(())
    }
    fn claims<'a>(&self, id: &ContentHash, evidence: &'a [Signed]) -> Claims<'a> {
        let mut claims = Claims::new();
        for signed in evidence {
            match ReadyReport::decode(&signed.payload) {
                Ok(said) if self.is_meant_by(id, &said) => {
                    claims.entry(said.node.clone()).or_default().push((said, signed));
                }
                _ => {}
            }
        }
        claims
    }
    fn is_meant_by(&self, id: &ContentHash, said: &ReadyReport) -> bool {
        said.plan == *id && said.release == self.to && said.manifest == self.manifest
    }
}

impl Wave {
    /// Whether `count` nodes are enough to speak for a region of this wave.
    #[must_use]
    pub fn is_quorum(&self, count: usize) -> bool {
        usize::try_from(self.quorum_per_region).is_ok_and(|quorum| count >= quorum)
    }
    /// Whether `said` was written after the bake time.
    #[must_use]
    pub fn is_baked(&self, said: &ReadyReport) -> bool {
        said.at.saturating_sub(said.ready_since) >= self.bake_ms
    }
}

/// Reports about one plan, by the node that each names. Who signed them is checked where a witness is looked up.
type Claims<'a> = BTreeMap<NodeId, Vec<(ReadyReport, &'a Signed)>>;

/// How many witnesses of `region` have signed something that `counts`.
fn witnesses(wave: &Wave, region: &RegionId, claims: &Claims<'_>, counts: impl Fn(&ReadyReport) -> bool) -> usize {
    let vouches = |witness: &&Witness| {
        let own = claims.get(&witness.node).into_iter().flatten();
        own.into_iter()
            .any(|(said, signed)| counts(said) && signed.open::<ReadyReport>(&[witness.key], 1).is_ok())
    };
    let of_region = wave.witnesses.iter().filter(|w| &w.node.region == region);
    of_region.filter(vouches).count()
}

#[cfg(test)]
mod tests;
