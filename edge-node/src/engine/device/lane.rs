//! The one thread that calls a device, and how others wait for it.
//!
//! ```text
//!   engine thread:  place free? -> lays its inputs down -> waits, at most so long -> takes the answer | leaves
//!   lane's thread:                 takes them -> calls the device ................-> lays the answer down | nobody waits: drops it
//!                   nothing to do: tries the device with the known question when that is due, loading the model first if need be
//! ```
//! One call at a time: a device does one after the other, and a session may not be called twice at once. While a call that was left
//! has not returned, nobody lays anything down. When it has taken longer than its patience it is called hung; the thread is in it
//! until it returns, if ever. A lane that is given up meanwhile leaves that thread behind: of those there are at most
//! [`DEVICE_CALLS_LOST_MAX`] in a node, further lanes then have no thread, and their models no device.

mod worker;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use proto::limits::DEVICE_CALLS_LOST_MAX;
use proto::oip::Tensor;
use runtime::clock;

use super::breaker::{Bounds, Breaker, Trouble};
use super::{Parts, Standing};
use crate::cache::RowsOfRun;
use crate::engine::Fault;
use crate::metrics::device::DeviceMetrics;

/// Stack of the thread: it loads models.
const STACK_BYTES: usize = 16 << 20;
/// The ticket of a try: nobody asked.
const TRY: u64 = 0;

/// Threads in calls of lanes that were given up. Clones count together: a node has one of it.
#[derive(Clone, Debug, Default)]
pub struct LostCalls(Arc<AtomicUsize>);

impl LostCalls {
    fn are_too_many(&self) -> bool {
        self.0.load(Ordering::Relaxed) >= DEVICE_CALLS_LOST_MAX
    }
    fn begin(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
    fn end(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What the device is asked.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) inputs: Arc<Vec<Tensor>>,
    /// What is kept of its rows.
    pub(super) rows: Option<RowsOfRun>,
}

/// Why the device gave no answer.
#[derive(Debug)]
pub(super) enum NoAnswer {
    /// There is no time for it.
    OutOfTime,
    /// It is not in use.
    OutOfUse,
    /// Others were at it for as long as this call could wait.
    Busy,
    /// It has not answered yet.
    Late,
    /// It said so.
    Fault(Fault),
}

pub(super) struct Lane {
    name: String,
    desk: Mutex<Desk>,
    changed: Condvar,
    row_us: AtomicU64,
    bounds: Bounds,
    metrics: DeviceMetrics,
    lost: LostCalls,
}

struct Desk {
    work: Work,
    breaker: Breaker,
    /// As it was counted and logged last.
    told: Option<Trouble>,
    /// The first try has ended, or is given up.
    tried: bool,
    /// Nobody needs the lane any more.
    leaving: bool,
    /// It was in a call then.
    lost: bool,
    /// Numbers what is asked.
    tickets: u64,
}

enum Work {
    Idle,
    /// Lies there; a call of it is called hung after `patience`.
    Asked {
        ticket: u64,
        asked: Asked,
        patience: Duration,
    },
    Running {
        ticket: u64,
        /// Called hung from then on.
        until: Instant,
        /// Nobody waits for it.
        left: bool,
        hung: bool,
    },
    Done {
        ticket: u64,
        made: Result<Vec<Tensor>, Fault>,
    },
}

impl Lane {
    pub(super) fn start(parts: Parts) -> std::io::Result<Arc<Self>> {
        let Parts {
            name,
            load,
            question,
            row_us: [row_us, _],
            bounds,
            metrics,
            lost,
            starter,
            ..
        } = parts;
        let desk = Desk {
            work: Work::Idle,
            breaker: Breaker::new(bounds, clock::instant()),
            told: None,
            tried: false,
            leaving: false,
            lost: false,
            tickets: 0,
        };
        let lane = Arc::new(Self {
            name,
            desk: Mutex::new(desk),
            changed: Condvar::new(),
            row_us: AtomicU64::new(u64::from(row_us)),
            bounds,
            metrics,
            lost,
        });
        lane.tell(&mut lane.lock());
        if lane.lost.are_too_many() {
            let mut desk = lane.lock();
            (desk.tried, desk.leaving) = (true, true);
            desk.breaker.hung(clock::instant());
            lane.tell(&mut desk);
            drop(desk);
            tracing::error!(
                model = lane.name,
                "{DEVICE_CALLS_LOST_MAX} calls of devices never returned: without its device until the node is started again"
            );
            return Ok(lane);
        }
        let working = Arc::clone(&lane);
        let thread = std::thread::Builder::new()
            .name("device".to_owned())
            .stack_size(STACK_BYTES);
        starter.start(thread, move || working.work(&load, &question))?;
        Ok(lane)
    }

    /// Asks the device, from any thread. Waits until `until`, and calls what takes longer than `patience` hung.
    pub(super) fn ask(&self, asked: Asked, until: Instant, patience: Duration) -> Result<Vec<Tensor>, NoAnswer> {
        let mut desk = self.placed(until)?;
        desk.tickets += 1;
        let own = desk.tickets;
        desk.work = Work::Asked {
            ticket: own,
            asked,
            patience,
        };
        self.changed.notify_all();
        loop {
            let now = clock::instant();
            let gives_up = self.is_overdue(&mut desk, now) || now >= until;
            match &mut desk.work {
                Work::Done { ticket, .. } if *ticket == own => {
                    let work = std::mem::replace(&mut desk.work, Work::Idle);
                    self.changed.notify_all();
                    return match work {
                        Work::Done { made, .. } => made.map_err(NoAnswer::Fault),
                        _ => unreachable!("looked at under the same lock"),
                    };
                }
                // The thread did not come to it: nothing runs late.
                Work::Asked { ticket, .. } if *ticket == own && gives_up => {
                    desk.work = Work::Idle;
                    self.changed.notify_all();
                    return Err(NoAnswer::Busy);
                }
                Work::Asked { ticket, .. } if *ticket == own => desk = self.wait(desk, now, until),
                Work::Running { ticket, left, .. } if *ticket == own && gives_up => {
                    *left = true;
                    self.changed.notify_all();
                    self.metrics.late.inc();
                    return Err(NoAnswer::Late);
                }
                Work::Running { ticket, until: end, .. } if *ticket == own => {
                    let end = *end;
                    desk = self.wait(desk, now, until.min(end));
                }
                // Somebody else called it hung, and it has returned since.
                _ => return Err(NoAnswer::Late),
            }
        }
    }

    /// Waits for the lane to be free.
    fn placed(&self, until: Instant) -> Result<MutexGuard<'_, Desk>, NoAnswer> {
        let mut desk = self.lock();
        loop {
            let now = clock::instant();
            self.is_overdue(&mut desk, now);
            if !desk.breaker.is_in_use() || desk.leaving {
                return Err(NoAnswer::OutOfUse);
            }
            let end = match desk.work {
                Work::Idle => return Ok(desk),
                Work::Running { left: true, .. } => return Err(NoAnswer::Busy),
                Work::Running { until: end, .. } => end,
                Work::Asked { .. } | Work::Done { .. } => until,
            };
            if now >= until {
                return Err(NoAnswer::Busy);
            }
            desk = self.wait(desk, now, until.min(end));
        }
    }

    /// Calls hung what has taken longer than its patience.
    fn is_overdue(&self, desk: &mut Desk, now: Instant) -> bool {
        let Work::Running { until, left, hung, .. } = &mut desk.work else {
            return false;
        };
        if now < *until || *hung {
            return *hung;
        }
        (*left, *hung) = (true, true);
        desk.breaker.hung(now);
        self.metrics.hung.inc();
        self.tell(desk);
        self.changed.notify_all();
        true
    }

    /// A call failed that the processor answered.
    pub(super) fn failed_alone(&self, now: Instant) {
        let mut desk = self.lock();
        desk.breaker.failed(now);
        self.tell(&mut desk);
        self.changed.notify_all();
    }

    pub(super) fn is_in_use(&self, now: Instant) -> bool {
        let mut desk = self.lock();
        self.is_overdue(&mut desk, now);
        desk.breaker.is_in_use() && !desk.leaving
    }

    pub(super) fn row_us(&self) -> u64 {
        self.row_us.load(Ordering::Relaxed)
    }

    pub(super) fn standing(&self, now: Instant) -> Standing {
        let mut desk = self.lock();
        self.is_overdue(&mut desk, now);
        let Some((trouble, since, tries)) = desk.breaker.out() else {
            return Standing::InUse;
        };
        let waits = matches!(desk.work, Work::Idle) && !desk.leaving;
        Standing::OutOfUse {
            trouble,
            since: now.saturating_duration_since(since),
            tries,
            next_try: waits.then(|| desk.breaker.due().saturating_duration_since(now)),
        }
    }

    /// Blocks until the first try has ended, or `until`.
    pub(super) fn until_tried(&self, until: Instant) {
        let mut desk = self.lock();
        loop {
            let now = clock::instant();
            if desk.tried || now >= until {
                return;
            }
            desk = self.wait(desk, now, until);
        }
    }

    /// Ends the thread, when it is not in a call that does not return.
    pub(super) fn leave(&self) {
        let mut desk = self.lock();
        if !desk.leaving && matches!(desk.work, Work::Running { .. }) {
            desk.lost = true;
            self.lost.begin();
        }
        desk.leaving = true;
        if desk.told.take().is_some() {
            self.metrics.out_of_use.dec();
        }
        drop(desk);
        self.changed.notify_all();
    }

    /// Counts and logs whether it is in use, where that has changed.
    fn tell(&self, desk: &mut Desk) {
        let trouble = desk.breaker.out().map(|(trouble, ..)| trouble);
        if desk.told.is_none() && trouble.is_some() {
            self.metrics.out_of_use.inc();
        }
        if desk.told.is_some() && trouble.is_none() {
            self.metrics.out_of_use.dec();
        }
        match trouble {
            Some(Trouble::Untried) => {}
            Some(why) if desk.told != trouble => {
                let why = why.told();
                tracing::error!(
                    model = self.name,
                    why,
                    "the device is out of use: the processor answers"
                );
            }
            None if desk.told.is_some() => tracing::info!(model = self.name, "the device is in use"),
            _ => {}
        }
        desk.told = trouble;
    }

    fn wait<'a>(&self, desk: MutexGuard<'a, Desk>, now: Instant, until: Instant) -> MutexGuard<'a, Desk> {
        let nap = until.saturating_duration_since(now);
        let woken = self.changed.wait_timeout(desk, nap);
        woken.unwrap_or_else(PoisonError::into_inner).0
    }

    fn lock(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Work {
    fn running(ticket: u64, until: Instant) -> Self {
        Self::Running {
            ticket,
            until,
            left: false,
            hung: false,
        }
    }
}
