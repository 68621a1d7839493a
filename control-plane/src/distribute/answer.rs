//! Questions with one answer, and chunks.

use std::error::Error;

use proto::ids::{ContentHash, NodeId, PrincipalName};
use proto::limits::{CHUNKS_PER_REQUEST_MAX, NOTE_BYTES_MAX, REPORT_LINES_MAX};
use proto::message::{ErrorCode, NodeReport, Request, Response, Stage};
use runtime::clock;
use runtime::identity::Role;
use runtime::quic::{QuicError, Stream};
use runtime::telemetry::chain;

use super::{Answered, Caller, Refused, Service};
use crate::artifacts::intake::{ArtifactError, Artifacts};
use crate::registry::Standing;

/// Chunks asked about in one `Missing`: what fits in one frame.
const MISSING_MAX: usize = 100_000;
/// Characters of a node's own words that are kept.
const WORDS_MAX: usize = 500;

impl Service {
    pub(super) async fn answer(&self, caller: &Caller, request: Request) -> Result<Response, Refused> {
        match request {
            Request::Report(report) => self.report(caller, report).await,
            Request::Manifest(id) | Request::Plan(id) => self.document(id).await,
            Request::Consistency { from, to } => self.proof(from, to).await.map(Response::Proof),
            Request::Checkpoint => Ok(Response::Checkpoint(self.ledger.snapshot().checkpoint.clone())),
            Request::Missing { chunks } => {
                at_most("chunks", chunks.len(), MISSING_MAX)?;
                self.with_artifacts(move |a| a.missing(&chunks))
                    .await
                    .map(Response::Missing)
            }
            Request::PutChunk { bytes } => self
                .with_artifacts(move |a| a.put_chunk(&bytes))
                .await
                .map(|()| Response::Done),
            Request::NextVersion(model) => Ok(Response::NextVersion(self.ledger.snapshot().fleet.next_version(&model))),
            Request::PutManifest(signed) => {
                let manifest = self.with_artifacts(move |a| a.put_manifest(&signed)).await?;
                tracing::info!(release = %manifest.release(), "manifest stored");
                Ok(Response::Done)
            }
            Request::PutPlan(signed) => {
                let plan = self.with_artifacts(move |a| a.put_plan(&signed)).await?;
                tracing::info!(to = %plan.to, serial = plan.serial, "plan stored");
                Ok(Response::Done)
            }
            Request::Command { leaf } => self.command(&caller.role, leaf).await,
            Request::Neighbours => self.neighbours(caller).await,
            Request::Follow { .. } | Request::FollowView { .. } | Request::Chunks { .. } => Err(Refused {
                code: ErrorCode::Internal,
                message: "answered elsewhere".to_owned(),
            }),
        }
    }

    async fn command(&self, role: &Role, leaf: String) -> Result<Response, Refused> {
        let by: PrincipalName = match role {
            Role::Operator(name) => name.clone(),
            _ => return Err(super::forbidden("only operators command")),
        };
        match self.ledger.command(by, leaf).await {
            Ok(logged) => Ok(Response::Logged {
                index: logged.index,
                checkpoint: logged.checkpoint,
            }),
            Err(refusal) => Err(Refused {
                code: refusal.code,
                message: refusal.what,
            }),
        }
    }

    /// Keeps what a node tells; checks what it has seen of the log; takes its signed reports as evidence.
    async fn report(&self, caller: &Caller, report: NodeReport) -> Result<Response, Refused> {
        let Role::Node(node) = &caller.role else {
            return Err(super::forbidden("only nodes report"));
        };
        at_most("model lines", report.models.len(), REPORT_LINES_MAX)?;
        at_most("bytes of checkpoint", report.checkpoint.len(), NOTE_BYTES_MAX)?;
        let (service, node) = (self.clone(), node.clone());
        blocking(move || {
            service.compare(&node, &report.checkpoint);
            service.conductor.take(&node, &report);
            service.registry.put(node, in_short(report), clock::now_ms());
        })
        .await?;
        Ok(Response::Done)
    }

    /// A signed checkpoint that is not of our history is the loudest thing that can happen here.
    fn compare(&self, node: &NodeId, text: &str) {
        if text.is_empty() || self.registry.fork().is_some() {
            return;
        }
        if crate::registry::standing(&self.log_key, text, &self.ledger) == Standing::Fork {
            self.instruments.log_forks.inc();
            let what = format!("`{node}` has seen a checkpoint signed by our key that is not of our log");
            if self.registry.mark_fork(what.clone()) {
                tracing::error!(%node, "THE LOG HAS FORKED: {what}; no step begins until people have looked at it");
            }
        }
    }

    async fn document(&self, id: ContentHash) -> Result<Response, Refused> {
        let documents = self.artifacts.documents().clone();
        let not_here = || Refused {
            code: ErrorCode::NotFound,
            message: format!("no document {id}"),
        };
        blocking(move || documents.signed(&id))
            .await?
            .map(Response::Signed)
            .ok_or_else(not_here)
    }

    /// One answer for each chunk, in order; the first that is not here ends the stream.
    pub(super) async fn send_chunks(
        &self,
        stream: &mut Stream,
        chunks: Vec<ContentHash>,
    ) -> Result<Answered, QuicError> {
        if let Err(refused) = at_most("chunks", chunks.len(), CHUNKS_PER_REQUEST_MAX) {
            return Ok(Err(refused));
        }
        for chunk in chunks {
            match self.with_artifacts(move |a| a.chunk(&chunk)).await {
                Ok(bytes) => stream.write(&Response::Chunk { bytes }).await?,
                Err(refused) => return Ok(Err(refused)),
            }
        }
        Ok(Ok(()))
    }

    async fn with_artifacts<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Artifacts) -> Result<T, ArtifactError> + Send + 'static,
    ) -> Result<T, Refused> {
        let artifacts = self.artifacts.clone();
        blocking(move || work(&artifacts))
            .await?
            .map_err(|error| match error.code() {
                ErrorCode::Internal => failed(&error),
                code => Refused {
                    code,
                    message: error.to_string(),
                },
            })
    }
}

/// A fault of ours: the log gets its causes, the caller a sentence without paths.
pub(super) fn failed(error: &(dyn Error + 'static)) -> Refused {
    tracing::error!(error = chain(error), "failed");
    Refused {
        code: ErrorCode::Internal,
        message: "the control plane failed at this: see its log".to_owned(),
    }
}

pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Refused> {
    tokio::task::spawn_blocking(work).await.map_err(|error| failed(&error))
}

fn at_most(what: &str, found: usize, max: usize) -> Result<(), Refused> {
    if found > max {
        let message = format!("{found} {what}, allowed is {max}");
        return Err(Refused {
            code: ErrorCode::Invalid,
            message,
        });
    }
    Ok(())
}

/// A report with its evidence and checkpoint taken out and its words cut: what is shown to people.
fn in_short(mut report: NodeReport) -> NodeReport {
    let cut = |words: &mut String| *words = words.chars().take(WORDS_MAX).collect();
    report.checkpoint.clear();
    report.stopped.iter_mut().for_each(cut);
    for model in &mut report.models {
        model.ready = None;
        if let Stage::Refused(why) = &mut model.stage {
            cut(why);
        }
    }
    report
}
