//! The door: HTTP requests in, answers out, in this order and no other:
//!
//! ```text
//!   head -> authenticate -> residency fence -> rate -> deadline -> bounded body -> decode and check against the signature
//!        -> cache -> coalesce -> queue -> (engine threads) -> encode -> receipt
//! ```
//! Each step is a module; `infer` has those that all protocols share, `rest` and `grpc` walk
//! them. What a step refuses becomes a `reply::Problem` here and nowhere else.
//!
//! Never here: a request of a tenant read before its key and boundary were checked; an execution after its deadline; a
//! payload, key or id in a log, metric or trace.

mod auth;
mod body;
mod classify;
mod compress;
mod deadline;
mod embeddings;
mod fit;
mod generate;
mod grpc;
mod infer;
mod jobs;
mod manage;
mod metadata;
mod model_config;
mod model_stats;
mod openapi;
mod purge;
pub mod rate;
mod receipts;
mod reply;
mod rest;
mod route;
pub mod statistics;
mod status;

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode};
use hyper::service::Service;
use proto::ids::{ContentHash, NodeId};
use proto::limits::{HEALTH_WATCHES_MAX, INFER_BODIES_BYTES_MAX, PURGES_WAITING_MAX, RECEIPT_PAGES_MAX};
use regions::policy::Boundaries;
use runtime::https::{Body, Inbound, Unread, full};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::batch::Queue;
use crate::cache::Results;
use crate::jobs::Jobs;
use crate::metrics::Metrics;
use crate::receipt::Receipts;
use crate::serving::{Gossip, Serving};
use auth::{AssumedKey, Caller};
use body::Room;
use reply::Problem;
use route::Route;

pub use status::{DeviceStatus, NodeStatus, ServedModel};

/// What the door needs of the rest of the node.
#[derive(Debug)]
pub struct Parts {
    /// This node's name.
    pub node: NodeId,
    /// What may be served.
    pub serving: Serving,
    /// Answers of before.
    pub results: Results,
    /// How much tenants may ask.
    pub rates: rate::Rates,
    /// Answers for later, where they are kept.
    pub jobs: Option<Jobs>,
    /// Signed promises with answers, where they are given.
    pub receipts: Option<Receipts>,
    /// The public key that webhooks are signed by, where any are sent.
    pub webhook_key: Option<String>,
    /// The way to the engine.
    pub queue: Queue,
    /// Takes what routers have seen to sync.
    pub gossip: Gossip,
    /// What is counted here.
    pub metrics: Metrics,
    /// All that the process counts, for `/metrics`.
    pub registry: Arc<runtime::metrics::Metrics>,
    /// Cancelled when the node is about to stop: it tells so and goes on answering until its listeners close.
    pub draining: CancellationToken,
    /// Which countries are in which boundary.
    pub boundaries: &'static Boundaries,
}

/// The HTTP service of a node. Clones share everything.
#[derive(Clone, Debug)]
pub struct Ingress(Arc<Door>);

#[derive(Debug)]
struct Door {
    parts: Parts,
    /// This node's name, as every answer carries it.
    name: HeaderValue,
    /// Memory for request bodies.
    room: Room,
    /// What requests of this machine without a key are taken to carry.
    plain_key: Option<AssumedKey>,
    /// Places of those who watch this node's health.
    watches: Arc<Semaphore>,
    /// Places of purges that are under way or wait.
    purges: Semaphore,
    /// Places of pages about receipts.
    receipt_pages: Semaphore,
}

type Answer = Response<Bytes>;

impl Ingress {
    /// A door that is not open yet: give it to [`runtime::https::serve`].
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let name = HeaderValue::try_from(parts.node.to_string()).expect("names are printable ASCII");
        Self(Arc::new(Door {
            parts,
            name,
            room: Room::of(INFER_BODIES_BYTES_MAX),
            plain_key: None,
            watches: Arc::new(Semaphore::new(HEALTH_WATCHES_MAX)),
            purges: Semaphore::new(PURGES_WAITING_MAX),
            receipt_pages: Semaphore::new(RECEIPT_PAGES_MAX),
        }))
    }

    /// Takes requests over a plain listener that carry no key as if they carried the one with the hash `key`.
    ///
    /// # Panics
    /// When it was cloned before.
    #[must_use]
    pub fn assuming(self, key: Option<ContentHash>) -> Self {
        let door = Arc::into_inner(self.0).expect("a door is finished before it is shared");
        let plain_key = key.map(AssumedKey);
        Self(Arc::new(Door { plain_key, ..door }))
    }
}

impl Service<Request<Inbound>> for Ingress {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn call(&self, request: Request<Inbound>) -> Self::Future {
        let door = Arc::clone(&self.0);
        Box::pin(async move {
            let (mut request, mut body) = Unread::split(request);
            if let Some(key) = door.plain_key.filter(|_| Caller::is_local(&request)) {
                request.extensions_mut().insert(key);
            }
            if grpc::speaks(&request) {
                let answered = grpc::answer(&door, request, &mut body).await;
                body.drain().await;
                let mut answer = answered.unwrap_or_else(grpc::refuse);
                // A call has no header of its connection: HTTP/2 itself tells clients to move on.
                reply::sign(&mut answer, &door.name, false);
                return Ok(answer);
            }
            let encoding = compress::wanted(request.headers());
            let answered = door.answer(request, &mut body).await;
            body.drain().await;
            let answer = answered.unwrap_or_else(Problem::into_answer);
            let mut answer = compress::fit(encoding, answer).await;
            reply::sign(&mut answer, &door.name, door.parts.draining.is_cancelled());
            Ok(answer.map(full))
        })
    }
}

impl Door {
    /// Answers one request, and takes its body only if it reads it.
    async fn answer(&self, request: Request<()>, body: &mut Unread) -> Result<Answer, Problem> {
        let parts = &self.parts;
        match route::of(request.method(), request.uri().path())? {
            Route::Infer(target) => rest::answer(self, &target, request, body).await,
            Route::Live => Ok(reply::empty(StatusCode::OK)),
            Route::Ready => status::ready(parts),
            Route::Server => Ok(reply::json(&metadata::server())),
            Route::Model(target) => {
                let set = parts.serving.load();
                Caller::of(&request, &set).known()?;
                Ok(reply::json(&metadata::model(target.find(&set)?)))
            }
            Route::ModelReady(target) => {
                let set = parts.serving.load();
                Caller::of(&request, &set).known()?;
                target.find(&set).map(|_| reply::empty(StatusCode::OK))
            }
            Route::Generate(target) => generate::answer(self, &target, request, body, generate::Form::Whole).await,
            Route::GenerateStream(target) => {
                generate::answer(self, &target, request, body, generate::Form::Events).await
            }
            Route::Embeddings => embeddings::answer(self, request, body).await,
            Route::Config(target) => {
                let set = parts.serving.load();
                Caller::of(&request, &set).known()?;
                Ok(reply::json(&model_config::document(target.find(&set)?)))
            }
            Route::Stats(target) => {
                let set = parts.serving.load();
                Caller::of(&request, &set).known()?;
                Ok(match target {
                    Some(target) => reply::json(&model_stats::document(std::iter::once(&**target.find(&set)?))),
                    None => reply::json(&model_stats::document(set.models.values().map(|slot| &**slot))),
                })
            }
            Route::Manage(call) => manage::answer(self, &call, &request, body).await,
            Route::Jobs(page) => jobs::answer(self, page, &request).await,
            Route::Receipts(page) => receipts::answer(self, page, &request).await,
            Route::Purge => purge::answer(self, &request, body).await,
            Route::OpenApi => Ok(openapi::document()),
            Route::Node => {
                Caller::of(&request, &parts.serving.load()).of_the_fleet()?;
                Ok(reply::json(&status::node(parts)))
            }
            Route::Usage => {
                let set = parts.serving.load();
                Caller::of(&request, &set).of_the_fleet()?;
                let tenants = set.tenants.values().map(|tenant| &tenant.id);
                Ok(reply::json(&parts.metrics.usage.page(tenants, parts.queue.threads())))
            }
            Route::Metrics => {
                Caller::of(&request, &parts.serving.load()).of_the_fleet()?;
                Ok(reply::text(runtime::metrics::CONTENT_TYPE, parts.registry.encode()))
            }
            Route::Checkpoints => {
                Caller::of(&request, &parts.serving.load()).of_the_fleet()?;
                status::checkpoints(parts, &self.room, body.take()).await
            }
        }
    }
}

#[cfg(test)]
mod tests;
