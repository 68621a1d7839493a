//! The whole control plane on loopback, asked over QUIC and HTTPS as nodes and people do.

mod bench;

use http_body_util::BodyExt;
use proto::entry::PlanStatus;
use proto::message::{ErrorCode, NodeReport, Request, Response};
use proto::signed::{Document, Signed};
use proto::status::Status;
use runtime::https::{Client, empty};

use super::*;
use bench::{
    Bench, GRACE, command, dial, enrol, fleet_where, follow, leaf, logged, package, plan, publish, ready, region,
    state_where, upload,
};

async fn get(at: SocketAddr, identity: &Identity, path: &str) -> (u16, String) {
    let client = Client::new(identity.client_config(&[]).unwrap());
    let request = http::Request::get(path).body(empty()).unwrap();
    let answer = client.request(at, "control-plane", request).await.unwrap();
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8_lossy(&body).into_owned())
}

fn error_code(response: &Response) -> Option<ErrorCode> {
    match response {
        Response::Error { code, .. } => Some(*code),
        _ => None,
    }
}

/// Goal: a release goes from a publisher's hands through two waves to `Complete`, and a restart knows all of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_is_published_rolled_out_in_waves_and_survives_a_restart() {
    let bench = Bench::new();
    let running = bench.start().await;
    let (alice, n1, n2) = (bench.alice(), bench.node("eu-fra/n1"), bench.node("us-iad/n1"));
    let people = dial(running.at.quic, &alice).await;
    for body in [region("eu-fra"), region("us-iad"), enrol(&n1), enrol(&n2)] {
        logged(&command(&people, &alice, &body).await);
    }
    let manifest = publish(&people, &alice, 1).await;
    let plan = plan(&people, &alice, &manifest, &[&[&n1], &[&n2]]).await;

    let (c1, c2) = (dial(running.at.quic, &n1).await, dial(running.at.quic, &n2).await);
    let (mut s1, mut s2) = (follow(&c1).await, follow(&c2).await);
    let state = state_where(&mut s1, &bench.trust, |s| !s.desired.is_empty()).await;
    assert_eq!(state.desired[0].manifest, manifest.id());
    let chunks: Vec<_> = manifest.files[0].chunks.iter().map(|c| c.blake3).take(3).collect();
    let mut stream = c1.open().await.unwrap();
    stream.write(&Request::Chunks { chunks: chunks.clone() }).await.unwrap();
    for chunk in chunks {
        let Some(Response::Chunk { bytes }) = stream.read().await.unwrap() else {
            panic!()
        };
        assert_eq!(proto::ids::ContentHash::of(&bytes), chunk);
    }
    // Ready, but not baked: the region is active, the next wave waits.
    assert_eq!(c1.ask(&ready(&n1, &state, &manifest, 0)).await.unwrap(), Response::Done);
    let fleet = fleet_where(&running.ledger, |f| !f.activations.is_empty()).await;
    assert_eq!(fleet.plan(&plan).unwrap().status, PlanStatus::Open { waves_begun: 1 });
    assert_eq!(
        c1.ask(&ready(&n1, &state, &manifest, 100)).await.unwrap(),
        Response::Done
    );
    let state = state_where(&mut s2, &bench.trust, |s| !s.desired.is_empty()).await;
    assert_eq!(
        state.desired[0].evidence.len(),
        1,
        "the second wave carries the first one's proof"
    );
    assert_eq!(c2.ask(&ready(&n2, &state, &manifest, 0)).await.unwrap(), Response::Done);
    let fleet = fleet_where(&running.ledger, |f| {
        f.plan(&plan).unwrap().status == PlanStatus::Complete
    })
    .await;

    assert!(running.stop().await);
    let again = bench.start().await;
    assert_eq!(again.ledger.snapshot().fleet, fleet);
    let mut s1 = follow(&dial(again.at.quic, &n1).await).await;
    let newer = state_where(&mut s1, &bench.trust, |_| true).await;
    assert!(newer.seq > state.seq && newer.epoch == fleet.epoch);
    again.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_in_the_middle_of_a_rollout_goes_on_with_the_evidence_it_had() {
    let bench = Bench::new();
    let running = bench.start().await;
    let (alice, n1, n2) = (bench.alice(), bench.node("eu-fra/n1"), bench.node("us-iad/n1"));
    let people = dial(running.at.quic, &alice).await;
    for body in [region("eu-fra"), region("us-iad"), enrol(&n1), enrol(&n2)] {
        logged(&command(&people, &alice, &body).await);
    }
    let manifest = publish(&people, &alice, 1).await;
    plan(&people, &alice, &manifest, &[&[&n1], &[&n2]]).await;
    let c1 = dial(running.at.quic, &n1).await;
    let mut s1 = follow(&c1).await;
    let state = state_where(&mut s1, &bench.trust, |s| !s.desired.is_empty()).await;
    c1.ask(&ready(&n1, &state, &manifest, 100)).await.unwrap();
    fleet_where(&running.ledger, |f| f.targets.len() == 2).await;
    running.stop().await;

    // The first node is never heard of again: what it signed is enough for the second region to believe.
    let again = bench.start().await;
    let c2 = dial(again.at.quic, &n2).await;
    let mut s2 = follow(&c2).await;
    let state = state_where(&mut s2, &bench.trust, |s| !s.desired.is_empty()).await;
    assert_eq!(state.desired[0].evidence.len(), 1);
    c2.ask(&ready(&n2, &state, &manifest, 0)).await.unwrap();
    fleet_where(&again.ledger, |f| f.plans[0].status == PlanStatus::Complete).await;
    again.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_gets_only_what_its_role_and_the_log_allow() {
    let bench = Bench::new();
    let running = bench.start().await;
    let (alice, n1) = (bench.alice(), bench.node("eu-fra/n1"));
    let people = dial(running.at.quic, &alice).await;
    logged(&command(&people, &alice, &region("eu-fra")).await);
    let c1 = dial(running.at.quic, &n1).await;
    let report = Request::Report(NodeReport {
        seq: 0,
        checkpoint: String::new(),
        models: vec![],
        queued: 0,
        stopped: None,
    });
    let refused = c1.ask(&report).await.unwrap();
    assert_eq!(error_code(&refused), Some(ErrorCode::Forbidden), "not enrolled");
    logged(&command(&people, &alice, &enrol(&n1)).await);
    assert_eq!(c1.ask(&report).await.unwrap(), Response::Done);
    for (caller, request) in [(&c1, Request::PutChunk { bytes: vec![1] }), (&people, report.clone())] {
        assert_eq!(
            error_code(&caller.ask(&request).await.unwrap()),
            Some(ErrorCode::Forbidden)
        );
    }
    // A revoked node loses its stream at once.
    let mut stream = follow(&c1).await;
    state_where(&mut stream, &bench.trust, |_| true).await;
    let node = "eu-fra/n1".parse().unwrap();
    logged(&command(&people, &alice, &Body::NodeRevoke { node }).await);
    let last = async {
        loop {
            match stream.read::<Response>().await.unwrap() {
                Some(Response::State { .. }) => {}
                other => return other,
            }
        }
    };
    let last = tokio::time::timeout(GRACE, last).await.unwrap();
    assert_eq!(last.as_ref().and_then(error_code), Some(ErrorCode::Forbidden));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_is_refused_when_stale_unsigned_or_about_what_is_not_there() {
    let bench = Bench::new();
    let running = bench.start().await;
    let alice = bench.alice();
    let people = dial(running.at.quic, &alice).await;
    let send = async |leaf: String| error_code(&people.ask(&Request::Command { leaf }).await.unwrap());
    assert_eq!(
        send(leaf(&alice, 7, &region("eu-fra"))).await,
        Some(ErrorCode::Conflict),
        "signed for another size"
    );
    let unsigned = judge::own(&region("eu-fra"), 0).encode().unwrap();
    assert_eq!(
        send(String::from_utf8(unsigned).unwrap()).await,
        Some(ErrorCode::Forbidden),
        "another's name"
    );
    let step = Body::Complete {
        plan: proto::ids::ContentHash::of(b"x"),
    };
    assert_eq!(
        send(leaf(&alice, 1, &step)).await,
        Some(ErrorCode::Forbidden),
        "not for people to say"
    );
    let (manifest, _) = package(1);
    let body = Body::Publish {
        model: manifest.model.clone(),
        version: manifest.version,
        manifest: manifest.id(),
    };
    assert_eq!(
        send(leaf(&alice, 1, &body)).await,
        Some(ErrorCode::NotFound),
        "no such manifest in the store"
    );
    assert_eq!(running.ledger.snapshot().fleet.epoch, 1);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_is_taken_only_with_all_its_bytes_and_an_upload_resumes_where_it_broke() {
    let bench = Bench::new();
    let running = bench.start().await;
    let alice = bench.alice();
    let people = dial(running.at.quic, &alice).await;
    let (manifest, files) = package(1);
    let signed = Signed::seal(&manifest, alice.signing_key());
    let early = people.ask(&Request::PutManifest(signed.clone())).await.unwrap();
    assert_eq!(error_code(&early), Some(ErrorCode::NotFound));
    let stranger = Signed::seal(&manifest, &SigningKey::from_bytes(&[9; 32]));
    let unsigned = people.ask(&Request::PutManifest(stranger)).await.unwrap();
    assert_eq!(error_code(&unsigned), Some(ErrorCode::Invalid));
    let half: Vec<u8> = files[0].iter().copied().take(files[0].len() / 2).collect();
    let first = models::chunk::describe("model.onnx", &half);
    let known = first
        .chunks
        .iter()
        .filter(|c| manifest.files[0].chunks.contains(c))
        .count();
    upload(
        &people,
        &proto::manifest::Manifest {
            files: vec![first],
            ..manifest.clone()
        },
        &[half],
    )
    .await;
    running.stop().await;

    let again = bench.start().await;
    let people = dial(again.at.quic, &alice).await;
    let all = manifest.files.iter().map(|f| f.chunks.len()).sum::<usize>();
    assert_eq!(
        upload(&people, &manifest, &files).await,
        all - known,
        "what came before the restart is kept"
    );
    assert_eq!(people.ask(&Request::PutManifest(signed)).await.unwrap(), Response::Done);
    assert_eq!(upload(&people, &manifest, &files).await, 0);
    assert_eq!(
        std::fs::read_dir(bench.config.data.join("incoming"))
            .unwrap()
            .filter(|e| {
                manifest
                    .files
                    .iter()
                    .flat_map(|f| &f.chunks)
                    .any(|c| e.as_ref().unwrap().file_name().to_str() == Some(&c.blake3.hex()))
            })
            .count(),
        0,
        "loose chunks are gone once they are in whole files"
    );
    again.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_see_the_fleet_and_auditors_their_region() {
    let bench = Bench::new();
    let running = bench.start().await;
    let (alice, n1) = (bench.alice(), bench.node("eu-fra/n1"));
    let people = dial(running.at.quic, &alice).await;
    for body in [region("eu-fra"), region("us-iad"), enrol(&n1)] {
        logged(&command(&people, &alice, &body).await);
    }
    let at = running.at.operator;
    let (code, text) = get(at, &alice, "/v1/status").await;
    assert_eq!(code, 200, "{text}");
    let status: Status = serde_json::from_str(&text).unwrap();
    assert_eq!((status.epoch, status.regions.len()), (4, 2));
    let auditor = bench.identity(&Role::Auditor {
        name: "bob".parse().unwrap(),
        region: "eu-fra".parse().unwrap(),
    });
    let (code, text) = get(at, &auditor, "/v1/status").await;
    let status: Status = serde_json::from_str(&text).unwrap();
    assert_eq!((code, status.regions.len()), (200, 1));
    assert_eq!(status.regions[0].nodes[0].node.to_string(), "eu-fra/n1");
    let (code, text) = get(at, &auditor, "/v1/status?region=us-iad").await;
    assert_eq!((code, text.contains(r#""code":"forbidden""#)), (403, true), "{text}");
    let (code, text) = get(at, &auditor, "/log/checkpoint").await;
    assert_eq!((code, text), (200, running.ledger.snapshot().checkpoint.clone()));
    assert_eq!(get(at, &auditor, "/metrics").await.0, 403);
    let (code, text) = get(at, &alice, "/metrics").await;
    assert_eq!((code, text.contains("control_log_entries 4")), (200, true), "{text}");
    assert_eq!(get(at, &n1, "/v1/status").await.0, 403);
    assert_eq!(get(at, &alice, "/log/../seq").await.0, 404);
    assert_eq!(get(at, &alice, "/nothing").await.0, 404);
    running.stop().await;
}

/// Goal: a checkpoint signed by our own key for another history stops rollouts. Method: another log with the same key.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_has_seen_another_history_stops_the_rollout() {
    let bench = Bench::new();
    let running = bench.start().await;
    let (alice, n1) = (bench.alice(), bench.node("eu-fra/n1"));
    let people = dial(running.at.quic, &alice).await;
    for body in [region("eu-fra"), enrol(&n1)] {
        logged(&command(&people, &alice, &body).await);
    }
    let signer = Signer::from_skey(std::fs::read_to_string(&bench.config.log_key).unwrap().trim()).unwrap();
    let mut other = Log::open(&bench.config.data.join("other"), signer).unwrap();
    other.append(&[b"another history".to_vec()]).unwrap();
    let checkpoint = other.view().checkpoint().to_owned();
    let report = NodeReport {
        seq: 0,
        checkpoint,
        models: vec![],
        queued: 0,
        stopped: None,
    };
    dial(running.at.quic, &n1)
        .await
        .ask(&Request::Report(report))
        .await
        .unwrap();
    let (_, text) = get(running.at.operator, &alice, "/v1/status").await;
    let status: Status = serde_json::from_str(&text).unwrap();
    assert!(status.fork.unwrap().contains("eu-fra/n1"));
    let manifest = publish(&people, &alice, 1).await;
    plan(&people, &alice, &manifest, &[&[&n1]]).await;
    let mut stream = follow(&dial(running.at.quic, &n1).await).await;
    let epoch = running.ledger.snapshot().fleet.epoch;
    let state = state_where(&mut stream, &bench.trust, |s| s.epoch == epoch).await;
    assert!(state.desired.is_empty(), "no step begins after a fork");
    running.stop().await;
}

/// Goal: a follower can hold the log to its word. Method: each state's checkpoint is proven against the one before,
/// while a tenant comes and goes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_state_proves_its_log_and_a_revoked_tenant_is_gone_within_two_seconds() {
    let bench = Bench::new();
    let running = bench.start().await;
    let (alice, n1) = (bench.alice(), bench.node("eu-fra/n1"));
    let people = dial(running.at.quic, &alice).await;
    for body in [region("eu-fra"), enrol(&n1)] {
        logged(&command(&people, &alice, &body).await);
    }
    let mut stream = follow(&dial(running.at.quic, &n1).await).await;
    let log_key: Verifier = bench.trust.log_vkey.parse().unwrap();
    let tenant: proto::ids::TenantId = "acme".parse().unwrap();
    let key_hash = proto::ids::ContentHash::of(b"mk_0");
    let add = Body::TenantAdd {
        tenant: tenant.clone(),
        boundary: "eea".parse().unwrap(),
        key_hash,
    };
    let mut last: Option<proto::note::Checkpoint> = None;
    for (body, tenants) in [(add, 1), (Body::TenantRevoke { tenant }, 0)] {
        logged(&command(&people, &alice, &body).await);
        let since = clock::instant();
        loop {
            let Some(Response::State { state, consistency }) = stream.read().await.unwrap() else {
                panic!()
            };
            let state = state
                .open::<proto::region_state::RegionState>(&[bench.trust.state_key], 1)
                .unwrap();
            let seen = log_key.open_checkpoint(&state.checkpoint).unwrap();
            assert_eq!(seen.size, state.epoch);
            if let Some(before) = last.replace(seen.clone()) {
                let (from, to) = (before.size, seen.size);
                assert!(proto::merkle::verify_consistency(
                    from,
                    &before.root,
                    to,
                    &seen.root,
                    &consistency
                ));
            }
            if state.tenants.len() == tenants {
                break;
            }
        }
        assert!(since.elapsed() < std::time::Duration::from_secs(2));
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_router_follows_the_view_and_hears_of_every_enrolled_node() {
    let bench = Bench::new();
    let running = bench.start().await;
    let (alice, n1) = (bench.alice(), bench.node("eu-fra/n1"));
    let people = dial(running.at.quic, &alice).await;
    for body in [region("eu-fra"), enrol(&n1)] {
        logged(&command(&people, &alice, &body).await);
    }
    let router = bench.identity(&Role::Router("r1".parse().unwrap()));
    let connection = dial(running.at.quic, &router).await;
    let mut stream = connection.open().await.unwrap();
    stream
        .write(&Request::FollowView {
            after_seq: 0,
            tree_size: 0,
        })
        .await
        .unwrap();
    loop {
        let Some(Response::View { view, .. }) = stream.read().await.unwrap() else {
            panic!()
        };
        let view = view
            .open::<proto::region_state::RouterView>(&[bench.trust.state_key], 1)
            .unwrap();
        if view.nodes.len() == 1 && view.epoch == 3 {
            break;
        }
    }
    let ahead = connection.ask(&Request::Consistency { from: 1, to: 99 }).await.unwrap();
    assert_eq!(error_code(&ahead), Some(ErrorCode::NotFound));
    running.stop().await;
}

/// Goal: a byte that changes on disk is never handed out, and the publisher's second upload heals it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_byte_in_the_store_is_found_before_it_is_sent_and_healed_by_the_same_upload() {
    let bench = Bench::new();
    let running = bench.start().await;
    let alice = bench.alice();
    let people = dial(running.at.quic, &alice).await;
    let manifest = publish(&people, &alice, 1).await;
    let path = bench
        .config
        .data
        .join("store/files")
        .join(manifest.files[0].blake3.hex());
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[5] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let first = manifest.files[0].chunks[0].blake3;
    let refused = people.ask(&Request::Chunks { chunks: vec![first] }).await.unwrap();
    assert_eq!(error_code(&refused), Some(ErrorCode::NotFound));
    let (_, files) = package(1);
    assert_eq!(upload(&people, &manifest, &files).await, manifest.files[0].chunks.len());
    let signed = Signed::seal(&manifest, alice.signing_key());
    assert_eq!(people.ask(&Request::PutManifest(signed)).await.unwrap(), Response::Done);
    let healed = people.ask(&Request::Chunks { chunks: vec![first] }).await.unwrap();
    assert!(matches!(healed, Response::Chunk { .. }));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_over_the_budget_is_refused_with_the_figures() {
    let mut bench = Bench::new();
    bench.config.store_bytes_max = 100_000;
    let running = bench.start().await;
    let people = dial(running.at.quic, &bench.alice()).await;
    let chunk = |byte: u8| Request::PutChunk {
        bytes: vec![byte; 60_000],
    };
    assert_eq!(people.ask(&chunk(1)).await.unwrap(), Response::Done);
    let Response::Error { code, message } = people.ask(&chunk(2)).await.unwrap() else {
        panic!()
    };
    assert_eq!(code, ErrorCode::Busy);
    assert!(
        message.contains("60000 bytes are stored, 60000 more are needed, allowed is 100000"),
        "{message}"
    );
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_of_two_fleets_do_not_start() {
    let bench = Bench::new();
    bench.start().await.stop().await;
    let mut trust = bench.trust.clone();
    trust.operators[0].name = "mallory".parse().unwrap();
    std::fs::write(&bench.config.trust, serde_json::to_string(&trust).unwrap()).unwrap();
    let refused = App::build(&bench.config, &Lifecycle::new()).await.err().unwrap();
    assert!(
        matches!(refused, BuildError::Mismatch { what } if what.contains("first entry")),
        "{refused}"
    );
}
