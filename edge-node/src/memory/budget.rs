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
    /// It leaves last: this node is one of those that keep a copy.
    pub(super) kept: bool,
}

impl Resident {
    /// Who leaves first.
    fn turn(&self) -> (bool, u64) {
        (self.kept, self.used_ms)
    }
}

/// Indexes of those who leave so that `need` more bytes fit into `max`: the least recently used first, those that are kept after all
/// others, nobody whose leaving is not needed, never one that is pinned. A small one stays where a large one that was used after it
/// has to leave anyway.
///
/// Where all that is not enough all of them leave: what is asked for is loaded all the same, since a
/// model larger than the bound would otherwise never answer.
pub(super) fn leavers(residents: &[Resident], max: u64, need: u64) -> Vec<usize> {
    let mut used: u64 = residents.iter().map(|resident| resident.bytes).sum();
    let mut order: Vec<usize> = (0..residents.len()).filter(|&n| !residents[n].pinned).collect();
    order.sort_by_key(|&n| residents[n].turn());
    let mut leaving = Vec::new();
    for n in order {
        if used.saturating_add(need) <= max {
            break;
        }
        used -= residents[n].bytes;
        leaving.push(n);
    }
    let mut needed = Vec::new();
    for n in leaving.into_iter().rev() {
        let with = used.saturating_add(residents[n].bytes);
        if with.saturating_add(need) <= max {
            used = with;
        } else {
            needed.push(n);
        }
    }
    needed
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn resident(bytes: u64, used_ms: u64, pinned: bool) -> Resident {
        Resident {
            bytes,
            used_ms,
            pinned,
            kept: false,
        }
    }
    fn kept(bytes: u64, used_ms: u64) -> Resident {
        Resident {
            kept: true,
            ..resident(bytes, used_ms, false)
        }
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
        assert_eq!(leavers(&all, 40, 15), [3, 1]);
        assert_eq!(leavers(&all, 40, 99), [0, 3, 1], "the pinned one stays");
    }

    #[test]
    fn a_copy_that_is_kept_leaves_when_all_others_have() {
        let all = [kept(10, 1), resident(10, 2, false), kept(10, 3), resident(10, 4, false)];
        assert_eq!(leavers(&all, 40, 10), [1]);
        assert_eq!(leavers(&all, 40, 20), [3, 1]);
        assert_eq!(leavers(&all, 40, 30), [0, 3, 1]);
    }

    #[test]
    fn a_small_one_stays_where_a_large_one_leaves() {
        let all = [resident(1, 1, false), resident(90, 2, false)];
        assert_eq!(leavers(&all, 100, 20), [1]);
        assert_eq!(leavers(&all, 100, 100), [1, 0]);
    }

    proptest! {
        #[test]
        fn whoever_leaves_has_to_and_with_those_used_before_the_last_one_gone_it_has_to_as_well(
            all in prop::collection::vec((0_u64..100, 0_u64..10, 0..4), 0..20), max in 0_u64..600, need in 0_u64..100
        ) {
            let all: Vec<Resident> = all
                .into_iter()
                .map(|(b, u, how)| Resident { kept: how == 1, ..resident(b, u, how == 0) })
                .collect();
            let leaving = leavers(&all, max, need);
            let stays = |n: &usize| !leaving.contains(n);
            let used: u64 = (0..all.len()).filter(stays).map(|n| all[n].bytes).sum();
            for gone in &leaving {
                prop_assert!(!all[*gone].pinned);
                prop_assert!(used + all[*gone].bytes + need > max, "{gone} could stay");
            }
            // Those up to the last one that leaves, in their order, would have been enough; and without that one they would not.
            let last = leaving.iter().map(|&n| all[n].turn()).max();
            let earlier = |n: &usize| !all[*n].pinned && last.is_some_and(|last| all[*n].turn() < last);
            let without: u64 = (0..all.len()).filter(|n| !earlier(n)).map(|n| all[n].bytes).sum();
            prop_assert!(last.is_none() || without + need > max);
            if used + need > max {
                prop_assert!((0..all.len()).filter(stays).all(|n| all[n].pinned));
            }
        }
    }
}
