//! One execution, everybody who waits for it, and how they are told.
//!
//! ```text
//!   first request  --> Flight (goes with the order to the engine) --land: keep, then tell--> all waiters
//!   same key later --> Waiter of the same flight                    \--refuse------------>
//! ```
//! A flight lives as long as somebody waits: its deadline is the latest of its waiters', and when all have gone the
//! engine skips it. A flight that is dropped on the way tells its waiters so: nobody waits for nothing.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use proto::ids::ContentHash;
use proto::oip::Tensor;

use super::key::Key;
use crate::engine::Answerer;

/// What an execution gave, and when it did what.
#[derive(Clone, Debug)]
pub struct Landed {
    /// The outputs asked for.
    pub outputs: Arc<Vec<Tensor>>,
    /// Whose arithmetic made them.
    pub by: Answerer,
    /// The run that made them; `None` where they were kept.
    pub run: Option<Run>,
}

/// One request's way through queue and engine.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// Into the queue.
    pub pushed: Instant,
    /// Out of it.
    pub taken: Instant,
    /// Joined with others, and into the engine.
    pub began: Instant,
    /// Out of the engine.
    pub ended: Instant,
    /// What the request's rows took of all engine threads.
    pub busy: Duration,
    /// Rows of the whole run.
    pub rows: usize,
}

/// Why there is no answer. Only the outermost layer turns this into a status.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The queue has no room.
    #[error("the queue is full")]
    Full {
        /// Probably until there is.
        wait: Duration,
    },
    /// Would be done too late.
    #[error("it would take about {} ms, longer than the deadline allows: allow more, or ask the router for another node", wait.as_millis())]
    Unmeetable {
        /// Probably until done.
        wait: Duration,
    },
    /// The deadline passed while it waited or ran.
    #[error("the deadline has passed")]
    Expired,
    /// Larger than the whole queue.
    #[error("more rows or bytes than the queue of this node can ever hold: send fewer rows")]
    TooLarge,
    /// The node is shutting down.
    #[error("this node is shutting down")]
    Draining,
    /// The inputs do not fit the model.
    #[error("{0}")]
    Input(String),
    /// The run failed and the fault is ours; the log says more.
    #[error("the model failed on this input")]
    Failed,
    /// Nobody waited any more when its turn came, or whoever led it left before it was queued. A waiter that is still
    /// there asks again.
    #[error("dropped by whoever led it")]
    Abandoned,
}

/// The end of a flight.
pub type Outcome = Result<Landed, Refusal>;

/// Keeps an answer for later requests of the same key.
pub type Keep = Arc<dyn Fn(&Key, &Arc<Vec<Tensor>>) + Send + Sync>;

/// Flights in the air, by the key of their request. Clones share them.
#[derive(Clone)]
pub struct Flights {
    list: Arc<Mutex<HashMap<ContentHash, Arc<Air>>>>,
    keep: Keep,
}

impl std::fmt::Debug for Flights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Flights({})", self.lock().len())
    }
}

/// What both ends share.
#[derive(Debug)]
struct Air {
    /// How many wait: the engine looks often, and needs no lock for it.
    waiting: AtomicUsize,
    cabin: Mutex<Cabin>,
}

#[derive(Debug)]
struct Cabin {
    deadline: Instant,
    outcome: Option<Outcome>,
    /// Of whoever leads; most flights have nobody else.
    leader: Option<Waker>,
    followers: Vec<Option<Waker>>,
}

impl Air {
    fn cabin(&self) -> MutexGuard<'_, Cabin> {
        self.cabin.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn tell(&self, outcome: Outcome) {
        let mut cabin = self.cabin();
        cabin.outcome = Some(outcome);
        let (leader, followers) = (cabin.leader.take(), std::mem::take(&mut cabin.followers));
        drop(cabin);
        leader.into_iter().for_each(Waker::wake);
        followers.into_iter().flatten().for_each(Waker::wake);
    }
}

/// The telling end. Exactly one goes with each execution.
#[derive(Debug)]
pub struct Flight {
    air: Arc<Air>,
    listed: Option<(Flights, Key)>,
    told: bool,
}

/// The waiting end: the flight's outcome, when it is there. Dropping it leaves the flight; the last to leave grounds it.
#[derive(Debug)]
pub struct Waiter {
    air: Arc<Air>,
    /// Its place among the followers; none for the leader.
    seat: Option<usize>,
}

/// Whether a request leads or follows.
#[derive(Debug)]
pub enum Boarding {
    /// The first of its key: send the flight to the engine.
    Lead(Flight, Waiter),
    /// Another is on its way with the same question.
    Follow(Waiter),
}

impl Flights {
    /// No flights. `keep` is called with each answer before anybody hears it.
    #[must_use]
    pub fn new(keep: Keep) -> Self {
        Self {
            list: Arc::default(),
            keep,
        }
    }
    /// Joins the flight of `key`, or starts it.
    #[must_use]
    pub fn board(&self, key: &Key, deadline: Instant) -> Boarding {
        let mut list = self.lock();
        if let Some(air) = list.get(&key.name) {
            return Boarding::Follow(follow(air, deadline));
        }
        let (mut flight, waiter) = alone(deadline);
        list.insert(key.name, Arc::clone(&flight.air));
        flight.listed = Some((self.clone(), *key));
        Boarding::Lead(flight, waiter)
    }
    /// How many wait in all.
    #[cfg(test)]
    pub(super) fn passengers(&self) -> usize {
        let list = self.lock();
        list.values().map(|air| air.waiting.load(Ordering::Acquire)).sum()
    }
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<ContentHash, Arc<Air>>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A flight that nobody else can join and whose answer is not kept.
#[must_use]
pub fn alone(deadline: Instant) -> (Flight, Waiter) {
    let air = Arc::new(Air {
        waiting: AtomicUsize::new(1),
        cabin: Mutex::new(Cabin {
            deadline,
            outcome: None,
            leader: None,
            followers: Vec::new(),
        }),
    });
    let waiter = Waiter {
        air: Arc::clone(&air),
        seat: None,
    };
    let flight = Flight {
        air,
        listed: None,
        told: false,
    };
    (flight, waiter)
}

/// One more who waits for `air`.
fn follow(air: &Arc<Air>, deadline: Instant) -> Waiter {
    air.waiting.fetch_add(1, Ordering::AcqRel);
    let mut cabin = air.cabin();
    cabin.deadline = cabin.deadline.max(deadline);
    cabin.followers.push(None);
    Waiter {
        air: Arc::clone(air),
        seat: Some(cabin.followers.len() - 1),
    }
}

impl Flight {
    /// Whether anybody still waits.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.air.waiting.load(Ordering::Acquire) > 0
    }
    /// Whether others may join it, and its answer is kept.
    #[must_use]
    pub fn is_listed(&self) -> bool {
        self.listed.is_some()
    }
    /// The latest moment at which the run may start: the latest deadline of those who wait.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.air.cabin().deadline
    }
    /// Keeps the answer, then tells everybody.
    pub fn land(mut self, landed: Landed) {
        self.tell(Ok(landed));
    }
    /// Tells everybody the answer of a cache, which needs no keeping.
    pub fn land_kept(mut self, landed: Landed) {
        self.unlist();
        self.tell(Ok(landed));
    }
    /// Tells everybody why there is none.
    pub fn refuse(mut self, why: Refusal) {
        self.tell(Err(why));
    }
    /// Ends a flight that was not run: its time was over, or nobody waits.
    pub fn dismiss(self) {
        let why = if self.is_wanted() {
            Refusal::Expired
        } else {
            Refusal::Abandoned
        };
        self.refuse(why);
    }
    /// Kept first, then off the list, then told: whoever comes now finds it kept, or starts anew. What another made than the
    /// question is named by is told, and not kept under that name.
    fn tell(&mut self, outcome: Outcome) {
        if let (Some((flights, key)), Ok(landed)) = (&self.listed, &outcome)
            && landed.by == key.by
        {
            (flights.keep)(key, &landed.outputs);
        }
        self.unlist();
        self.told = true;
        self.air.tell(outcome);
    }
    fn unlist(&mut self) {
        if let Some((flights, key)) = self.listed.take() {
            flights.lock().remove(&key.name);
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if !self.told {
            self.tell(Err(Refusal::Abandoned));
        }
    }
}

impl Future for Waiter {
    type Output = Outcome;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome> {
        let mut cabin = self.air.cabin();
        if let Some(outcome) = &cabin.outcome {
            return Poll::Ready(outcome.clone());
        }
        let place = match self.seat {
            None => Some(&mut cabin.leader),
            Some(seat) => cabin.followers.get_mut(seat),
        };
        match place {
            Some(Some(waker)) => waker.clone_from(context.waker()),
            Some(none) => *none = Some(context.waker().clone()),
            None => unreachable!("seats are taken away only when the outcome is there"),
        }
        Poll::Pending
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.air.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flights() -> Flights {
        Flights::new(Arc::new(|_, _| ()))
    }
    fn later(ms: u64) -> Instant {
        runtime::clock::instant() + Duration::from_millis(ms)
    }
    fn landed() -> Landed {
        Landed {
            outputs: Arc::default(),
            by: Answerer::Signed,
            run: None,
        }
    }
    fn lead(flights: &Flights, key: &[u8], deadline: Instant) -> (Flight, Waiter) {
        match flights.board(&Key::named(ContentHash::of(key)), deadline) {
            Boarding::Lead(flight, waiter) => (flight, waiter),
            Boarding::Follow(_) => panic!("somebody else leads"),
        }
    }
    fn follow(flights: &Flights, key: &[u8], deadline: Instant) -> Waiter {
        match flights.board(&Key::named(ContentHash::of(key)), deadline) {
            Boarding::Follow(waiter) => waiter,
            Boarding::Lead(..) => panic!("nobody leads"),
        }
    }

    #[tokio::test]
    async fn everybody_of_one_key_hears_one_answer_and_the_next_starts_anew() {
        let flights = flights();
        let (flight, first) = lead(&flights, b"a", later(100));
        let second = follow(&flights, b"a", later(900));
        let _other = lead(&flights, b"b", later(100));
        flight.land(landed());
        assert!(first.await.is_ok() && second.await.is_ok());
        let _again = lead(&flights, b"a", later(100));
    }

    #[tokio::test]
    async fn a_flight_waits_for_its_most_patient_passenger_and_ends_with_its_last() {
        let flights = flights();
        let (patient, hasty) = (later(900), later(100));
        let (flight, first) = lead(&flights, b"a", hasty);
        let second = follow(&flights, b"a", patient);
        assert_eq!(flight.deadline(), patient);
        drop(first);
        assert!(flight.is_wanted());
        drop(second);
        assert!(!flight.is_wanted());
    }

    #[tokio::test]
    async fn a_flight_that_is_lost_on_the_way_tells_its_waiters() {
        let (flight, waiter) = lead(&flights(), b"a", later(100));
        drop(flight);
        assert_eq!(waiter.await.unwrap_err(), Refusal::Abandoned);
    }
}
