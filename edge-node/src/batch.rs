//! Joins requests into runs: a bounded queue in front of the engine's threads.
//!
//! [`board`] decides ([`ranks`], [`accounts`], [`demand`], [`cost`] and [`gain`] are what it decides by, [`class`] what operators may ask for), [`join`] puts rows together and takes them apart, [`share`] divides a large run among idle threads, and this
//! module holds the lock, the wake-up and the clock readings around them. Nothing here runs a model: [`crate::engine`] takes from the queue.

pub mod accounts;
pub mod board;
pub mod class;
pub mod cost;
pub mod demand;
mod desk;
pub mod gain;
pub mod join;
pub mod plain;
pub mod ranks;
pub mod share;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use proto::ids::ModelName;
use proto::oip::Tensor;
use runtime::clock;
use tracing::Span;

use crate::cache::Keeper;
use crate::cache::flight::{Flight, Refusal};
use crate::engine::Model;
use crate::metrics::Metrics;
use crate::serving::{ModelSlot, Serving};
use accounts::Payer;
use board::{Board, Bounds, Item, Job, LaneId, Next, WAKE};
use class::{Class, Level};
use desk::Desk;
use gain::Plan;
use share::Share;

/// One request on its way to the engine.
#[derive(Debug)]
pub struct Order {
    /// What is known of the model; held until it has answered.
    pub slot: Arc<ModelSlot>,
    /// Runs it: the model stays in memory until it has.
    pub model: Arc<dyn Model>,
    /// Checked against the signature.
    pub inputs: Arc<Vec<Tensor>>,
    /// Whose its decoded rows are, where some are kept.
    pub keeper: Option<Keeper>,
    /// Outputs that are wanted; empty for all.
    pub outputs: Vec<String>,
    /// Whose time it takes.
    pub payer: Payer,
    /// What the client asks for; `None` leaves it to the model's class.
    pub level: Option<Level>,
    /// Whom to tell.
    pub flight: Flight,
    /// The request's span, parent of what happens here.
    pub span: Span,
    /// Open while the order waits.
    pub waiting: Span,
}

impl Job for Order {
    fn wanted(&self) -> bool {
        self.flight.is_wanted()
    }
    fn deadline(&self) -> Instant {
        self.flight.deadline()
    }
}

/// Orders that one thread runs together.
#[derive(Debug)]
pub struct Batch {
    /// At least one; all of one lane.
    pub items: Vec<Item<Order>>,
    /// When they left the queue.
    pub taken: Instant,
}

impl Batch {
    fn new(mut items: Vec<Item<Order>>, taken: Instant) -> Self {
        for item in &mut items {
            item.job.waiting = Span::none();
        }
        Self { items, taken }
    }
}

/// What an engine thread does next.
#[derive(Debug)]
pub enum Work {
    /// Runs these.
    Batch(Batch),
    /// Runs rows of another thread's batch.
    Share(Arc<Share>),
}

/// What an operator says of models and tenants.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Models that are not of the class [`Class::Standard`].
    pub classes: HashMap<ModelName, Class>,
    /// Shares of tenants; 1 for all others.
    pub weights: HashMap<Payer, u32>,
}

/// The queue between ingress and engine threads. Clones share it.
#[derive(Clone, Debug)]
pub struct Queue {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    desk: Mutex<Desk<Order>>,
    linger: Duration,
    threads: usize,
    classes: HashMap<ModelName, Class>,
    serving: Serving,
    metrics: Metrics,
}

impl Queue {
    /// An empty queue.
    #[must_use]
    pub fn new(bounds: Bounds, rules: Rules, serving: Serving, metrics: Metrics) -> Self {
        let board = Board::new(bounds, rules.weights);
        Self {
            shared: Arc::new(Shared {
                desk: Mutex::new(Desk::new(board, bounds.threads)),
                linger: bounds.linger,
                threads: bounds.threads,
                classes: rules.classes,
                serving,
                metrics,
            }),
        }
    }

    /// What requests of `model` get that do not ask for anything else.
    #[must_use]
    pub fn class(&self, model: &ModelName) -> Class {
        self.shared.classes.get(model).copied().unwrap_or_default()
    }

    /// Queues `order` or refuses it at once. Whoever waits on its flight learns which.
    pub fn push(&self, order: Order) {
        let pushed = clock::instant();
        let item = self.weigh(order, pushed);
        let mut dead = Vec::new();
        let mut desk = self.lock();
        let refused = desk.board.push(item, &mut dead);
        self.tell(&desk.board);
        let called = refused.is_ok().then(|| desk.call(pushed)).flatten();
        drop(desk);
        if let Some(thread) = called {
            thread.unpark();
        }
        if let Err((why, order)) = refused {
            order.flight.refuse(why.into());
        }
        self.dismiss(dead);
    }

    /// Blocks engine thread `thread` until there is something to run; `None` when draining and all is done.
    #[must_use]
    pub fn take(&self, thread: usize) -> Option<Work> {
        let (mut desk, mut idle_since) = (self.lock(), None);
        loop {
            let (now, mut dead) = (clock::instant(), Vec::new());
            let next = desk.board.take(thread, now, &mut dead);
            self.tell(&desk.board);
            let until = match next {
                Next::Run(items) => {
                    desk.note_wait(thread, now.saturating_duration_since(idle_since.unwrap_or(now)));
                    let help = desk.board.has_ready().then(|| desk.call(now)).flatten();
                    drop(desk);
                    if let Some(help) = help {
                        help.unpark();
                    }
                    self.dismiss(dead);
                    return Some(Work::Batch(Batch::new(items, now)));
                }
                Next::Wait(until) => until,
            };
            if !dead.is_empty() {
                drop(desk);
                self.dismiss(dead);
                desk = self.lock(); // what came while the lock was open has not been looked at
                continue;
            }
            if let Some(share) = desk.shares.pop_front() {
                desk.board.occupy(thread, now + share.cost);
                return Some(Work::Share(share));
            }
            if until.is_none() && desk.board.is_draining() {
                return None;
            }
            let since = *idle_since.get_or_insert(now);
            desk = match until {
                None if desk.looks(thread, since, now) => self.look_around(desk, since + WAKE),
                until => self.sleep(desk, thread, until.map(|at| at.saturating_duration_since(now))),
            };
        }
    }

    /// Gives the core to whoever wants it, and looks whether something came, until `till`.
    fn look_around<'q>(&'q self, mut desk: MutexGuard<'q, Desk<Order>>, till: Instant) -> MutexGuard<'q, Desk<Order>> {
        desk.expect(clock::instant());
        drop(desk);
        while self.shared.serving.queued() == 0 && clock::instant() < till {
            std::thread::yield_now();
        }
        desk = self.lock();
        desk.looked();
        desk
    }

    /// Sleeps until somebody calls, or for a `nap`.
    fn sleep<'q>(
        &'q self,
        mut desk: MutexGuard<'q, Desk<Order>>,
        thread: usize,
        nap: Option<Duration>,
    ) -> MutexGuard<'q, Desk<Order>> {
        desk.lie_down(thread);
        drop(desk);
        match nap {
            None => std::thread::park(),
            Some(nap) => std::thread::park_timeout(nap),
        }
        desk = self.lock();
        desk.rise(thread);
        desk
    }

    /// Engine threads that take from this queue.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.shared.threads
    }

    /// Threads that nothing occupies.
    #[must_use]
    pub fn idle(&self) -> usize {
        self.lock().board.idle()
    }

    /// Shows shares of the run that `thread` is at to those who are idle. It will need `own` for what it keeps.
    pub fn show(&self, shares: &[Arc<Share>], thread: usize, own: Duration) {
        let mut desk = self.lock();
        desk.board.occupy(thread, clock::instant() + own);
        desk.shares.extend(shares.iter().cloned());
        desk.call_all();
    }

    /// Shows them no more.
    pub fn withdraw(&self, shares: &[Arc<Share>]) {
        let mine = |shown: &Arc<Share>| shares.iter().any(|share| Arc::ptr_eq(share, shown));
        self.lock().shares.retain(|shown| !mine(shown));
    }

    /// Refuses what comes, lets the threads finish what waits and then return.
    pub fn drain(&self) {
        let mut desk = self.lock();
        desk.board.drain();
        desk.call_all();
    }

    /// How long something pushed now would probably wait.
    #[must_use]
    pub fn wait(&self) -> Duration {
        self.lock().board.wait(clock::instant())
    }

    /// What `order` costs, where it queues, and with whom it may share a run.
    fn weigh(&self, order: Order, pushed: Instant) -> Item<Order> {
        let slot = &order.slot;
        let class = self.class(&slot.release.model);
        let signature = join::signature_of(&slot.manifest, &order.inputs);
        let place = signature.and_then(|of| slot.manifest.signatures.iter().position(|one| std::ptr::eq(one, of)));
        let ahead = place.and_then(|place| slot.lanes.get(place).copied().flatten());
        let joinable = signature.is_some_and(join::is_joinable);
        let rows = if joinable { join::rows(&order.inputs) } else { 1 };
        let plan = if joinable {
            slot.pace.gain.plan(slot.rows_max())
        } else {
            Plan::ALONE
        };
        let budget = order.flight.deadline().saturating_duration_since(pushed);
        let delays = [self.shared.linger, class.delay_max(), budget / 5, plan.company];
        let lane = LaneId {
            model: slot.manifest_id,
            join: ahead.unwrap_or_else(|| join::key(&slot.weights, &order.inputs)),
        };
        let bytes = order.inputs.iter().map(|t| t.data.len()).sum();
        Item {
            lane,
            rows,
            rows_max: plan.rows_max,
            bytes,
            cost: slot.pace.cost.of(rows, bytes),
            payer: order.payer,
            level: order.level.unwrap_or(class.level()),
            delay: delays.into_iter().min().unwrap_or_default(),
            pushed,
            job: order,
        }
    }

    /// Tells those who may still listen why their order was not run.
    fn dismiss(&self, dead: Vec<Order>) {
        for order in dead {
            self.shared.metrics.queue_lost.inc();
            order.flight.dismiss();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Desk<Order>> {
        self.shared.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn tell(&self, board: &Board<Order>) {
        self.shared.serving.set_queued(board.requests());
        self.shared
            .metrics
            .queued
            .set(i64::try_from(board.requests()).unwrap_or(i64::MAX));
    }
}

impl From<board::Refused> for Refusal {
    fn from(why: board::Refused) -> Self {
        match why {
            board::Refused::Full { wait } => Self::Full { wait },
            board::Refused::Unmeetable { wait } => Self::Unmeetable { wait },
            board::Refused::TooLarge => Self::TooLarge,
            board::Refused::Draining => Self::Draining,
        }
    }
}

#[cfg(test)]
mod tests;
