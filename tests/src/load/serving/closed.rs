//! The closed loop: so many connections, each of which asks again as soon as it was answered.
//!
//! It finds how much a server can do. Of how long users would wait it tells only what so many users see that wait for each
//! other; when requests come whether or not others were answered, ask the open loop ([`super::open`]).

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use runtime::clock;
use tokio::task::JoinSet;

use super::connection::Connection;
use super::target::{Report, Target, on_own_thread, stay_awake};

/// Longest wait for answers after the end: a server that hangs is told apart from a slow one.
const PATIENCE: Duration = Duration::from_secs(30);

/// How it is driven.
#[derive(Clone, Copy, Debug)]
pub struct Closed {
    /// Connections.
    pub connections: usize,
    /// Asked before, not counted.
    pub warm: Duration,
    /// Asked and counted.
    pub lasts: Duration,
}

impl Closed {
    /// Drives `target`. Requests that end within the time count.
    ///
    /// # Errors
    /// A connection cannot be made or breaks, or answers stay away for too long.
    pub async fn drive(self, target: Target) -> Result<Report> {
        on_own_thread(async move || {
            let client = self.on_this_thread(target);
            let bound = self.warm + self.lasts + PATIENCE;
            tokio::time::timeout(bound, client).await.context("the server hangs")?
        })
        .await
    }

    async fn on_this_thread(self, target: Target) -> Result<Report> {
        if target.awake {
            stay_awake();
        }
        let report = Rc::new(RefCell::new(Report::default()));
        let (target, next) = (Rc::new(target), Rc::new(Cell::new(0)));
        let from = clock::instant() + self.warm;
        let mut users = JoinSet::new();
        for _ in 0..self.connections {
            let user = User {
                target: Rc::clone(&target),
                next: Rc::clone(&next),
                from,
                to: from + self.lasts,
            };
            users.spawn_local(user.ask_on(Rc::clone(&report)));
        }
        while let Some(user) = users.join_next().await {
            user.context("a user of the closed loop")??;
        }
        let Some(report) = Rc::into_inner(report) else {
            bail!("a user outlived the closed loop");
        };
        Ok(Report {
            lasted: self.lasts,
            ..report.into_inner()
        })
    }
}

struct User {
    target: Rc<Target>,
    next: Rc<Cell<u64>>,
    from: Instant,
    to: Instant,
}

impl User {
    async fn ask_on(self, report: Rc<RefCell<Report>>) -> Result<()> {
        let mut connection = Connection::open(self.target.address).await?;
        let mut request = Vec::new();
        loop {
            let n = self.next.replace(self.next.get() + 1);
            request.clear();
            (self.target.write)(n, &mut request);
            let began = clock::instant();
            let answer = connection.ask(&request).await?;
            let ended = clock::instant();
            if ended >= self.to {
                return Ok(());
            }
            (self.target.look)(n, &answer);
            let (status, closes) = (answer.status, answer.closes);
            if ended >= self.from {
                report.borrow_mut().count(status, ended - began);
            }
            if closes {
                connection = Connection::open(self.target.address).await?;
            }
        }
    }
}
