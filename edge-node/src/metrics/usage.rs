//! Who has had what: predictions and engine time by model and tenant since the node started, for bills and comparisons.
//!
//! These stand on a page of the fleet's own people and in no metric: label values come from closed lists only.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use proto::ids::{ModelName, TenantId, UnixMs};
use proto::limits::USAGE_ACCOUNTS_MAX;
use proto::usage::{UsageLine, UsagePage, Used};
use runtime::clock;

use crate::batch::accounts::Payer;
use crate::batch::plain::PlainMap;

/// The accounts.
#[derive(Debug)]
pub struct Usage {
    since: UnixMs,
    accounts: Mutex<Accounts>,
}

#[derive(Debug, Default)]
struct Accounts {
    of: PlainMap<ModelName, PlainMap<Option<Payer>, Used>>,
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
            add(used, rows, busy);
            return;
        }
        // The first answer. Beyond the bound a model's newcomers share one account.
        let room = accounts.count < USAGE_ACCOUNTS_MAX;
        accounts.count += usize::from(room);
        let of_model = accounts.of.entry(model.clone()).or_default();
        add(of_model.entry(room.then_some(payer)).or_default(), rows, busy);
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

/// Counts one more answer.
fn add(used: &mut Used, rows: usize, busy: Option<Duration>) {
    used.requests += 1;
    used.predictions += u64::try_from(rows).unwrap_or(u64::MAX);
    match busy {
        Some(busy) => used.engine_us += u64::try_from(busy.as_micros()).unwrap_or(u64::MAX),
        None => used.kept += 1,
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
