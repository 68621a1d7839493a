//! An engine thread as the board sees it.

use std::time::Instant;

use super::{Item, Job};
use crate::batch::accounts::{Accounts, Payer};

/// What a thread is at.
#[derive(Debug, Default)]
pub(super) struct Thread {
    /// When it will probably be free; `None` if it is.
    pub(super) until: Option<Instant>,
    /// What it was given last: whose, since when, until when.
    run: Vec<(Payer, Instant, Instant)>,
}

impl Thread {
    /// It begins to run `batch`.
    pub(super) fn start<J: Job>(&mut self, batch: &[Item<J>], now: Instant) {
        self.until = Some(batch.iter().fold(now, |until, item| until + item.cost));
        let lines = batch.iter().map(|item| (item.payer, item.pushed, item.job.deadline()));
        self.run.extend(lines);
    }
    /// It is free: what it ran was in time or was not.
    pub(super) fn settle(&mut self, now: Instant, accounts: &mut Accounts) {
        self.until = None;
        for (payer, pushed, deadline) in self.run.drain(..) {
            if deadline < now {
                accounts.late(payer, pushed, now);
            } else {
                accounts.in_time(payer, deadline.saturating_duration_since(pushed), now);
            }
        }
    }
}
