//! One request from its head to its answer: who asks, from where, who may answer, and then it is carried out.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http::request::Parts;
use http::{HeaderValue, Request, Response, StatusCode, header};
use proto::ids::ModelName;
use regions::explain;
use regions::policy::Boundaries;
use regions::prefix::Cidr;
use regions::steer::{Ask, Decision, Refusal};
use regions::topology::{Customer, Topology, token};
use runtime::https::{Body, Inbound, Origin, PeerAddr, Transport, Unread, empty};
use runtime::identity::Role;
use runtime::metrics::Metrics;
use runtime::telemetry::extract_parent;
use tracing::Instrument;

use super::door::{self, Route, Wish};
use super::proxy::{Failed, Job, Proxy};
use super::replay::Recording;
use super::reply::{self, Reply};
use super::{client_address, content, grpc, headers, status};
use crate::config::Mode;
use crate::gossip::Gossip;
use crate::metrics::{Instruments, Outcome};
use crate::steering::Steering;

/// How long a node may take to begin its answer when the client names no deadline.
const ANSWER_WAIT: Duration = Duration::from_secs(120);
/// Names a request in the spans and logs of router and node.
const REQUEST_ID: &str = "meridian-request-id";

/// What answering requests takes; shared by all connections.
pub struct Front {
    /// Who answers?
    pub steering: Arc<Steering>,
    /// Carries it there.
    pub proxy: Proxy,
    /// Which checkpoints were seen.
    pub gossip: Arc<Mutex<Gossip>>,
    /// What is counted.
    pub instruments: Instruments,
    /// What `/metrics` shows.
    pub metrics: Arc<Metrics>,
    /// Proxies that are believed.
    pub forwarded_from: Vec<Cidr>,
    /// What is done unless the request asks for something else.
    pub mode: Mode,
    /// Numbers requests; starts anywhere.
    pub requests: AtomicU64,
}

impl Front {
    /// Answers one request. Dropping the future drops the request to the node.
    ///
    /// # Errors
    /// Never: what goes wrong is an answer too.
    pub async fn answer(self: Arc<Self>, request: Request<Inbound>) -> Result<Response<Body>, Infallible> {
        let began = runtime::clock::instant();
        let id = format!("{:016x}", self.requests.fetch_add(1, Ordering::Relaxed));
        let span = tracing::info_span!(
            "route",
            request_id = id,
            model = tracing::field::Empty,
            node = tracing::field::Empty,
            outcome = tracing::field::Empty
        );
        extract_parent(request.headers(), &span);
        let call = grpc::speaks(&request);
        let (request, mut body) = Unread::split(request);
        let decided = self.decide(request, &mut body, began, &id, &span);
        let (mut response, outcome) = decided.instrument(span.clone()).await;
        body.drain().await;
        if call {
            response = grpc::translated(response).await;
        }
        self.instruments.request(outcome);
        span.record("outcome", outcome.name());
        if let Ok(id) = HeaderValue::from_str(&id) {
            response.headers_mut().entry(REQUEST_ID).or_insert(id);
        }
        Ok(response)
    }
    /// Decides and carries out; takes the body only if it sends it on.
    async fn decide(
        &self,
        request: Request<()>,
        body: &mut Unread,
        began: Instant,
        id: &str,
        span: &tracing::Span,
    ) -> Reply {
        let route = about(&request);
        if let Some(reply) = self.local(&route, &request) {
            return reply;
        }
        let model = match &route {
            Route::Model(model) => Some(model),
            _ => None,
        };
        let Some(fleet) = self.steering.fleet() else {
            return reply::error(
                StatusCode::SERVICE_UNAVAILABLE,
                Outcome::NotReady,
                "the router has not heard of its fleet yet: try again",
            );
        };
        let (mut head, ()) = request.into_parts();
        let Some(customer) = door::key_hash(&head.headers).and_then(|hash| fleet.customer(&hash).cloned()) else {
            let message = "send `Authorization: Bearer` with a key that is valid here";
            return reply::error(StatusCode::UNAUTHORIZED, Outcome::Unauthorized, message);
        };
        let Ok(named) = door::deadline(&head.headers) else {
            let message = "Meridian-Deadline-Ms is no number of milliseconds from 1";
            return reply::error(StatusCode::BAD_REQUEST, Outcome::Malformed, message);
        };
        if let Some(model) = model {
            span.record("model", model.as_str());
        }
        let (ask, mut decision) = self.steer(&head, &fleet, &customer, model);
        if let Route::Kept(node) = &route {
            decision.only(|index| fleet.nodes[index].id == *node);
        }
        match door::wish(&head, self.mode) {
            Wish::Explain => {
                let json = explain::to_json(&ask.of(&customer, model), &decision, &fleet);
                return (reply::json(&json), Outcome::Explained);
            }
            Wish::Redirect => return redirect(&head, &fleet, &decision, model),
            Wish::Proxy => {}
        }
        if let Err(refusal) = decision.outcome {
            return reply::refused(refusal, model.map(ModelName::as_str));
        }
        let path = door::path_for_node(&head);
        let idempotent = door::is_idempotent(&head.method, head.uri.path());
        prepare(&mut head, id);
        let job = Job {
            path,
            body: Recording::new(body.take(), self.proxy.budget.clone()),
            fleet,
            decision,
            began,
            deadline: began + named.unwrap_or(ANSWER_WAIT),
            deadline_named: named.is_some(),
            idempotent,
            span: span.clone(),
            head,
        };
        match self.carry(job, &customer).await {
            Ok(response) => (response, Outcome::Proxied),
            Err(failed) => failure(failed, &customer, model),
        }
    }
    /// Sends `job` to the node that its content chooses, or to the next one.
    async fn carry(&self, mut job: Job, customer: &Customer) -> Result<Response<Body>, Failed> {
        content::choose(&self.steering, &mut job, &customer.id).await?;
        self.proxy.send(&job).await
    }
    /// Answers what is the router's own, and what is nobody's.
    fn local(&self, route: &Route, request: &Request<()>) -> Option<Reply> {
        let origin = Origin::of(request.extensions());
        let role = origin.and_then(|origin| origin.role.as_ref());
        // Auditors ask the control plane, which knows what is theirs to see.
        let part = role.is_some_and(|role| !matches!(role, Role::Auditor { .. }));
        let of_fleet = part || origin.is_some_and(|origin| origin.transport == Transport::Plain);
        let local = |response| Some((response, Outcome::Local));
        match route {
            Route::Live => local(Response::new(empty())),
            Route::Ready => {
                let mut response = Response::new(empty());
                if self.steering.fleet().is_none() {
                    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                }
                local(response)
            }
            Route::Status | Route::Metrics if !of_fleet => {
                let message = "only a certificate of the fleet or the plain listener may ask this";
                Some(reply::error(StatusCode::FORBIDDEN, Outcome::Forbidden, message))
            }
            Route::Status => local(reply::json(&status::status(self))),
            Route::Metrics => local(reply::text(runtime::metrics::CONTENT_TYPE, self.metrics.encode())),
            Route::BadModel => {
                let name: String = request
                    .uri()
                    .path()
                    .split('/')
                    .nth(3)
                    .unwrap_or_default()
                    .chars()
                    .take(80)
                    .collect();
                Some(reply::refused(Refusal::UnknownModel, Some(&name)))
            }
            Route::Other => {
                let message = "nothing is served here: the inference protocol is under /v2";
                Some(reply::error(StatusCode::NOT_FOUND, Outcome::Malformed, message))
            }
            Route::Server | Route::Model(_) | Route::Kept(_) => None,
        }
    }
    fn steer(
        &self,
        head: &Parts,
        fleet: &Topology,
        customer: &Customer,
        model: Option<&ModelName>,
    ) -> (Asked, Decision) {
        let peer = match Origin::of(&head.extensions).map(|origin| origin.peer) {
            Some(PeerAddr::Ip(address)) => address.ip(),
            Some(PeerAddr::Unix) | None => IpAddr::V4(Ipv4Addr::LOCALHOST),
        };
        let ip = client_address::of(peer, &head.headers, &self.forwarded_from);
        let ask = self
            .steering
            .ask(ip, &customer.boundary, model, door::session(&head.headers));
        let asked = Asked {
            client: ask.client,
            affinity: ask.affinity,
        };
        (asked, self.steering.decide(fleet, &ask))
    }
}

/// What of a question does not borrow.
struct Asked {
    client: Option<regions::geo::Position>,
    affinity: u64,
}

impl Asked {
    fn of<'a>(&self, customer: &'a Customer, model: Option<&'a ModelName>) -> Ask<'a> {
        Ask {
            client: self.client,
            boundary: &customer.boundary,
            model,
            affinity: self.affinity,
        }
    }
}

/// What a request is about. Where the model stands in the body, a header may name it for the router.
fn about(request: &Request<()>) -> Route {
    let route = door::route(request.uri().path());
    match grpc::model(request.headers()) {
        Some(model) if route == Route::Server => Route::Model(model),
        _ => route,
    }
}

/// Takes out of the head what is not for the node, and names the request.
fn prepare(head: &mut Parts, id: &str) {
    headers::strip(&mut head.headers);
    head.headers.remove(header::HOST);
    head.headers.remove(header::EXPECT);
    // Nodes do not need to know where a client is.
    head.headers.remove("x-forwarded-for");
    head.headers.remove("forwarded");
    if let Ok(id) = HeaderValue::from_str(id) {
        head.headers.insert(REQUEST_ID, id);
    }
}

fn redirect(head: &Parts, fleet: &Topology, decision: &Decision, model: Option<&ModelName>) -> Reply {
    let node = match decision.outcome {
        Ok(node) => &fleet.nodes[node],
        Err(refusal) => return reply::refused(refusal, model.map(ModelName::as_str)),
    };
    let location = format!("https://{}{}", node.ingress, door::path_for_node(head));
    let Ok(location) = HeaderValue::from_str(&location) else {
        return reply::error(
            StatusCode::BAD_REQUEST,
            Outcome::Malformed,
            "the path cannot be sent on",
        );
    };
    let mut response = Response::new(empty());
    *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
    response.headers_mut().insert(header::LOCATION, location);
    (response, Outcome::Redirected)
}

fn failure(failed: Failed, customer: &Customer, model: Option<&ModelName>) -> Reply {
    let model = model.map(ModelName::as_str);
    match failed {
        Failed::NobodyUp if Boundaries::builtin().is_bounded(&customer.boundary) => {
            reply::refused(Refusal::Residency, model)
        }
        Failed::NobodyUp => reply::refused(Refusal::NoneHealthy, model),
        Failed::Unreachable => reply::error(
            StatusCode::SERVICE_UNAVAILABLE,
            Outcome::Unreachable,
            "a node broke off and the request cannot be sent again from here: send it again",
        ),
        Failed::Deadline => reply::error(
            StatusCode::GATEWAY_TIMEOUT,
            Outcome::Deadline,
            "no answer began before the deadline",
        ),
        Failed::Client => reply::error(
            StatusCode::BAD_REQUEST,
            Outcome::Malformed,
            "the request body broke off",
        ),
    }
}

/// Where to begin numbering requests: a restarted router does not repeat numbers soon.
#[must_use]
pub(crate) fn first_request(name: &str, now_ms: u64) -> u64 {
    token(format!("{name} {now_ms}").as_bytes()) & !0xffff_ffff
}
