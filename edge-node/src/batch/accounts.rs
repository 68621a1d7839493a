//! What each tenant has had of the engine's time, what it waits for, and how far its estimates may be believed.
//!
//! Shares are kept by virtual time: running a row costs its tenant `time / weight`, and who has spent least goes next. A tenant
//! that comes back starts where the line stands: nobody saves up time by staying away.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use proto::ids::TenantId;
use proto::limits::TENANTS_MAX;

use super::class::{LEVELS, Level};
use super::plain::PlainMap;

/// Whose time it is: a digest of the tenant's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Payer(u64);

impl Payer {
    /// Of a tenant.
    #[must_use]
    pub fn of(tenant: &TenantId) -> Self {
        use std::hash::{DefaultHasher, Hash, Hasher};
        let mut hasher = DefaultHasher::new();
        tenant.as_str().hash(&mut hasher);
        Self(hasher.finish())
    }
}

/// Nanoseconds of engine time by weight.
pub type Spent = u64;

/// Of the time that its run leaves until its deadline, an order may wait no more than this share by estimate: estimates stray.
const TRUST_MAX: f64 = 0.7;
const TRUST_MIN: f64 = 0.1;
/// What one answer that was late leaves of the share.
const TRUST_CUT: f64 = 0.8;
/// What the share grows by in the time of one deadline without such an answer.
const TRUST_RISE: f64 = 0.002;

#[derive(Debug)]
struct Account {
    weight: u32,
    spent: Spent,
    waiting: usize,
    backlog: [Duration; LEVELS],
    trust: f64,
    trust_cut: Option<Instant>,
    trust_risen: Option<Instant>,
}

/// The accounts of all tenants.
#[derive(Debug, Default)]
pub struct Accounts {
    weights: HashMap<Payer, u32>,
    of: PlainMap<Payer, Account>,
    /// How far the line has come: what the latest to go first had spent.
    line: Spent,
    backlog: [Duration; LEVELS],
}

impl Accounts {
    /// Nobody waits. Tenants without a weight have 1.
    #[must_use]
    pub fn new(weights: HashMap<Payer, u32>) -> Self {
        Self {
            weights,
            ..Self::default()
        }
    }

    /// Somebody begins to wait for work that will probably take `cost`.
    pub fn came(&mut self, payer: Payer, level: Level, cost: Duration) {
        if self.of.len() > TENANTS_MAX {
            self.of.retain(|_, account| account.waiting > 0);
        }
        let weight = self.weights.get(&payer).copied().unwrap_or(1).max(1);
        let account = self.of.entry(payer).or_insert(Account {
            weight,
            spent: 0,
            waiting: 0,
            backlog: [Duration::ZERO; LEVELS],
            trust: TRUST_MAX,
            trust_cut: None,
            trust_risen: None,
        });
        if account.waiting == 0 {
            account.spent = account.spent.max(self.line);
        }
        account.waiting += 1;
        account.backlog[level.place()] += cost;
        self.backlog[level.place()] += cost;
    }
    /// It waits no more.
    pub fn left(&mut self, payer: Payer, level: Level, cost: Duration) {
        let less = |backlog: &mut Duration| *backlog = backlog.saturating_sub(cost);
        less(&mut self.backlog[level.place()]);
        if let Some(account) = self.of.get_mut(&payer) {
            account.waiting -= 1;
            less(&mut account.backlog[level.place()]);
        }
    }
    /// Its work is about to run. The line moves up to who goes first, not to those who are only taken along.
    pub fn charge(&mut self, payer: Payer, cost: Duration, first: bool) {
        let Some(account) = self.of.get_mut(&payer) else { return };
        if first {
            self.line = self.line.max(account.spent);
        }
        // Who was kept waiting by higher levels does not catch up at everybody's expense.
        let nanos = u64::try_from(cost.as_nanos()).unwrap_or(u64::MAX);
        account.spent = account
            .spent
            .max(self.line)
            .saturating_add(nanos / u64::from(account.weight));
    }
    /// What a tenant has spent.
    #[must_use]
    pub fn spent(&self, payer: Payer) -> Spent {
        self.of.get(&payer).map_or(self.line, |account| account.spent)
    }

    /// All work that waits.
    #[must_use]
    pub fn backlog(&self) -> Duration {
        self.backlog.iter().sum()
    }
    /// Work that goes before anything of `level` that comes now, if all of the same level does.
    #[must_use]
    pub fn ahead_at_most(&self, level: Level) -> Duration {
        self.backlog[..=level.place()].iter().sum()
    }
    /// Work that goes before `cost` of `payer` by fair shares: of another tenant of the level no more than this one gets by then.
    #[must_use]
    pub fn ahead(&self, payer: Payer, level: Level, cost: Duration) -> Duration {
        let place = level.place();
        let higher: Duration = self.backlog[..place].iter().sum();
        let (own, weight) = match self.of.get(&payer) {
            Some(account) => (account.backlog[place], account.weight),
            None => (Duration::ZERO, self.weights.get(&payer).copied().unwrap_or(1).max(1)),
        };
        let turn = own + cost;
        let others = self
            .of
            .iter()
            .filter(|(other, account)| **other != payer && account.waiting > 0);
        let share = |account: &Account| account.backlog[place].min(turn.saturating_mul(account.weight) / weight);
        higher + own + others.map(|(_, account)| share(account)).sum::<Duration>()
    }

    /// The share of the time before its latest start that an order of `payer` may wait by estimate.
    #[must_use]
    pub fn trust(&self, payer: Payer) -> f64 {
        self.of.get(&payer).map_or(TRUST_MAX, |account| account.trust)
    }
    /// Work that came at `pushed` was late: lets in less. Once for all that was let in before it was known.
    pub fn late(&mut self, payer: Payer, pushed: Instant, now: Instant) {
        if let Some(account) = self.of.get_mut(&payer)
            && account.trust_cut.is_none_or(|cut| pushed >= cut)
        {
            account.trust = (account.trust * TRUST_CUT).max(TRUST_MIN);
            (account.trust_cut, account.trust_risen) = (Some(now), Some(now));
        }
    }
    /// Work with `budget` until its deadline was done in time: lets in a little more.
    pub fn in_time(&mut self, payer: Payer, budget: Duration, now: Instant) {
        if let Some(account) = self.of.get_mut(&payer) {
            let since = account.trust_risen.replace(now).unwrap_or(now);
            let share = now.saturating_duration_since(since).as_secs_f64() / budget.as_secs_f64().max(1e-6);
            account.trust = (account.trust + TRUST_RISE * share.min(1.0)).min(TRUST_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn payer(name: &str) -> Payer {
        Payer::of(&name.parse().unwrap())
    }

    #[test]
    fn what_goes_before_a_light_tenant_is_no_more_than_its_own_share() {
        let level = Level::asked(3).unwrap();
        let mut accounts = Accounts::new(HashMap::from([(payer("heavy"), 2)]));
        (0..100).for_each(|_| accounts.came(payer("flood"), level, MS));
        (0..100).for_each(|_| accounts.came(payer("heavy"), level, MS));
        accounts.came(payer("light"), level, MS);
        assert_eq!(accounts.ahead_at_most(level), 201 * MS);
        assert_eq!(accounts.ahead(payer("light"), level, MS), (1 + 2 + 4) * MS);
        assert_eq!(accounts.ahead(payer("flood"), level, MS), 201 * MS);
        assert_eq!(
            accounts.ahead(payer("new"), Level::asked(1).unwrap(), MS),
            Duration::ZERO
        );
    }

    #[test]
    fn who_stayed_away_begins_where_the_line_stands() {
        let (level, mut accounts) = (Level::asked(3).unwrap(), Accounts::default());
        accounts.came(payer("busy"), level, MS);
        (0..9).for_each(|_| accounts.charge(payer("busy"), MS, true));
        accounts.came(payer("new"), level, MS);
        assert_eq!(accounts.spent(payer("new")), 8_000_000);
    }

    #[test]
    fn one_late_answer_counts_once_for_all_that_was_let_in_before() {
        let (level, mut accounts, start) = (Level::asked(3).unwrap(), Accounts::default(), runtime::clock::instant());
        accounts.came(payer("a"), level, MS);
        (0..5).for_each(|n| accounts.late(payer("a"), start + n * MS, start + 10 * MS));
        assert!((accounts.trust(payer("a")) - 0.56).abs() < 1e-9);
        accounts.late(payer("a"), start + 10 * MS, start + 20 * MS);
        assert!((accounts.trust(payer("a")) - 0.448).abs() < 1e-9);
        assert!((accounts.trust(payer("b")) - TRUST_MAX).abs() < 1e-9, "somebody else's");
        for n in 0..10_000 {
            accounts.in_time(payer("a"), 10 * MS, start + (20 + n * 10) * MS);
        }
        assert!((accounts.trust(payer("a")) - TRUST_MAX).abs() < 1e-9, "it recovers");
    }
}
