//! Whole lives of a board under a virtual clock: who gets how much, who waits how long, what overload leaves.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::tests::{Fake, MS, bounds, item, payer, push, start, taken};
use super::*;
use crate::batch::ranks::RISE;

const TENANTS: [&str; 4] = ["a", "b", "c", "d"];

fn large() -> Bounds {
    Bounds {
        rows_max: 100_000,
        bytes_max: 1 << 30,
        ..bounds()
    }
}
/// An order of a tenant that has all the time of the world, on a lane of its own if `lane` is.
fn order(tenant: &str, lane: u8, rows: usize, now: Instant) -> Item<Fake> {
    let mut item = item(0, lane, rows, now);
    item.payer = payer(tenant);
    item.cost = MS * u32::try_from(rows).unwrap();
    item.job.name = TENANTS.iter().position(|t| *t == tenant).unwrap();
    item.job.deadline = now + 10_000_000 * MS;
    item
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Goal: however tenants cut their work, on lanes of their own or in shared runs, and however many orders one of them heaps up,
    /// each gets its weight's share of the engine. Method: all keep orders waiting; count what runs.
    #[test]
    fn tenants_who_wait_share_the_engine_by_weight(
        tenants in prop::collection::vec((1u32..5, 1usize..5, 1usize..60), 2..5),
        shared in any::<bool>(),
    ) {
        let names = TENANTS.iter().zip(&tenants);
        let weights = names.map(|(name, (weight, ..))| (payer(name), *weight)).collect();
        let (mut now, mut board) = (start(), Board::new(large(), weights));
        let (mut waiting, mut ran) = ([0_usize; 4], [0_u32; 4]);
        for _ in 0..1_500 {
            for (at, (_, rows, heap)) in tenants.iter().enumerate() {
                for _ in waiting[at]..10 + heap {
                    let lane = if shared { 0 } else { u8::try_from(at).unwrap() };
                    push(&mut board, order(TENANTS[at], lane, *rows, now)).unwrap();
                    waiting[at] += 1;
                }
            }
            let Next::Run(batch) = board.take(0, now, &mut Vec::new()) else { panic!("orders wait") };
            for item in batch {
                waiting[item.job.name] -= 1;
                ran[item.job.name] += u32::try_from(item.rows).unwrap();
                now += item.cost;
            }
        }
        let (all, weights): (u32, u32) = (ran.iter().sum(), tenants.iter().map(|t| t.0).sum());
        for (at, (weight, ..)) in tenants.iter().enumerate() {
            let share = f64::from(ran[at]) / f64::from(all);
            let due = f64::from(*weight) / f64::from(weights);
            prop_assert!((share / due - 1.0).abs() < 0.1, "{}: {share} instead of {due}", TENANTS[at]);
        }
    }

    /// Goal: nobody starves. Method: a tenant keeps the first level full for ever; others come at any level.
    #[test]
    fn every_order_starts_within_a_bound_however_much_goes_before_it(
        comers in prop::collection::vec((1usize..4, 1u64..7, 0u64..4_000), 1..12),
    ) {
        let (begin, mut board) = (start(), Board::new(large(), HashMap::new()));
        let level = |priority| Level::asked(priority).unwrap();
        let mut left = BTreeMap::new();
        let mut comers: Vec<_> = comers.into_iter().enumerate().map(|(n, (at, priority, ms))| (ms, n, at, priority)).collect();
        comers.sort_unstable();
        let (mut now, mut flood, mut next) = (begin, 0_usize, comers.into_iter().peekable());
        while next.peek().is_some() || !left.is_empty() {
            while let Some((_, n, at, priority)) = next.next_if(|(ms, ..)| begin + Duration::from_millis(*ms) <= now) {
                let mut comer = order(TENANTS[at], u8::try_from(at).unwrap(), 8, now);
                (comer.level, comer.job.name) = (level(priority), 100 + n);
                push(&mut board, comer).unwrap();
                let wait = RISE * u32::try_from(level(priority).place()).unwrap();
                left.insert(100 + n, now + wait + 2 * RISE);
            }
            while flood < 20 {
                let mut first = order("a", 0, 8, now);
                (first.level, first.job.name) = (level(1), 0);
                push(&mut board, first).unwrap();
                flood += 1;
            }
            let Next::Run(batch) = board.take(0, now, &mut Vec::new()) else { panic!("orders wait") };
            for item in batch {
                flood -= usize::from(item.job.name == 0);
                let bound = left.remove(&item.job.name);
                prop_assert!(bound.is_none_or(|bound| now <= bound), "level {:?} late", item.level);
                now += item.cost;
            }
        }
    }
}

#[test]
fn a_higher_level_goes_first_and_one_that_waited_long_gets_one_run_in_eight() {
    let (now, mut board) = (start(), Board::new(large(), HashMap::new()));
    for (n, priority) in [3, 1].into_iter().enumerate() {
        for _ in 0..40 {
            let mut order = order(TENANTS[n], u8::try_from(n).unwrap(), 8, now);
            (order.level, order.job.name) = (Level::asked(priority).unwrap(), n);
            push(&mut board, order).unwrap();
        }
    }
    let low = |board: &mut Board<Fake>, now| (0..16).filter(|_| taken(board, now) == [0]).count();
    assert_eq!(low(&mut board, now + RISE), 0);
    assert_eq!(low(&mut board, now + 2 * RISE), 2);
}

/// Numbers from a seed: splitmix64.
struct Dice(u64);
impl Dice {
    /// Even in 0..1.
    fn roll(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        f64::from(u32::try_from((z ^ (z >> 31)) >> 32).unwrap()) / f64::from(u32::MAX)
    }
    /// Gaps of a Poisson stream, or times of work, with this mean.
    fn wait(&mut self, mean: Duration) -> Duration {
        mean.mul_f64(-(1.0 - self.roll()).max(1e-9).ln())
    }
}

/// What came of a simulated stretch of load.
#[derive(Debug, Default)]
struct Tally {
    offered: u32,
    admitted: u32,
    in_time: u32,
    late: u32,
    expired: u32,
    good: Duration,
}

/// Five seconds of `load` times what two threads can do, after five that are not counted. Runs take `bias` times what is expected,
/// more or less.
fn overload(seed: u64, load: f64, bias: f64, deadline: Duration) -> Tally {
    let (begin, mut dice, mut tally) = (start(), Dice(seed), Tally::default());
    let mut board = Board::new(
        Bounds {
            threads: 2,
            rows_max: 1_024,
            ..large()
        },
        HashMap::new(),
    );
    let expected = 2 * MS;
    let gap = expected.mul_f64(bias / 2.0 / load);
    let mut arrival = begin;
    let mut threads: [(Instant, Vec<Item<Fake>>); 2] = [(begin, Vec::new()), (begin, Vec::new())];
    let mut idle = [false; 2];
    let end = Duration::from_secs(10);
    loop {
        let free = (0..2).filter(|t| !idle[*t]).min_by_key(|t| threads[*t].0);
        let now = free.map_or(arrival, |t| threads[t].0.min(arrival));
        let counts = now >= begin + end / 2;
        if now >= begin + end {
            return tally;
        }
        let mut dead = Vec::new();
        if now == arrival {
            let mut order = order(TENANTS[usize::from(dice.roll() < 0.5)], 0, 1, now);
            (order.rows_max, order.cost, order.job.deadline) = (1, expected, now + deadline);
            tally.offered += u32::from(counts);
            tally.admitted += u32::from(board.push(order, &mut dead).is_ok() && counts);
            arrival += dice.wait(gap);
            (0..2)
                .filter(|t| std::mem::take(&mut idle[*t]))
                .for_each(|t| threads[t].0 = now);
        } else if let Some(t) = free {
            for item in threads[t].1.drain(..).filter(|_| counts) {
                let good = item.job.deadline >= now;
                tally.in_time += u32::from(good);
                tally.late += u32::from(!good);
                tally.good += expected.mul_f64(if good { bias } else { 0.0 });
            }
            match board.take(t, now, &mut dead) {
                Next::Run(batch) => {
                    assert!(
                        batch.iter().all(|item| item.job.deadline > now),
                        "begun after its deadline"
                    );
                    let busy = expected.mul_f64(bias * 0.5) + dice.wait(expected.mul_f64(bias * 0.5));
                    threads[t] = (now + busy, batch);
                }
                Next::Wait(_) => idle[t] = true,
            }
        }
        tally.expired += if counts { u32::try_from(dead.len()).unwrap() } else { 0 };
    }
}

/// Goal: four times as much work as there is time for leaves at least nine tenths of that time to answers that are in time,
/// also where estimates are wrong. Method: seeded Poisson arrivals, two threads, runs of random length, a virtual clock.
#[test]
fn overload_costs_refusals_and_not_answers() {
    for seed in 1..=3 {
        for (load, bias, deadline) in [
            (4.0, 1.0, 50),
            (4.0, 1.0, 200),
            (4.0, 1.5, 100),
            (4.0, 0.7, 100),
            (10.0, 1.0, 100),
        ] {
            let tally = overload(seed, load, bias, MS * deadline);
            let goodput = tally.good.as_secs_f64() / 10.0;
            let kept = f64::from(tally.in_time) / f64::from(tally.in_time + tally.late + tally.expired);
            let told =
                format!("seed {seed}, {load}x, runs {bias}x, {deadline} ms: goodput {goodput:.3}, kept {kept:.4}");
            eprintln!("{told}");
            assert!(goodput >= 0.9, "{told}");
            assert!(kept >= if bias > 1.0 { 0.9 } else { 0.99 }, "{told}");
        }
    }
}

#[test]
fn half_a_load_is_refused_nothing() {
    let tally = overload(1, 0.5, 1.0, 100 * MS);
    assert_eq!(
        (tally.admitted, tally.late + tally.expired),
        (tally.offered, 0),
        "{tally:?}"
    );
}
