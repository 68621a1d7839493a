//! The door for machines and publishers: QUIC, one question a stream, answered by what the caller's role allows.
//!
//! ```text
//!   peer --> role (certificate) --> enrolled? (log) --> allowed (table) --> answer | follow
//! ```
//! Bounds: connections and streams by the transport, chunks of one request by `CHUNKS_PER_REQUEST_MAX`, bytes of one
//! message by the frame. A stream holds one chunk in memory at a time. Nothing here decides what runs where.
//!
//! What a publisher does, each step idempotent, so that a broken run is simply run again:
//! 1. `NextVersion(model)`, then make the manifest;
//! 2. `Missing { chunks }`, then `PutChunk` for each of them, many on one stream;
//! 3. `PutManifest`: `Done` means that whole, verified files are on disk;
//! 4. `Command` with [`Body::Publish`](proto::entry::Body::Publish). For a rollout: `PutPlan`, `Command` with `Plan`.
//!
//! What an operator does for every command:
//! 1. `Checkpoint`: its second line is the log's size, the epoch to sign for;
//! 2. sign [`command_message`](proto::entry::command_message)`(fleet, epoch, body)` with the key that `trust.json` lists;
//! 3. `Command` with a [`Leaf`](proto::entry::Leaf) in JSON: time 0, `by` the name in the certificate, `sig`, `body`;
//! 4. on `Conflict` somebody else's entry came first: begin again at 1. `Logged` means that the entry is on disk.

pub mod allowed;
mod answer;
mod follow;
mod neighbours;

use std::sync::Arc;

use proto::entry::Fleet;
use proto::ids::NodeId;
use proto::message::{ErrorCode, Request, Response};
use proto::note::Verifier;
use proto::signed::PublicKey;
use runtime::identity::Role;
use runtime::lifecycle::Lifecycle;
use runtime::quic::{Connection, Peer, QuicError, Server, Stream};
use runtime::telemetry::chain;
use tracing::Instrument;

use crate::artifacts::intake::Artifacts;
use crate::ledger::Ledger;
use crate::metrics::{Instruments, Outcome, RequestLabels};
use crate::registry::Registry;
use crate::rollout::conductor::Conductor;
use crate::state::maker::Outbox;

/// All that answers are made of. Cheap to clone.
#[derive(Clone)]
pub struct Service {
    /// The log.
    pub ledger: Ledger,
    /// The bytes.
    pub artifacts: Artifacts,
    /// What nodes tell.
    pub registry: Registry,
    /// Takes evidence.
    pub conductor: Conductor,
    /// The newest states and views.
    pub outbox: Outbox,
    /// Checks checkpoints that others have seen.
    pub log_key: Arc<Verifier>,
    /// Counts.
    pub instruments: Instruments,
    /// Ends streams when it drains.
    pub lifecycle: Lifecycle,
}

/// Who asks, on which connection.
#[derive(Clone)]
struct Caller {
    role: Role,
    key: Option<PublicKey>,
    connection: Connection,
}

/// Answers `server`'s peers until the lifecycle drains.
pub async fn serve(server: Server, service: Service) {
    loop {
        let peer = tokio::select! {
            peer = server.accept() => peer,
            () = service.lifecycle.drain().cancelled() => None,
        };
        let Some(peer) = peer else { break };
        let span = tracing::info_span!("peer", role = %peer.role, address = %peer.address);
        let service = service.clone();
        let lifecycle = service.lifecycle.clone();
        lifecycle.spawn("peer", service.attend(peer).instrument(span));
    }
    server.close().await;
}

impl Service {
    async fn attend(self, peer: Peer) {
        self.instruments.connections.inc();
        let caller = Caller {
            role: peer.role.clone(),
            key: peer.connection().peer_key(),
            connection: peer.connection().clone(),
        };
        tracing::debug!("connected");
        loop {
            let stream = tokio::select! {
                stream = peer.accept() => stream,
                () = self.lifecycle.drain().cancelled() => None,
            };
            let Some(stream) = stream else { break };
            let (service, caller) = (self.clone(), caller.clone());
            let conversation = async move {
                if let Err(error) = service.converse(&caller, stream).await {
                    tracing::debug!(error = chain(&error), "stream ended early");
                }
            };
            self.lifecycle.spawn("stream", conversation.in_current_span());
        }
        self.instruments.connections.dec();
    }

    /// Questions and answers on one stream, until the caller finishes it or a question is refused.
    async fn converse(&self, caller: &Caller, mut stream: Stream) -> Result<(), QuicError> {
        loop {
            let request = tokio::select! {
                request = stream.read::<Request>() => request?,
                () = self.lifecycle.drain().cancelled() => None,
            };
            let Some(request) = request else { return Ok(()) };
            let kind = allowed::kind(&request);
            let span = tracing::info_span!("request", request = kind);
            let answered = match self.admit(caller, &request) {
                Ok(()) => self.respond(caller, request, &mut stream).instrument(span).await?,
                Err(refused) => Err(refused),
            };
            let outcome = match &answered {
                Ok(()) => Outcome::Done,
                Err(Refused {
                    code: ErrorCode::Internal,
                    ..
                }) => Outcome::Failed,
                Err(_) => Outcome::Refused,
            };
            self.instruments
                .requests
                .get_or_create(&RequestLabels { request: kind, outcome })
                .inc();
            if let Err(Refused { code, message }) = answered {
                tracing::info!(request = kind, ?code, message, "refused");
                stream.write(&Response::Error { code, message }).await?;
                return Ok(());
            }
        }
    }

    async fn respond(&self, caller: &Caller, request: Request, stream: &mut Stream) -> Result<Answered, QuicError> {
        match request {
            Request::Follow { after_seq, tree_size } => {
                let Role::Node(node) = &caller.role else {
                    return Ok(Err(forbidden("only nodes follow a region")));
                };
                let states = self.outbox.states_of(&node.region);
                self.follow(caller, stream, states, (after_seq, tree_size), state_answer)
                    .await
            }
            Request::FollowView { after_seq, tree_size } => {
                let views = self.outbox.views();
                self.follow(caller, stream, views, (after_seq, tree_size), view_answer)
                    .await
            }
            Request::Chunks { chunks } => self.send_chunks(stream, chunks).await,
            request => match self.answer(caller, request).await {
                Ok(response) => stream.write(&response).await.map(Ok),
                Err(refused) => Ok(Err(refused)),
            },
        }
    }

    /// Whether this caller may ask this now: by the table, and nodes by the log.
    fn admit(&self, caller: &Caller, request: &Request) -> Answered {
        if !allowed::allowed(&caller.role, request) {
            return Err(forbidden(&format!(
                "a {} may not ask `{}`",
                role_name(&caller.role),
                allowed::kind(request)
            )));
        }
        match &caller.role {
            Role::Node(node) if !is_enrolled(&self.ledger.snapshot().fleet, node, caller.key) => Err(forbidden(
                &format!("node `{node}` is not enrolled with this key: enrol it, or it was revoked"),
            )),
            _ => Ok(()),
        }
    }
}

/// Why a question gets no answer.
struct Refused {
    code: ErrorCode,
    message: String,
}

type Answered = Result<(), Refused>;

fn forbidden(message: &str) -> Refused {
    Refused {
        code: ErrorCode::Forbidden,
        message: message.to_owned(),
    }
}

fn is_enrolled(fleet: &Fleet, node: &NodeId, key: Option<PublicKey>) -> bool {
    fleet
        .nodes
        .get(node)
        .is_some_and(|entry| entry.enrolled && Some(entry.key) == key)
}

fn role_name(role: &Role) -> &'static str {
    match role {
        Role::ControlPlane => "control plane",
        Role::Node(_) => "node",
        Role::Router(_) => "router",
        Role::Operator(_) => "operator",
        Role::Auditor { .. } => "auditor",
    }
}

fn state_answer(state: proto::signed::Signed, consistency: Vec<[u8; 32]>) -> Response {
    Response::State { state, consistency }
}

fn view_answer(view: proto::signed::Signed, consistency: Vec<[u8; 32]>) -> Response {
    Response::View { view, consistency }
}
