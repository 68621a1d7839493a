//! A real node beside other servers, all on loopback, all asked by the same client in the same run.
//!
//! The client is our own ([`closed`], [`open`]): HTTP/1.1 kept alive over plain TCP, requests prebuilt, answers read no
//! further than they must be, on one thread, since it takes its share of the same two cores. Servers are asked in turn, round
//! by round, and medians are told. Peers run the same ONNX file in ONNX Runtime, JSON in and out, on the same two cores.
//!
//! | chapter | figure | what |
//! |---|---|---|
//! | `tiny` | `tiny/c8/rps`, `../p99_ms` | requests a second and times on 8 connections (and 32), of a model that costs nothing; caches stand aside |
//! | | `tiny/c32/rps/uncached` | the same when the cache is asked and does not know: each input is new |
//! | | `tiny/rss_mib` | memory of the processes after that |
//! | | `cache_hit/rps` | requests a second out of the cache, 32 connections |
//! | | `node/added_us` | time of a request that nothing waits for, less the engine's own, p50; `../embedder` of texts of mixed lengths, `../embedder/passage` of a thousand characters |
//! | | `../limit` | the same beside what a server adds that does nothing but keep a thread as busy |
//! | `embedder` | `embedder/c32/rps`, `../f32` | texts of mixed lengths, our int8, and our f32, on 32 connections |
//! | | `../rps/quick` | ours beside the fastest int8 of the others, whatever it answers |
//! | | `embedder/cosine_min` | the text whose embedding lies furthest from ONNX Runtime's f32 |
//! | `overload` | `overload4x/goodput` | open loop at 4 times the capacity just measured: answered within the bound, as a share of it; `../sentence`: of short texts; `../sentence/apart`: by a node on half of the cores, clients on the other half |
//! | | `../admitted_p99_ms`, `../refusal_p50_ms` | times of the answered, and of the refused |
//! | `deadline` | `deadline/late_executions` | runs that began after the request's deadline; `../late_answers`, `../asked` |
//! | `isolation` | `load_isolation/p99_ratio` | p99 of the tiny model while 90 MB are loaded, by that before; `../embedder`: of the embedder |
//! | | `../rollout` | while 90 MB are fetched, tried and loaded, and a control plane says so; `../rollout/embedder`: of the embedder |
//! | `receipts` | `receipts/sign/1`, `../64` | a promise of a receipt, alone and among so many, beside a signature each |
//! | | `receipts/c8/rps`, `../p50_ms` | the tiny model when each answer has one (1 and 64 connections too), beside the same without |
//! | | `receipts/proven_p99_ms` | from the answer to the proof that its receipt is on disk |
//! | `memory` | `memory/rss_mib_after_1000_loads` | memory of a node whose two models push each other out, beside that after 50 |

mod added;
pub mod answer;
pub mod asked;
pub mod closed;
pub mod connection;
mod deadline;
mod embedder;
mod isolation;
pub mod latency;
mod memory;
pub mod open;
mod ours;
mod overload;
pub mod peers;
pub mod process;
mod receipts;
pub mod rounds;
pub mod schedule;
pub mod target;
#[cfg(test)]
mod tests;
mod timing;
mod tiny;

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::Figure;
use crate::scale::Scale;
use ours::Ours;
use peers::Installed;

const SUITE: &str = "serving";
/// The tiny model, and the embedder.
const TINY: &str = "iris-mlp";
const EMBEDDER: &str = "minilm-l6";
/// Our f32 of the embedder, under a name of its own.
const EMBEDDER_F32: &str = "minilm-f32";
/// Asks for a run of the model, whatever is remembered.
const NO_CACHE: &str = "cache-control: no-cache\r\n";

/// A part of the suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Chapter {
    /// The server's own cost, and its cache.
    Tiny,
    /// Work that fills the cores.
    Embedder,
    /// Four times what it can do.
    Overload,
    /// Requests with little time.
    Deadline,
    /// A large model comes while another answers.
    Isolation,
    /// Signed promises with answers.
    Receipts,
    /// Models that push each other out of memory.
    Memory,
}

/// What all chapters use.
struct Bench {
    scale: Scale,
    ours: Ours,
    peers: Installed,
}

/// Measures the chapters of `only`, all where it is empty.
///
/// # Errors
/// Our side did not start or answer. Peers that do not are left out.
pub async fn run(scale: Scale, install: bool, only: &[Chapter]) -> Result<Vec<Figure>> {
    let peers = Installed::find(install)?;
    let mut bench = Bench {
        scale,
        ours: Ours::start().await?,
        peers,
    };
    let figures = bench.chapters(only).await;
    bench.ours.down().await?;
    figures
}

impl Bench {
    async fn chapters(&mut self, only: &[Chapter]) -> Result<Vec<Figure>> {
        let wanted = |chapter| only.is_empty() || only.contains(&chapter);
        let mut figures = Vec::new();
        let tiny = self.ours.publish(&[TINY]).await?;
        self.ours.roll_out(&tiny).await?;
        if wanted(Chapter::Tiny) {
            figures.extend(tiny::measure(self).await?);
        }
        if wanted(Chapter::Receipts) {
            figures.extend(receipts::measure(self).await?);
        }
        // Before the other models: what is loaded then is all there is beside the tiny one.
        if [Chapter::Isolation, Chapter::Embedder, Chapter::Memory]
            .into_iter()
            .any(wanted)
        {
            let large = self
                .ours
                .publish(&[EMBEDDER, "--name", EMBEDDER_F32, "--no-int8"])
                .await?;
            if wanted(Chapter::Isolation) {
                figures.extend(isolation::rollouts(self, &large).await?);
            } else {
                self.ours.roll_out(&large).await?;
            }
        }
        // Of the tiny one alone.
        let small = [Chapter::Tiny, Chapter::Receipts];
        if only.is_empty() || only.iter().any(|chapter| !small.contains(chapter)) {
            let int8 = self.ours.publish(&[EMBEDDER, "--accept-int8", "--no-judge"]).await?;
            self.ours.roll_out(&int8).await?;
        }
        if wanted(Chapter::Isolation) {
            figures.extend(isolation::rollouts_beside_embedder(self).await?);
        }
        if wanted(Chapter::Embedder) {
            figures.extend(embedder::measure(self).await?);
        }
        if wanted(Chapter::Overload) {
            figures.extend(overload::measure(self).await?);
        }
        if wanted(Chapter::Deadline) {
            figures.extend(deadline::measure(self).await?);
        }
        if wanted(Chapter::Isolation) || wanted(Chapter::Memory) {
            self.ours.bound_memory(memory::BYTES_MAX).await?;
        }
        if wanted(Chapter::Isolation) {
            figures.extend(isolation::loads(self).await?);
            self.ours.bound_memory(memory::BYTES_BESIDE_EMBEDDER).await?;
            figures.extend(isolation::loads_beside_embedder(self).await?);
            self.ours.bound_memory(memory::BYTES_MAX).await?;
        }
        if wanted(Chapter::Memory) {
            figures.extend(memory::measure(self).await?);
        }
        Ok(figures)
    }
}

/// A file below the source tree's root.
fn in_tree(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}
