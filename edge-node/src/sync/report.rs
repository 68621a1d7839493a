//! Tells the control plane how this node is: on every change and about once a second.
//!
//! What counts for a rollout is only the signed [`ReadyReport`] inside; the rest is telemetry. A report that gets no
//! answer in time ends the connection, so that the follower makes a new one: this is also the node's pulse. With every few
//! reports it asks where its refusals may point to.

use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::ids::{NodeId, UnixMs};
use proto::message::{ModelReport, NodeReport, Request, Response, Stage};
use proto::plan::ReadyReport;
use proto::signed::Signed;
use runtime::clock;
use runtime::identity::Identity;
use runtime::lifecycle::Lifecycle;
use tokio::sync::watch;

use super::belief::Belief;
use super::instruments::{ByOutcome, Instruments, Outcome};
use super::link::Link;
use crate::elsewhere::Elsewhere;
use crate::memory::Memory;
use crate::release::Status;
use crate::serving::Serving;

/// A report goes out at least this often.
const PERIOD: Duration = Duration::from_secs(1);
/// And at most this often.
const PAUSE: Duration = Duration::from_millis(100);
/// How often it asks for other nodes.
const NEIGHBOURS_PERIOD: Duration = Duration::from_secs(5);
/// Longest reason that is sent.
const REASON_BYTES_MAX: usize = 400;
/// How long an answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// The loop of reports.
pub(super) struct Reporter {
    pub(super) link: Link,
    pub(super) belief: Belief,
    pub(super) serving: Serving,
    pub(super) memory: Memory,
    pub(super) status: watch::Receiver<Status>,
    pub(super) node: NodeId,
    pub(super) identity: Arc<Identity>,
    pub(super) instruments: Instruments,
    pub(super) lifecycle: Lifecycle,
}

impl Reporter {
    pub(super) async fn run(mut self) {
        let drain = self.lifecycle.drain().clone();
        let mut link = self.link.changes();
        let mut asked = None;
        loop {
            let round = async {
                self.report().await;
                if asked.is_none_or(|at| clock::instant().saturating_duration_since(at) >= NEIGHBOURS_PERIOD) {
                    asked = self.ask_for_neighbours().await;
                }
                tokio::time::sleep(PAUSE).await;
                tokio::select! {
                    _ = self.status.changed() => {}
                    _ = link.changed() => {}
                    () = tokio::time::sleep(PERIOD) => {}
                }
            };
            tokio::select! {
                () = round => {}
                () = drain.cancelled() => return,
            }
        }
    }

    /// When it asked, if it could. A control plane that knows no such question is no reason to leave it.
    async fn ask_for_neighbours(&self) -> Option<Instant> {
        let connection = self.link.current()?;
        let now = clock::instant();
        let answer = tokio::time::timeout(ANSWER_MAX, connection.ask(&Request::Neighbours)).await;
        match answer {
            Ok(Ok(Response::Neighbours(told))) => {
                let told = Elsewhere::told(told, now);
                self.memory.stand(told.ahead(&self.node));
                self.serving.point_to(told);
            }
            _ => tracing::debug!("the control plane told of no other nodes"),
        }
        Some(now)
    }

    async fn report(&mut self) {
        let Some(connection) = self.link.current() else { return };
        let status = self.status.borrow_and_update().clone();
        let (seq, _, checkpoint) = self.belief.position();
        let report = NodeReport {
            seq,
            checkpoint,
            models: models(&status, &self.node, &self.identity, clock::now_ms()),
            queued: self.serving.queued(),
            stopped: status
                .stopped
                .or_else(|| self.belief.orders().borrow().refused.clone())
                .map(|s| cut(&s)),
        };
        let answer = tokio::time::timeout(ANSWER_MAX, connection.ask(&Request::Report(report))).await;
        let outcome = match answer {
            Ok(Ok(Response::Done)) => Outcome::Accepted,
            Ok(Ok(other)) => {
                tracing::warn!(answer = ?other, "the control plane did not take a report");
                Outcome::Refused
            }
            Ok(Err(_)) | Err(_) => {
                connection.close();
                Outcome::Failed
            }
        };
        self.instruments.reports.get_or_create(&ByOutcome { outcome }).inc();
    }
}

/// The part of the report about models; signs what is ready.
fn models(status: &Status, node: &NodeId, identity: &Identity, at: UnixMs) -> Vec<ModelReport> {
    let report = |m: &crate::release::ModelStatus| {
        let ready = m.ready.map(|held| {
            let ready = ReadyReport {
                node: node.clone(),
                plan: held.plan,
                release: m.release.clone(),
                manifest: m.manifest,
                // A clock that was set back must not make a report that says it was ready in its future.
                ready_since: held.since.min(at),
                at,
            };
            Signed::seal(&ready, identity.signing_key())
        });
        let stage = match &m.stage {
            Stage::Refused(why) => Stage::Refused(cut(why)),
            stage => stage.clone(),
        };
        let (fetched_bytes, need_bytes) = (m.progress.fetched(), m.progress.need());
        ModelReport {
            manifest: m.manifest,
            stage,
            fetched_bytes,
            need_bytes,
            ready,
        }
    };
    status.models.iter().map(report).collect()
}

fn cut(text: &str) -> String {
    let mut end = text.len().min(REASON_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}
