//! Closed loops on several servers in turn, round by round, and what stands in figures of them: medians.

use anyhow::Result;

use super::super::{Figure, median};
use super::SUITE;
use super::closed::Closed;
use super::target::{OK, Report, Target};

/// What is measured of ours.
pub const OURS: &str = "ours";

/// One that is asked.
#[derive(Clone)]
pub struct Contender {
    /// As figures call it.
    pub name: &'static str,
    /// How it is asked.
    pub target: Target,
}

/// Medians of one contender over all rounds.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Whose.
    pub name: &'static str,
    /// Requests answered a second.
    pub rps: f64,
    /// Times, milliseconds.
    pub p50_ms: f64,
    /// 99 of 100.
    pub p99_ms: f64,
    /// 999 of 1,000.
    pub p999_ms: f64,
}

/// Asks each in turn, `rounds` times. A peer that fails is left out from then on, and it is said why.
///
/// # Errors
/// Ours failed.
pub async fn measure(contenders: &[Contender], closed: Closed, rounds: u32) -> Result<Vec<Measured>> {
    let mut reports: Vec<Vec<Report>> = vec![Vec::new(); contenders.len()];
    let mut failed = vec![false; contenders.len()];
    for _ in 0..rounds {
        for ((contender, reports), failed) in contenders.iter().zip(&mut reports).zip(&mut failed) {
            if *failed {
                continue;
            }
            match asked(contender, closed).await {
                Ok(report) => reports.push(report),
                Err(why) if contender.name.starts_with(OURS) => return Err(why.context("ours")),
                Err(why) => {
                    eprintln!("·· without {}: {why:#}", contender.name);
                    *failed = true;
                }
            }
        }
    }
    let all = contenders.iter().zip(reports).zip(failed).filter(|(_, failed)| !failed);
    Ok(all
        .map(|((contender, reports), _)| Measured::of(contender.name, reports))
        .collect())
}

async fn asked(contender: &Contender, closed: Closed) -> Result<Report> {
    let report = closed.drive(contender.target.clone()).await?;
    let refused: Vec<_> = report.statuses.keys().filter(|status| **status != OK).collect();
    anyhow::ensure!(refused.is_empty(), "it answered {refused:?} as well");
    anyhow::ensure!(report.answered.count() > 0, "it answered nothing");
    Ok(report)
}

impl Measured {
    fn of(name: &'static str, mut reports: Vec<Report>) -> Self {
        let mut middle = |of: fn(&mut Report) -> f64| median(&mut reports.iter_mut().map(of).collect::<Vec<_>>());
        let measured = Self {
            name,
            rps: middle(|report| report.per_second()),
            p50_ms: middle(|report| report.answered.percentile_ms(5_000)),
            p99_ms: middle(|report| report.answered.percentile_ms(9_900)),
            p999_ms: middle(|report| report.answered.percentile_ms(9_990)),
        };
        let Self {
            rps,
            p50_ms,
            p99_ms,
            p999_ms,
            ..
        } = measured;
        eprintln!("   {name:<14} {rps:>9.0}/s   p50 {p50_ms:.3}   p99 {p99_ms:.3}   p99.9 {p999_ms:.3} ms");
        measured
    }
}

/// `ours` beside the best of `theirs` under `name`, and a further row `name/PEER` for each of the others.
/// `of` is what is compared; more is better where `more` says so.
#[must_use]
pub fn beside(
    name: &str,
    unit: &'static str,
    (ours, theirs): (&Measured, &[&Measured]),
    of: fn(&Measured) -> f64,
    best: Best,
) -> Vec<Figure> {
    let figure = |name: String| Figure::alone(SUITE, name, of(ours), unit);
    let better = |a: &&&Measured, b: &&&Measured| match best {
        Best::Most => of(a).total_cmp(&of(b)),
        Best::Least => of(b).total_cmp(&of(a)),
    };
    let Some(first) = theirs.iter().max_by(better) else {
        return vec![figure(name.to_owned())];
    };
    let others = theirs.iter().filter(|peer| peer.name != first.name);
    let others = others.map(|peer| figure(format!("{name}/{}", peer.name)).beside(peer.name, of(peer)));
    [figure(name.to_owned()).beside(first.name, of(first))]
        .into_iter()
        .chain(others)
        .collect()
}

/// Which of two values is the better one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Best {
    /// The larger, as of requests a second.
    Most,
    /// The smaller, as of times.
    Least,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(name: &'static str, rps: f64, p99_ms: f64) -> Measured {
        Measured {
            name,
            rps,
            p50_ms: 0.0,
            p99_ms,
            p999_ms: 0.0,
        }
    }

    #[test]
    fn the_rival_is_the_best_peer_and_the_others_have_rows_of_their_own() {
        let (ours, a, b) = (
            measured(OURS, 30.0, 1.0),
            measured("a", 10.0, 2.0),
            measured("b", 20.0, 4.0),
        );
        let told = |of, best| {
            let rows = beside("x", "u", (&ours, &[&a, &b]), of, best);
            rows.iter()
                .map(|row| (row.name.clone(), row.rival, row.ratio))
                .collect::<Vec<_>>()
        };
        let row = |name: &str, rival, ratio| (name.to_owned(), Some(rival), Some(ratio));
        assert_eq!(told(|m| m.rps, Best::Most), [row("x", "b", 1.5), row("x/a", "a", 3.0)]);
        assert_eq!(
            told(|m| m.p99_ms, Best::Least),
            [row("x", "a", 0.5), row("x/b", "b", 0.25)]
        );
        assert_eq!(beside("x", "u", (&ours, &[]), |m| m.rps, Best::Most)[0].rival, None);
    }
}
