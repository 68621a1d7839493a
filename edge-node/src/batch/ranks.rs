//! Who is next: by level, then by share, then by age.
//!
//! A level rises by one for each [`RISE`] that its oldest order waits, and one run in [`RISEN_EVERY`] goes by risen levels: so every order
//! starts within a bound, and those that may not wait keep nearly all of the engine however much waits below them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::accounts::{Accounts, Payer, Spent};
use super::class::{LEVELS, Level};

/// Wait of its oldest order after which a level counts as one higher.
pub const RISE: Duration = Duration::from_secs(1);

/// So many runs, and one of them by risen levels.
pub const RISEN_EVERY: u64 = 8;

/// Orders by when they came: lower came first.
pub type Seq = u64;

/// Orders of some kind, by rank. Each call costs O(log n), amortised.
#[derive(Debug, Default)]
pub struct Ranks([Line; LEVELS]);

#[derive(Debug, Default)]
struct Line {
    orders: BTreeSet<(Payer, Seq)>,
    /// When each came.
    ages: BTreeMap<Seq, Instant>,
    /// Every tenant of `orders` at least once, under what it has spent or had spent: brought up to date when it is read.
    payers: BTreeSet<(Spent, Payer)>,
}

impl Ranks {
    /// Adds an order.
    pub fn add(&mut self, level: Level, payer: Payer, seq: Seq, pushed: Instant, accounts: &Accounts) {
        let line = &mut self.0[level.place()];
        if line.first_of(payer).is_none() {
            line.payers.insert((accounts.spent(payer), payer));
        }
        line.orders.insert((payer, seq));
        line.ages.insert(seq, pushed);
    }
    /// Takes one out, if it is here.
    pub fn remove(&mut self, level: Level, payer: Payer, seq: Seq, accounts: &Accounts) {
        let line = &mut self.0[level.place()];
        line.orders.remove(&(payer, seq));
        line.ages.remove(&seq);
        if line.orders.is_empty() {
            line.payers.clear();
        } else if line.first_of(payer).is_none() {
            line.payers.remove(&(accounts.spent(payer), payer));
        }
    }
    /// The order that goes first: of the first level, or of the first as they have `risen` until that moment.
    pub fn first(&mut self, risen: Option<Instant>, accounts: &Accounts) -> Option<Seq> {
        let filled = self
            .0
            .iter_mut()
            .enumerate()
            .filter(|(_, line)| !line.orders.is_empty());
        let heads = filled.filter_map(|(place, line)| {
            let steps = risen.map_or(0, |now| line.age(now).as_secs() / RISE.as_secs());
            let place = place.saturating_sub(usize::try_from(steps).unwrap_or(usize::MAX));
            line.first(accounts).map(|(spent, seq)| (place, spent, seq))
        });
        heads.min().map(|(_, _, seq)| seq)
    }
    /// All orders.
    pub fn iter(&self) -> impl Iterator<Item = Seq> {
        self.0.iter().flat_map(|line| line.ages.keys().copied())
    }
    /// Whether nothing is here.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|line| line.orders.is_empty())
    }
}

impl Line {
    fn first_of(&self, payer: Payer) -> Option<Seq> {
        let mut own = self.orders.range((payer, 0)..=(payer, Seq::MAX));
        own.next().map(|(_, seq)| *seq)
    }
    /// How long its oldest order has waited.
    fn age(&self, now: Instant) -> Duration {
        let oldest = self.ages.first_key_value();
        oldest.map_or(Duration::ZERO, |(_, pushed)| now.saturating_duration_since(*pushed))
    }
    /// The oldest of the tenant that has spent least.
    fn first(&mut self, accounts: &Accounts) -> Option<(Spent, Seq)> {
        loop {
            let (listed, payer) = *self.payers.first()?;
            let spent = accounts.spent(payer);
            match self.first_of(payer) {
                Some(seq) if listed == spent => return Some((spent, seq)),
                Some(_) => self.payers.insert((spent, payer)),
                None => false,
            };
            self.payers.remove(&(listed, payer));
        }
    }
}
