//! Who waits, who runs next, who is refused: plain decisions over plain data.
//!
//! ```text
//!   push --> lane: same model, same shapes beyond axis 0 --+
//!   push --> lane                                          +--> take: the ripe lane whose head is oldest
//!   push --> lane                                          |    joins rows up to the lane's bound
//! ```
//! A lane is ripe when it holds a full batch, when its head has lingered long enough, or when waiting longer would cost
//! somebody the deadline. While every engine thread is busy nothing is taken, so batches grow by themselves under load
//! and a lone request on an idle node never waits for company unless `linger` says so.
//!
//! This module has no clock, lock or thread: [`super::Queue`] puts them around it.
//!
//! Invariant: rows of one model and bytes of all never exceed their bounds, and nobody is taken after the deadline or
//! after everyone who wanted the answer has gone.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use proto::ids::ContentHash;

/// What the board must know of a job it holds.
pub trait Job {
    /// `false` once nobody waits for the answer.
    fn wanted(&self) -> bool;
    /// The run must have started by then. May move later while the job waits, never earlier.
    fn deadline(&self) -> Instant;
}

/// Bounds of the queue.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Rows of one model that may wait.
    pub rows_max: usize,
    /// Input bytes of all models that may wait.
    pub bytes_max: usize,
    /// Longest wait for a fuller batch while a thread is idle.
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

/// Jobs that wait.
#[derive(Debug)]
pub struct Board<J> {
    bounds: Bounds,
    lanes: HashMap<LaneId, VecDeque<Item<J>>>,
    rows: HashMap<ContentHash, usize>,
    bytes: usize,
    requests: usize,
    backlog: Duration,
    busy_until: Vec<Option<Instant>>,
    draining: bool,
}

impl<J: Job> Board<J> {
    /// An empty board.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        let busy_until = vec![None; bounds.threads];
        let (lanes, rows) = (HashMap::new(), HashMap::new());
        Self {
            bounds,
            lanes,
            rows,
            bytes: 0,
            requests: 0,
            backlog: Duration::ZERO,
            busy_until,
            draining: false,
        }
    }
    /// Requests that wait.
    #[must_use]
    pub fn requests(&self) -> usize {
        self.requests
    }
    /// Whether [`Board::drain`] was called.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining
    }
    /// Takes no more; what waits is ripe at once.
    pub fn drain(&mut self) {
        self.draining = true;
    }
    /// Threads that nothing occupies.
    #[must_use]
    pub fn idle(&self) -> usize {
        self.busy_until.iter().filter(|until| until.is_none()).count()
    }
    /// Has `thread` count as busy until then, with what the board did not give it.
    pub fn occupy(&mut self, thread: usize, until: Instant) {
        self.busy_until[thread] = Some(until);
    }
    /// Probable time until a job pushed now would start.
    #[must_use]
    pub fn wait(&self, now: Instant) -> Duration {
        let busy = || self.busy_until.iter().flatten();
        if self.requests == 0 && busy().count() < self.bounds.threads {
            return Duration::ZERO;
        }
        let running: Duration = busy().map(|until| until.saturating_duration_since(now)).sum();
        let threads = u32::try_from(self.bounds.threads).unwrap_or(u32::MAX).max(1);
        (running + self.backlog) / threads
    }

    /// Queues `item`, or hands it back with the reason. Jobs that died waiting make room first; they come back in `dead`.
    pub fn push(&mut self, item: Item<J>, dead: &mut Vec<J>) -> Result<(), (Refused, J)> {
        let now = item.pushed;
        if self.draining {
            return Err((Refused::Draining, item.job));
        }
        if item.rows > self.bounds.rows_max || item.bytes > self.bounds.bytes_max {
            return Err((Refused::TooLarge, item.job));
        }
        if !self.has_room(&item) {
            self.bury(now, dead);
        }
        let wait = self.wait(now);
        if !self.has_room(&item) {
            return Err((Refused::Full { wait }, item.job));
        }
        if now + wait + item.cost > item.job.deadline() {
            return Err((Refused::Unmeetable { wait: wait + item.cost }, item.job));
        }
        *self.rows.entry(item.lane.model).or_default() += item.rows;
        self.bytes += item.bytes;
        self.requests += 1;
        self.backlog += item.cost;
        self.lanes.entry(item.lane).or_default().push_back(item);
        Ok(())
    }

    /// What engine thread `thread` should do at `now`. Jobs that died waiting come back in `dead`.
    pub fn take(&mut self, thread: usize, now: Instant, dead: &mut Vec<J>) -> Next<J> {
        self.busy_until[thread] = None;
        self.bury(now, dead);
        let ripe = self.lanes.iter().filter(|(_, lane)| self.ripe_at(lane, now) <= now);
        let Some((&id, _)) = ripe.min_by_key(|(_, lane)| lane.front().map(|head| head.pushed)) else {
            return Next::Wait(self.lanes.values().map(|lane| self.ripe_at(lane, now)).min());
        };
        let batch = self.pop_batch(id);
        let cost: Duration = batch.iter().map(|item| item.cost).sum();
        self.busy_until[thread] = Some(now + cost);
        Next::Run(batch)
    }

    fn has_room(&self, item: &Item<J>) -> bool {
        let rows = self.rows.get(&item.lane.model).copied().unwrap_or(0);
        rows + item.rows <= self.bounds.rows_max && self.bytes + item.bytes <= self.bounds.bytes_max
    }

    /// When `lane`, which is never empty, should run.
    fn ripe_at(&self, lane: &VecDeque<Item<J>>, now: Instant) -> Instant {
        let Some(head) = lane.front() else { return now };
        let rows: usize = lane.iter().map(|item| item.rows).sum();
        if self.draining || self.bounds.linger.is_zero() || rows >= head.rows_max {
            return head.pushed;
        }
        // The whole lane would run as one batch: everybody in it needs that long before the deadline.
        let cost: Duration = lane.iter().map(|item| item.cost).sum();
        let latest = lane
            .iter()
            .filter_map(|item| item.job.deadline().checked_sub(cost))
            .min();
        latest.unwrap_or(now).min(head.pushed + self.bounds.linger)
    }

    fn pop_batch(&mut self, id: LaneId) -> Vec<Item<J>> {
        let Some(mut lane) = self.lanes.remove(&id) else {
            return Vec::new();
        };
        let (mut batch, mut rows) = (Vec::new(), 0);
        while let Some(item) = lane.pop_front() {
            if !batch.is_empty() && rows + item.rows > item.rows_max {
                lane.push_front(item);
                break;
            }
            rows += item.rows;
            self.forget(item.lane.model, item.rows, item.bytes, item.cost);
            batch.push(item);
        }
        if !lane.is_empty() {
            self.lanes.insert(id, lane);
        }
        batch
    }

    /// Takes out everybody whose deadline has passed or whose clients have gone.
    fn bury(&mut self, now: Instant, dead: &mut Vec<J>) {
        let is_dead = |item: &Item<J>| !item.job.wanted() || item.job.deadline() <= now;
        let mut lanes = std::mem::take(&mut self.lanes);
        lanes.retain(|_, lane| {
            if lane.iter().any(is_dead) {
                for item in std::mem::take(lane) {
                    if is_dead(&item) {
                        self.forget(item.lane.model, item.rows, item.bytes, item.cost);
                        dead.push(item.job);
                    } else {
                        lane.push_back(item);
                    }
                }
            }
            !lane.is_empty()
        });
        self.lanes = lanes;
    }

    fn forget(&mut self, model: ContentHash, rows: usize, bytes: usize, cost: Duration) {
        if let Some(left) = self.rows.get_mut(&model) {
            *left -= rows;
            if *left == 0 {
                self.rows.remove(&model);
            }
        }
        self.bytes -= bytes;
        self.requests -= 1;
        self.backlog = self.backlog.saturating_sub(cost);
    }
}

#[cfg(test)]
#[path = "board/tests.rs"]
mod tests;
