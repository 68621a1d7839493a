//! Who leaves, so that others fit. Pure.

/// A model in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Resident {
    /// Of its files.
    pub(super) bytes: u64,
    /// When it was asked last.
    pub(super) used_ms: u64,
    /// It never leaves.
    pub(super) pinned: bool,
}

/// Indexes of those who leave so that `need` more bytes fit into `max`: the least recently used first, no more than it takes,
/// never one that is pinned. Where that is not enough all of them leave: what is asked for is loaded all the same, since a
/// model larger than the bound would otherwise never answer.
pub(super) fn leavers(residents: &[Resident], max: u64, need: u64) -> Vec<usize> {
    let mut used: u64 = residents.iter().map(|resident| resident.bytes).sum();
    let mut order: Vec<usize> = (0..residents.len()).filter(|&n| !residents[n].pinned).collect();
    order.sort_by_key(|&n| residents[n].used_ms);
    let mut leaving = Vec::new();
    for n in order {
        if used.saturating_add(need) <= max {
            break;
        }
        used -= residents[n].bytes;
        leaving.push(n);
    }
    leaving
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn resident(bytes: u64, used_ms: u64, pinned: bool) -> Resident {
        Resident { bytes, used_ms, pinned }
    }

    #[test]
    fn the_least_recently_used_leave_and_no_more_than_it_takes() {
        let all = [
            resident(10, 3, false),
            resident(10, 1, false),
            resident(10, 2, true),
            resident(10, 2, false),
        ];
        assert_eq!(leavers(&all, 50, 10), Vec::<usize>::new());
        assert_eq!(leavers(&all, 40, 5), [1]);
        assert_eq!(leavers(&all, 40, 15), [1, 3]);
        assert_eq!(leavers(&all, 40, 99), [1, 3, 0], "the pinned one stays");
    }

    proptest! {
        #[test]
        fn whoever_leaves_was_used_no_later_than_whoever_stays_and_without_the_last_it_would_not_fit(
            all in prop::collection::vec((0_u64..100, 0_u64..10, any::<bool>()), 0..20), max in 0_u64..600, need in 0_u64..100
        ) {
            let all: Vec<Resident> = all.into_iter().map(|(b, u, p)| resident(b, u, p)).collect();
            let leaving = leavers(&all, max, need);
            let stays = |n: &usize| !leaving.contains(n);
            for gone in &leaving {
                prop_assert!(!all[*gone].pinned);
                for n in (0..all.len()).filter(stays).filter(|&n| !all[n].pinned) {
                    prop_assert!(all[*gone].used_ms <= all[n].used_ms);
                }
            }
            let used: u64 = (0..all.len()).filter(stays).map(|n| all[n].bytes).sum();
            if let Some(last) = leaving.last() {
                prop_assert!(used + all[*last].bytes + need > max);
            }
            if used + need > max {
                prop_assert!((0..all.len()).filter(stays).all(|n| all[n].pinned));
            }
        }
    }
}
