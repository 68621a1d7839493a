//! Which weights an int8 form keeps in FP32, by measured error: the fewest that bring it within its bounds.
//!
//! ```text
//!   at most 48 groups of neighbouring weights
//!     -> each coded alone, all others kept: its harm          one attempt a group
//!     -> ranked, the most harmful first
//!     -> the first 1, 2, 4, .. kept, until the form passes     at most 7 attempts
//!     -> between the last two, by halves                       at most 4 attempts
//! ```
//! The search decides and runs nothing itself: an attempt is the caller's. Equal figures give equal answers.

use std::collections::BTreeSet;

use super::Weight;

/// Groups whose harm is measured. With more weights than that, neighbours share one.
pub const GROUPS_MAX: usize = 48;

/// What an attempt showed of a form.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attempt {
    /// Whether it is within all its bounds.
    pub passed: bool,
    /// How far its answers are from the right ones, on any scale; what is not a number counts as infinite.
    pub error: f64,
}

/// What the search found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Weights that stay FP32, the most harmful first.
    pub weights: Vec<Weight>,
    /// Weights that could be coded.
    pub of: usize,
    /// Forms that were tried.
    pub attempts: usize,
    /// Whether the form passes so.
    pub passed: bool,
}

impl Kept {
    /// Their names.
    #[must_use]
    pub fn names(&self) -> BTreeSet<String> {
        self.weights.iter().map(|weight| weight.name.clone()).collect()
    }

    /// What keeping them costs in the file's length, bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.weights.iter().map(|weight| weight.saved_bytes).sum()
    }
}

/// Searches for a form that passes, with at most half of the saved bytes given back: past that it is hardly smaller than its
/// parent. Where none passes, the answer is the last one tried, with all of that half kept.
///
/// `attempt` makes, runs and judges the form with the given weights kept. It is called at most [`GROUPS_MAX`] + 11 times.
/// That more kept weights never make it worse is assumed for the bisection only: what is answered as passing did pass.
///
/// # Errors
/// The first error of `attempt`.
pub fn fewest<E>(
    weights: &[Weight],
    mut attempt: impl FnMut(&BTreeSet<String>) -> Result<Attempt, E>,
) -> Result<Kept, E> {
    let groups = groups(weights);
    let mut harms = Vec::with_capacity(groups.len());
    for group in &groups {
        let others = weights.iter().filter(|weight| !group.contains(weight));
        harms.push(attempt(&others.map(|weight| weight.name.clone()).collect())?.error);
    }
    let ranked = affordable(ranked(&harms).into_iter().map(|at| groups[at]).collect());
    let most = ranked.len();
    let mut attempts = groups.len();
    let mut kept = |count: usize, attempts: &mut usize| {
        *attempts += 1;
        let names = ranked[..count].iter().flat_map(|group| group.iter());
        attempt(&names.map(|weight| weight.name.clone()).collect()).map(|shown| shown.passed)
    };
    let (mut fails, mut passes) = (0, None);
    while passes.is_none() && fails < most {
        let count = (fails * 2).clamp(1, most);
        if kept(count, &mut attempts)? {
            passes = Some(count);
        } else {
            fails = count;
        }
    }
    while let Some(count) = passes.filter(|count| count - fails > 1) {
        let middle = fails + (count - fails) / 2;
        if kept(middle, &mut attempts)? {
            passes = Some(middle);
        } else {
            fails = middle;
        }
    }
    Ok(Kept {
        weights: ranked[..passes.unwrap_or(most)].concat(),
        of: weights.len(),
        attempts,
        passed: passes.is_some(),
    })
}

/// Runs of neighbours of about equal length, at most [`GROUPS_MAX`].
fn groups(weights: &[Weight]) -> Vec<&[Weight]> {
    weights.chunks(weights.len().div_ceil(GROUPS_MAX).max(1)).collect()
}

/// Places in `harms`, the greatest first, of equal ones the earlier.
fn ranked(harms: &[f64]) -> Vec<usize> {
    let harm = |at: usize| if harms[at].is_nan() { f64::INFINITY } else { harms[at] };
    let mut places: Vec<usize> = (0..harms.len()).collect();
    places.sort_by(|&a, &b| harm(b).total_cmp(&harm(a)));
    places
}

/// The groups that can be kept one after the other while at most half of all saved bytes is given back; a larger one is
/// passed over.
fn affordable(mut ranked: Vec<&[Weight]>) -> Vec<&[Weight]> {
    let bytes = |group: &[Weight]| group.iter().map(|weight| weight.saved_bytes).sum::<u64>();
    let mut left = ranked.iter().map(|group| bytes(group)).sum::<u64>() / 2;
    ranked.retain(|group| {
        let fits = bytes(group) <= left;
        left -= if fits { bytes(group) } else { 0 };
        fits
    });
    ranked
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn weights(count: usize) -> Vec<Weight> {
        let weight = |at| Weight {
            name: format!("w{at}"),
            saved_bytes: 100,
        };
        (0..count).map(weight).collect()
    }

    /// A model whose coded weights add up their harms, with a bound for the sum.
    fn search(harms: &[f64], bound: f64) -> Kept {
        let mut asked = 0;
        let kept = fewest(&weights(harms.len()), |keep| {
            asked += 1;
            let coded = (0..harms.len()).filter(|at| !keep.contains(&format!("w{at}")));
            let error = coded.map(|at| harms[at]).sum();
            Ok::<_, Infallible>(Attempt {
                passed: error <= bound,
                error,
            })
        });
        let Ok(kept) = kept;
        assert_eq!(kept.attempts, asked);
        assert!(asked <= GROUPS_MAX + 11, "{asked} attempts");
        kept
    }

    #[test]
    fn the_fewest_that_pass_are_kept_and_they_are_the_most_harmful() {
        let mut harms = vec![0.01; 40];
        (harms[7], harms[31], harms[12]) = (5.0, 3.0, 4.0);
        let kept = search(&harms, 1.0);
        assert!(kept.passed);
        let names: Vec<_> = kept.weights.iter().map(|w| w.name.as_str()).collect();
        assert_eq!(names, ["w7", "w12", "w31"]);
        assert_eq!((kept.of, kept.bytes()), (40, 300));
        assert_eq!(search(&harms, 6.0).weights.len(), 2, "4 + 3 is too much, 3 is not");
        assert_eq!(search(&harms, 9.0).weights.len(), 1);
    }

    #[test]
    fn many_weights_are_measured_in_groups_within_the_bound_of_attempts() {
        let mut harms = vec![1e-6; 1000];
        harms[500] = 2.0;
        let kept = search(&harms, 1.0);
        assert!(kept.passed && kept.names().contains("w500"));
        assert_eq!(kept.weights.len(), 21, "its neighbours with it: 1000 / 48");
    }

    #[test]
    fn no_more_than_half_of_the_bytes_is_given_back() {
        let kept = search(&[1.0; 10], 0.5);
        assert!(!kept.passed);
        assert_eq!(kept.weights.len(), 5);
        assert!(
            search(&[9.0], 1.0).weights.is_empty(),
            "the only weight is more than half"
        );
    }

    #[test]
    fn what_is_not_a_number_is_the_worst_and_equal_harms_keep_their_order() {
        assert_eq!(ranked(&[1.0, f64::NAN, 2.0, 1.0]), [1, 2, 0, 3]);
    }
}
