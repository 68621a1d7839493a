//! A node as one thing that starts and stops.
//!
//! ```text
//!   build: identity -> cache, queue, engine threads -> ports -> river 2 starts        a failure leaves nothing running
//!   stop:  say "draining" and answer on -> close the doors, finish what was accepted -> engine -> cache, receipts
//! ```

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use engine::leisure::stand_back;
use proto::ids::NodeId;
use regions::policy::Boundaries;
use runtime::background::Background;
use runtime::https::{HttpsError, PlainListener, Ports, ServerTls, serve_plain, serve_ports};
use runtime::identity::{Identity, IdentityError, Role, load_trust};
use runtime::lifecycle::Lifecycle;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::batch::Queue;
use crate::cache::Results;
use crate::config::{IngressConfig, NodeConfig};
use crate::engine::Engine;
use crate::ingress::rate::Rates;
use crate::ingress::{self, Ingress};
use crate::jobs::webhook::{self, Sender};
use crate::jobs::{Jobs, chain, worker};
use crate::memory::{Memory, NICE_AHEAD};
use crate::metrics::Metrics;
use crate::receipt::Receipts;
use crate::release::EngineLoader;
use crate::serving::{Gossip, Serving};
use crate::sync::{self, Instruments};

/// Threads of river 2, beside those that load.
const BACKGROUND_THREADS: NonZeroUsize = NonZeroUsize::MIN;

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// Its certificate, key or trust cannot be used.
    #[error("load the node's identity")]
    Identity(#[from] IdentityError),
    /// The certificate is for something else.
    #[error("the identity in {path} is that of {role}: enrol this machine as a node")]
    NotANode {
        /// The folder.
        path: PathBuf,
        /// What it is for.
        role: Role,
    },
    /// A port or certificate of the ingress cannot be used.
    #[error("open the ingress")]
    Ingress(#[from] HttpsError),
    /// The system refuses a port or a thread.
    #[error("{what}")]
    System {
        /// What was tried.
        what: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// River 2 cannot start.
    #[error("start following the control plane")]
    Sync(#[from] sync::StartError),
}

/// Where a node listens: its ready line.
#[derive(Clone, Debug, Serialize)]
pub struct Addresses {
    /// HTTPS.
    pub ingress: SocketAddr,
    /// Without TLS, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plain: Option<String>,
}

/// A running node.
#[derive(Debug)]
pub struct App {
    /// Where it listens.
    pub addresses: Addresses,
    lifecycle: Lifecycle,
    draining: CancellationToken,
    engine: Arc<Engine>,
    results: Results,
    receipts: Option<Receipts>,
    notice: Duration,
    grace: Duration,
    _background: Background,
}

impl App {
    /// Starts a node. Its ports are bound when this returns; what it serves comes with the state it has kept, then with
    /// those it is sent.
    ///
    /// # Errors
    /// [`BuildError`]; nothing runs then.
    pub async fn build(config: NodeConfig, loader: EngineLoader) -> Result<Self, BuildError> {
        let (identity, node) = identified(&config.identity)?;
        let trust = load_trust(&config.trust)?;
        let tls = ServerTls::load(&config.ingress.certificate, &config.ingress.key, Some(&identity))?;
        let (ports, plain, addresses) = open_doors(&config.ingress).await?;
        std::fs::create_dir_all(&config.data).map_err(failed("make the data folder"))?;

        let mut registry = runtime::metrics::Metrics::new();
        registry.show_process();
        let metrics = Metrics::new(&mut registry);
        let instruments = Instruments::registered(&mut registry);
        let (serving, lifecycle, draining) = (Serving::new(), Lifecycle::new(), CancellationToken::new());
        let (gossip, heard) = Gossip::channel();
        let results = Results::open(&config.cache, &metrics);
        let queue = Queue::new(config.bounds, config.rules.clone(), serving.clone(), metrics.clone());
        let engine = Engine::start(&queue, config.bounds.threads, &metrics).map_err(failed("start engine threads"))?;
        let memory =
            Memory::start(config.memory.clone(), metrics.clone()).map_err(failed("start the loading thread"))?;
        let (jobs, sender) = open_jobs(&config, &node, &identity, &metrics);
        let receipts = open_receipts(&config, &node, &identity, &metrics);
        let loader = loader.counting(metrics.device.clone());
        let service = Ingress::new(ingress::Parts {
            node,
            serving: serving.clone(),
            results: results.clone(),
            rates: Rates::new(config.rates.clone()),
            jobs: jobs.clone(),
            receipts: receipts.clone(),
            webhook_key: sender.is_some().then(|| webhook::public_key(identity.signing_key())),
            queue,
            gossip,
            metrics,
            registry: Arc::new(registry),
            draining: draining.clone(),
            boundaries: Boundaries::builtin(),
        })
        .assuming(config.ingress.plain_key);
        let parts = sync::Parts {
            control_plane: &config.control_plane,
            data: &config.data,
            class: config.class,
            identity: Arc::new(identity),
            trust,
            serving,
            gossip: heard,
            loader: Arc::new(loader),
            memory,
            instruments,
        };
        let background = follow(parts, &lifecycle)?;
        start_jobs(jobs, sender, &service, &lifecycle, &draining);
        serve_ports(ports, tls, &lifecycle, service.clone())?;
        if let Some(plain) = plain {
            serve_plain(plain, &lifecycle, service);
        }
        let (engine, notice, grace) = (Arc::new(engine), config.notice, config.grace);
        Ok(Self {
            addresses,
            lifecycle,
            draining,
            engine,
            results,
            receipts,
            notice,
            grace,
            _background: background,
        })
    }

    /// Stops: tells routers, closes the doors, answers what was accepted. True if that was all within the grace time.
    pub async fn stop(self) -> bool {
        self.draining.cancel();
        tokio::time::sleep(self.notice).await;
        let clean = self.lifecycle.stop(self.grace).await;
        let (engine, results, receipts) = (self.engine, self.results, self.receipts);
        let promised = tokio::task::spawn_blocking(move || receipts.iter().for_each(Receipts::close));
        let rest = tokio::task::spawn_blocking(move || {
            engine.stop();
            results.close();
        });
        // A run that never ends must not keep the process: what it would answer, nobody waits for any more.
        let ended = tokio::time::timeout(self.grace, rest).await.is_ok();
        if !ended {
            tracing::warn!("a run of a model outlived the grace period");
        }
        let written = tokio::time::timeout(self.grace, promised).await.is_ok();
        if !written {
            tracing::warn!("promised receipts were not on disk at the end of the grace period");
        }
        clean && ended && written
    }
}

/// Who this machine is: a node, or it does not start.
fn identified(path: &Path) -> Result<(Identity, NodeId), BuildError> {
    let identity = Identity::load(path)?;
    match identity.role.clone() {
        Role::Node(node) => Ok((identity, node)),
        role => Err(BuildError::NotANode {
            path: path.to_owned(),
            role,
        }),
    }
}

async fn open_doors(ingress: &IngressConfig) -> Result<(Ports, Option<PlainListener>, Addresses), BuildError> {
    let ports = Ports::bind(ingress.listen, ingress.http3).await?;
    let plain = match &ingress.plain {
        None => None,
        Some(text) => Some(PlainListener::bind(text).await?),
    };
    let addresses = Addresses {
        ingress: ports.address(),
        plain: plain.as_ref().map(PlainListener::address),
    };
    Ok((ports, plain, addresses))
}

/// Starts river 2 behind the threads that answer requests.
fn follow(parts: sync::Parts<'_>, lifecycle: &Lifecycle) -> Result<Background, BuildError> {
    let started = Background::start("background", BACKGROUND_THREADS, || stand_back(NICE_AHEAD));
    let background = started.map_err(failed("start background threads"))?;
    {
        let _entered = background.enter();
        sync::start(parts, lifecycle)?;
    }
    Ok(background)
}

/// Jobs are no reason not to serve: where they cannot be opened, `Prefer: respond-async` means nothing.
fn open_jobs(
    config: &NodeConfig,
    node: &NodeId,
    identity: &Identity,
    metrics: &Metrics,
) -> (Option<Jobs>, Option<Sender>) {
    let Some(of_jobs) = config.jobs.clone() else {
        return (None, None);
    };
    let sender =
        (!of_jobs.webhooks.is_empty()).then(|| Sender::new(identity.signing_key().clone(), &of_jobs.webhook_ca));
    let sender = sender.and_then(|sender| {
        sender
            .inspect_err(|error| tracing::error!(error, "no webhooks are sent"))
            .ok()
    });
    let jobs = Jobs::open(node.clone(), of_jobs, metrics.clone());
    let jobs = jobs.inspect_err(|error| tracing::error!(error = chain(error), "no jobs are kept"));
    (jobs.ok(), sender)
}

/// Receipts are no reason not to serve either: where their log cannot be opened, who asks for one is refused.
fn open_receipts(config: &NodeConfig, node: &NodeId, identity: &Identity, metrics: &Metrics) -> Option<Receipts> {
    let config = config.receipts.clone()?;
    let opened = Receipts::open(config, &identity.fleet, node.clone(), identity.signing_key(), metrics);
    let told = opened.inspect_err(|error| tracing::error!(error = chain(error), "no receipts are given"));
    told.ok()
}

fn start_jobs(
    jobs: Option<Jobs>,
    sender: Option<Sender>,
    service: &Ingress,
    lifecycle: &Lifecycle,
    draining: &CancellationToken,
) {
    let Some(jobs) = jobs else { return };
    if let Some(sender) = sender {
        lifecycle.spawn(
            "webhooks",
            webhook::deliver(jobs.clone(), sender, lifecycle.drain().clone()),
        );
    }
    lifecycle.spawn("jobs", worker::work(jobs, service.clone(), draining.clone()));
}

fn failed(what: &str) -> impl FnOnce(std::io::Error) -> BuildError {
    let what = what.to_owned();
    move |source| BuildError::System { what, source }
}

#[cfg(test)]
mod tests;
