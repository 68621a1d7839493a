//! What the board lets in: what there is room for, and what can be done in time by the work ahead of its place.

use std::time::{Duration, Instant};

use super::{Board, Item, Job};

/// An idle board that refuses for its estimates alone lets one order in after this long, to measure anew.
const PROBE_AFTER: Duration = Duration::from_secs(1);

impl<J: Job> Board<J> {
    /// Probable time until all that waits now has started.
    #[must_use]
    pub fn wait(&self, now: Instant) -> Duration {
        self.behind(self.accounts.backlog(), now)
    }
    /// Probable time until something behind `ahead` would start.
    fn behind(&self, ahead: Duration, now: Instant) -> Duration {
        let busy = || self.threads.iter().filter_map(|thread| thread.until);
        if ahead.is_zero() && busy().count() < self.bounds.threads {
            return Duration::ZERO;
        }
        let running: Duration = busy().map(|until| until.saturating_duration_since(now)).sum();
        let threads = u32::try_from(self.bounds.threads).unwrap_or(u32::MAX).max(1);
        (running + ahead) / threads
    }

    /// When `item` would be done, where that is too late.
    pub(super) fn misses(&self, item: &Item<J>) -> Option<Duration> {
        let now = item.pushed;
        let budget = item.job.deadline().saturating_duration_since(now);
        let spare = budget.checked_sub(item.cost);
        let fits = |wait: Duration| spare.is_some_and(|spare| wait <= spare.mul_f64(self.accounts.trust(item.payer)));
        // Most orders fit behind everybody of their level; only for the others shares are counted.
        if fits(self.behind(self.accounts.ahead_at_most(item.level), now)) {
            return None;
        }
        let wait = self.behind(self.accounts.ahead(item.payer, item.level, item.cost), now);
        (!fits(wait)).then_some(wait + item.cost)
    }

    /// Whether an order that estimates forbid is let in: estimates learn from runs only.
    pub(super) fn probes(&mut self, now: Instant) -> bool {
        if !self.waiting.is_empty() || self.idle() == 0 {
            return false;
        }
        let since = *self.refusing.get_or_insert(now);
        now.saturating_duration_since(since) >= PROBE_AFTER
    }

    /// Whether the bounds hold with `item` in.
    pub(super) fn has_room(&self, item: &Item<J>) -> bool {
        let rows = self.rows.get(&item.lane.model).copied().unwrap_or(0);
        rows + item.rows <= self.bounds.rows_max && self.bytes + item.bytes <= self.bounds.bytes_max
    }
}
