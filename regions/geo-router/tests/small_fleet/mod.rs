//! Three tiny nodes and a router in this process: real TLS, real sockets, a view made and signed by hand.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use geo_router::app::{App, Running};
use geo_router::config::RouterConfig;
use geo_router::probe::server_name;
use geo_router::snapshot::Store;
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::service::service_fn;
use proto::ids::{ContentHash, NodeId, PrincipalName};
use proto::note;
use proto::region_state::{NodeInfo, RegionInfo, RouterView, Tenant};
use proto::signed::{Operator, PublicKey, Signed, TrustBundle};
use regions::geo::Places;
use runtime::https::{Body, Client, Inbound, Origin, ServerTls, full, serve};
use runtime::identity::{Ca, Identity, Role, anonymous_client_config};
use runtime::lifecycle::Lifecycle;
use tokio::net::TcpListener;

/// Node, place; nodes of one region stand together.
type Stands = [(&'static str, &'static str); 3];

/// The same three in one region.
const TOGETHER: Stands = [("eu-fra/n1", "fra"), ("eu-fra/n2", "fra"), ("eu-fra/n3", "fra")];

const NODES: Stands = [("eu-fra/n1", "fra"), ("eu-dub/n1", "dub"), ("us-iad/n1", "iad")];

/// What a tiny node does with requests.
#[derive(Default)]
pub(crate) struct Behaviour {
    /// Requests of clients it got.
    pub(crate) requests: AtomicUsize,
    /// Answer 503 as a node that drains, though probes still say it is ready.
    pub(crate) draining: AtomicBool,
    /// Break off every answer after its head and some bytes.
    pub(crate) cutting_off: AtomicBool,
}

pub(crate) struct TinyNode {
    pub(crate) id: NodeId,
    pub(crate) ingress: SocketAddr,
    pub(crate) behaviour: Arc<Behaviour>,
    lifecycle: Lifecycle,
}

impl TinyNode {
    /// Drops its listener and all its connections at once.
    pub(crate) async fn kill(&self) {
        self.lifecycle.stop(Duration::ZERO).await;
    }
    pub(crate) fn requests(&self) -> usize {
        self.behaviour.requests.load(Ordering::SeqCst)
    }
}

pub(crate) struct SmallFleet {
    dir: tempfile::TempDir,
    ca: Ca,
    fleet: PrincipalName,
    log: note::Signer,
    state_key: SigningKey,
    stands: Stands,
    pub(crate) nodes: Vec<TinyNode>,
    pub(crate) client: Client,
}

/// An API key by its first two digits.
pub(crate) fn key(tenant: &str) -> String {
    format!("mk_{}", tenant.repeat(32))
}

impl SmallFleet {
    pub(crate) async fn start() -> Self {
        Self::standing(NODES).await
    }
    /// All nodes in one region.
    pub(crate) async fn together() -> Self {
        Self::standing(TOGETHER).await
    }
    async fn standing(stands: Stands) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let fleet: PrincipalName = "dev".parse().unwrap();
        let ca = Ca::create(&fleet, &dir.path().join("ca")).unwrap();
        ca.issue(&Role::Router("r1".parse().unwrap()), &[], 1)
            .unwrap()
            .write(&dir.path().join("identity"))
            .unwrap();
        ca.issue_ingress(&["router.test".to_owned()], 1)
            .unwrap()
            .write(&dir.path().join("ingress"))
            .unwrap();
        let identity = Identity::load(&dir.path().join("identity")).unwrap();
        let log = note::Signer::new("dev.meridian/log", [1; 32]).unwrap();
        let state_key = SigningKey::from_bytes(&[2; 32]);
        let operators = vec![Operator {
            name: "o".parse().unwrap(),
            key: PublicKey::of(&SigningKey::from_bytes(&[3; 32])),
        }];
        let trust = TrustBundle {
            fleet: fleet.clone(),
            log_vkey: log.vkey(),
            state_key: PublicKey::of(&state_key),
            operators,
            threshold: 1,
        };
        std::fs::write(dir.path().join("trust.json"), serde_json::to_vec(&trust).unwrap()).unwrap();
        let client = Client::new(anonymous_client_config(ca.pem()).unwrap());
        let mut small = Self {
            dir,
            ca,
            fleet,
            log,
            state_key,
            stands,
            nodes: Vec::new(),
            client,
        };
        for (id, _) in stands {
            let node = small.node(&id.parse().unwrap(), &identity).await;
            small.nodes.push(node);
        }
        small
    }
    async fn node(&self, id: &NodeId, identity: &Identity) -> TinyNode {
        let dir = self.dir.path().join(id.to_string().replace('/', "-"));
        self.ca
            .issue_ingress(&[server_name(id, &self.fleet)], 1)
            .unwrap()
            .write(&dir)
            .unwrap();
        let tls = ServerTls::load(&dir.join("cert.pem"), &dir.join("key.pem"), Some(identity)).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ingress = listener.local_addr().unwrap();
        let (lifecycle, behaviour) = (Lifecycle::new(), Arc::new(Behaviour::default()));
        let (node, shared) = (id.clone(), behaviour.clone());
        let service = service_fn(move |request| answer(node.clone(), shared.clone(), request));
        serve(listener, Some(tls), &lifecycle, service).unwrap();
        TinyNode {
            id: id.clone(),
            ingress,
            behaviour,
            lifecycle,
        }
    }
    /// The view of all nodes; `minilm` is served everywhere, `local` only in Ashburn.
    pub(crate) fn view(&self, seq: u64) -> Signed {
        let region = |(node, place): (&TinyNode, &str)| {
            let place = Places::builtin().get(place).unwrap();
            let (lat_e6, lon_e6) = place.position.to_e6();
            RegionInfo {
                id: node.id.region.clone(),
                country: place.country.to_string(),
                lat_e6,
                lon_e6,
            }
        };
        let tenant = |name: &str, boundary: &str, digits: &str| Tenant {
            id: name.parse().unwrap(),
            boundary: boundary.parse().unwrap(),
            key_hash: ContentHash::of(key(digits).as_bytes()),
        };
        let mut serving: Vec<_> = self
            .nodes
            .iter()
            .map(|n| (n.id.region.clone(), "minilm@1".parse().unwrap()))
            .collect();
        serving.push((self.nodes[2].id.region.clone(), "local@1".parse().unwrap()));
        let mut regions: Vec<RegionInfo> = self
            .nodes
            .iter()
            .zip(self.stands.map(|(_, place)| place))
            .map(region)
            .collect();
        regions.dedup();
        let view = RouterView {
            seq,
            epoch: 5,
            expires: u64::MAX,
            regions,
            nodes: self
                .nodes
                .iter()
                .map(|n| NodeInfo {
                    id: n.id.clone(),
                    ingress: n.ingress,
                })
                .collect(),
            serving,
            tenants: vec![tenant("europe", "eea", "aa"), tenant("world", "global", "bb")],
            checkpoint: self.checkpoint(5),
        };
        Signed::seal(&view, &self.state_key)
    }
    pub(crate) fn checkpoint(&self, size: u64) -> String {
        self.log.sign_checkpoint(size, &[9; 32])
    }
    pub(crate) fn data(&self) -> std::path::PathBuf {
        self.dir.path().join("data")
    }
    /// An identity for a control plane on this machine.
    pub(crate) fn control_plane(&self) -> Identity {
        let dir = self.dir.path().join("control-plane");
        self.ca
            .issue(&Role::ControlPlane, &["control-plane".to_owned()], 1)
            .unwrap()
            .write(&dir)
            .unwrap();
        Identity::load(&dir).unwrap()
    }
    /// A router that finds its view on disk and no control plane.
    pub(crate) async fn router(&self) -> Router {
        Store::open(&self.data()).unwrap().keep(&self.view(1)).unwrap();
        self.router_following("127.0.0.1:1".parse().unwrap()).await
    }
    pub(crate) async fn router_following(&self, control_plane: SocketAddr) -> Router {
        let text = format!(
            "identity = \"identity\"\ntrust = \"trust.json\"\ndata = \"data\"\ncontrol-plane = \"{control_plane}\"\n\
             [http]\nlisten = \"127.0.0.1:0\"\ncertificate = \"ingress/cert.pem\"\nkey = \"ingress/key.pem\"\n\
             plain = \"127.0.0.1:0\"\nforwarded-from = [\"127.0.0.0/8\"]\n\
             [dns]\nlisten = \"127.0.0.1:0\"\nzone = \"infer.meridian.test\"\n\
             [clients]\nplaces = \"clients.csv\"\n[probe]\nperiod-ms = 50\ntimeout-ms = 1000\n"
        );
        let dir = self.dir.path();
        std::fs::write(dir.join("router.toml"), text).unwrap();
        std::fs::write(
            dir.join("clients.csv"),
            "10.1.0.0/16,ber\n10.2.0.0/16,man\n10.3.0.0/16,bos\n",
        )
        .unwrap();
        Router::start(&dir.join("router.toml"), self.client.clone()).await
    }
}

async fn answer(
    id: NodeId,
    behaviour: Arc<Behaviour>,
    request: Request<Inbound>,
) -> Result<Response<Body>, std::convert::Infallible> {
    let (head, body) = request.into_parts();
    let by_router = matches!(
        Origin::of(&head.extensions).map(|origin| &origin.role),
        Some(Some(Role::Router(_)))
    );
    if head.uri.path() == "/v1/node" && by_router {
        let status = serde_json::json!({
            "node": id.name.as_str(), "region": id.region.as_str(), "status": "ready", "queued": 0, "seq": 1, "epoch": 5,
            "models": [{ "name": "minilm", "version": "1", "manifest": "b3:00" }], "checkpoint": "",
        });
        return Ok(Response::new(full(status.to_string())));
    }
    let Ok(body) = body.collect().await else {
        return Ok(Response::new(full("the body broke off")));
    };
    if head.method == Method::POST && head.uri.path() == "/v1/checkpoints" {
        return Ok(Response::new(full("")));
    }
    behaviour.requests.fetch_add(1, Ordering::SeqCst);
    if behaviour.draining.load(Ordering::SeqCst) {
        let mut response = Response::new(full("{\"error\":\"stopping\",\"code\":\"draining\"}"));
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        let elsewhere = "https://192.0.2.1:443".parse().unwrap();
        response.headers_mut().insert("meridian-elsewhere", elsewhere);
        return Ok(response);
    }
    if behaviour.cutting_off.load(Ordering::SeqCst) {
        return Ok(cut_off());
    }
    let mut response = Response::new(full(body.to_bytes()));
    response
        .headers_mut()
        .insert("meridian-served-by", id.to_string().parse().unwrap());
    response
        .headers_mut()
        .insert("server-timing", "exec;dur=1, total;dur=1".parse().unwrap());
    Ok(response)
}

/// An answer that announces more than it sends.
fn cut_off() -> Response<Body> {
    let frames = [
        Ok(Frame::data(Bytes::from_static(b"half"))),
        Err("the node is gone".into()),
    ];
    let mut response = Response::new(StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync());
    response.headers_mut().insert("content-length", 1000.into());
    response
}

pub(crate) struct Router {
    running: Running,
    client: Client,
    ingress: SocketAddr,
    pub(crate) plain: SocketAddr,
    pub(crate) dns: SocketAddr,
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn served_by(&self) -> &str {
        self.headers
            .get("meridian-served-by")
            .map_or("", |v| v.to_str().unwrap())
    }
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

impl Router {
    async fn start(config: &Path, client: Client) -> Self {
        let app = App::build(RouterConfig::load(config).unwrap()).await.unwrap();
        let addresses = app.addresses().unwrap();
        let address = |name: &str| addresses[name].as_str().unwrap().parse().unwrap();
        let (ingress, plain, dns) = (address("ingress"), address("plain"), address("dns"));
        Self {
            running: app.run().await.unwrap(),
            client,
            ingress,
            plain,
            dns,
        }
    }
    /// Posts `body` as the tenant with these digits, from an address.
    pub(crate) async fn post(&self, path: &str, tenant: &str, from: &str, body: Vec<u8>) -> Answer {
        let request = Request::post(path)
            .header("authorization", format!("Bearer {}", key(tenant)))
            .header("x-forwarded-for", from)
            .body(full(body))
            .unwrap();
        self.send(request).await
    }
    pub(crate) async fn infer(&self, tenant: &str, from: &str) -> Answer {
        self.post("/v2/models/minilm/infer", tenant, from, b"body".to_vec())
            .await
    }
    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        let (head, body) = self
            .client
            .request(self.ingress, "router.test", request)
            .await
            .unwrap()
            .into_parts();
        let body = body.collect().await.unwrap().to_bytes().to_vec();
        Answer {
            status: head.status,
            headers: head.headers,
            body,
        }
    }
    /// Waits until `node` is in `state`.
    pub(crate) async fn wait_for(&self, node: &NodeId, state: regions::health::State) {
        let steering = self.running.steering();
        wait_until(|| steering.state(node) == state).await;
    }
    pub(crate) fn seq(&self) -> u64 {
        self.running.steering().fleet().map_or(0, |fleet| fleet.seq)
    }
    pub(crate) async fn stop(self) -> bool {
        self.running.stop(Duration::from_secs(10)).await
    }
}

/// Waits for a value; after ten seconds it will never come.
pub(crate) async fn wait_until(mut holds: impl FnMut() -> bool) {
    let poll = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), poll)
        .await
        .expect("it never came");
}
