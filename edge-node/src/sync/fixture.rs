//! A whole small fleet for tests: keys, a log, documents, and a control plane on real QUIC.

pub(crate) mod plane;

use ed25519_dalek::SigningKey;
use proto::ids::{ContentHash, NodeId, RegionId, Release, UnixMs};
use proto::note::Signer;
use proto::plan::{Plan, ReadyReport, Wave, Witness};
use proto::region_state::{Accepted, Desired, Permitted, RegionInfo, RegionState};
use proto::signed::{Document, Operator, PublicKey, Signed, TrustBundle};
use sha2::{Digest, Sha256};

pub(crate) const LOG: &str = "log.test";

pub(crate) fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}
pub(crate) fn state_key() -> SigningKey {
    key(1)
}
pub(crate) fn operator() -> SigningKey {
    key(2)
}
pub(crate) fn signer() -> Signer {
    Signer::new(LOG, [3; 32]).unwrap()
}
pub(crate) fn own_region() -> RegionId {
    "eu-fra".parse().unwrap()
}
pub(crate) fn own_node() -> NodeId {
    "eu-fra/n1".parse().unwrap()
}

pub(crate) fn trust() -> TrustBundle {
    let alice = Operator {
        name: "alice".parse().unwrap(),
        key: PublicKey::of(&operator()),
    };
    TrustBundle {
        fleet: "dev".parse().unwrap(),
        log_vkey: signer().vkey(),
        state_key: PublicKey::of(&state_key()),
        operators: vec![alice],
        threshold: 1,
    }
}

pub(crate) fn manifest_id(release: &Release) -> ContentHash {
    ContentHash::of(release.to_string().as_bytes())
}

/// Changes this node's region to `release` in the first wave.
pub(crate) fn plan(release: &Release, manifest: ContentHash, serial: u64) -> Plan {
    let witness = Witness {
        node: own_node(),
        key: PublicKey::of(&key(9)),
    };
    Plan {
        serial,
        from: None,
        to: release.clone(),
        manifest,
        variants: vec![("cpu".parse().unwrap(), "cpu-f32".parse().unwrap())],
        waves: vec![Wave {
            regions: vec![own_region()],
            witnesses: vec![witness],
            quorum_per_region: 1,
            bake_ms: 0,
        }],
        expires: UnixMs::MAX,
        author: "alice".parse().unwrap(),
        reason: String::new(),
    }
}

pub(crate) fn desired(plan: &Plan) -> Desired {
    Desired {
        release: plan.to.clone(),
        manifest: plan.manifest,
        plan: Signed::seal(plan, &operator()),
        evidence: Vec::new(),
    }
}

/// As [`desired`], with the word of the region's one witness that it was ready at `at`.
pub(crate) fn begun(plan: &Plan, at: UnixMs) -> Desired {
    let said = ReadyReport {
        node: own_node(),
        plan: plan.id(),
        release: plan.to.clone(),
        manifest: plan.manifest,
        ready_since: at,
        at,
    };
    Desired {
        evidence: vec![Signed::seal(&said, &key(9))],
        ..desired(plan)
    }
}

pub(crate) fn state(seq: u64, checkpoint: String, epoch: u64, desired: Vec<Desired>) -> RegionState {
    let region = RegionInfo {
        id: own_region(),
        country: "DE".to_owned(),
        lat_e6: 50_110_000,
        lon_e6: 8_680_000,
    };
    RegionState {
        region,
        seq,
        epoch,
        expires: UnixMs::MAX,
        desired,
        tenants: Vec::new(),
        checkpoint,
    }
}

/// A state that desires `releases` by plans of serial 1.
pub(crate) fn accepted(releases: &[&str]) -> Accepted {
    let plan = |text: &&str| {
        let release: Release = text.parse().unwrap();
        plan(&release, manifest_id(&release), 1)
    };
    let plans: Vec<Plan> = releases.iter().map(plan).collect();
    Accepted {
        state: state(1, String::new(), 1, plans.iter().map(desired).collect()),
        permitted: plans.into_iter().map(in_force).collect(),
        forbidden: Vec::new(),
    }
}

fn in_force(plan: Plan) -> Permitted {
    let signed = Signed::seal(&plan, &operator());
    Permitted {
        id: signed.id(),
        plan,
        signed,
    }
}

/// A log that grows, and whose checkpoints and proofs are made from RFC 6962's definitions rather than by our own code.
#[derive(Clone, Debug)]
pub(crate) struct FakeLog {
    leaves: Vec<[u8; 32]>,
}

impl FakeLog {
    pub(crate) fn new(name: &str, size: u64) -> Self {
        let mut log = Self { leaves: Vec::new() };
        log.grow(name, size);
        log
    }
    /// Appends until it has `size` leaves.
    pub(crate) fn grow(&mut self, name: &str, size: u64) {
        for i in self.size()..size {
            self.leaves.push(leaf(format!("{name} {i}").as_bytes()));
        }
    }
    pub(crate) fn size(&self) -> u64 {
        u64::try_from(self.leaves.len()).unwrap()
    }
    /// The signed checkpoint of the first `size` leaves.
    pub(crate) fn note(&self, size: u64) -> String {
        let root = root(&self.leaves[..usize::try_from(size).unwrap()]);
        signer().sign_checkpoint(size, &root)
    }
    /// RFC 6962 section 2.1.2.
    pub(crate) fn proof(&self, from: u64, to: u64) -> Vec<[u8; 32]> {
        if from == 0 || from >= to {
            return Vec::new();
        }
        subproof(
            usize::try_from(from).unwrap(),
            &self.leaves[..usize::try_from(to).unwrap()],
            true,
        )
    }
}

fn leaf(bytes: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update([0]).chain_update(bytes).finalize().into()
}
fn node(l: &[u8; 32], r: &[u8; 32]) -> [u8; 32] {
    Sha256::new()
        .chain_update([1])
        .chain_update(l)
        .chain_update(r)
        .finalize()
        .into()
}
fn split(n: usize) -> usize {
    (n - 1).checked_ilog2().map_or(1, |bits| 1 << bits)
}
fn root(leaves: &[[u8; 32]]) -> [u8; 32] {
    match leaves {
        [] => Sha256::digest([]).into(),
        [one] => *one,
        _ => {
            let (l, r) = leaves.split_at(split(leaves.len()));
            node(&root(l), &root(r))
        }
    }
}
fn subproof(m: usize, leaves: &[[u8; 32]], whole: bool) -> Vec<[u8; 32]> {
    if m == leaves.len() {
        return if whole { Vec::new() } else { vec![root(leaves)] };
    }
    let k = split(leaves.len());
    let (l, r) = leaves.split_at(k);
    if m <= k {
        [subproof(m, l, whole), vec![root(r)]].concat()
    } else {
        [subproof(m - k, r, false), vec![root(l)]].concat()
    }
}
