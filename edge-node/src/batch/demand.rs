//! How much work comes: a decaying average of what orders cost.

use std::time::{Duration, Instant};

/// Time over which the average forgets.
const WINDOW_S: f64 = 0.1;

/// Work that came lately.
#[derive(Debug, Default)]
pub struct Demand {
    work_s: f64,
    noted: Option<Instant>,
}

impl Demand {
    /// An order of `cost` comes.
    pub fn note(&mut self, cost: Duration, now: Instant) {
        self.work_s = self.threads(now) * WINDOW_S + cost.as_secs_f64();
        self.noted = Some(now);
    }
    /// Threads that the work would keep busy.
    #[must_use]
    pub fn threads(&self, now: Instant) -> f64 {
        let age = self
            .noted
            .map_or(0.0, |noted| now.saturating_duration_since(noted).as_secs_f64());
        self.work_s / WINDOW_S * (-age / WINDOW_S).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steady_work_is_measured_as_the_threads_it_needs() {
        let (mut now, mut demand) = (runtime::clock::instant(), Demand::default());
        for _ in 0..1_000 {
            now += Duration::from_millis(1);
            demand.note(Duration::from_micros(1_500), now);
        }
        assert!((1.4..1.6).contains(&demand.threads(now)), "{}", demand.threads(now));
        assert!(demand.threads(now + Duration::from_secs(1)) < 0.01);
    }
}
