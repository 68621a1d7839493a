//! Who waits, who runs next, who is refused: plain decisions over plain data.
//!
//! ```text
//!            lane: same model, same shapes beyond axis 0
//!   push --> forms, while waiting for company pays --> ready --> take: first by level, share and age (`ranks`),
//!                 \__________ may be taken along ____________/        and whoever may share its run
//! ```
//! An order forms for its `delay` at most, and only while so much work comes that joining will be needed: a lone request on an idle node
//! never waits. A full lane is ready at once. While every engine thread is busy nothing is taken, so batches grow by themselves
//! under load, and who comes before a batch leaves may still join it.
//!
//! What cannot be done by its deadline is refused at the door, by the work ahead of its place in the line; what came in and will
//! not make it after all is dropped when its turn comes.
//!
//! This module has no clock, lock or thread: [`super::Queue`] puts them around it.
//!
//! Invariant: rows of one model and bytes of all never exceed their bounds, and nobody is taken after the deadline or
//! after everyone who wanted the answer has gone.

mod door;
mod thread;

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use proto::ids::ContentHash;

use super::accounts::{Accounts, Payer};
use super::class::Level;
use super::demand::Demand;
use super::plain::PlainMap;
use super::ranks::{RISEN_EVERY, Ranks, Seq};
use thread::Thread;

/// The dead are looked for at most this often; each is found at its turn anyway.
const SWEEP_EVERY: Duration = Duration::from_millis(5);

/// Company is waited for only where the work that comes would keep this share of the threads busy.
const COMPANY_LOAD: f64 = 0.5;

/// What it takes to wake a thread. Work that a busy thread comes to sooner is left to it: the second one would only take the
/// core from those who read requests and write answers.
pub const WAKE: Duration = Duration::from_micros(50);

/// What the board must know of a job it holds.
pub trait Job {
    /// `false` once nobody waits for the answer.
    fn wanted(&self) -> bool;
    /// The run must have started by then. May move later while the job waits, never earlier.
    fn deadline(&self) -> Instant;
}

/// A thread that is late by less is about to come: estimates tell when a run ends, and then its answers are told.
const LATE: Duration = WAKE;
/// It is counted on for so few requests: where more wait it may be late since it has no core.
const LATE_FOR: usize = 4;

/// Shorter runs are not parted among threads.
const PART_MIN: Duration = Duration::from_millis(1);

/// Bounds of the queue.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Rows of one model that may wait.
    pub rows_max: usize,
    /// Input bytes of all models that may wait.
    pub bytes_max: usize,
    /// Longest wait for a fuller batch while a thread is idle; a model's class may set less.
    pub linger: Duration,
    /// Engine threads that take from the board.
    pub threads: usize,
}

/// Jobs of one lane may be joined along axis 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LaneId {
    /// Identity of the model's manifest.
    pub model: ContentHash,
    /// Digest of all that must be equal for joining: names, types and sizes beyond axis 0.
    pub join: ContentHash,
}

/// A job and what it weighs.
#[derive(Debug)]
pub struct Item<J> {
    /// Where it queues.
    pub lane: LaneId,
    /// Size of axis 0.
    pub rows: usize,
    /// Rows worth joining into one run of its lane; 1 keeps every job alone.
    pub rows_max: usize,
    /// Bytes of its inputs.
    pub bytes: usize,
    /// How long it will probably run alone.
    pub cost: Duration,
    /// Whose time it takes.
    pub payer: Payer,
    /// Where it queues among others.
    pub level: Level,
    /// Longest wait for company; zero where joining does not pay.
    pub delay: Duration,
    /// When it came.
    pub pushed: Instant,
    /// The job.
    pub job: J,
}

/// Why a job is not queued. It is handed back to be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// No room. `wait` is how long the queue probably needs to be worked off.
    Full {
        /// Estimated.
        wait: Duration,
    },
    /// It would start too late to be done by its deadline.
    Unmeetable {
        /// Estimated time until it would be done.
        wait: Duration,
    },
    /// Larger than the whole queue.
    TooLarge,
    /// The node is shutting down.
    Draining,
}

/// What a thread should do next.
#[derive(Debug)]
pub enum Next<J> {
    /// Run these together.
    Run(Vec<Item<J>>),
    /// Nothing is ripe: look again at this moment, or when something is pushed.
    Wait(Option<Instant>),
}

/// A job that waits.
#[derive(Debug)]
struct Waiting<J> {
    item: Item<J>,
    /// Until when it forms; `None` once it is ready.
    forms: Option<Instant>,
}

/// Jobs that may share a run.
#[derive(Debug, Default)]
struct Lane {
    ranks: Ranks,
    rows: usize,
}

/// Jobs that wait.
#[derive(Debug)]
pub struct Board<J> {
    bounds: Bounds,
    waiting: PlainMap<Seq, Waiting<J>>,
    next: Seq,
    lanes: PlainMap<LaneId, Lane>,
    ready: Ranks,
    forming: BTreeSet<(Instant, Seq)>,
    rows: PlainMap<ContentHash, usize>,
    bytes: usize,
    accounts: Accounts,
    demand: Demand,
    threads: Vec<Thread>,
    swept: Option<Instant>,
    refusing: Option<Instant>,
    runs: u64,
    draining: bool,
}

impl<J: Job> Board<J> {
    /// An empty board. Tenants without a weight have 1.
    #[must_use]
    pub fn new(bounds: Bounds, weights: HashMap<Payer, u32>) -> Self {
        Self {
            bounds,
            waiting: PlainMap::default(),
            next: 0,
            lanes: PlainMap::default(),
            ready: Ranks::default(),
            forming: BTreeSet::new(),
            rows: PlainMap::default(),
            bytes: 0,
            accounts: Accounts::new(weights),
            demand: Demand::default(),
            threads: (0..bounds.threads).map(|_| Thread::default()).collect(),
            swept: None,
            refusing: None,
            runs: 0,
            draining: false,
        }
    }
    /// Requests that wait.
    #[must_use]
    pub fn requests(&self) -> usize {
        self.waiting.len()
    }
    /// Whether [`Board::drain`] was called.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining
    }
    /// Takes no more; what waits is ready at once.
    pub fn drain(&mut self) {
        self.draining = true;
    }
    /// Threads that nothing occupies.
    #[must_use]
    pub fn idle(&self) -> usize {
        self.threads.iter().filter(|thread| thread.until.is_none()).count()
    }
    /// Whether all that waits will be taken by a thread that is busy now sooner than another could be woken, or is little for the
    /// `called` ones that are waking up already.
    #[must_use]
    pub fn is_soon_taken(&self, called: u32, now: Instant) -> bool {
        let soon = now + WAKE;
        let work = self.accounts.backlog();
        if called > 0 && work < WAKE * called {
            return true;
        }
        let busy = self.threads.iter().filter_map(|thread| thread.until);
        let late = if self.requests() <= LATE_FOR {
            LATE
        } else {
            Duration::ZERO
        };
        let mut coming = busy.filter(|until| *until + late > now).map(|until| until.max(now));
        work < WAKE && coming.any(|comes| comes + work < soon)
    }
    /// Whether something waits that a free thread would take.
    #[must_use]
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }
    /// Has `thread` count as busy until then, with what the board did not give it.
    pub fn occupy(&mut self, thread: usize, until: Instant) {
        self.threads[thread].until = Some(until);
    }
    /// Queues `item`, or hands it back with the reason. Jobs that died waiting make room first; they come back in `dead`.
    pub fn push(&mut self, mut item: Item<J>, dead: &mut Vec<J>) -> Result<(), (Refused, J)> {
        let now = item.pushed;
        self.demand.note(item.cost, now);
        if self.draining {
            return Err((Refused::Draining, item.job));
        }
        if item.rows > self.bounds.rows_max || item.bytes > self.bounds.bytes_max {
            return Err((Refused::TooLarge, item.job));
        }
        let (mut has_room, mut misses) = (self.has_room(&item), self.misses(&item));
        if !has_room || misses.is_some() {
            self.sweep(now, dead);
            (has_room, misses) = (self.has_room(&item), self.misses(&item));
        }
        if !has_room {
            let wait = self.wait(now);
            return Err((Refused::Full { wait }, item.job));
        }
        if let Some(wait) = misses {
            if !self.probes(now) {
                return Err((Refused::Unmeetable { wait }, item.job));
            }
            item.cost = Duration::ZERO; // nobody knows: that is why it may run
        }
        self.admit(item);
        Ok(())
    }

    fn admit(&mut self, item: Item<J>) {
        let (seq, now) = (self.next, item.pushed);
        self.next += 1;
        *self.rows.entry(item.lane.model).or_default() += item.rows;
        self.bytes += item.bytes;
        self.accounts.came(item.payer, item.level, item.cost);
        let lane = self.lanes.entry(item.lane).or_default();
        lane.ranks.add(item.level, item.payer, seq, now, &self.accounts);
        lane.rows += item.rows;
        let full = lane.rows >= item.rows_max;
        let company: Vec<Seq> = match full && lane.rows - item.rows < item.rows_max {
            true => lane.ranks.iter().filter(|other| *other != seq).collect(),
            false => Vec::new(),
        };
        company.into_iter().for_each(|other| self.ripen(other));
        let threads = f64::from(u32::try_from(self.bounds.threads).unwrap_or(u32::MAX));
        let alone = item.delay.is_zero() || self.demand.threads(now) < COMPANY_LOAD * threads;
        let forms = (!full && !alone && !self.draining).then(|| {
            let latest = item.job.deadline().checked_sub(item.cost).unwrap_or(now);
            latest.min(now + item.delay)
        });
        match forms {
            Some(until) => _ = self.forming.insert((until, seq)),
            None => self.ready.add(item.level, item.payer, seq, now, &self.accounts),
        }
        self.waiting.insert(seq, Waiting { item, forms });
    }

    /// What engine thread `thread` should do at `now`. Jobs that died waiting come back in `dead`.
    pub fn take(&mut self, thread: usize, now: Instant, dead: &mut Vec<J>) -> Next<J> {
        self.threads[thread].settle(now, &mut self.accounts);
        while let Some(&(until, seq)) = self.forming.first()
            && (until <= now || self.draining)
        {
            self.ripen(seq);
        }
        self.sweep(now, dead);
        let risen = (self.runs % RISEN_EVERY == RISEN_EVERY - 1).then_some(now);
        while let Some(seq) = self.ready.first(risen, &self.accounts) {
            let Some(head) = self.withdraw(seq) else { break };
            if self.is_lost(&head, now) {
                dead.push(head.job);
                continue;
            }
            let batch = self.fill(head, now, risen, dead);
            self.runs += 1;
            self.threads[thread].start(&batch, now);
            self.refusing = None;
            return Next::Run(batch);
        }
        Next::Wait(self.forming.first().map(|(until, _)| *until))
    }

    /// `head` and whoever may share its run without making anybody late, by rank: no more than this thread's part of the work that
    /// waits, since another takes the rest before a longer run would end.
    fn fill(&mut self, head: Item<J>, now: Instant, risen: Option<Instant>, dead: &mut Vec<J>) -> Vec<Item<J>> {
        let (id, rows_max) = (head.lane, head.rows_max);
        let (mut rows, mut cost, mut due) = (head.rows, head.cost, head.job.deadline());
        let threads = u32::try_from(self.threads.len()).unwrap_or(u32::MAX).max(1);
        let part = ((self.accounts.backlog() + cost) / threads).max(PART_MIN);
        self.accounts.charge(head.payer, head.cost, true);
        let mut batch = vec![head];
        while rows < rows_max {
            let lane = self.lanes.get_mut(&id);
            let Some(seq) = lane.and_then(|lane| lane.ranks.first(risen, &self.accounts)) else {
                break;
            };
            let item = &self.waiting[&seq].item;
            let end = now + cost + item.cost;
            let lives = item.job.wanted() && item.job.deadline() >= now + item.cost;
            let much = rows + item.rows > rows_max || cost + item.cost > part;
            if lives && (much || end > due.min(item.job.deadline())) {
                break;
            }
            let Some(item) = self.withdraw(seq) else { break };
            if self.is_lost(&item, now) {
                dead.push(item.job);
                continue;
            }
            self.accounts.charge(item.payer, item.cost, false);
            due = due.min(item.job.deadline());
            (rows, cost) = (rows + item.rows, cost + item.cost);
            batch.push(item);
        }
        batch
    }

    /// Whether nobody would have anything of running `item` now.
    fn is_lost(&mut self, item: &Item<J>, now: Instant) -> bool {
        if !item.job.wanted() {
            return true;
        }
        let deadline = item.job.deadline();
        let late = deadline <= now || deadline < now + item.cost;
        if late {
            self.accounts.late(item.payer, item.pushed, now);
        }
        late
    }

    /// Ends the forming of an order.
    fn ripen(&mut self, seq: Seq) {
        let Some(waiting) = self.waiting.get_mut(&seq) else {
            return;
        };
        if let Some(until) = waiting.forms.take() {
            self.forming.remove(&(until, seq));
            let Item {
                level, payer, pushed, ..
            } = waiting.item;
            self.ready.add(level, payer, seq, pushed, &self.accounts);
        }
    }

    /// Takes an order out, wherever it stands.
    fn withdraw(&mut self, seq: Seq) -> Option<Item<J>> {
        let Waiting { item, forms } = self.waiting.remove(&seq)?;
        match forms {
            Some(until) => _ = self.forming.remove(&(until, seq)),
            None => self.ready.remove(item.level, item.payer, seq, &self.accounts),
        }
        if let Some(lane) = self.lanes.get_mut(&item.lane) {
            lane.ranks.remove(item.level, item.payer, seq, &self.accounts);
            lane.rows -= item.rows;
            if lane.ranks.is_empty() {
                self.lanes.remove(&item.lane);
            }
        }
        if let Some(left) = self.rows.get_mut(&item.lane.model) {
            *left -= item.rows;
            if *left == 0 {
                self.rows.remove(&item.lane.model);
            }
        }
        self.bytes -= item.bytes;
        self.accounts.left(item.payer, item.level, item.cost);
        Some(item)
    }

    /// Takes out everybody whose deadline has passed or whose clients have gone.
    fn sweep(&mut self, now: Instant, dead: &mut Vec<J>) {
        let fresh = |swept: Instant| now.saturating_duration_since(swept) < SWEEP_EVERY;
        if self.waiting.is_empty() || self.swept.is_some_and(fresh) {
            return;
        }
        self.swept = Some(now);
        let gone = |item: &Item<J>| !item.job.wanted() || item.job.deadline() <= now;
        let lost: Vec<Seq> = self
            .waiting
            .iter()
            .filter(|(_, w)| gone(&w.item))
            .map(|(seq, _)| *seq)
            .collect();
        for seq in lost {
            if let Some(item) = self.withdraw(seq) {
                self.is_lost(&item, now);
                dead.push(item.job);
            }
        }
    }
}

#[cfg(test)]
#[path = "board/tests.rs"]
mod tests;

#[cfg(test)]
#[path = "board/simulation.rs"]
mod simulation;
