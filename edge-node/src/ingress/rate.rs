//! How many requests a tenant may send: a bucket of tokens that fills steadily. Without a rate in `node.toml` there is no bound.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::reply::Problem;
use crate::batch::accounts::Payer;
use crate::metrics::Outcome;
use http::StatusCode;

/// How fast a tenant's bucket fills, and what it holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Requests a second, above 0.
    pub per_s: f64,
    /// Requests at once, at least 1.
    pub burst: f64,
}

/// The buckets of all tenants that have a rate. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Rates(Arc<HashMap<Payer, (Rate, Mutex<Bucket>)>>);

impl Rates {
    /// Full buckets.
    #[must_use]
    pub fn new(rates: HashMap<Payer, Rate>) -> Self {
        let full = |rate: Rate| Bucket {
            tokens: rate.burst,
            filled: None,
        };
        let buckets = rates
            .into_iter()
            .map(|(payer, rate)| (payer, (rate, Mutex::new(full(rate)))));
        Self(Arc::new(buckets.collect()))
    }
    /// Refuses a tenant with an empty bucket, before anything of its request is read. Takes nothing.
    pub(super) fn check(&self, payer: Payer, now: Instant) -> Result<(), Problem> {
        self.with(payer, |bucket, rate| bucket.wait(rate, now))
    }
    /// Takes a token for one request.
    pub(super) fn take(&self, payer: Payer, now: Instant) -> Result<(), Problem> {
        self.with(payer, |bucket, rate| {
            let wait = bucket.wait(rate, now);
            bucket.tokens -= if wait.is_zero() { 1.0 } else { 0.0 };
            wait
        })
    }
    fn with(&self, payer: Payer, wait: impl FnOnce(&mut Bucket, Rate) -> Duration) -> Result<(), Problem> {
        let Some((rate, bucket)) = self.0.get(&payer) else {
            return Ok(());
        };
        let wait = wait(&mut bucket.lock().unwrap_or_else(PoisonError::into_inner), *rate);
        if wait.is_zero() {
            return Ok(());
        }
        let message = format!(
            "more than {} requests a second of this key: send fewer, and try again after the time in Retry-After",
            rate.per_s
        );
        let status = StatusCode::TOO_MANY_REQUESTS;
        Err(Problem::new(status, "rate_limited", message, Outcome::RateLimited).retry_after(wait))
    }
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    filled: Option<Instant>,
}

impl Bucket {
    /// Until there is a token; zero if there is one.
    fn wait(&mut self, rate: Rate, now: Instant) -> Duration {
        let since = now.saturating_duration_since(self.filled.unwrap_or(now));
        self.filled = Some(now.max(self.filled.unwrap_or(now)));
        self.tokens = (self.tokens + since.as_secs_f64() * rate.per_s).min(rate.burst);
        if self.tokens >= 1.0 {
            return Duration::ZERO;
        }
        Duration::try_from_secs_f64((1.0 - self.tokens) / rate.per_s)
            .unwrap_or(Duration::MAX)
            .max(Duration::from_nanos(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_gets_its_burst_then_its_rate_and_others_are_not_bound() {
        let [tenant, other] = ["acme", "other"].map(|name| Payer::of(&name.parse().unwrap()));
        let rate = Rate {
            per_s: 10.0,
            burst: 5.0,
        };
        let rates = Rates::new(HashMap::from([(tenant, rate)]));
        let start = runtime::clock::instant();
        let taken = |ms: u64| {
            let now = start + Duration::from_millis(ms);
            (0..100).filter(|_| rates.take(tenant, now).is_ok()).count()
        };
        assert_eq!(
            (taken(0), taken(50), taken(101), taken(1_201), taken(60_000)),
            (5, 0, 1, 5, 5)
        );
        let refused = rates.check(tenant, start + Duration::from_secs(60)).unwrap_err();
        assert_eq!((refused.status.as_u16(), refused.code), (429, "rate_limited"));
        assert_eq!(refused.headers, [("retry-after", "1".to_owned())]);
        assert!(rates.check(other, start).is_ok() && rates.take(other, start).is_ok());
        let over: usize = (0..10_000).map(|ms| taken(100_000 + ms)).sum();
        assert!((103..=106).contains(&over), "{over} in ten seconds at 10 a second");
    }
}
