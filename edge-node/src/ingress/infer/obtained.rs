//! An answer and what is told of it, before a protocol puts it into its own words.

use std::borrow::Cow;
use std::time::Instant;

use http::HeaderValue;
use http::header::HeaderName;
use proto::oip::{InferRequest, Tensor};
use runtime::clock;

use super::super::reply::Problem;
use super::super::{Door, classify};
use super::stages::Stages;
use crate::cache::flight::Landed;
use crate::engine::Answerer;
use crate::metrics::CacheUse;
use crate::serving::ModelSlot;

const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
const MODEL: HeaderName = HeaderName::from_static("meridian-model");
const STAND_IN: HeaderName = HeaderName::from_static("meridian-stand-in");

/// The outputs of a model, and where they came from.
#[derive(Clone, Debug)]
pub(in super::super) struct Obtained {
    pub(super) landed: Landed,
    pub(super) origin: CacheUse,
    /// When they were in hand.
    pub(super) at: Instant,
}

/// One output in the form that the request asks for.
pub(in super::super) struct Told<'a> {
    /// The tensor itself, or its highest classes.
    pub(in super::super) tensor: Cow<'a, Tensor>,
    /// REST only: whether it is written as binary data.
    pub(in super::super) binary: bool,
}

impl Obtained {
    /// The outputs in the form that `request` asks for.
    pub(in super::super) fn told(&self, request: &InferRequest) -> Result<Vec<Told<'_>>, Problem> {
        self.landed
            .outputs
            .iter()
            .map(|tensor| {
                let asked = request.outputs.iter().find(|o| o.name == tensor.name);
                let binary = asked.and_then(|o| o.binary).unwrap_or(request.binary_output);
                let tensor = match asked.and_then(|o| o.classification) {
                    None => Cow::Borrowed(tensor),
                    Some(count) => Cow::Owned(
                        classify::highest(tensor, count)
                            .map_err(|why| Problem::bad_request(format!("output `{}`: {why}", tensor.name)))?,
                    ),
                };
                Ok(Told { tensor, binary })
            })
            .collect()
    }

    /// What an answer's head says of it: where it came from, where the time went since `arrived`, which model it was, and whose
    /// numerics it has where a device's stand-in made it. The answer is written now: its times are counted too.
    pub(in super::super) fn facts(
        &self,
        door: &Door,
        slot: &ModelSlot,
        arrived: Instant,
    ) -> impl Iterator<Item = (HeaderName, HeaderValue)> + use<> {
        let stages = Stages::of(arrived, self.landed.run.as_ref(), self.at, clock::instant());
        door.parts.metrics.took(stages.each(), stages.total());
        let facts = [
            (CACHE_STATUS, HeaderValue::from_static(cache_status(self.origin))),
            (SERVER_TIMING, stages.told()),
            (MODEL, slot.label.clone()),
        ];
        let stand_in = slot.stand_in.as_ref().filter(|_| self.landed.by == Answerer::StandIn);
        let stand_in = stand_in.map(|numerics| (STAND_IN, numerics.clone()));
        facts.into_iter().chain(stand_in)
    }
}

/// RFC 9211.
fn cache_status(origin: CacheUse) -> &'static str {
    match origin {
        CacheUse::HitMemory | CacheUse::HitDisk => "meridian; hit",
        CacheUse::Miss => "meridian; fwd=miss",
        CacheUse::Collapsed => "meridian; fwd=miss; collapsed",
        CacheUse::Bypass => "meridian; fwd=request",
    }
}
