use http_body_util::BodyExt;
use runtime::https::{Client, ServerTls, empty, full, serve};
use runtime::identity::{Ca, Identity, Role, anonymous_client_config};
use tokio::net::TcpListener;

use super::super::*;
use super::harness::*;
use crate::serving::ServingSet;

struct Doors {
    node: Node,
    address: std::net::SocketAddr,
    router: Client,
    operator: Client,
    auditor: Client,
    /// Of another region.
    foreigner: Client,
    stranger: Client,
    _folder: tempfile::TempDir,
}

async fn doors() -> Doors {
    let node = Node::start().await;
    let folder = tempfile::tempdir().unwrap();
    let dir = |name: &str| folder.path().join(name);
    let ca = Ca::create(&"test".parse().unwrap(), &dir("ca")).unwrap();
    ca.issue(&Role::Node("eu-fra/n1".parse().unwrap()), &[], 1)
        .unwrap()
        .write(&dir("node"))
        .unwrap();
    ca.issue(&Role::Router("r1".parse().unwrap()), &[], 1)
        .unwrap()
        .write(&dir("router"))
        .unwrap();
    ca.issue(&Role::Operator("ann".parse().unwrap()), &[], 1)
        .unwrap()
        .write(&dir("operator"))
        .unwrap();
    for (name, region) in [("auditor", "eu-fra"), ("foreigner", "us-iad")] {
        let (name, region) = (name.parse().unwrap(), region.parse().unwrap());
        let path = dir(&format!("{name}"));
        ca.issue(&Role::Auditor { name, region }, &[], 1)
            .unwrap()
            .write(&path)
            .unwrap();
    }
    ca.issue_ingress(&["ingress.test".to_owned()], 1)
        .unwrap()
        .write(&dir("ingress"))
        .unwrap();
    let identity = Identity::load(&dir("node")).unwrap();
    let tls = ServerTls::load(&dir("ingress/cert.pem"), &dir("ingress/key.pem"), Some(&identity)).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    serve(listener, Some(tls), &node.lifecycle, node.ingress.clone()).unwrap();
    let router = Identity::load(&dir("router")).unwrap();
    let router = Client::new(router.ingress_client_config(ca.pem()).unwrap());
    let operator = Identity::load(&dir("operator")).unwrap();
    let operator = Client::new(operator.ingress_client_config(ca.pem()).unwrap());
    let [auditor, foreigner] = ["auditor", "foreigner"].map(|name| {
        let identity = Identity::load(&dir(name)).unwrap();
        Client::new(identity.ingress_client_config(ca.pem()).unwrap())
    });
    let stranger = Client::new(anonymous_client_config(ca.pem()).unwrap());
    Doors {
        node,
        address,
        router,
        operator,
        auditor,
        foreigner,
        stranger,
        _folder: folder,
    }
}

impl Doors {
    async fn ask(&self, client: &Client, request: Request<runtime::https::Body>) -> (u16, Bytes) {
        let answer = client.request(self.address, "ingress.test", request).await.unwrap();
        let status = answer.status().as_u16();
        (status, answer.into_body().collect().await.unwrap().to_bytes())
    }
}

#[tokio::test]
async fn tenants_ask_over_tls_and_the_fleets_pages_need_a_certificate_of_the_fleet() {
    let doors = doors().await;
    let infer = || post(KEY).uri("/v2/models/m/infer").body(full(row(1.0, 1.0))).unwrap();
    let (status, body) = doors.ask(&doors.stranger, infer()).await;
    assert_eq!(status, 200, "{body:?}");
    for path in ["/v1/node", "/v1/usage", "/metrics"] {
        let get = || {
            Request::get(path)
                .header("authorization", format!("Bearer {KEY}"))
                .body(empty())
                .unwrap()
        };
        assert_eq!(doors.ask(&doors.stranger, get()).await.0, 403, "{path}");
        assert_eq!(doors.ask(&doors.router, get()).await.0, 200, "{path}");
    }
    let metadata = || Request::get("/v2/models/m").body(empty()).unwrap();
    assert_eq!(doors.ask(&doors.stranger, metadata()).await.0, 401);
    assert_eq!(doors.ask(&doors.router, metadata()).await.0, 200);
    let keyless = || Request::post("/v2/models/m/infer").body(full(row(1.0, 1.0))).unwrap();
    assert_eq!(
        doors.ask(&doors.router, keyless()).await.0,
        401,
        "a router has no data of its own"
    );
}

#[tokio::test]
async fn the_log_of_receipts_is_for_the_fleet_and_for_auditors_of_the_region() {
    let doors = doors().await;
    let asked = post(KEY).header("meridian-receipt", "?1").uri("/v2/models/m/infer");
    let (status, _) = doors
        .ask(&doors.stranger, asked.body(full(row(1.0, 1.0))).unwrap())
        .await;
    assert_eq!(status, 200);
    until("a receipt on disk", || {
        let file = doors
            .node
            .ingress
            .0
            .parts
            .receipts
            .as_ref()
            .unwrap()
            .file("tile/entries/000.p/1");
        file.unwrap().is_some()
    })
    .await;
    for path in ["checkpoint", "tile/entries/000.p/1", "tile/0/000.p/1"] {
        let get = || Request::get(format!("/v1/receipts/{path}")).body(empty()).unwrap();
        for (client, status) in [
            (&doors.auditor, 200),
            (&doors.operator, 200),
            (&doors.router, 200),
            (&doors.foreigner, 403),
            (&doors.stranger, 403),
        ] {
            assert_eq!(doors.ask(client, get()).await.0, status, "{path}");
        }
    }
    let get = |path: &str| Request::get(format!("/v1/receipts/{path}")).body(empty()).unwrap();
    for (client, status) in [
        (&doors.auditor, 200),
        (&doors.router, 200),
        (&doors.foreigner, 401),
        (&doors.stranger, 401),
    ] {
        assert_eq!(doors.ask(client, get("key")).await.0, status);
    }
    for path in ["tile/entries/001", "tile/0/../0/000.p/1", "tile/0/000.p/9"] {
        assert_eq!(doors.ask(&doors.auditor, get(path)).await.0, 404, "{path}");
    }
    let with_key = Request::get("/v1/receipts/checkpoint").header("authorization", format!("Bearer {KEY}"));
    assert_eq!(
        doors.ask(&doors.stranger, with_key.body(empty()).unwrap()).await.0,
        403,
        "a tenant sees no others'"
    );
    let one = format!("eu-fra:n1:0-{}", "00".repeat(32));
    assert_eq!(doors.ask(&doors.stranger, get(&one)).await.0, 401);
    // A log, as any verifier reads it.
    let (_, checkpoint) = doors.ask(&doors.auditor, get("checkpoint")).await;
    let (_, keys) = doors.ask(&doors.router, get("key")).await;
    let keys: serde_json::Value = serde_json::from_slice(&keys).unwrap();
    let checkpoint = std::str::from_utf8(&checkpoint).unwrap();
    let known = proto::note::open_checkpoint(checkpoint, keys["log"].as_str().unwrap()).unwrap();
    assert_eq!(known.size, 1);
    let (_, entries) = doors.ask(&doors.auditor, get("tile/entries/000.p/1")).await;
    let entries = proto::tile::read_entries(&entries).unwrap();
    assert_eq!(known.root, proto::merkle::leaf_hash(entries[0]));
    let text = std::str::from_utf8(entries[0]).unwrap();
    assert!(!text.contains("acme") && !text.contains("subject"), "{text}");
}

#[tokio::test]
async fn routers_learn_how_the_node_is_and_leave_the_checkpoints_they_saw() {
    let mut doors = doors().await;
    let get = Request::get("/v1/node").body(empty()).unwrap();
    let (_, body) = doors.ask(&doors.router, get).await;
    let status: NodeStatus = serde_json::from_slice(&body).unwrap();
    assert_eq!(
        (status.node.as_str(), status.region.as_str(), status.status.as_str()),
        ("n1", "eu-fra", "ready")
    );
    assert_eq!((status.seq, status.epoch, status.checkpoint.as_str()), (5, 9, "a note"));
    assert_eq!(status.models[0].manifest, doors.node.slot.manifest_id);
    let post = |body: &'static str| Request::post("/v1/checkpoints").body(full(body)).unwrap();
    let (status, body) = doors.ask(&doors.router, post(r#"{"checkpoints":["one","two"]}"#)).await;
    assert_eq!((status, body.as_ref()), (200, br#"{"checkpoint":"a note"}"#.as_slice()));
    assert_eq!(doors.node.heard.try_recv().unwrap(), "one");
    assert_eq!(doors.node.heard.try_recv().unwrap(), "two");
    assert_eq!(
        doors.ask(&doors.stranger, post(r#"{"checkpoints":["one"]}"#)).await.0,
        403
    );
    assert_eq!(doors.ask(&doors.router, post("{}")).await.0, 400);
}

#[tokio::test]
async fn an_operator_purges_by_certificate_and_no_other_part_of_the_fleet_does() {
    let doors = doors().await;
    let node = &doors.node;
    for key in [KEY, OTHER] {
        node.send(post(key), "/v2/models/m/infer", row(1.0, 1.0)).await;
    }
    let purge = |body: &'static str| Request::post("/v1/purge").body(full(body)).unwrap();
    for client in [&doors.router, &doors.stranger] {
        assert_eq!(doors.ask(client, purge("{}")).await.0, 401);
    }
    let revoked = Request::post("/v1/purge").header("authorization", "Bearer mk_revoked");
    let revoked = revoked.body(full("{}")).unwrap();
    assert_eq!(
        doors.ask(&doors.operator, revoked).await.0,
        401,
        "a key is never overlooked"
    );
    assert_eq!(doors.ask(&doors.operator, purge(r#"{"subject":"p"}"#)).await.0, 400);
    let one = doors.ask(&doors.operator, purge(r#"{"tenant":"other"}"#)).await;
    assert_eq!(one, (200, Bytes::from_static(br#"{"memory_entries":1,"disk_keys":1}"#)));
    let (status, body) = doors.ask(&doors.operator, purge(r#"{"model":"m"}"#)).await;
    assert_eq!(
        (status, body.as_ref()),
        (200, br#"{"memory_entries":1,"disk_keys":1}"#.as_slice())
    );
    assert_eq!(
        node.infer(row(1.0, 1.0)).await.header("cache-status"),
        "meridian; fwd=miss"
    );
    // A node that serves nothing yet forgets as well.
    node.serving.publish(ServingSet::default());
    let (status, body) = doors.ask(&doors.operator, purge("{}")).await;
    let told: proto::purge::Purged = serde_json::from_slice(&body).unwrap();
    assert_eq!((status, told.memory_entries), (200, 1));
}
