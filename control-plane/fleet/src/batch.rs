//! `fleet batch`: asks a model line by line, last in the queue, and goes on where it was stopped.
//!
//! Each line is a direct request of the lowest priority, with few at a time: the fleet holds nothing for a batch, a node that
//! is full says so and is left alone for as long as it asks, and only what was under way when the command was killed is asked
//! again.

mod journal;
mod line;
mod send;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use proto::ids::{ModelName, ModelVersion};
use proto::limits::BATCH_CONCURRENCY_MAX;
use serde::Serialize;

use crate::output::{self, GOOD, paint, say};
use journal::Journal;
use line::{Asked, Ended};
use send::{Ask, Client};

/// Failures that the summary shows.
const FAILURES_SHOWN: usize = 5;

/// `fleet batch run ..`
#[derive(Debug, Args)]
pub struct BatchRun {
    /// One inference request a line: {"id": .., "inputs": [..]}
    #[arg(value_name = "INPUT.jsonl")]
    pub input: PathBuf,
    /// Which model
    #[arg(long)]
    pub model: ModelName,
    /// Which version of it; whichever is served otherwise
    #[arg(long)]
    pub version: Option<ModelVersion>,
    /// Where to write the answers, in the order of the input; INPUT.out.jsonl otherwise
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// The router or node to ask
    #[arg(long, env = "MERIDIAN_ENDPOINT", value_name = "https://HOST:PORT")]
    pub endpoint: String,
    /// Authorities that its certificate may come from, PEM
    #[arg(
        long,
        env = "MERIDIAN_CA",
        default_value = "/etc/ssl/certs/ca-certificates.crt",
        value_name = "FILE"
    )]
    pub ca: PathBuf,
    /// API key; by the environment, where no list of processes shows it
    #[arg(long, env = "MERIDIAN_KEY", hide_env_values = true, value_name = "mk_..")]
    pub key: String,
    /// Requests that wait for their answers at the same time
    #[arg(long, default_value_t = 4, value_parser = concurrency, value_name = "N")]
    pub concurrency: usize,
}

fn concurrency(text: &str) -> Result<usize, String> {
    let wrong = || format!("write a whole number from 1 to {BATCH_CONCURRENCY_MAX}");
    let number = text.parse().ok().filter(|n| (1..=BATCH_CONCURRENCY_MAX).contains(n));
    number.ok_or_else(wrong)
}

/// What a run did.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Lines of the input that hold a request.
    pub requests: u64,
    /// Answered now.
    pub answered: u64,
    /// Answered by an earlier run.
    pub skipped: u64,
    /// Without an answer.
    pub failed: u64,
    /// The first of those.
    pub failures: VecDeque<Failure>,
    /// Where the answers are.
    pub output: PathBuf,
}

/// A request without an answer.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// Its id.
    pub id: String,
    /// Its line in the input.
    pub line: u64,
    /// The status of the last answer; 0 where there was none.
    pub status: u16,
    /// Why.
    pub error: String,
}

/// `fleet batch run ..`
///
/// # Errors
/// The input or output cannot be used, or a request has no answer: the exit status says so.
pub async fn run(options: &BatchRun, as_json: bool) -> Result<()> {
    let client = Client::new(options).await?;
    let summary = drive(options, &client, !as_json).await?;
    if as_json {
        output::json(&summary);
    } else {
        say(&format!(
            "{} of {} answered{}, in {}",
            summary.answered + summary.skipped,
            summary.requests,
            if summary.skipped > 0 {
                format!(" ({} by an earlier run)", summary.skipped)
            } else {
                String::new()
            },
            paint(GOOD, &summary.output.display().to_string()),
        ));
        for failure in &summary.failures {
            say(&format!(
                "  line {} (id {}): {} {}",
                failure.line, failure.id, failure.status, failure.error
            ));
        }
    }
    if summary.failed > 0 {
        bail!(
            "{} requests have no answer: run the same command again to ask only those",
            summary.failed
        );
    }
    Ok(())
}

/// Asks what was not answered, at most `concurrency` at a time.
async fn drive(options: &BatchRun, ask: &impl Ask, show: bool) -> Result<Summary> {
    let output = options
        .output
        .clone()
        .unwrap_or_else(|| options.input.with_extension("out.jsonl"));
    if output == options.input {
        bail!("--output is the input itself: name another file");
    }
    let (total, _) = count(options)?;
    let mut journal = Journal::open(&output)?;
    let mut summary = Summary {
        output,
        ..Summary::default()
    };
    let bar = bar(total, show);
    let (mut asking, mut last) = (FuturesUnordered::new(), 0);
    for (number, text) in BufReader::new(open(options)?).lines().enumerate() {
        let text = text.with_context(|| format!("read {}", options.input.display()))?;
        last = u64::try_from(number)? + 1;
        if text.trim().is_empty() {
            continue;
        }
        summary.requests += 1;
        let asked = Asked::read(last, &text)?;
        if journal.is_answered(last, &asked.digest) {
            summary.skipped += 1;
            bar.inc(1);
            continue;
        }
        asking.push(send::patiently(ask, asked));
        while asking.len() >= options.concurrency {
            let Some(ended) = asking.next().await else { break };
            note(&mut journal, &mut summary, &bar, ended)?;
        }
    }
    while let Some(ended) = asking.next().await {
        note(&mut journal, &mut summary, &bar, ended)?;
    }
    bar.finish_and_clear();
    journal.finish(last)?;
    Ok(summary)
}

fn note(journal: &mut Journal, summary: &mut Summary, bar: &ProgressBar, ended: Ended) -> Result<()> {
    journal.add(&ended)?;
    bar.inc(1);
    let Some(error) = ended.error else {
        summary.answered += 1;
        return Ok(());
    };
    summary.failed += 1;
    if summary.failures.len() < FAILURES_SHOWN {
        let Ended { id, line, status, .. } = ended;
        summary.failures.push_back(Failure {
            id,
            line,
            status,
            error,
        });
    }
    Ok(())
}

fn open(options: &BatchRun) -> Result<File> {
    File::open(&options.input).with_context(|| format!("open {}", options.input.display()))
}

/// Requests of the input, each of which reads well: a mistake in the last line shows before the first is asked.
fn count(options: &BatchRun) -> Result<(u64, u64)> {
    let (mut requests, mut lines) = (0, 0);
    for (number, text) in BufReader::new(open(options)?).lines().enumerate() {
        let text = text.with_context(|| format!("read {}", options.input.display()))?;
        lines = u64::try_from(number)? + 1;
        if !text.trim().is_empty() {
            Asked::read(lines, &text)?;
            requests += 1;
        }
    }
    Ok((requests, lines))
}

fn bar(total: u64, show: bool) -> ProgressBar {
    let target = if show {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let bar = ProgressBar::with_draw_target(Some(total), target);
    let style = ProgressStyle::with_template("asking {bar:30} {pos} of {len}  {per_sec}  {eta}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}
