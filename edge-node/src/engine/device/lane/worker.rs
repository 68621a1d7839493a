//! The lane's thread: calls the device, and tries it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::oip::Tensor;
use runtime::clock;

use super::super::breaker::Trouble;
use super::super::{LoadOnDevice, Question, plan};
use super::{Asked, Desk, Lane, TRY, Work};
use crate::batch::join;
use crate::engine::{Fault, Model, panic_text, run_keeping};

/// Loading is never called hung before this: nobody's request waits for it.
const LOADING_MAX: Duration = Duration::from_secs(600);
/// How long a thread without anything due sleeps.
const NAP: Duration = Duration::from_secs(3600);

enum Next {
    Call(Asked),
    Try,
    Leave,
}

impl Lane {
    /// Its life.
    pub(super) fn work(&self, load: &LoadOnDevice, question: &Question) {
        let mut device: Option<Arc<dyn Model>> = None;
        loop {
            match self.next() {
                Next::Call(asked) => {
                    let began = clock::instant();
                    let made = called(device.as_ref(), &asked);
                    let took = clock::instant().saturating_duration_since(began);
                    if made.is_ok() {
                        plan::learn(&self.row_us, join::rows(&asked.inputs), took);
                    }
                    drop(asked);
                    self.hand_in(made);
                }
                Next::Try => {
                    let found = self.tried(&mut device, load, question);
                    if found.is_err() {
                        // What it is made of may be broken: loaded anew next time.
                        device = None;
                    }
                    self.judged(found);
                }
                Next::Leave => {
                    drop(device);
                    if self.lock().lost {
                        self.lost.end();
                    }
                    return;
                }
            }
        }
    }

    /// Blocks until there is something to do.
    fn next(&self) -> Next {
        let mut desk = self.lock();
        loop {
            if desk.leaving {
                return Next::Leave;
            }
            let now = clock::instant();
            if let Work::Asked {
                ticket,
                asked,
                patience,
            } = &desk.work
            {
                let (ticket, asked, until) = (*ticket, asked.clone(), now + *patience);
                desk.work = Work::running(ticket, until);
                self.changed.notify_all();
                return Next::Call(asked);
            }
            let due = desk.breaker.due();
            if matches!(desk.work, Work::Idle) && now >= due {
                desk.work = Work::running(TRY, now + LOADING_MAX);
                return Next::Try;
            }
            let until = if matches!(desk.work, Work::Idle) {
                due
            } else {
                now + NAP
            };
            desk = self.wait(desk, now, until);
        }
    }

    /// Lays an answer down, if somebody waits for it.
    fn hand_in(&self, made: Result<Vec<Tensor>, Fault>) {
        let mut desk = self.lock();
        let now = clock::instant();
        match &made {
            Ok(_) => desk.breaker.answered(),
            Err(Fault::Input(_) | Fault::Late) => {}
            Err(Fault::Internal(why)) => {
                tracing::warn!(model = self.name, why, "a call of the device failed");
                self.metrics.failed.inc();
                desk.breaker.doubted(now);
            }
        }
        let awaited = self.has_returned(&mut desk, now);
        if let Some(ticket) = awaited {
            desk.work = Work::Done { ticket, made };
        }
        self.changed.notify_all();
    }

    /// Ends what is running; gives its ticket if somebody waits for it.
    fn has_returned(&self, desk: &mut Desk, now: Instant) -> Option<u64> {
        let Work::Running { ticket, left, hung, .. } = desk.work else {
            return None;
        };
        desk.work = Work::Idle;
        if hung {
            self.metrics.hung.dec();
            tracing::warn!(model = self.name, "a call of the device that had hung has returned");
            desk.breaker.returned(now);
        }
        (!left && ticket != TRY).then_some(ticket)
    }

    /// Asks the device what is known. On the lane's thread.
    fn tried(
        &self,
        device: &mut Option<Arc<dyn Model>>,
        load: &LoadOnDevice,
        question: &Question,
    ) -> Result<(), (Trouble, String)> {
        if device.is_none() {
            let loaded = catch_unwind(AssertUnwindSafe(load));
            let loaded = loaded.unwrap_or_else(|panic| Err(panic_text(panic.as_ref()).to_owned()));
            *device = Some(loaded.map_err(|why| (Trouble::NotLoaded, why))?);
        }
        {
            // From here on it is a call like others.
            let (now, expected) = (clock::instant(), Duration::from_micros(self.row_us()));
            let patience = self.bounds.patience(expected);
            self.lock().work = Work::running(TRY, now + patience);
        }
        let asked = Asked {
            inputs: Arc::clone(&question.inputs),
            rows: None,
        };
        let made = called(device.as_ref(), &asked).map_err(|fault| (Trouble::Failed, fault.to_string()))?;
        if question.is_answered_by(&made) {
            return Ok(());
        }
        Err((Trouble::Wrong, "it answers otherwise than the processor".to_owned()))
    }

    fn judged(&self, found: Result<(), (Trouble, String)>) {
        let mut desk = self.lock();
        let now = clock::instant();
        self.has_returned(&mut desk, now);
        match found {
            Ok(()) => desk.breaker.passed(now),
            Err((trouble, why)) => {
                tracing::warn!(model = self.name, why, "the device was tried in vain");
                self.metrics.failed.inc();
                desk.breaker.wrong(trouble, now);
            }
        }
        desk.tried = true;
        self.tell(&mut desk);
        self.changed.notify_all();
    }
}

/// A panic of the device costs its call, not the thread.
fn called(device: Option<&Arc<dyn Model>>, asked: &Asked) -> Result<Vec<Tensor>, Fault> {
    let Some(device) = device else {
        return Err(Fault::Internal("the model is not loaded on the device".to_owned()));
    };
    let run = || run_keeping(&**device, &asked.inputs, asked.rows.as_ref());
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let why = panic_text(panic.as_ref());
        Err(Fault::Internal(format!("the device's engine panicked: {why}")))
    })
}
