//! What a node adds to its engine, and how many answers it gives again.
//!
//! One process holds the node and its clients, joined by TLS 1.3 over loopback: the clients' own time is in the figures.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use edge_node::batch::board::Bounds;
use edge_node::batch::{Queue, Rules};
use edge_node::cache::{CacheConfig, Results, Ttl};
use edge_node::engine::{Engine, Fault, Model};
use edge_node::ingress::rate::Rates;
use edge_node::ingress::{Ingress, Parts};
use edge_node::metrics::Metrics;
use edge_node::serving::{Gossip, ModelSlot, Serving, ServingSet};
use http::Request;
use http_body_util::BodyExt;
use proto::ids::ContentHash;
use proto::manifest::{DataType, Dim, FileEntry, Manifest, Measured, Signature, TensorSpec, Variant};
use proto::oip::Tensor;
use proto::region_state::{RegionInfo, Tenant};
use proto::signed::Document;
use regions::policy::Boundaries;
use runtime::clock;
use runtime::https::{Client, ServerTls, full, serve};
use runtime::identity::{Ca, anonymous_client_config};
use runtime::lifecycle::Lifecycle;

use super::{Figure, median};

const SUITE: &str = "serving";
const KEY: &str = "mk_0000000000000000000000000000000000000000000000000000000000000001";

/// Costs nothing itself: what is measured around it is the node.
struct Doubler;

impl Model for Doubler {
    fn run(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>, Fault> {
        let x = inputs.first().ok_or_else(|| Fault::Input("no input".to_owned()))?;
        let double = |b: [u8; 4]| (f32::from_le_bytes(b) * 2.0).to_le_bytes();
        let data = x.data.as_chunks().0.iter().flat_map(|b| double(*b)).collect();
        Ok(vec![Tensor {
            name: "y".to_owned(),
            datatype: x.datatype,
            shape: x.shape.clone(),
            data,
        }])
    }
}

/// Measures with `requests` requests a figure.
///
/// # Errors
/// When a node cannot be started or a request fails.
pub async fn run(requests: u32) -> anyhow::Result<Vec<Figure>> {
    let node = Node::start().await?;
    let mut bare = Vec::new();
    for n in 0..requests {
        let input = [Tensor {
            name: "x".to_owned(),
            datatype: DataType::Fp32,
            shape: vec![1, 2],
            data: vec![0; 8],
        }];
        let began = clock::instant();
        Doubler.run(&input).with_context(|| format!("bare run {n}"))?;
        bare.push(began.elapsed().as_secs_f64() * 1e6);
    }
    let mut served = Vec::new();
    for n in 0..requests {
        let began = clock::instant();
        node.ask(n, true).await?;
        served.push(began.elapsed().as_secs_f64() * 1e6);
    }
    let (bare, served) = (median(&mut bare), median(&mut served));
    let added = Figure::alone(
        SUITE,
        "added latency over the bare engine, tiny model, p50",
        served - bare,
        "us",
    );
    let hits = node.hits(requests * 4).await?;
    Ok(vec![
        added.beside("bare engine", bare),
        Figure::alone(SUITE, "cache hits, clients included", hits, "1/s"),
    ])
}

struct Node {
    address: SocketAddr,
    client: Client,
    lifecycle: Lifecycle,
    _engine: Engine,
    _folder: tempfile::TempDir,
}

impl Node {
    async fn start() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let ca = Ca::create(&"load".parse()?, &folder.path().join("ca"))?;
        let files = folder.path().join("ingress");
        ca.issue_ingress(&["ingress.load".to_owned()], 1)?.write(&files)?;
        let tls = ServerTls::load(&files.join("cert.pem"), &files.join("key.pem"), None)?;
        let mut registry = runtime::metrics::Metrics::new();
        let metrics = Metrics::new(&mut registry);
        let serving = Serving::new();
        let bounds = Bounds {
            rows_max: 1_024,
            bytes_max: 64 << 20,
            linger: Duration::ZERO,
            threads: 1,
        };
        let queue = Queue::new(bounds, Rules::default(), serving.clone(), metrics.clone());
        let engine = Engine::start(&queue, bounds.threads, &metrics)?;
        let ttl = Duration::from_secs(600);
        let ttl = Ttl {
            results: ttl,
            embeddings: ttl,
            ..Ttl::default()
        };
        let cache = CacheConfig {
            memory_bytes: 64 << 20,
            disk_bytes: 0,
            ttl,
            folder: folder.path().join("results"),
        };
        let ingress = Ingress::new(Parts {
            node: "eu-fra/n1".parse()?,
            serving: serving.clone(),
            results: Results::open(&cache, &metrics),
            rates: Rates::default(),
            queue,
            gossip: Gossip::channel().0,
            metrics,
            registry: Arc::new(registry),
            draining: Lifecycle::new().drain().clone(),
            boundaries: Boundaries::builtin(),
        });
        serving.publish(set()?);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let (address, lifecycle) = (listener.local_addr()?, Lifecycle::new());
        serve(listener, Some(tls), &lifecycle, ingress)?;
        let client = Client::new(anonymous_client_config(ca.pem())?);
        Ok(Self {
            address,
            client,
            lifecycle,
            _engine: engine,
            _folder: folder,
        })
    }

    async fn ask(&self, n: u32, run: bool) -> anyhow::Result<()> {
        let data = format!(r#"{{"inputs":[{{"name":"x","datatype":"FP32","shape":[1,2],"data":[1.5,{n}]}}]}}"#);
        let mut request = Request::post("/v2/models/tiny/infer").header("authorization", format!("Bearer {KEY}"));
        if run {
            request = request.header("cache-control", "no-cache");
        }
        let answer = self
            .client
            .request(self.address, "ingress.load", request.body(full(data))?)
            .await?;
        anyhow::ensure!(answer.status() == 200, "status {}", answer.status());
        answer.into_body().collect().await?;
        Ok(())
    }

    /// Answers per second out of memory, eight clients at once.
    async fn hits(&self, requests: u32) -> anyhow::Result<f64> {
        self.ask(0, false).await?;
        let began = clock::instant();
        let one = |_| async {
            for _ in 0..requests / 8 {
                self.ask(0, false).await?;
            }
            anyhow::Ok(())
        };
        let [a, b, c, d, e, f, g, h] = [0, 1, 2, 3, 4, 5, 6, 7].map(one);
        tokio::try_join!(a, b, c, d, e, f, g, h)?;
        Ok(f64::from(requests / 8 * 8) / began.elapsed().as_secs_f64())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.lifecycle.drain().cancel();
    }
}

fn set() -> anyhow::Result<ServingSet> {
    let manifest = manifest()?;
    let variant = manifest.variants.first().context("it has one")?.clone();
    let slot =
        ModelSlot::new(manifest.id(), Arc::new(manifest), variant, Arc::new(Doubler)).context("it has its file")?;
    let key_hash = ContentHash::of(KEY.as_bytes());
    let tenant = Tenant {
        id: "load".parse()?,
        boundary: "eea".parse()?,
        key_hash,
    };
    Ok(ServingSet {
        region: Some(RegionInfo {
            id: "eu-fra".parse()?,
            country: "DE".to_owned(),
            lat_e6: 0,
            lon_e6: 0,
        }),
        tenants: HashMap::from([(key_hash, tenant)]),
        models: HashMap::from([(slot.release.model.clone(), Arc::new(slot))]),
        ..ServingSet::default()
    })
}

fn manifest() -> anyhow::Result<Manifest> {
    let spec = |name: &str| TensorSpec {
        name: name.to_owned(),
        datatype: DataType::Fp32,
        shape: vec![Dim::Named("batch".to_owned()), Dim::Fixed(2)],
    };
    let file = |path: &str| FileEntry {
        path: path.to_owned(),
        bytes: 0,
        blake3: ContentHash::of(path.as_bytes()),
        sha256: [0; 32],
        chunks: Vec::new(),
    };
    let (inputs, outputs) = (vec![spec("x")], vec![spec("y")]);
    let signature = Signature {
        name: "tensors".to_owned(),
        inputs: inputs.clone(),
        outputs: outputs.clone(),
        pre: Vec::new(),
        post: Vec::new(),
    };
    let variant = Variant {
        id: "cpu-f32".parse()?,
        class: "cpu".parse()?,
        file: "tiny".to_owned(),
        numerics: "load/f32".to_owned(),
        checks: Vec::new(),
        measured: Measured {
            cosine_min: 1.0,
            top1_share: 1.0,
            abs_max: 0.0,
            row_us: 1,
            rows8_us: 1,
            load_us: 1,
        },
        batch_rows_max: 8,
    };
    Ok(Manifest {
        model: "tiny".parse()?,
        version: "1".parse()?,
        description: "doubles".to_owned(),
        licence: "Apache-2.0".to_owned(),
        source: "the load suite".to_owned(),
        opset: 17,
        engine: "none".to_owned(),
        files: vec![file("tiny")],
        inputs,
        outputs,
        signatures: vec![signature],
        variants: vec![variant],
        proposals: Vec::new(),
        golden_file: "tiny".to_owned(),
        parent: None,
        provenance: Vec::new(),
    })
}
