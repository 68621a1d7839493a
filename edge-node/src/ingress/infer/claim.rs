//! What a request and its answer are called in a receipt, and the header that promises it.

use std::time::Instant;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};
use proto::receipt::{Answered, Commitment, CommitmentKey};
use tokio::time::timeout_at;

use super::super::Door;
use super::super::receipts::{RECEIPT, Wish, unavailable};
use super::super::reply::Problem;
use super::{DECODE_INLINE_BYTES_MAX, Obtained, Question, aside};
use crate::metrics::Outcome;

/// A commitment to a request, and the key for the one to its answer.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Claim {
    key: CommitmentKey,
    input: Commitment,
    /// The answer is none without it.
    asked: bool,
}

impl Claim {
    /// Claims `content`, a request's body or message, under a key of its own, if there is to be a receipt.
    pub(super) fn of(wish: Wish, content: &[u8]) -> Result<Option<Self>, Problem> {
        if wish == Wish::No {
            return Ok(None);
        }
        let mut key = [0; 32];
        getrandom::fill(&mut key).map_err(|_| {
            let message = "the system gives no random numbers: ask another node";
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message, Outcome::Failed)
        })?;
        let key = CommitmentKey(key);
        let input = Commitment::of(&key, content);
        let asked = wish == Wish::Asked;
        Ok(Some(Self { key, input, asked }))
    }
    /// What it makes of an answer's body or message.
    pub(in super::super) fn output(&self, content: &[u8]) -> Commitment {
        Commitment::of(&self.key, content)
    }
}

/// The promise of a receipt for an answer with the body `content`, if there is to be one, by `deadline`.
pub(in super::super) async fn receipt(
    door: &Door,
    question: &Question,
    obtained: &Obtained,
    content: &Bytes,
    deadline: Instant,
) -> Result<Option<(HeaderName, HeaderValue)>, Problem> {
    let Some(claim) = question.claim() else { return Ok(None) };
    let short = content.len() <= DECODE_INLINE_BYTES_MAX;
    let content = content.clone();
    let output = aside(short, move || Ok(claim.output(&content))).await?;
    promise(door, question, obtained, output, deadline).await
}

/// As [`receipt`], of an answer that was committed to.
pub(in super::super) async fn promise(
    door: &Door,
    question: &Question,
    obtained: &Obtained,
    output: Commitment,
    deadline: Instant,
) -> Result<Option<(HeaderName, HeaderValue)>, Problem> {
    let (Some(claim), Some(receipts)) = (question.claim(), &door.parts.receipts) else {
        return Ok(None);
    };
    let slot = &question.slot;
    let answered = Answered {
        release: slot.release.clone(),
        manifest: slot.manifest_id,
        variant: slot.variant.id.clone(),
        numerics: slot.numerics(obtained.landed.by).to_owned(),
        input: claim.input,
        output,
    };
    let promised = timeout_at(deadline.into(), receipts.promise(claim.key, answered)).await;
    let promised = match promised.map_err(|_| Problem::deadline_exceeded())? {
        Ok(promised) => promised,
        Err(closed) if claim.asked => return Err(unavailable(closed)),
        Err(_) => return Ok(None),
    };
    let mut value = HeaderValue::try_from(promised.write()).expect("names, digits and base64 are printable ASCII");
    // It holds the key that opens the commitments.
    value.set_sensitive(true);
    Ok(Some((RECEIPT, value)))
}
