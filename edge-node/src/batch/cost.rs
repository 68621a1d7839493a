//! What a run costs, learnt from runs: so much a row, and so much a byte of input.
//!
//! A sentence of 170 tokens takes seven times as long as one of 25, so rows alone tell little of when a model of text will be done. Both
//! figures are a least-squares fit to the latest runs. Where all rows are as large as each other the two say the same, and rows alone count.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// What a run leaves of the weight of those before it.
const KEEP: f64 = 31.0 / 32.0;

/// Below this share of what it could be, rows and bytes tell the same.
const APART_MIN: f64 = 1e-3;

/// The present estimate, read without waiting, and the runs that it is made from.
#[derive(Debug)]
pub struct Cost {
    /// Nanoseconds of a row, and of a byte: bits of `f64`.
    row: AtomicU64,
    byte: AtomicU64,
    /// Bytes of a row in the mean.
    row_bytes: AtomicU64,
    fit: Mutex<Fit>,
}

/// Weighted sums over runs: of rows and bytes by each other, and of each by the time.
#[derive(Debug, Default)]
struct Fit {
    rows_rows: f64,
    rows_bytes: f64,
    bytes_bytes: f64,
    rows_time: f64,
    bytes_time: f64,
    /// Unweighted, to know a usual row.
    rows: f64,
    bytes: f64,
}

impl Cost {
    /// Starts where one row takes `row`, whatever it holds; that counts as much as one run.
    #[must_use]
    pub fn starting_at(row: Duration) -> Self {
        let cost = Self {
            row: AtomicU64::default(),
            byte: AtomicU64::default(),
            row_bytes: AtomicU64::default(),
            fit: Mutex::default(),
        };
        cost.begin_again(row);
        cost
    }

    /// Forgets what was learnt, and starts where one row takes `row`.
    pub fn begin_again(&self, row: Duration) {
        let nanos = row.as_secs_f64() * 1e9;
        let mut fit = self.fit.lock().unwrap_or_else(PoisonError::into_inner);
        *fit = Fit {
            rows_rows: 1.0,
            rows_time: nanos,
            ..Fit::default()
        };
        self.row.store(nanos.to_bits(), Ordering::Relaxed);
        self.byte.store(0.0_f64.to_bits(), Ordering::Relaxed);
        self.row_bytes.store(0.0_f64.to_bits(), Ordering::Relaxed);
    }

    /// How long `rows` rows of `bytes` bytes in all will probably take.
    #[must_use]
    pub fn of(&self, rows: usize, bytes: usize) -> Duration {
        self.nanos(count(rows), count(bytes))
    }

    /// How long so many rows will probably take that are as large as rows usually are.
    #[must_use]
    pub fn usual(&self, rows: usize) -> Duration {
        self.nanos(count(rows), count(rows) * read(&self.row_bytes))
    }

    fn nanos(&self, rows: f64, bytes: f64) -> Duration {
        let nanos = rows * read(&self.row) + bytes * read(&self.byte);
        Duration::try_from_secs_f64(nanos / 1e9).unwrap_or(Duration::MAX)
    }

    /// Learns from a run.
    pub fn learn(&self, rows: usize, bytes: usize, took: Duration) {
        let mut fit = self.fit.lock().unwrap_or_else(PoisonError::into_inner);
        fit.add(count(rows.max(1)), count(bytes), took.as_secs_f64() * 1e9);
        let (row, byte) = fit.solved();
        let figures = [
            (&self.row, row),
            (&self.byte, byte),
            (&self.row_bytes, fit.bytes / fit.rows),
        ];
        for (figure, value) in figures {
            figure.store(value.to_bits(), Ordering::Relaxed);
        }
    }
}

impl Fit {
    fn add(&mut self, rows: f64, bytes: f64, nanos: f64) {
        let all = [
            &mut self.rows_rows,
            &mut self.rows_bytes,
            &mut self.bytes_bytes,
            &mut self.rows_time,
            &mut self.bytes_time,
            &mut self.rows,
            &mut self.bytes,
        ];
        all.into_iter().for_each(|sum| *sum *= KEEP);
        (self.rows, self.bytes) = (self.rows + rows, self.bytes + bytes);
        // Times stray in proportion to themselves, so runs count by how far they are off for their size.
        let usual = self.bytes / self.rows;
        let size = rows + if usual > 0.0 { bytes / usual } else { 0.0 };
        let weight = 1.0 / (size * size);
        self.rows_rows += weight * rows * rows;
        self.rows_bytes += weight * rows * bytes;
        self.bytes_bytes += weight * bytes * bytes;
        self.rows_time += weight * rows * nanos;
        self.bytes_time += weight * bytes * nanos;
    }

    /// Nanoseconds of a row and of a byte, neither below nothing.
    fn solved(&self) -> (f64, f64) {
        let by_rows = (self.rows_time / self.rows_rows, 0.0);
        let most = self.rows_rows * self.bytes_bytes;
        let apart = most - self.rows_bytes * self.rows_bytes;
        if apart <= APART_MIN * most {
            return by_rows;
        }
        let row = (self.rows_time * self.bytes_bytes - self.bytes_time * self.rows_bytes) / apart;
        let byte = (self.bytes_time * self.rows_rows - self.rows_time * self.rows_bytes) / apart;
        match (row >= 0.0, byte >= 0.0) {
            (true, true) => (row, byte),
            (false, _) => (0.0, self.bytes_time / self.bytes_bytes),
            (_, false) => by_rows,
        }
    }
}

fn read(figure: &AtomicU64) -> f64 {
    f64::from_bits(figure.load(Ordering::Relaxed))
}

/// Exact below 4 G, which no run reaches.
fn count(n: usize) -> f64 {
    f64::from(u32::try_from(n).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: Duration = Duration::from_micros(1);

    #[test]
    fn rows_of_mixed_lengths_cost_by_their_bytes_and_what_a_row_takes_beside() {
        let cost = Cost::starting_at(1_000 * US);
        for n in 0..400_u32 {
            let (rows, bytes) = (1 + n % 3, 30 + n * 37 % 900);
            let noise = 95 + n * 13 % 11;
            let took = (rows * 200 + bytes * 10) * noise / 100 * US;
            cost.learn(usize::try_from(rows).unwrap(), usize::try_from(bytes).unwrap(), took);
        }
        for (rows, bytes, us) in [(1, 40, 600), (1, 900, 9_200), (8, 2_400, 25_600)] {
            let told = cost.of(rows, bytes).as_secs_f64() * 1e6;
            let ratio = told / f64::from(us);
            assert!((0.9..1.1).contains(&ratio), "{rows} rows of {bytes} bytes: {told} us");
        }
    }

    #[test]
    fn rows_of_one_size_cost_by_their_number() {
        let cost = Cost::starting_at(10 * US);
        for rows in (1..200).map(|n| 1 + n % 8) {
            cost.learn(rows, rows * 16, u32::try_from(rows).unwrap() * 50 * US);
        }
        for rows in [1, 4, 32] {
            let told = cost.of(rows, rows * 16).as_secs_f64() * 1e6;
            let us = f64::from(u32::try_from(rows).unwrap()) * 50.0;
            assert!((us * 0.95..us * 1.05).contains(&told), "{rows} rows: {told} us");
            assert_eq!(cost.of(rows, rows * 16), cost.usual(rows));
        }
    }

    #[test]
    fn what_the_publisher_measured_is_forgotten_for_what_is_measured_here() {
        for (from, to) in [(1_000, 100), (10, 3_000_000)] {
            let cost = Cost::starting_at(from * US);
            assert_eq!(cost.of(2, 99), 2 * from * US);
            (0..64).for_each(|_| cost.learn(1, 0, to * US));
            let ratio = cost.of(1, 0).as_secs_f64() / (to * US).as_secs_f64();
            assert!((0.9..1.1).contains(&ratio), "from {from} to {to}: {ratio}");
        }
    }

    #[test]
    fn larger_input_never_counts_as_less_work() {
        let cost = Cost::starting_at(100 * US);
        (0..200_u32).for_each(|n| {
            let bytes = 100 + n % 900;
            cost.learn(1, usize::try_from(bytes).unwrap(), (1_100 - bytes) * US);
        });
        assert!(cost.of(1, 1_000) >= cost.of(1, 100));
        assert!(cost.of(1, 100) > 300 * US);
    }
}
