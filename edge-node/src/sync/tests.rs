//! A node's river 2 against a control plane on real QUIC, both in this process.

use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use proto::message::{Neighbour, NodeReport, Stage};
use proto::oip::Tensor;
use proto::plan::ReadyReport;
use proto::signed::PublicKey;
use runtime::clock;
use tokio::sync::mpsc;

use super::fixture::{self, FakeLog, plane};
use super::*;
use crate::engine::{Fault, Model};
use crate::memory::{MemoryConfig, Warmth};
use crate::metrics::Metrics;
use crate::release::Package;
use crate::serving::ServingSet;

mod fetch;
mod plans;

const PATIENCE: Duration = Duration::from_secs(30);

struct Nothing;
impl Model for Nothing {
    fn run(&self, _: &[Tensor]) -> Result<Vec<Tensor>, Fault> {
        Ok(Vec::new())
    }
}

/// Loads anything but weights that begin with `bad`, and remembers the digests of what it was given.
#[derive(Default)]
struct FakeLoader {
    checked: Mutex<Vec<ContentHash>>,
    loaded: Mutex<Vec<ContentHash>>,
}
impl Loader for FakeLoader {
    fn build(&self) -> String {
        "test".to_owned()
    }
    fn check(&self, package: &Package) -> Result<(), String> {
        let bytes = std::fs::read(&package.files["model.onnx"]).unwrap();
        self.checked.lock().unwrap().push(ContentHash::of(&bytes));
        if bytes.starts_with(b"bad") {
            Err("golden vector 0 differs".to_owned())
        } else {
            Ok(())
        }
    }
    fn load(&self, package: &Package) -> Result<Arc<dyn Model>, String> {
        let bytes = std::fs::read(&package.files["model.onnx"]).unwrap();
        self.loaded.lock().unwrap().push(ContentHash::of(&bytes));
        Ok(Arc::new(Nothing))
    }
}

/// One life of a node.
struct Life {
    serving: Serving,
    instruments: Instruments,
    gossip: mpsc::Sender<String>,
    loader: Arc<FakeLoader>,
    memory: Memory,
    lifecycle: Lifecycle,
}

fn memory(bytes_max: Option<u64>) -> Memory {
    keeper(bytes_max, 0)
}

fn keeper(bytes_max: Option<u64>, warm_copies: usize) -> Memory {
    let config = MemoryConfig {
        bytes_max,
        warm_copies,
        ..MemoryConfig::default()
    };
    Memory::start(config, Metrics::new(&mut runtime::metrics::Metrics::new())).unwrap()
}

impl Life {
    fn begin(control_plane: &str, data: &Path, identity: &Arc<Identity>) -> Self {
        Self::with(memory(None), control_plane, data, identity)
    }
    fn with(memory: Memory, control_plane: &str, data: &Path, identity: &Arc<Identity>) -> Self {
        let (gossip, heard) = mpsc::channel(8);
        let life = Self {
            serving: Serving::new(),
            instruments: Instruments::default(),
            gossip,
            loader: Arc::default(),
            memory,
            lifecycle: Lifecycle::new(),
        };
        let parts = Parts {
            control_plane,
            data,
            class: "cpu".parse().unwrap(),
            identity: Arc::clone(identity),
            trust: fixture::trust(),
            serving: life.serving.clone(),
            gossip: heard,
            loader: life.loader.clone(),
            memory: life.memory.clone(),
            instruments: life.instruments.clone(),
        };
        start(parts, &life.lifecycle).unwrap();
        life
    }
    async fn until(&self, what: &str, good: impl Fn(&ServingSet) -> bool) {
        let end = clock::instant() + PATIENCE;
        while !good(&self.serving.load()) {
            assert!(clock::instant() < end, "never {what}: {:?}", self.serving.load());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    async fn serves(&self, release: &str) {
        self.until(release, |set| served(set).as_deref() == Some(release)).await;
    }
    /// As `kill -9` would, as far as files are concerned: nothing is waited for.
    async fn end(self) {
        self.lifecycle.stop(Duration::ZERO).await;
    }
}

fn served(set: &ServingSet) -> Option<String> {
    set.models.values().next().map(|slot| slot.release.to_string())
}

/// A control plane, an enrolled node, and its data folder.
struct Fleet {
    dir: tempfile::TempDir,
    plane: plane::Shared,
    identity: Arc<Identity>,
    control_plane: Identity,
    lifecycle: Lifecycle,
    address: String,
}

impl Fleet {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (control_plane, identity) = plane::identities(dir.path());
        let (plane, lifecycle) = (plane::Plane::new(), Lifecycle::new());
        let address = plane::serve(&plane, &control_plane, &lifecycle);
        Self {
            dir,
            plane,
            identity,
            control_plane,
            lifecycle,
            address,
        }
    }
    fn node(&self) -> Life {
        Life::begin(&self.address, &self.dir.path().join("data"), &self.identity)
    }
    /// One with memory for so many bytes of model files.
    fn node_with(&self, bytes_max: u64) -> Life {
        let (memory, data) = (memory(Some(bytes_max)), self.dir.path().join("data"));
        Life::with(memory, &self.address, &data, &self.identity)
    }
    fn publish(&self, release: &str, weights: &[u8]) -> ContentHash {
        self.plane.lock().unwrap().publish(release, weights)
    }
    fn order(&self, release: &str, manifest: ContentHash, serial: u64) {
        self.plane.lock().unwrap().order(&[(release, manifest, serial)]);
    }
    async fn report(&self, good: impl Fn(&NodeReport) -> bool) -> NodeReport {
        let mut reports = self.plane.lock().unwrap().report.subscribe();
        let wait = reports.wait_for(|report| report.as_ref().is_some_and(&good));
        let report = tokio::time::timeout(PATIENCE, wait)
            .await
            .expect("such a report comes")
            .unwrap()
            .clone();
        report.unwrap()
    }
    fn sent(&self) -> u64 {
        self.plane.lock().unwrap().chunk_bytes_sent
    }
    fn file(&self, weights: &[u8]) -> std::path::PathBuf {
        self.dir
            .path()
            .join("data/artifacts/files")
            .join(ContentHash::of(weights).hex())
    }
    /// The control plane dies.
    async fn kill(&self) {
        self.lifecycle.stop(Duration::ZERO).await;
    }
}

/// Bytes that no chunker finds twice in.
fn weights(seed: u8, bytes: usize) -> Vec<u8> {
    let mut out = vec![0; bytes];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut out);
    out
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_is_fetched_checked_loaded_served_and_vouched_for() {
    let (fleet, bytes) = (Fleet::new(), weights(1, 300_000));
    let node = fleet.node();
    let manifest = fleet.publish("m@1", &bytes);
    fleet.order("m@1", manifest, 1);
    node.serves("m@1").await;
    assert_eq!(
        *node.loader.checked.lock().unwrap(),
        [ContentHash::of(&bytes)],
        "golden vectors come before serving"
    );
    let report = fleet
        .report(|r| r.models.iter().any(|m| m.stage == Stage::Serving))
        .await;
    let model = &report.models[0];
    assert_eq!((model.fetched_bytes, model.need_bytes), (300_002, 300_002));
    let key = PublicKey::of(fleet.identity.signing_key());
    let ready = model.ready.as_ref().unwrap().open::<ReadyReport>(&[key], 1).unwrap();
    assert_eq!((ready.node, ready.manifest), (fixture::own_node(), manifest));
    let (bytes, files) = (node.instruments.fetched_bytes.get(), node.instruments.bad_files.get());
    assert_eq!((bytes, files), (300_002, 0));
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_names_those_whom_its_control_plane_tells_of() {
    let fleet = Fleet::new();
    let neighbour = Neighbour {
        node: "eu-fra/n2".parse().unwrap(),
        ingress: "192.0.2.2:443".parse().unwrap(),
        country: "DE".to_owned(),
        models: vec!["m".parse().unwrap()],
    };
    fleet.plane.lock().unwrap().neighbours = Some(vec![neighbour]);
    let manifest = fleet.publish("m@1", b"weights");
    fleet.order("m@1", manifest, 1);
    let node = fleet.node();
    let (eu, m) = ("eu".parse().unwrap(), "m".parse().unwrap());
    let named = || {
        let elsewhere = node.serving.elsewhere();
        elsewhere.of(regions::policy::Boundaries::builtin(), &eu, &m, clock::instant())
    };
    let end = clock::instant() + PATIENCE;
    while named().as_deref() != Some("https://192.0.2.2:443") {
        assert!(clock::instant() < end, "never told: {:?}", node.serving.elsewhere());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_misses_its_golden_vectors_is_refused_and_the_old_one_serves() {
    let fleet = Fleet::new();
    let good = fleet.publish("m@1", &weights(1, 50_000));
    fleet.order("m@1", good, 1);
    let node = fleet.node();
    node.serves("m@1").await;
    let bad = fleet.publish("m@2", b"bad weights");
    fleet.order("m@2", bad, 2);
    let report = fleet
        .report(|r| r.models.iter().any(|m| matches!(m.stage, Stage::Refused(_))))
        .await;
    assert_eq!(
        report.models[1].stage,
        Stage::Refused("golden vector 0 differs".to_owned())
    );
    assert!(report.models[1].ready.is_none() && report.models[0].ready.is_some());
    assert_eq!(served(&node.serving.load()).as_deref(), Some("m@1"));
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_moves_no_bytes_and_an_edit_moves_only_what_changed() {
    let (fleet, one) = (Fleet::new(), weights(1, 1_000_000));
    let first = fleet.publish("m@1", &one);
    fleet.order("m@1", first, 1);
    let node = fleet.node();
    node.serves("m@1").await;
    let mut two = one.clone();
    two[500_000] ^= 1;
    let second = fleet.publish("m@2", &two);
    fleet.order("m@2", second, 2);
    node.serves("m@2").await;
    let moved = fleet.sent() - 1_000_002;
    assert!(moved < 200_000, "one byte changed, {moved} bytes moved");
    let before = fleet.sent();
    fleet.order("m@1", first, 3);
    node.serves("m@1").await;
    assert_eq!(fleet.sent(), before);
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_without_room_in_memory_waits_on_disk_for_who_asks_and_is_hashed_when_it_comes() {
    let fleet = Fleet::new();
    let bytes = weights(1, 60_000);
    fleet.order("m@1", fleet.publish("m@1", &bytes), 1);
    let first = fleet.node();
    first.serves("m@1").await;
    first.end().await;
    let second = fleet.node_with(1_000);
    second.serves("m@1").await;
    assert!(second.loader.loaded.lock().unwrap().is_empty(), "nobody has asked");
    let slot = Arc::clone(&second.serving.load().models.values().next().unwrap().clone());
    let soon = || clock::instant() + PATIENCE;
    assert!(slot.seat.within(soon()).await.is_ok());
    assert_eq!(second.loader.loaded.lock().unwrap().len(), 1);
    drop(second.memory.make_room(1_000));
    std::fs::write(fleet.file(&bytes), weights(2, 60_000)).unwrap();
    assert!(
        slot.seat.within(soon()).await.is_err(),
        "a file that changed is not loaded"
    );
    assert_eq!(second.loader.loaded.lock().unwrap().len(), 1);
    second.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_the_region_counts_on_comes_back_before_anybody_asks() {
    let fleet = Fleet::new();
    fleet.plane.lock().unwrap().neighbours = Some(Vec::new());
    fleet.order("m@1", fleet.publish("m@1", &weights(1, 60_000)), 1);
    let data = fleet.dir.path().join("data");
    let node = Life::with(keeper(Some(100_000), 1), &fleet.address, &data, &fleet.identity);
    node.serves("m@1").await;
    // A model too large for the bound lets everybody leave.
    drop(node.memory.make_room(1_000_000));
    let slot = Arc::clone(&node.serving.load().models.values().next().unwrap().clone());
    node.until("in memory again", |_| slot.seat.warmth() == Warmth::Hot)
        .await;
    assert_eq!(node.loader.loaded.lock().unwrap().len(), 2);
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_the_version_before_the_previous_one_are_swept() {
    let fleet = Fleet::new();
    let all = [weights(1, 60_000), weights(2, 60_000), weights(3, 60_000)];
    let node = fleet.node();
    for (release, serial, bytes) in [("m@1", 1, &all[0]), ("m@2", 2, &all[1]), ("m@3", 3, &all[2])] {
        let manifest = fleet.publish(release, bytes);
        fleet.order(release, manifest, serial);
        node.serves(release).await;
    }
    node.until("swept", |_| !fleet.file(&all[0]).exists()).await;
    assert!(fleet.file(&all[1]).exists() && fleet.file(&all[2]).exists());
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_control_plane_dead_a_restarted_node_serves_what_it_served() {
    let (fleet, bytes) = (Fleet::new(), weights(1, 100_000));
    let manifest = fleet.publish("m@1", &bytes);
    fleet.order("m@1", manifest, 1);
    let first = fleet.node();
    first.serves("m@1").await;
    let since = fleet.report(|r| r.models.iter().any(|m| m.ready.is_some())).await;
    first.end().await;
    fleet.kill().await;
    let second = fleet.node();
    second.serves("m@1").await;
    assert!(
        second.loader.checked.lock().unwrap().is_empty(),
        "this build has reproduced the golden vectors before"
    );
    second.end().await;
    // Back again, it has been ready all along.
    let revived = Fleet {
        lifecycle: Lifecycle::new(),
        ..fleet
    };
    let address = plane::serve(&revived.plane, &revived.control_plane, &revived.lifecycle);
    let third = Fleet { address, ..revived };
    third.plane.lock().unwrap().report.send_replace(None);
    let node = third.node();
    let report = third.report(|r| r.models.iter().any(|m| m.ready.is_some())).await;
    let key = [PublicKey::of(third.identity.signing_key())];
    let ready = |r: &NodeReport| {
        r.models[0]
            .ready
            .as_ref()
            .unwrap()
            .open::<ReadyReport>(&key, 1)
            .unwrap()
            .ready_since
    };
    assert_eq!(ready(&report), ready(&since));
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_state_keeps_serving_is_flagged_and_begins_nothing() {
    let fleet = Fleet::new();
    let manifest = fleet.publish("m@1", &weights(1, 50_000));
    fleet.order("m@1", manifest, 1);
    let node = fleet.node();
    node.serves("m@1").await;
    // The next state names a release whose chunks never come, and expires.
    let next = fleet.publish("m@2", &weights(2, 50_000));
    fleet.plane.lock().unwrap().chunks_left = 0;
    let plan = fixture::plan(&"m@2".parse().unwrap(), next, 2);
    fleet
        .plane
        .lock()
        .unwrap()
        .send(vec![fixture::desired(&plan)], clock::now_ms() + 1_500);
    fleet
        .report(|r| r.models.iter().any(|m| m.stage == Stage::Fetching))
        .await;
    node.until("flagged", |set| {
        set.stopped.as_ref().is_some_and(|why| why.contains("expired"))
    })
    .await;
    fleet.plane.lock().unwrap().chunks_left = usize::MAX;
    let report = fleet.report(|r| r.stopped.is_some()).await;
    assert_eq!(report.models.len(), 1, "the candidate was given up: {report:?}");
    node.end().await;
    let again = fleet.node();
    again.serves("m@1").await;
    assert!(again.serving.load().stopped.is_some());
    again.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_told_by_gossip_stops_activations_also_after_a_restart() {
    let fleet = Fleet::new();
    let (one, two) = (
        fleet.publish("m@1", &weights(1, 9_000)),
        fleet.publish("m@2", &weights(2, 9_000)),
    );
    fleet.order("m@1", one, 1);
    let node = fleet.node();
    node.serves("m@1").await;
    let size = fleet.plane.lock().unwrap().log.size();
    // What the same history says elsewhere is no fork, longer or shorter.
    fleet.plane.lock().unwrap().log.grow("true", size + 3);
    let longer = fleet.plane.lock().unwrap().log.note(size + 2);
    node.gossip.send(longer).await.unwrap();
    let shorter = fleet.plane.lock().unwrap().log.note(size - 1);
    node.gossip.send(shorter).await.unwrap();
    // Another history is one, also where only a proof can tell.
    node.gossip
        .send(FakeLog::new("false", size + 2).note(size + 2))
        .await
        .unwrap();
    node.until("stopped", |set| {
        set.stopped.as_ref().is_some_and(|why| why.contains("forked"))
    })
    .await;
    assert!(fleet.dir.path().join("data/state/fork.json").exists());
    fleet.order("m@2", two, 2);
    let report = fleet
        .report(|r| r.stopped.as_ref().is_some_and(|why| why.contains("forked")))
        .await;
    assert!(report.models.iter().all(|m| m.manifest == one), "{report:?}");
    node.end().await;
    let again = fleet.node();
    again.serves("m@1").await;
    assert!(again.serving.load().stopped.is_some());
    again.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_the_state_names_no_more_is_served_no_more() {
    let fleet = Fleet::new();
    let manifest = fleet.publish("m@1", &weights(1, 9_000));
    fleet.order("m@1", manifest, 1);
    let node = fleet.node();
    node.serves("m@1").await;
    fleet.plane.lock().unwrap().order(&[]);
    node.until("withdrawn", |set| set.seq == 2 && set.models.is_empty())
        .await;
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_no_operator_signed_is_not_even_fetched_for() {
    let fleet = Fleet::new();
    let manifest = fleet.publish("m@1", &weights(1, 9_000));
    fleet.plane.lock().unwrap().forge(&manifest);
    fleet.order("m@1", manifest, 1);
    let node = fleet.node();
    let report = fleet
        .report(|r| r.models.iter().any(|m| matches!(m.stage, Stage::Refused(_))))
        .await;
    let Stage::Refused(why) = &report.models[0].stage else {
        panic!("{report:?}")
    };
    assert!(why.contains("0 valid signatures"), "{why}");
    assert_eq!(fleet.sent(), 0);
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_node_stops_at_once_though_its_control_plane_is_dead() {
    let fleet = Fleet::new();
    let manifest = fleet.publish("m@1", &weights(1, 9_000));
    fleet.order("m@1", manifest, 1);
    let node = fleet.node();
    node.serves("m@1").await;
    fleet.kill().await;
    assert_eq!(
        node.lifecycle.stop_naming(Duration::from_secs(3)).await,
        Vec::<&str>::new()
    );
}
