//! A node without river 2, on a loopback socket, and a client.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use http::HeaderMap;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use proto::ids::ContentHash;
use proto::region_state::{RegionInfo, Tenant};
use runtime::https::{PlainListener, serve_plain};
use runtime::lifecycle::Lifecycle;
use tokio::sync::mpsc;

use crate::batch::Rules;
use crate::batch::board::Bounds;
use crate::cache::{CacheConfig, Ttl};
use crate::engine::Engine;
use crate::ingress::*;
use crate::serving::{ModelSlot, ServingSet};
use crate::testing::{Doubler, slot_with};

pub(super) const KEY: &str = "mk_0000000000000000000000000000000000000000000000000000000000000001";
pub(super) const OTHER: &str = "mk_0000000000000000000000000000000000000000000000000000000000000002";
pub(super) const AMERICAN: &str = "mk_0000000000000000000000000000000000000000000000000000000000000003";

pub(super) struct Node {
    pub(super) model: Arc<Doubler>,
    pub(super) slot: Arc<ModelSlot>,
    pub(super) serving: Serving,
    pub(super) lifecycle: Lifecycle,
    pub(super) draining: CancellationToken,
    pub(super) heard: mpsc::Receiver<String>,
    pub(super) ingress: Ingress,
    pub(super) engine: Engine,
    pub(super) address: SocketAddr,
    client: Client<HttpConnector, Full<Bytes>>,
    _folder: tempfile::TempDir,
}

pub(super) struct Got {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Got {
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }
    pub(super) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {:?}", self.body))
    }
    pub(super) fn code(&self) -> String {
        self.json()["code"].as_str().unwrap().to_owned()
    }
}

pub(super) fn bounds() -> Bounds {
    Bounds {
        rows_max: 2_000,
        bytes_max: 64 << 20,
        linger: Duration::ZERO,
        threads: 1,
    }
}

/// A set of a node in Germany that serves `slots` to two European tenants and one American.
pub(super) fn set(slots: &[Arc<ModelSlot>]) -> ServingSet {
    let tenant = |name: &str, boundary: &str, key: &str| {
        let key_hash = ContentHash::of(key.as_bytes());
        (
            key_hash,
            Tenant {
                id: name.parse().unwrap(),
                boundary: boundary.parse().unwrap(),
                key_hash,
            },
        )
    };
    let tenants = [
        tenant("acme", "eea", KEY),
        tenant("other", "eea", OTHER),
        tenant("yankee", "us", AMERICAN),
    ];
    ServingSet {
        region: Some(RegionInfo {
            id: "eu-fra".parse().unwrap(),
            country: "DE".to_owned(),
            lat_e6: 0,
            lon_e6: 0,
        }),
        tenants: tenants.into_iter().collect(),
        models: slots
            .iter()
            .map(|slot| (slot.release.model.clone(), Arc::clone(slot)))
            .collect(),
        awaited: BTreeSet::new(),
        coming: false,
        seq: 5,
        epoch: 9,
        checkpoint: "a note".to_owned(),
        stopped: None,
    }
}

impl Node {
    pub(super) async fn start() -> Self {
        Self::with(bounds()).await
    }
    pub(super) async fn with(bounds: Bounds) -> Self {
        Self::ruled(bounds, Rules::default(), rate::Rates::default()).await
    }
    pub(super) async fn ruled(bounds: Bounds, rules: Rules, rates: rate::Rates) -> Self {
        Self::build(bounds, rules, rates, None, false).await
    }
    /// One that gives receipts to whoever does not say otherwise.
    pub(super) async fn receipted() -> Self {
        Self::build(bounds(), Rules::default(), rate::Rates::default(), None, true).await
    }
    /// One whose operator lets requests of this machine without a key ask with `key`.
    pub(super) async fn assuming(key: &str) -> Self {
        let key = Some(ContentHash::of(key.as_bytes()));
        Self::build(bounds(), Rules::default(), rate::Rates::default(), key, false).await
    }
    async fn build(
        bounds: Bounds,
        rules: Rules,
        rates: rate::Rates,
        plain_key: Option<ContentHash>,
        unasked: bool,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut registry = runtime::metrics::Metrics::new();
        let metrics = Metrics::new(&mut registry);
        let serving = Serving::new();
        let ttl = Duration::from_secs(60);
        let ttl = Ttl {
            results: ttl,
            embeddings: ttl,
            ..Ttl::default()
        };
        let cache = CacheConfig {
            memory_bytes: 8 << 20,
            rows_bytes: 1 << 20,
            disk_bytes: 3 << 20,
            ttl,
            folder: folder.path().to_owned(),
        };
        let results = Results::open(&cache, &metrics);
        let queue = Queue::new(bounds, rules, serving.clone(), metrics.clone());
        let engine = Engine::start(&queue, bounds.threads, &metrics).unwrap();
        let jobs = super::jobs::open(&folder.path().join("jobs"), &metrics);
        let receipts = crate::receipt::tests::given(&folder.path().join("receipts"), unasked, &metrics);
        let (gossip, heard) = Gossip::channel();
        let draining = CancellationToken::new();
        let ingress = Ingress::new(Parts {
            node: "eu-fra/n1".parse().unwrap(),
            serving: serving.clone(),
            results,
            rates,
            jobs: Some(jobs),
            receipts: Some(receipts),
            webhook_key: None,
            queue,
            gossip,
            metrics,
            registry: Arc::new(registry),
            draining: draining.clone(),
            boundaries: Boundaries::builtin(),
        })
        .assuming(plain_key);
        let lifecycle = Lifecycle::new();
        let listener = PlainListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.address().parse().unwrap();
        serve_plain(listener, &lifecycle, ingress.clone());
        let model = Arc::new(Doubler::default());
        let slot = slot_with("m", 1, model.clone());
        serving.publish(set(&[Arc::clone(&slot)]));
        let client = Client::builder(TokioExecutor::new()).build_http();
        Self {
            model,
            slot,
            serving,
            lifecycle,
            draining,
            heard,
            ingress,
            engine,
            address,
            client,
            _folder: folder,
        }
    }

    pub(super) async fn send(&self, request: http::request::Builder, path: &str, body: impl Into<Bytes>) -> Got {
        self.try_send(request, path, body).await.unwrap()
    }
    pub(super) async fn try_send(
        &self,
        request: http::request::Builder,
        path: &str,
        body: impl Into<Bytes>,
    ) -> Result<Got, hyper_util::client::legacy::Error> {
        let request = request
            .uri(format!("http://{}{path}", self.address))
            .body(Full::new(body.into()))
            .unwrap();
        let (head, body) = self.client.request(request).await?.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Ok(Got {
            status: head.status.as_u16(),
            headers: head.headers,
            body,
        })
    }
    pub(super) async fn get(&self, path: &str) -> Got {
        self.send(Request::get("/"), path, Bytes::new()).await
    }
    pub(super) async fn infer(&self, body: impl Into<String>) -> Got {
        self.send(post(KEY), "/v2/models/m/infer", body.into()).await
    }
    /// Waits until the model has begun `runs` runs.
    pub(super) async fn until_runs(&self, runs: usize) {
        until("so many runs", || self.model.count() >= runs).await;
    }
    /// Waits until `/metrics` shows `line`.
    pub(super) async fn until_counted(&self, line: &str) {
        until(line, || self.ingress.0.parts.registry.encode().contains(line)).await;
    }
    /// Waits until `queued` requests wait.
    pub(super) async fn until_queued(&self, queued: u32) {
        until("so many that wait", || self.serving.queued() == queued).await;
    }
}

/// Longer than anything here takes.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// Looks again and again until it is so, and fails the test where that takes longer than anything here does.
pub(super) async fn until(what: &str, is_so: impl Fn() -> bool) {
    let looking = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let found = tokio::time::timeout(PATIENCE, looking).await;
    assert!(found.is_ok(), "waited in vain for {what}");
}

pub(super) fn post(key: &str) -> http::request::Builder {
    Request::post("/").header("authorization", format!("Bearer {key}"))
}

/// A request for one row.
pub(super) fn row(a: f32, b: f32) -> String {
    format!(r#"{{"inputs":[{{"name":"x","datatype":"FP32","shape":[1,2],"data":[{a:?},{b:?}]}}]}}"#)
}
