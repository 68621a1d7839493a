//! Models on a device that may fail, and the processor that stands in for it.
//!
//! ```text
//!   run by a deadline -- in time, in use --> lane (one thread of its own) --> device
//!        |                                     | failed, late, hung, out of use
//!        '------ as far as the deadline allows-+--> stand-in: the same signed file on the processor
//! ```
//! `plan` says how long a call waits, `breaker` whether the device is in use, `lane` holds the one thread that calls it, and
//! `question` what it is tried with. Whoever answered is told with the answer: bits of one are not passed off as bits of the other.
//!
//! Invariant: no engine thread is inside the device, ever: a call that does not return holds the lane's thread, and nothing else.

mod breaker;
mod lane;
mod plan;
mod question;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use engine::leisure::Starter;
use proto::oip::Tensor;
use runtime::clock;

use super::{Answer, Answerer, Call, Fault, Model, run_keeping};
use crate::batch::join;
use crate::cache::RowsOfRun;
use crate::metrics::device::DeviceMetrics;

pub use breaker::{Bounds, Trouble};
pub use lane::LostCalls;
use lane::{Asked, Lane, NoAnswer};
use plan::{Costs, First};
pub use question::Question;

/// Loads the model on the device. Called on the lane's thread, which may never return from it.
pub type LoadOnDevice = Box<dyn Fn() -> Result<Arc<dyn Model>, String> + Send>;

/// What a device is made of.
pub struct Parts {
    /// Names it in logs: the release.
    pub name: String,
    /// Loads the model on it.
    pub load: LoadOnDevice,
    /// The same model on the processor.
    pub stand_in: Arc<dyn Model>,
    /// What the device is tried with, and what the stand-in answers to it.
    pub question: Question,
    /// Published times of one row, microseconds: on the device, on the processor.
    pub row_us: [u32; 2],
    /// Times.
    pub bounds: Bounds,
    /// What is counted.
    pub metrics: DeviceMetrics,
    /// The node's threads that never came back.
    pub lost: LostCalls,
    /// Makes the thread that calls the device.
    pub starter: Starter,
}

/// A model on a device, with its stand-in.
pub struct Backed {
    lane: Arc<Lane>,
    stand_in: Arc<dyn Model>,
    stand_in_row_us: AtomicU64,
    bounds: Bounds,
    metrics: DeviceMetrics,
}

/// How a device is, for pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It answers.
    InUse,
    /// The processor answers in its place.
    OutOfUse {
        /// Why.
        trouble: Trouble,
        /// For how long.
        since: Duration,
        /// Tries in vain since then.
        tries: u32,
        /// Until it is tried again; `None` while a call has not returned, or is under way.
        next_try: Option<Duration>,
    },
}

impl Backed {
    /// Starts the device's thread, which loads the model and tries it. Waits for that until `patience` is over: a device that has
    /// not answered then is out of use, and comes into use when it has.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(parts: Parts, patience: Duration) -> std::io::Result<Self> {
        let (stand_in, [_, stand_in_us]) = (Arc::clone(&parts.stand_in), parts.row_us);
        let (bounds, metrics) = (parts.bounds, parts.metrics.clone());
        let lane = Lane::start(parts)?;
        lane.until_tried(clock::instant() + patience);
        Ok(Self {
            lane,
            stand_in,
            stand_in_row_us: AtomicU64::new(u64::from(stand_in_us)),
            bounds,
            metrics,
        })
    }

    /// How the device is.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.lane.standing(clock::instant())
    }

    fn costs(&self, rows: usize) -> Costs {
        let rows = u32::try_from(rows).unwrap_or(u32::MAX);
        let of = |row_us: u64| Duration::from_micros(row_us).saturating_mul(rows);
        Costs {
            device: of(self.lane.row_us()),
            stand_in: of(self.stand_in_row_us.load(Ordering::Relaxed)),
        }
    }

    /// Asks the device, if there is time for it. `Err` says what the stand-in is to answer for.
    fn on_device(&self, inputs: &Arc<Vec<Tensor>>, costs: Costs, call: &Call) -> Result<Vec<Tensor>, NoAnswer> {
        let now = clock::instant();
        match plan::first(costs, call.deadline.saturating_duration_since(now)) {
            First::StandIn => Err(NoAnswer::OutOfTime),
            First::Device { wait } => {
                let patience = self.bounds.patience(costs.device);
                let asked = Asked {
                    inputs: Arc::clone(inputs),
                    rows: call.rows.clone(),
                };
                self.lane.ask(asked, now + wait, patience)
            }
        }
    }

    fn on_processor(&self, inputs: &[Tensor], rows: usize, kept: Option<&RowsOfRun>) -> Result<Vec<Tensor>, Fault> {
        let began = clock::instant();
        let outputs = run_keeping(&*self.stand_in, inputs, kept)?;
        let took = clock::instant().saturating_duration_since(began);
        plan::learn(&self.stand_in_row_us, rows, took);
        self.metrics.stand_in_runs.inc();
        Ok(outputs)
    }
}

impl Model for Backed {
    fn run(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>, Fault> {
        let call = Call::until(clock::instant() + self.bounds.unasked);
        self.answer(&call, &Arc::new(inputs.to_vec()))
            .map(|answer| answer.outputs)
    }

    fn answer(&self, call: &Call, inputs: &Arc<Vec<Tensor>>) -> Result<Answer, Fault> {
        let (began, rows) = (clock::instant(), join::rows(inputs));
        let costs = self.costs(rows);
        let why = match self.on_device(inputs, costs, call) {
            Ok(outputs) => return Ok(Answer::signed(outputs)),
            // The request is at fault: the processor would say the same.
            Err(NoAnswer::Fault(Fault::Input(why))) => return Err(Fault::Input(why)),
            Err(why) => why,
        };
        let now = clock::instant();
        if !plan::still_fits(costs.stand_in, call.deadline.saturating_duration_since(now)) {
            return Err(Fault::Late);
        }
        let outputs = self.on_processor(inputs, rows, call.rows.as_ref());
        if matches!(why, NoAnswer::Fault(_)) && outputs.is_ok() {
            // What the processor can answer and the device cannot is the device's failure.
            self.lane.failed_alone(clock::instant());
        }
        Ok(Answer {
            outputs: outputs?,
            by: Answerer::StandIn,
            lost: now.saturating_duration_since(began),
        })
    }

    fn tokens(&self, inputs: &[Tensor]) -> usize {
        self.stand_in.tokens(inputs)
    }

    fn answerer(&self) -> Answerer {
        if self.lane.is_in_use(clock::instant()) {
            Answerer::Signed
        } else {
            Answerer::StandIn
        }
    }

    fn device(&self) -> Option<Standing> {
        Some(self.standing())
    }
}

impl Drop for Backed {
    /// Lets the thread end: at once, or when the call that it is in returns.
    fn drop(&mut self) {
        self.lane.leave();
    }
}

#[cfg(test)]
pub(crate) mod tests;
