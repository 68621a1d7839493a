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
    let stranger = Client::new(anonymous_client_config(ca.pem()).unwrap());
    Doors {
        node,
        address,
        router,
        operator,
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
