//! Carries one request to the chosen node, and to the next allowed one when that one cannot take it.
//!
//! ```text
//!   for the accepted nodes, best first, at most ATTEMPTS_MAX:
//!     no connection          nothing was sent: the next one
//!     503 (gRPC: 14, full 8) refused at the node's door: the next one; if all refuse, the last refusal goes through
//!     cut off before a head  the node may have worked on it: once more if that changes nothing, else give up
//!     a head                 goes through, its body streams; a short body is read whole first, so that a node
//!                            that dies between head and end is one that was cut off
//! ```
//! Only nodes that the decision accepted are ever tried: this module cannot leave the boundary.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use proto::ids::PrincipalName;
use proto::limits::{ANSWER_HELD_BYTES_MAX, ATTEMPTS_MAX, ERROR_BODY_BYTES_MAX};
use regions::health::{Event, State};
use regions::steer::Decision;
use regions::topology::{Node, Topology};
use runtime::https::{Body, Client, Inbound, full};
use runtime::telemetry::{chain, inject_current};
use tokio::time::timeout_at;

use super::replay::{Attempt, Budget, Recording};
use super::{door, grpc, headers, timing};
use crate::metrics::Instruments;
use crate::probe::server_name;
use crate::steering::Steering;

const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
/// Where a node sends those whom it refuses and who asked it directly.
const ELSEWHERE: HeaderName = HeaderName::from_static("meridian-elsewhere");

/// Sends requests to nodes.
pub struct Proxy {
    /// Sends as this router.
    pub client: Client,
    /// Name of the fleet.
    pub fleet: PrincipalName,
    /// Name of this router.
    pub name: String,
    /// What bodies are kept in.
    pub budget: Budget,
    /// Who is told how nodes do.
    pub steering: Arc<Steering>,
    /// What is counted.
    pub instruments: Instruments,
}

/// One request on its way.
pub(super) struct Job {
    /// As it came, without the headers of its hop.
    pub(super) head: Parts,
    /// Path and query for the node.
    pub(super) path: String,
    /// Its body.
    pub(super) body: Recording<Inbound>,
    /// The view it is steered by.
    pub(super) fleet: Arc<Topology>,
    /// Who may answer it.
    pub(super) decision: Decision,
    /// When it came.
    pub(super) began: Instant,
    /// When its answer must have begun.
    pub(super) deadline: Instant,
    /// Whether the client named that deadline.
    pub(super) deadline_named: bool,
    /// Whether doing it twice is doing it once.
    pub(super) idempotent: bool,
    /// What it is traced as.
    pub(super) span: tracing::Span,
}

/// Why a request has no answer of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failed {
    /// No node that may answer can be connected to.
    NobodyUp,
    /// A node broke off, and the request could not be sent again.
    Unreachable,
    /// No answer began in time.
    Deadline,
    /// The client broke off.
    Client,
}

enum Tried {
    Answered(Response<Body>),
    TurnedAway(Response<Body>),
    NotConnected,
    CutOff,
}

impl Proxy {
    /// Sends `job` to the nodes of its decision until one answers.
    pub(super) async fn send(&self, job: &Job) -> Result<Response<Body>, Failed> {
        let mut nodes: VecDeque<usize> = job.decision.accepted().map(|c| c.node).collect();
        let mut resend = job.idempotent;
        let mut refusal = None;
        for attempt in 0..ATTEMPTS_MAX {
            let Some(index) = nodes.pop_front() else { break };
            let Some(body) = job.body.attempt() else {
                return refusal.ok_or(Failed::Unreachable);
            };
            if attempt == 0 {
                self.instruments.route_seconds.observe(seconds_since(job.began));
            } else {
                self.instruments.replays.inc();
            }
            match self.attempt(job, &job.fleet.nodes[index], body).await? {
                Tried::Answered(response) => return Ok(response),
                Tried::TurnedAway(response) => refusal = Some(response),
                Tried::NotConnected => {}
                Tried::CutOff if resend => {
                    resend = false;
                    // If nobody else is left, whether it can still be connected to tells what happened.
                    nodes.push_back(index);
                }
                Tried::CutOff => return Err(Failed::Unreachable),
            }
        }
        let failed = if nodes.is_empty() {
            Failed::NobodyUp
        } else {
            Failed::Unreachable
        };
        refusal.ok_or(failed)
    }
    async fn attempt(&self, job: &Job, node: &Node, body: Attempt<Inbound>) -> Result<Tried, Failed> {
        let name = server_name(&node.id, &self.fleet);
        let Some(request) = self.request(job, body) else {
            return Err(Failed::Client);
        };
        let deadline = tokio::time::Instant::from_std(job.deadline);
        let _on_its_way = self.steering.sent(node);
        let sent = timeout_at(deadline, self.client.request(node.ingress, &name, request)).await;
        match sent.map_err(|_| Failed::Deadline)? {
            Ok(response)
                if response.status() == StatusCode::SERVICE_UNAVAILABLE || grpc::turned_away(response.headers()) =>
            {
                let read = timeout_at(deadline, self.turned_away(node, response, job.began)).await;
                Ok(Tried::TurnedAway(read.map_err(|_| Failed::Deadline)?))
            }
            Ok(response) => {
                let read = timeout_at(deadline, self.whole_if_short(job, response)).await;
                let Some(response) = read.map_err(|_| Failed::Deadline)? else {
                    tracing::info!(node = %node.id, "a node broke off its answer");
                    self.steering.learn(&node.id, Event::Broke);
                    return Ok(Tried::CutOff);
                };
                job.span.record("node", node.id.to_string());
                if self.steering.state(&node.id) == State::Suspect {
                    self.steering.learn(&node.id, Event::Served);
                }
                Ok(Tried::Answered(self.through(response, job.began)))
            }
            Err(_) if job.body.client_broke() => Err(Failed::Client),
            Err(error) => {
                tracing::info!(node = %node.id, error = chain(&error), "a node did not answer");
                self.steering.learn(&node.id, Event::Broke);
                Ok(if error.nothing_was_sent() {
                    Tried::NotConnected
                } else {
                    Tried::CutOff
                })
            }
        }
    }
    /// The request as a node gets it.
    fn request(&self, job: &Job, body: Attempt<Inbound>) -> Option<Request<Body>> {
        let mut request = Request::builder()
            .method(job.head.method.clone())
            .uri(job.path.as_str());
        let out = request.headers_mut()?;
        out.clone_from(&job.head.headers);
        headers::via(out, &self.name);
        inject_current(&job.span, out);
        if job.deadline_named {
            let left = job.deadline.saturating_duration_since(runtime::clock::instant());
            let left_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX).max(1);
            out.insert(door::DEADLINE, HeaderValue::from(left_ms));
        }
        request.body(body.boxed_unsync()).ok()
    }
    /// The answer, with its body read if that is short, announced and there is room; `None` if it broke off meanwhile.
    async fn whole_if_short(&self, job: &Job, response: Response<Incoming>) -> Option<Response<Body>> {
        let (head, body) = response.into_parts();
        let announced = http_body::Body::size_hint(&body)
            .exact()
            .and_then(|n| usize::try_from(n).ok());
        // What ends with trailers is not short, whatever length it announces.
        let held = job.idempotent && !grpc::is_grpc(&head.headers);
        let short = announced.filter(|&n| n <= ANSWER_HELD_BYTES_MAX && held);
        let Some(_room) = short.and_then(|n| self.budget.reserve(n)) else {
            return Some(Response::from_parts(head, body.map_err(Into::into).boxed_unsync()));
        };
        let bytes = body.collect().await.ok()?.to_bytes();
        Some(Response::from_parts(head, full(bytes)))
    }
    /// A node that answered 503: learns why, and keeps its answer in case nobody else takes the request.
    async fn turned_away(&self, node: &Node, response: Response<Incoming>, began: Instant) -> Response<Body> {
        let (head, body) = response.into_parts();
        let read = Limited::new(body, ERROR_BODY_BYTES_MAX).collect().await;
        let bytes: Bytes = read.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        let code = serde_json::from_slice::<serde_json::Value>(&bytes).ok();
        let draining = code.is_some_and(|value| value["code"] == "draining") || grpc::is_draining(&head.headers);
        self.steering.learn(
            &node.id,
            if draining {
                Event::LeavingSoon
            } else {
                Event::TurnedAway
            },
        );
        let mut response = Response::from_parts(head, full(bytes));
        response.headers_mut().remove(header::CONTENT_LENGTH);
        self.through(response, began)
    }
    /// A node's answer, whose request came at `began`, as the client gets it.
    fn through(&self, mut response: Response<Body>, began: Instant) -> Response<Body> {
        let out = response.headers_mut();
        headers::strip(out);
        // Who came through a router is spilled by it, and may not reach nodes at all.
        out.remove(ELSEWHERE);
        headers::via(out, &self.name);
        let whole_ms = seconds_since(began) * 1e3;
        if let Some(timing) = out
            .get(SERVER_TIMING)
            .and_then(|told| timing::with_route(told, whole_ms))
        {
            out.insert(SERVER_TIMING, timing);
        }
        response
    }
}

fn seconds_since(began: Instant) -> f64 {
    runtime::clock::instant().saturating_duration_since(began).as_secs_f64()
}
