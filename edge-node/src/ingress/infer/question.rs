//! A request that fits its model.

use std::sync::Arc;
use std::time::Duration;

use proto::oip::{InferRequest, Tensor};
use runtime::telemetry::PER_REQUEST;
use tracing::Span;

use super::super::body::Lent;
use super::super::deadline::{self, Budget};
use super::super::reply::Problem;
use super::super::{Door, fit};
use super::{Asker, Claim};
use crate::batch::accounts::Payer;
use crate::batch::class::Level;
use crate::batch::{Order, join};
use crate::cache::Keeper;
use crate::cache::flight::Flight;
use crate::cache::key::Key;
use crate::engine::Model;
use crate::serving::ModelSlot;

/// What is asked of a model, checked against its signature.
pub(in super::super) struct Question {
    /// Who answers.
    pub(in super::super) slot: Arc<ModelSlot>,
    /// Without its inputs.
    pub(in super::super) request: InferRequest,
    /// Two questions with one key have one answer; none where only the model's own will do.
    pub(super) key: Option<Key>,
    inputs: Arc<Vec<Tensor>>,
    /// Rows that are asked for; 1 where the model does not join rows.
    pub(super) rows: usize,
    keeper: Option<Keeper>,
    pub(super) payer: Payer,
    level: Option<Level>,
    claim: Option<Claim>,
    /// Its memory is given back when it is answered.
    _lent: Lent,
}

impl Question {
    /// Checks `request`, which was read from `content`, and names it. Hashes the inputs: large ones not on a thread that serves
    /// connections.
    pub(in super::super) fn of(
        slot: Arc<ModelSlot>,
        asker: &Asker,
        mut request: InferRequest,
        content: &[u8],
        lent: Lent,
    ) -> Result<Self, Problem> {
        let signature = fit::signature(&slot.manifest, &request)?;
        let rows = if join::is_joinable(signature) {
            join::rows(&request.inputs)
        } else {
            1
        };
        let level = level(request.parameters.remove("priority"))?;
        let results = &asker.results;
        let key = (!asker.bypass).then(|| {
            let outputs: Vec<String> = request.outputs.iter().map(|output| output.name.clone()).collect();
            let parameters = format!("{:?}", request.parameters);
            results.key(asker.of_answers(), &slot, &outputs, &parameters, &request.inputs)
        });
        let inputs = Arc::new(std::mem::take(&mut request.inputs));
        let keeper = slot.keeps_rows.then(|| results.keeper(asker.of_answers())).flatten();
        Ok(Self {
            slot,
            request,
            key,
            inputs,
            rows,
            keeper,
            payer: Payer::of(&asker.tenant),
            level,
            claim: Claim::of(asker.receipt, content)?,
            _lent: lent,
        })
    }

    /// How long it may take in all: `head` is the head's word, or the bound where it has none.
    pub(in super::super) fn budget(&self, door: &Door, head: Budget) -> Duration {
        if !head.is_named && self.request.timeout_us.is_none() {
            return door.parts.queue.class(&self.slot.release.model).deadline();
        }
        deadline::with_body(head.time, self.request.timeout_us)
    }

    /// What its receipt will say of it, if there is to be one.
    pub(in super::super) fn claim(&self) -> Option<Claim> {
        self.claim
    }

    /// What is asked about.
    pub(in super::super) fn inputs(&self) -> Arc<Vec<Tensor>> {
        Arc::clone(&self.inputs)
    }

    /// Lets all others go first.
    pub(in super::super) fn go_last(&mut self) {
        self.level = Level::asked(u64::MAX);
    }

    /// The question as the queue takes it.
    pub(super) fn order(&self, model: Arc<dyn Model>, flight: Flight, span: &Span) -> Order {
        Order {
            slot: Arc::clone(&self.slot),
            model,
            inputs: Arc::clone(&self.inputs),
            // Who wants nothing to be kept means this too.
            keeper: self.keeper.clone().filter(|_| flight.is_listed()),
            outputs: self.request.outputs.iter().map(|output| output.name.clone()).collect(),
            payer: self.payer,
            level: self.level,
            flight,
            span: span.clone(),
            waiting: tracing::info_span!(target: PER_REQUEST, parent: span, "queue"),
        }
    }
}

/// The level that the parameter `priority` asks for: it decides when, not what is answered, so no key knows it.
fn level(priority: Option<String>) -> Result<Option<Level>, Problem> {
    let Some(text) = priority else { return Ok(None) };
    let wrong = |_| {
        Problem::bad_request("parameter `priority` is not a whole number from 0: 1 goes first, 0 is the model's own")
    };
    text.parse().map(Level::asked).map_err(wrong)
}
