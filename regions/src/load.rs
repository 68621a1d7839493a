//! How busy a node is, as far as steering cares: whether the next request rather goes to the next allowed node.

use proto::limits::SPILL_QUEUED_ROWS;

/// How long a node that turned a request away for want of room is asked after the others, milliseconds.
pub const TURNED_AWAY_MS: u64 = 1_000;

/// What is known of a node's load. Times are milliseconds of one monotonic clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    queued: u32,
    relieved_at_ms: u64,
}

impl Load {
    /// A probe told how many requests wait.
    pub fn measured(&mut self, queued: u32) {
        self.queued = queued;
    }
    /// The node answered that it is full.
    pub fn turned_away(&mut self, now_ms: u64) {
        self.relieved_at_ms = now_ms.saturating_add(TURNED_AWAY_MS);
    }
    /// Requests that waited when it was last probed.
    #[must_use]
    pub fn queued(self) -> u32 {
        self.queued
    }
    /// Whether requests rather go elsewhere inside the boundary. It is never a reason to refuse.
    #[must_use]
    pub fn spills(self, now_ms: u64) -> bool {
        now_ms < self.relieved_at_ms || self.queued > SPILL_QUEUED_ROWS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_node_is_spared_for_a_second_and_no_longer() {
        let mut load = Load::default();
        load.turned_away(5_000);
        assert!(load.spills(5_000) && load.spills(5_999) && !load.spills(6_000));
        load.measured(SPILL_QUEUED_ROWS + 1);
        assert!(load.spills(6_000));
    }
}
