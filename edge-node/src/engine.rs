//! The last stage before the answer: what runs a batch, and the threads it runs on.
//!
//! Inference is blocking. It runs on the threads of this stage only, never on the async runtime.

pub mod device;
mod run;

use std::any::Any;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use proto::oip::Tensor;

use crate::batch::{Queue, Work};
use crate::cache::RowsOfRun;
use crate::metrics::Metrics;

/// Why a run gave no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The caller can mend it: the inputs do not fit the model.
    #[error("{0}")]
    Input(String),
    /// The fault is ours. The text is for our log; callers are told only that it happened.
    #[error("{0}")]
    Internal(String),
    /// There was not time enough left when whoever was asked first had failed.
    #[error("no time was left for the processor when the device had failed")]
    Late,
}

/// What a run may take.
#[derive(Clone, Debug)]
pub struct Call {
    /// Nothing starts after it.
    pub deadline: Instant,
    /// What is kept of its rows, if anything is.
    pub rows: Option<RowsOfRun>,
}

impl Call {
    /// One that may take until `deadline`.
    #[must_use]
    pub const fn until(deadline: Instant) -> Self {
        Self { deadline, rows: None }
    }
}

/// Whose arithmetic made an answer. Equal inputs give equal bits only where this is equal too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answerer {
    /// The variant's own, that the signed state names.
    Signed,
    /// The processor's, in the place of a device that failed: same file, same version, other numerics.
    StandIn,
}

/// What a run gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The outputs.
    pub outputs: Vec<Tensor>,
    /// Who made them.
    pub by: Answerer,
    /// Time that passed before whoever made them began.
    pub lost: Duration,
}

impl Answer {
    /// One of the variant itself.
    #[must_use]
    pub const fn signed(outputs: Vec<Tensor>) -> Self {
        Self {
            outputs,
            by: Answerer::Signed,
            lost: Duration::ZERO,
        }
    }
}

/// A loaded model, as the batcher needs it: tensors in, tensors out, rows on axis 0.
///
/// The engine's `LoadedModel` is one; tests have slow, failing and counting ones.
pub trait Model: Send + Sync + 'static {
    /// Runs one batch on the calling thread. Input names select the signature.
    ///
    /// # Errors
    /// [`Fault::Input`] when the inputs do not fit, [`Fault::Internal`] for everything else.
    fn run(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>, Fault>;

    /// As [`Model::run`], by the deadline of `call` where somebody else can answer in time, and tells who did.
    ///
    /// # Errors
    /// Those of [`Model::run`]; [`Fault::Late`] where too little time was left for whoever could still answer.
    fn answer(&self, call: &Call, inputs: &Arc<Vec<Tensor>>) -> Result<Answer, Fault> {
        run_keeping(self, inputs, call.rows.as_ref()).map(Answer::signed)
    }

    /// As [`Model::run`], to the same bits, with decoded rows kept in `rows`.
    ///
    /// # Errors
    /// Those of [`Model::run`].
    fn run_keeping(&self, inputs: &[Tensor], _rows: &RowsOfRun) -> Result<Vec<Tensor>, Fault> {
        self.run(inputs)
    }

    /// Who would answer now.
    fn answerer(&self) -> Answerer {
        Answerer::Signed
    }

    /// How the device is that it runs on; `None` for a model that needs none.
    fn device(&self) -> Option<device::Standing> {
        None
    }

    /// How many tokens its tokenizer makes of `inputs`, padding not counted; 0 where it has none.
    fn tokens(&self, _inputs: &[Tensor]) -> usize {
        0
    }
}

/// Runs `model`, with rows kept where there are any to keep.
fn run_keeping<M: Model + ?Sized>(
    model: &M,
    inputs: &[Tensor],
    rows: Option<&RowsOfRun>,
) -> Result<Vec<Tensor>, Fault> {
    match rows {
        Some(rows) => model.run_keeping(inputs, rows),
        None => model.run(inputs),
    }
}

impl std::fmt::Debug for dyn Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Model")
    }
}

/// The threads that run models.
#[derive(Debug)]
pub struct Engine {
    queue: Queue,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Engine {
    /// Starts `threads` threads that take from `queue`.
    ///
    /// # Errors
    /// When the system gives no more threads.
    pub fn start(queue: &Queue, threads: usize, metrics: &Metrics) -> std::io::Result<Self> {
        let start = |thread: usize| {
            let (queue, metrics) = (queue.clone(), metrics.clone());
            let work = move || {
                let place = run::Place {
                    thread,
                    queue: &queue,
                    metrics: &metrics,
                };
                while let Some(work) = queue.take(thread) {
                    match work {
                        Work::Batch(batch) => place.batch(batch),
                        Work::Share(share) => run::share(&share),
                    }
                }
            };
            std::thread::Builder::new().name(format!("engine-{thread}")).spawn(work)
        };
        let threads = (0..threads).map(start).collect::<Result<_, _>>()?;
        Ok(Self {
            queue: queue.clone(),
            threads: Mutex::new(threads),
        })
    }
    /// Runs what waits, then ends the threads. Blocks until they have.
    pub fn stop(&self) {
        self.queue.drain();
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        for thread in threads {
            if let Err(panic) = thread.join() {
                tracing::error!(panic = panic_text(panic.as_ref()), "an engine thread ended early");
            }
        }
    }
}

impl Drop for Engine {
    /// Lets the threads end by themselves.
    fn drop(&mut self) {
        self.queue.drain();
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("panicked")
}
