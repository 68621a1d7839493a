//! Compares the log as this node has followed it with what others were shown.
//!
//! A control plane that tells two regions two stories must sign two checkpoints. Routers carry the one they saw to every
//! node they probe; where two exclude each other, or the log cannot prove that they do not, activations stop.

use std::time::Duration;

use proto::limits::NOTE_BYTES_MAX;
use proto::message::{ErrorCode, Request, Response};
use proto::region_state::RegionState;
use proto::signed::{Document, Signed};
use runtime::clock;
use runtime::lifecycle::Lifecycle;
use runtime::quic::Connection;
use tokio::sync::mpsc;

use super::belief::Belief;
use super::history::Heard;
use super::instruments::Instruments;
use super::link::Link;

/// How long a proof may take.
const PROOF_MAX: Duration = Duration::from_secs(5);

/// The loop over checkpoints that routers have seen.
pub(super) struct Listener {
    pub(super) link: Link,
    pub(super) belief: Belief,
    pub(super) instruments: Instruments,
    pub(super) lifecycle: Lifecycle,
    pub(super) heard: mpsc::Receiver<String>,
}

impl Listener {
    pub(super) async fn run(mut self) {
        let drain = self.lifecycle.drain().clone();
        loop {
            let note = tokio::select! {
                note = self.heard.recv() => note,
                () = drain.cancelled() => None,
            };
            let Some(note) = note else { return };
            let link = self.link.current();
            tokio::select! {
                () = compare(&self.belief, link.as_ref(), note) => {}
                () = drain.cancelled() => return,
            }
            let forked = self.belief.orders().borrow().forked;
            self.instruments.forked.set(i64::from(forked));
        }
    }
}

/// Compares one checkpoint. Without a connection it is dropped: gossip comes again.
pub(super) async fn compare(belief: &Belief, connection: Option<&Connection>, note: String) {
    if note.len() > NOTE_BYTES_MAX {
        return;
    }
    let blocking = belief.clone();
    let heard = tokio::task::spawn_blocking(move || blocking.hear(&note, clock::now_ms())).await;
    let Ok(Heard::Ask(pair)) = heard else { return };
    let Some(connection) = connection else { return };
    let (older, newer) = *pair;
    let question = Request::Consistency {
        from: older.checkpoint.size,
        to: newer.checkpoint.size,
    };
    let answer = tokio::time::timeout(PROOF_MAX, connection.ask(&question)).await;
    let proof = match answer {
        Ok(Ok(Response::Proof(proof))) => Some(proof),
        // The log does not hold what its key signed.
        Ok(Ok(Response::Error {
            code: ErrorCode::NotFound,
            ..
        })) => None,
        // No answer, or none to this question: says nothing about the log.
        other => {
            tracing::warn!(answer = ?other.map(|r| r.map(|_| ())), "could not compare checkpoints yet");
            return;
        }
    };
    let blocking = belief.clone();
    let settled = move || blocking.settle(&older, &newer, proof.as_deref(), clock::now_ms());
    if let Err(e) = tokio::task::spawn_blocking(settled).await {
        tracing::error!(error = %e, "comparing checkpoints failed");
    }
}

/// Compares the checkpoint inside a state whose signature was verified.
pub(super) async fn compare_state(belief: &Belief, connection: &Connection, state: &Signed) {
    if let Ok(state) = RegionState::decode(&state.payload) {
        compare(belief, Some(connection), state.checkpoint).await;
    }
}
