//! Receipts over HTTP: `Meridian-Receipt: ?1` on a request, and the pages where what was promised is found.
//!
//! The page of a receipt is for whoever has its id, which nobody can guess, and an API key, or audits this region; the log's own
//! files, which hold every receipt, are for the fleet and for those auditors.

use http::header::HeaderName;
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use proto::receipt::ReceiptId;
use serde::Serialize;

use super::auth::Caller;
use super::reply::{self, Problem};
use super::{Answer, Door, Parts};
use crate::jobs::chain;
use crate::metrics::Outcome;
use crate::receipt::{Closed, Lacking, Receipts};

/// Asks for a receipt, and promises it.
pub(super) const RECEIPT: HeaderName = HeaderName::from_static("meridian-receipt");
/// How long a client should wait until what was promised is written.
const WRITTEN: std::time::Duration = std::time::Duration::from_secs(1);

/// A page about receipts.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Page {
    /// What they are verified by.
    Key,
    /// One of them, as a proof.
    One(String),
    /// A file of the log.
    File(String),
}

/// Who gets a receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// Who asks: an answer without it is none.
    Asked,
    /// Who does not say, where the operator has them given all the same: an answer without it is one.
    Unasked,
    /// Nobody.
    No,
}

/// What a client says of it, if anything.
fn said(headers: &HeaderMap) -> Result<Option<bool>, Problem> {
    let mut lines = headers.get_all(RECEIPT).iter().map(HeaderValue::as_bytes);
    match (lines.next(), lines.next()) {
        (None, _) => Ok(None),
        (Some(b"?0"), None) => Ok(Some(false)),
        (Some(b"?1"), None) => Ok(Some(true)),
        _ => Err(Problem::bad_request(
            "Meridian-Receipt is not one line with `?1` or `?0`",
        )),
    }
}

/// Whether the client asks for one.
pub(super) fn asked(headers: &HeaderMap) -> Result<bool, Problem> {
    said(headers).map(|said| said == Some(true))
}

/// Whether a request with these headers gets a receipt. Who asks where none can be given is refused before anything is read of it.
pub(super) fn wish(parts: &Parts, headers: &HeaderMap) -> Result<Wish, Problem> {
    match (said(headers)?, &parts.receipts) {
        (Some(true), None) => {
            let message = "this node gives no receipts: ask another one, or without Meridian-Receipt";
            let status = StatusCode::NOT_IMPLEMENTED;
            Err(Problem::new(status, "no_receipts", message, Outcome::BadRequest))
        }
        (Some(true), Some(receipts)) if receipts.is_open() => Ok(Wish::Asked),
        (Some(true), Some(_)) => Err(unavailable(Closed)),
        (None, Some(receipts)) if receipts.unasked() && receipts.is_open() => Ok(Wish::Unasked),
        _ => Ok(Wish::No),
    }
}

/// Refuses to give receipts for a stream's answers: they have no heads that could promise any.
pub(super) fn none_in_streams(headers: &HeaderMap) -> Result<(), Problem> {
    if !asked(headers)? {
        return Ok(());
    }
    let message = "answers in a stream have no receipts: call ModelInfer, or leave Meridian-Receipt out";
    let status = StatusCode::NOT_IMPLEMENTED;
    Err(Problem::new(status, "not_implemented", message, Outcome::BadRequest))
}

/// The log is behind, or cannot be written.
pub(super) fn unavailable(_: Closed) -> Problem {
    let message = "this node cannot give receipts now: ask another one; the node's log says more";
    let status = StatusCode::SERVICE_UNAVAILABLE;
    Problem::new(status, "receipts_unavailable", message, Outcome::Failed).retry_after(WRITTEN)
}

/// Answers `page`.
pub(super) async fn answer(door: &Door, page: Page, request: &Request<()>) -> Result<Answer, Problem> {
    let set = door.parts.serving.load();
    let caller = Caller::of(request, &set);
    let audits = || caller.may_audit(&door.parts.node.region);
    match &page {
        Page::Key | Page::One(_) => caller.known().or_else(|no_key| audits().map_err(|_| no_key))?,
        Page::File(_) => audits()?,
    }
    let receipts = door.parts.receipts.clone().ok_or_else(absent)?;
    match page {
        Page::Key => Ok(key(door, &receipts)),
        Page::One(id) => {
            let id = id
                .parse::<ReceiptId>()
                .map_err(|wrong| Problem::not_found(wrong.to_string()))?;
            let proof = read(door, move || receipts.proof(&id)).await?;
            Ok(reply::text("text/plain; charset=utf-8", proof.write()))
        }
        Page::File(path) => {
            let file = read(door, move || receipts.file(&path)).await?;
            let none = || Problem::not_found("the log of receipts has no such file".to_owned());
            let octets = HeaderValue::from_static("application/octet-stream");
            Ok(reply::bytes(octets, file.ok_or_else(none)?))
        }
    }
}

fn key(door: &Door, receipts: &Receipts) -> Answer {
    #[derive(Serialize)]
    struct Keys<'a> {
        node: String,
        log: &'a str,
        promises: &'a str,
    }
    let keys = receipts.keys();
    reply::json(&Keys {
        node: door.parts.node.to_string(),
        log: &keys.log,
        promises: &keys.promises,
    })
}

/// Reads from the disk, on a thread that may wait for it.
async fn read<T: Send + 'static>(
    door: &Door,
    work: impl FnOnce() -> Result<T, Lacking> + Send + 'static,
) -> Result<T, Problem> {
    let busy = |_| Problem::full("as many pages about receipts are read as may be", WRITTEN);
    let _page = door.receipt_pages.try_acquire().map_err(busy)?;
    let read = tokio::task::spawn_blocking(work).await;
    read.map_err(|_| unavailable(Closed))?.map_err(|lacking| match lacking {
        Lacking::Unknown => absent(),
        Lacking::Unwritten => {
            let message = "the receipt is promised and not written yet: ask again after the time in Retry-After";
            let status = StatusCode::NOT_FOUND;
            Problem::new(status, "receipt_unwritten", message, Outcome::NotFound).retry_after(WRITTEN)
        }
        Lacking::Log(error) => {
            tracing::error!(error = chain(&error), "the log of receipts cannot be read");
            unavailable(Closed)
        }
    })
}

fn absent() -> Problem {
    let message = "there is no such receipt here: ask the node that its id names. If that says so too, keep the promise: \
                   it is signed, and what it promised is not there";
    Problem::not_found(message.to_owned())
}
