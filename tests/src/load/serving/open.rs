//! The open loop: requests are sent when they are due, whether or not others were answered, as users do who know nothing of
//! each other. Time counts from the moment a request was *due*: a server that stalls is charged for all who came meanwhile
//! (what else is lost is known as coordinated omission).
//!
//! ```text
//!   schedule --due--> backlog --> idle connection            all busy, fewer than the bound: one more
//!                        ^            | ask, count           all busy, none to be had: it waits, and its time runs
//!                        +------------+
//! ```

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use runtime::clock;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;

use super::connection::Connection;
use super::schedule::Schedule;
use super::target::{Report, Target, on_own_thread, stay_awake};

/// Longest wait for answers after the last request was due.
const GRACE: Duration = Duration::from_secs(2);
/// The clock's thread sleeps no shorter: what is due by then is told at once, and its time runs.
const GRAIN: Duration = Duration::from_micros(200);
/// Requests that the clock's thread may be ahead of the loop; it waits then, and their time runs.
const AHEAD_MAX: usize = 1 << 16;

/// How it is driven.
#[derive(Clone, Debug)]
pub struct Open {
    /// Requests a second.
    pub per_second: f64,
    /// Most connections.
    pub connections_max: usize,
    /// For so long requests are due.
    pub lasts: Duration,
    /// Once true, no further requests are due.
    pub stop: Arc<AtomicBool>,
}

impl Open {
    /// Drives `target`.
    ///
    /// # Errors
    /// The client's threads cannot be started.
    pub async fn drive(self, target: Target) -> Result<Report> {
        on_own_thread(async move || self.on_this_thread(target).await).await
    }

    async fn on_this_thread(self, target: Target) -> Result<Report> {
        if target.awake {
            stay_awake();
        }
        let began = clock::instant();
        let schedule = Schedule::new(self.per_second, self.lasts);
        let mut due = keep_time(schedule, began, Arc::clone(&self.stop))?;
        let crowd = Rc::new(Crowd {
            target,
            schedule,
            began,
            backlog: RefCell::default(),
            more: Notify::new(),
            idle: Cell::new(0),
            over: Cell::new(false),
            report: RefCell::default(),
        });
        let mut users = JoinSet::new();
        while let Some(n) = due.recv().await {
            crowd.backlog.borrow_mut().push_back(n);
            if crowd.backlog.borrow().len() <= crowd.idle.get() {
                crowd.more.notify_one();
            } else if users.len() < self.connections_max {
                users.spawn_local(Rc::clone(&crowd).serve());
            }
            // Whose connection broke is gone from the set, so that another may come.
            while users.try_join_next().is_some() {}
        }
        let lasted = clock::instant() - began;
        crowd.over.set(true);
        crowd.more.notify_waiters();
        let rest = async { while users.join_next().await.is_some() {} };
        if tokio::time::timeout(GRACE, rest).await.is_err() {
            users.shutdown().await;
        }
        let Some(crowd) = Rc::into_inner(crowd) else {
            bail!("a user outlived the open loop");
        };
        let (left, report) = (crowd.backlog.borrow().len(), crowd.report.into_inner());
        Ok(Report {
            unanswered: report.unanswered + u64::try_from(left)?,
            lasted,
            ..report
        })
    }
}

/// Numbers of requests as they become due, from a thread that can sleep for less than the runtime's millisecond.
fn keep_time(schedule: Schedule, began: Instant, stop: Arc<AtomicBool>) -> Result<mpsc::Receiver<u64>> {
    let (send, due) = mpsc::channel(AHEAD_MAX);
    let tell = move || {
        let mut n = 0;
        while let Some(at) = schedule.due(n).filter(|_| !stop.load(Ordering::Relaxed)) {
            let left = (began + at).saturating_duration_since(clock::instant());
            if !left.is_zero() {
                std::thread::sleep(left.max(GRAIN));
            }
            if send.blocking_send(n).is_err() {
                return;
            }
            n += 1;
        }
    };
    let thread = std::thread::Builder::new().name("schedule".to_owned());
    thread.spawn(tell).context("start the clock's thread")?;
    Ok(due)
}

struct Crowd {
    target: Target,
    schedule: Schedule,
    began: Instant,
    backlog: RefCell<VecDeque<u64>>,
    more: Notify,
    idle: Cell<usize>,
    over: Cell<bool>,
    report: RefCell<Report>,
}

impl Crowd {
    /// One connection: asks what is due until nothing is any more, or it breaks.
    async fn serve(self: Rc<Self>) {
        let Ok(mut connection) = Connection::open(self.target.address).await else {
            self.report.borrow_mut().broken += 1;
            return;
        };
        let mut request = Vec::new();
        while let Some(n) = self.next().await {
            request.clear();
            (self.target.write)(n, &mut request);
            // A request that is dropped here, at the end or with its connection, has counted as unanswered.
            self.report.borrow_mut().unanswered += 1;
            let Ok(answer) = connection.ask(&request).await else {
                self.report.borrow_mut().broken += 1;
                return;
            };
            let due = self.schedule.due(n).unwrap_or_default();
            let took = (clock::instant() - self.began).saturating_sub(due);
            (self.target.look)(n, &answer);
            let mut report = self.report.borrow_mut();
            report.unanswered -= 1;
            report.count(answer.status, took);
            if answer.closes {
                return;
            }
        }
    }

    async fn next(&self) -> Option<u64> {
        loop {
            if let Some(n) = self.backlog.borrow_mut().pop_front() {
                return Some(n);
            }
            if self.over.get() {
                return None;
            }
            self.idle.set(self.idle.get() + 1);
            self.more.notified().await;
            self.idle.set(self.idle.get() - 1);
        }
    }
}
