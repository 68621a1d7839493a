//! Who has had what: predictions and engine time by model and tenant since the node started, for bills and comparisons.
//!
//! These stand on a page of the fleet's own people and in no metric: label values come from closed lists only.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use proto::ids::{ModelName, TenantId, UnixMs};
use proto::limits::USAGE_ACCOUNTS_MAX;
use runtime::clock;
use serde::{Deserialize, Serialize};

use crate::batch::accounts::Payer;

/// What one tenant has had of one model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Used {
    /// Requests that were answered.
    pub requests: u64,
    /// Rows that were answered, kept ones too.
    pub predictions: u64,
    /// Requests of them that needed no run of their own.
    pub kept: u64,
    /// Time of engine threads, microseconds; of a run with others the share of its rows.
    pub engine_us: u64,
}

impl Used {
    fn add(&mut self, rows: usize, busy: Option<Duration>) {
        self.requests += 1;
        self.predictions += u64::try_from(rows).unwrap_or(u64::MAX);
        match busy {
            Some(busy) => self.engine_us += u64::try_from(busy.as_micros()).unwrap_or(u64::MAX),
            None => self.kept += 1,
        }
    }
}

/// One line of the answer to `GET /v1/usage`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageLine {
    /// Which model.
    pub model: ModelName,
    /// Who asked; none for all those beyond the bound on accounts, and for those who are no longer known.
    pub tenant: Option<TenantId>,
    /// How much.
    #[serde(flatten)]
    pub used: Used,
}

/// The answer to `GET /v1/usage`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsagePage {
    /// When counting began: the node's start.
    pub since: UnixMs,
    /// When this was made.
    pub now: UnixMs,
    /// Threads that run models.
    pub engine_threads: usize,
    /// By model and tenant.
    pub lines: Vec<UsageLine>,
}

/// The accounts.
#[derive(Debug)]
pub struct Usage {
    since: UnixMs,
    accounts: Mutex<Accounts>,
}

#[derive(Debug, Default)]
struct Accounts {
    of: HashMap<ModelName, HashMap<Option<Payer>, Used>>,
    count: usize,
}

impl Default for Usage {
    fn default() -> Self {
        Self {
            since: clock::now_ms(),
            accounts: Mutex::default(),
        }
    }
}

impl Usage {
    /// Counts an answer of `rows` rows that took `busy` of the engine; `None` where it needed no run of its own.
    pub fn add(&self, model: &ModelName, payer: Payer, rows: usize, busy: Option<Duration>) {
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        let known = accounts.of.get_mut(model).and_then(|of| of.get_mut(&Some(payer)));
        if let Some(used) = known {
            used.add(rows, busy);
            return;
        }
        // The first answer. Beyond the bound a model's newcomers share one account.
        let room = accounts.count < USAGE_ACCOUNTS_MAX;
        accounts.count += usize::from(room);
        let of_model = accounts.of.entry(model.clone()).or_default();
        of_model.entry(room.then_some(payer)).or_default().add(rows, busy);
    }

    /// All accounts, by model and tenant; `names` are the tenants that are known now.
    pub fn page<'t>(&self, names: impl Iterator<Item = &'t TenantId>, engine_threads: usize) -> UsagePage {
        let names: HashMap<Payer, &TenantId> = names.map(|tenant| (Payer::of(tenant), tenant)).collect();
        let accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut lines: Vec<UsageLine> = Vec::with_capacity(accounts.count);
        for (model, of) in &accounts.of {
            let line = |(payer, used): (&Option<Payer>, &Used)| UsageLine {
                model: model.clone(),
                tenant: payer.and_then(|payer| names.get(&payer).map(|name| (*name).clone())),
                used: *used,
            };
            lines.extend(of.iter().map(line));
        }
        lines.sort_by(|a, b| (&a.model, &a.tenant).cmp(&(&b.model, &b.tenant)));
        UsagePage {
            since: self.since,
            now: clock::now_ms(),
            engine_threads,
            lines,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn each_tenant_is_told_what_it_had_of_each_model() {
        let usage = Usage::default();
        let (a, b): (TenantId, TenantId) = ("a".parse().unwrap(), "b".parse().unwrap());
        let (m, n): (ModelName, ModelName) = ("m".parse().unwrap(), "n".parse().unwrap());
        usage.add(&m, Payer::of(&a), 3, Some(2 * MS));
        usage.add(&m, Payer::of(&a), 3, None);
        usage.add(&n, Payer::of(&b), 1, Some(MS));
        let page = usage.page([&a].into_iter(), 2);
        let told: Vec<_> = page
            .lines
            .iter()
            .map(|l| (l.model.as_str(), l.tenant.as_ref(), l.used))
            .collect();
        let used = |requests, predictions, kept, engine_us| Used {
            requests,
            predictions,
            kept,
            engine_us,
        };
        assert_eq!(
            told,
            [("m", Some(&a), used(2, 6, 1, 2_000)), ("n", None, used(1, 1, 0, 1_000))]
        );
    }

    #[test]
    fn tenants_beyond_the_bound_share_an_account_and_nothing_is_lost() {
        let usage = Usage::default();
        let model: ModelName = "m".parse().unwrap();
        let answers = USAGE_ACCOUNTS_MAX + 10;
        for n in 0..answers {
            usage.add(&model, Payer::of(&format!("t{n}").parse().unwrap()), 1, None);
        }
        let page = usage.page(std::iter::empty(), 1);
        assert_eq!(page.lines.len(), USAGE_ACCOUNTS_MAX + 1);
        let told: u64 = page.lines.iter().map(|line| line.used.requests).sum();
        assert_eq!(told, u64::try_from(answers).unwrap());
    }
}
