//! A control plane on loopback, its people and its nodes.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::Signer as _;
use ed25519_dalek::pkcs8::EncodePrivateKey;
use models::chunk;
use proto::entry::{Leaf, command_message};
use proto::ids::{ContentHash, ModelVersion, NodeId};
use proto::manifest::{Manifest, Measured, Signature, Variant};
use proto::message::{ModelReport, NodeReport, Request, Response, Stage};
use proto::note::Signer;
use proto::plan::{Plan, ReadyReport, Wave, Witness};
use proto::region_state::RegionState;
use proto::signed::{Document, Operator, Signed};
use runtime::identity::Ca;
use runtime::quic::{Connection, Stream, connect};
use runtime::telemetry::TelemetryFile;
use serde_json::value::RawValue;

use super::super::*;
use crate::state::maker::Terms;

pub(super) const GRACE: Duration = Duration::from_secs(10);

/// One fleet's files.
pub(super) struct Bench {
    dir: tempfile::TempDir,
    ca: Ca,
    pub(super) config: Config,
    pub(super) trust: TrustBundle,
}

/// A running control plane.
pub(super) struct Running {
    pub(super) lifecycle: Lifecycle,
    pub(super) at: Addresses,
    pub(super) ledger: Ledger,
}

impl Bench {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let fleet = "dev".parse().unwrap();
        let ca = Ca::create(&fleet, &path("ca")).unwrap();
        ca.issue(&Role::ControlPlane, &["control-plane".to_owned()], 1)
            .unwrap()
            .write(&path("control-plane"))
            .unwrap();
        let log_signer = Signer::new("dev/log", [3; 32]).unwrap();
        std::fs::write(path("log.key"), log_signer.skey()).unwrap();
        let state_key = SigningKey::from_bytes(&[4; 32]);
        std::fs::write(
            path("state.key"),
            state_key.to_pkcs8_pem(Default::default()).unwrap().as_bytes(),
        )
        .unwrap();
        let alice = identity(&ca, dir.path(), &Role::Operator("alice".parse().unwrap()));
        let operators = vec![Operator {
            name: "alice".parse().unwrap(),
            key: PublicKey::of(alice.signing_key()),
        }];
        let trust = TrustBundle {
            fleet,
            log_vkey: log_signer.vkey(),
            state_key: PublicKey::of(&state_key),
            operators,
            threshold: 1,
        };
        std::fs::write(path("trust.json"), serde_json::to_string(&trust).unwrap()).unwrap();
        let config = Config {
            identity: path("control-plane"),
            trust: path("trust.json"),
            data: path("data"),
            log_key: path("log.key"),
            state_key: path("state.key"),
            quic: "127.0.0.1:0".parse().unwrap(),
            operator: "127.0.0.1:0".parse().unwrap(),
            terms: Terms {
                ttl_ms: 60_000,
                renew_ms: 30_000,
            },
            store_bytes_max: 64 << 20,
            telemetry: TelemetryFile::default(),
        };
        Self { dir, ca, config, trust }
    }

    pub(super) async fn start(&self) -> Running {
        let lifecycle = Lifecycle::new();
        let app = App::build(&self.config, &lifecycle).await.unwrap();
        let (at, ledger) = (app.addresses(), app.service.ledger.clone());
        app.start().unwrap();
        Running { lifecycle, at, ledger }
    }

    /// An identity of this fleet; the same role gets the same one again.
    pub(super) fn identity(&self, role: &Role) -> Identity {
        identity(&self.ca, self.dir.path(), role)
    }

    pub(super) fn node(&self, id: &str) -> Identity {
        self.identity(&Role::Node(id.parse().unwrap()))
    }

    pub(super) fn alice(&self) -> Identity {
        self.identity(&Role::Operator("alice".parse().unwrap()))
    }
}

impl Running {
    /// Stops it and lets go of all its files. True if nothing had to be dropped.
    pub(super) async fn stop(self) -> bool {
        self.lifecycle.stop(GRACE).await
    }
}

fn identity(ca: &Ca, dir: &Path, role: &Role) -> Identity {
    let folder = dir.join(role.to_string().replace('/', "-"));
    if !folder.exists() {
        ca.issue(role, &[], 1).unwrap().write(&folder).unwrap();
    }
    Identity::load(&folder).unwrap()
}

pub(super) async fn dial(at: SocketAddr, identity: &Identity) -> Connection {
    connect(at, "control-plane", identity).await.unwrap()
}

/// What `fleet` does for every command: ask for the checkpoint, sign for its size, send.
pub(super) async fn command(connection: &Connection, alice: &Identity, body: &Body) -> Response {
    let Response::Checkpoint(checkpoint) = connection.ask(&Request::Checkpoint).await.unwrap() else {
        panic!()
    };
    let epoch: u64 = checkpoint.lines().nth(1).unwrap().parse().unwrap();
    connection
        .ask(&Request::Command {
            leaf: leaf(alice, epoch, body),
        })
        .await
        .unwrap()
}

pub(super) fn leaf(alice: &Identity, epoch: u64, body: &Body) -> String {
    let text = body.to_json();
    let signature = alice.signing_key().sign(&command_message(&alice.fleet, epoch, &text));
    let leaf = Leaf {
        time: 0,
        by: "alice".parse().unwrap(),
        sig: Some(STANDARD.encode(signature.to_bytes())),
        body: RawValue::from_string(text).unwrap(),
    };
    String::from_utf8(leaf.encode().unwrap()).unwrap()
}

pub(super) fn region(name: &str) -> Body {
    Body::RegionAdd {
        region: name.parse().unwrap(),
        country: "DE".into(),
        lat_e6: 50_110_000,
        lon_e6: 8_680_000,
    }
}

pub(super) fn enrol(identity: &Identity) -> Body {
    let Role::Node(node) = &identity.role else { panic!() };
    Body::NodeEnrol {
        node: node.clone(),
        class: "cpu".parse().unwrap(),
        ingress: "127.0.0.1:1".parse().unwrap(),
        key: PublicKey::of(identity.signing_key()),
    }
}

/// A package of two small files, and their bytes.
pub(super) fn package(version: u32) -> (Manifest, Vec<Vec<u8>>) {
    let weights: Vec<u8> = (0..200_000_u32)
        .flat_map(|i| i.wrapping_mul(2_654_435_761 + version).to_le_bytes())
        .collect();
    let golden = b"{}\n".to_vec();
    let measured = Measured {
        cosine_min: 1.0,
        top1_share: 1.0,
        abs_max: 0.0,
        row_us: 1,
        rows8_us: 1,
        load_us: 1,
    };
    let variant = Variant {
        id: "cpu-f32".parse().unwrap(),
        class: "cpu".parse().unwrap(),
        file: "model.onnx".into(),
        numerics: "x".into(),
        checks: vec![],
        measured,
        batch_rows_max: 1,
    };
    let signature = Signature {
        name: "tensors".into(),
        inputs: vec![],
        outputs: vec![],
        pre: vec![],
        post: vec![],
    };
    let manifest = Manifest {
        model: "tiny".parse().unwrap(),
        version: version.to_string().parse::<ModelVersion>().unwrap(),
        description: String::new(),
        licence: "MIT".into(),
        source: "test".into(),
        opset: 17,
        engine: "test".into(),
        files: vec![
            chunk::describe("model.onnx", &weights),
            chunk::describe("golden.jsonl", &golden),
        ],
        inputs: vec![],
        outputs: vec![],
        signatures: vec![signature],
        variants: vec![variant],
        proposals: vec![],
        golden_file: "golden.jsonl".into(),
        parent: None,
        provenance: vec![],
    };
    (manifest, vec![weights, golden])
}

/// Sends the chunks that are missing, on one stream.
pub(super) async fn upload(connection: &Connection, manifest: &Manifest, files: &[Vec<u8>]) -> usize {
    let chunks = manifest
        .files
        .iter()
        .flat_map(|f| &f.chunks)
        .map(|c| c.blake3)
        .collect();
    let Response::Missing(missing) = connection.ask(&Request::Missing { chunks }).await.unwrap() else {
        panic!()
    };
    let mut stream = connection.open().await.unwrap();
    for (file, bytes) in manifest.files.iter().zip(files) {
        for (offset, chunk) in chunk::placed(file).filter(|(_, c)| missing.contains(&c.blake3)) {
            let offset = usize::try_from(offset).unwrap();
            let bytes = bytes[offset..offset + usize::try_from(chunk.bytes).unwrap()].to_vec();
            stream.write(&Request::PutChunk { bytes }).await.unwrap();
            assert_eq!(stream.read::<Response>().await.unwrap(), Some(Response::Done));
        }
    }
    missing.len()
}

/// Publishes version `version` of `tiny`.
pub(super) async fn publish(connection: &Connection, alice: &Identity, version: u32) -> Manifest {
    let (manifest, files) = package(version);
    upload(connection, &manifest, &files).await;
    let signed = Signed::seal(&manifest, alice.signing_key());
    assert_eq!(
        connection.ask(&Request::PutManifest(signed)).await.unwrap(),
        Response::Done
    );
    let (model, version) = (manifest.model.clone(), manifest.version);
    let body = Body::Publish {
        model,
        version,
        manifest: manifest.id(),
    };
    logged(&command(connection, alice, &body).await);
    manifest
}

/// Signs and logs a plan over one region a wave.
pub(super) async fn plan(
    connection: &Connection,
    alice: &Identity,
    manifest: &Manifest,
    waves: &[&[&Identity]],
) -> ContentHash {
    let wave = |nodes: &&[&Identity]| {
        let witness = |node: &&Identity| {
            let Role::Node(id) = &node.role else { panic!() };
            Witness {
                node: id.clone(),
                key: PublicKey::of(node.signing_key()),
            }
        };
        let witnesses: Vec<Witness> = nodes.iter().map(witness).collect();
        Wave {
            regions: vec![witnesses[0].node.region.clone()],
            witnesses,
            quorum_per_region: 1,
            bake_ms: 100,
        }
    };
    let plan = Plan {
        serial: 1,
        from: None,
        to: manifest.release(),
        manifest: manifest.id(),
        variants: vec![("cpu".parse().unwrap(), "cpu-f32".parse().unwrap())],
        waves: waves.iter().map(wave).collect(),
        expires: clock::now_ms() + 3_600_000,
        author: "alice".parse().unwrap(),
        reason: "test".into(),
    };
    let signed = Signed::seal(&plan, alice.signing_key());
    let id = signed.id();
    assert_eq!(connection.ask(&Request::PutPlan(signed)).await.unwrap(), Response::Done);
    let body = Body::Plan {
        plan: id,
        serial: plan.serial,
        model: manifest.model.clone(),
        version: manifest.version,
        manifest: manifest.id(),
        waves: plan.waves.len(),
        reason: plan.reason,
    };
    logged(&command(connection, alice, &body).await);
    id
}

pub(super) fn logged(response: &Response) -> u64 {
    match response {
        Response::Logged { index, .. } => *index,
        other => panic!("{other:?}"),
    }
}

/// Opens the stream of states.
pub(super) async fn follow(connection: &Connection) -> Stream {
    let mut stream = connection.open().await.unwrap();
    stream
        .write(&Request::Follow {
            after_seq: 0,
            tree_size: 0,
        })
        .await
        .unwrap();
    stream
}

/// Reads states until one is as wanted.
pub(super) async fn state_where(
    stream: &mut Stream,
    trust: &TrustBundle,
    wanted: impl Fn(&RegionState) -> bool,
) -> RegionState {
    let search = async {
        loop {
            match stream.read::<Response>().await.unwrap().unwrap() {
                Response::State { state, .. } => {
                    let state = state.open::<RegionState>(&[trust.state_key], 1).unwrap();
                    if wanted(&state) {
                        return state;
                    }
                }
                other => panic!("{other:?}"),
            }
        }
    };
    tokio::time::timeout(GRACE, search).await.unwrap()
}

/// A report that `node` follows `state` and has been ready with `manifest` for `ready_ms`.
pub(super) fn ready(node: &Identity, state: &RegionState, manifest: &Manifest, ready_ms: u64) -> Request {
    let Role::Node(id) = &node.role else { panic!() };
    let id: NodeId = id.clone();
    let at = clock::now_ms();
    let desired = state.desired.iter().find(|d| d.manifest == manifest.id()).unwrap();
    let said = ReadyReport {
        node: id,
        plan: desired.plan.id(),
        release: manifest.release(),
        manifest: manifest.id(),
        ready_since: at - ready_ms,
        at,
    };
    let model = ModelReport {
        manifest: manifest.id(),
        stage: Stage::Serving,
        fetched_bytes: 1,
        need_bytes: 1,
        ready: Some(Signed::seal(&said, node.signing_key())),
    };
    let checkpoint = state.checkpoint.clone();
    Request::Report(NodeReport {
        seq: state.seq,
        checkpoint,
        models: vec![model],
        queued: 0,
        stopped: None,
    })
}

/// Waits until the log says what is wanted.
pub(super) async fn fleet_where(ledger: &Ledger, wanted: impl Fn(&Fleet) -> bool) -> Fleet {
    let mut changes = ledger.changes();
    let found = tokio::time::timeout(GRACE, changes.wait_for(|s| wanted(&s.fleet)))
        .await
        .unwrap()
        .unwrap();
    found.fleet.clone()
}
