//! `fleet audit ..`: reads what is asked about, asks, prints.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use proto::limits::INFER_BODY_BYTES_MAX;
use proto::receipt::ReceiptId;

use super::{Held, Named};
use crate::cli::Audit;
use crate::commands::{log_folder, trusted};
use crate::home::Home;
use crate::observe::{enrolled, pages::Pages};
use crate::output::{self, BAD, GOOD, paint, say};

/// `fleet audit receipt ..`
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  curl -sD head.txt -o answer.json -H 'Meridian-Receipt: ?1' ... --data-binary @question.json\n  \
    fleet audit receipt head.txt --question question.json --answer answer.json\n  \
    fleet audit receipt eu-fra:n1:12-9f2c.. --promise head.txt --out minilm.tlog-proof"
)]
pub struct ReceiptArgs {
    /// A file with the promise (the head of the answer will do) or a .tlog-proof, `-` for standard input; or a receipt's id, whose
    /// proof is fetched from its node
    pub receipt: String,
    /// A file with the promise, beside a proof: it opens the commitments
    #[arg(long, value_name = "FILE")]
    pub promise: Option<PathBuf>,
    /// The body that was sent
    #[arg(long, value_name = "FILE")]
    pub question: Option<PathBuf>,
    /// The body that came back
    #[arg(long, value_name = "FILE")]
    pub answer: Option<PathBuf>,
    /// Where to keep the proof
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Folder of the release log; a fresh copy of the control plane's otherwise
    #[arg(long, value_name = "DIR")]
    pub log: Option<PathBuf>,
    /// Trust this trust.json instead of the home folder's
    #[arg(long, value_name = "FILE")]
    pub trust: Option<PathBuf>,
}

/// Does what was typed.
///
/// # Errors
/// Whatever stopped it; that a receipt is not of the bodies that were given is one of them.
pub async fn run(command: Audit, dir: &Path, as_json: bool) -> Result<()> {
    match command {
        Audit::ModelAt {
            model,
            region,
            time,
            log,
            trust,
        } => {
            let trust = trusted(trust.as_deref(), dir)?;
            let (log, _guard) = log_folder(log, dir).await?;
            let answer = super::model_at(&log, &trust.log_vkey, &region, &time, &model)?;
            if as_json {
                output::json(&answer);
            } else {
                say(&answer.to_string());
            }
            Ok(())
        }
        Audit::Receipt(args) => receipt(args, dir, as_json).await,
    }
}

async fn receipt(args: ReceiptArgs, dir: &Path, as_json: bool) -> Result<()> {
    let trust = trusted(args.trust.as_deref(), dir)?;
    let mut held = Held {
        question: args.question.as_deref().map(body).transpose()?,
        answer: args.answer.as_deref().map(body).transpose()?,
        ..Held::default()
    };
    match named(&args.receipt)? {
        Named::Id(id) => held.proof = Some(fetched(&Home::open(dir)?, &id).await?),
        Named::Promise(text) => held.promise = Some(text),
        Named::Proof(text) => held.proof = Some(text),
    }
    if let Some(path) = &args.promise {
        let Named::Promise(text) = Named::of(&text(path)?) else {
            bail!("{} is no promise: it holds a proof", path.display());
        };
        held.promise = Some(text);
    }
    let (log, _guard) = log_folder(args.log, dir).await?;
    let verified = super::receipt(&log, &trust.log_vkey, &held)?;
    let good = verified.is_good();
    if let (Some(path), Some(proof)) = (&args.out, held.whole_proof()) {
        std::fs::write(path, proof).with_context(|| format!("write {}", path.display()))?;
    }
    if as_json {
        output::json(&verified);
    } else {
        let word = if good { paint(GOOD, "ok") } else { paint(BAD, "not ok") };
        say(&format!("{word} {verified}"));
    }
    if !good {
        bail!("the receipt is sound, and it is one of another question or answer");
    }
    Ok(())
}

/// What was named: an id, or what a file holds.
fn named(word: &str) -> Result<Named> {
    if let Ok(id) = word.parse() {
        return Ok(Named::Id(id));
    }
    Ok(Named::of(&text(Path::new(word))?))
}

fn text(path: &Path) -> Result<String> {
    String::from_utf8(body(path)?).with_context(|| format!("{} is not text", path.display()))
}

/// A file as it is; standard input for `-`.
fn body(path: &Path) -> Result<Vec<u8>> {
    let open = || -> std::io::Result<Box<dyn std::io::Read>> {
        Ok(if path == Path::new("-") {
            Box::new(std::io::stdin())
        } else {
            Box::new(std::fs::File::open(path)?)
        })
    };
    let mut bytes = Vec::new();
    let most = u64::try_from(INFER_BODY_BYTES_MAX).unwrap_or(u64::MAX);
    let read = open().and_then(|file| file.take(most + 1).read_to_end(&mut bytes));
    read.with_context(|| format!("read {}", path.display()))?;
    if bytes.len() > INFER_BODY_BYTES_MAX {
        bail!(
            "{} is longer than any body: {INFER_BODY_BYTES_MAX} bytes at most",
            path.display()
        );
    }
    Ok(bytes)
}

/// The proof that the node has of its receipt.
async fn fetched(home: &Home, id: &ReceiptId) -> Result<String> {
    let nodes = enrolled(home).await?;
    let node = nodes.iter().find(|node| node.node == id.node);
    let node = node.with_context(|| format!("the fleet has no node {}: see fleet status", id.node))?;
    Pages::new(home)?.text(node, &format!("/v1/receipts/{id}")).await
}
