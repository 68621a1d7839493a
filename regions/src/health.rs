//! How each node feels, from active probes and from what happens to real requests.
//!
//! ```text
//!            probe ok                    failure                  failure
//!  Unknown ----------> Up -------------------------> Suspect -------------------> Down
//!     |                 ^  <-------------------------/ any ok                       |
//!     | failure         |                                                           |
//!     +--> Down         +----- probes ok in a row: 2, and twice as many ------------+
//!                              for each fall within a minute of the last one, up to 16
//! ```
//! Quick to doubt, slow to believe again. Doubt costs little: a suspect is asked after the others, never refused for it.
//! A finished request clears doubt, but only probes bring a node back from `Down`: requests that a dying node still
//! completes must not. Times are milliseconds of one monotonic clock, passed in.

use std::collections::HashMap;

use proto::ids::{ModelName, NodeId};

use crate::load::Load;

/// Failures in a row after which a node is down.
pub const DOWN_AFTER: u8 = 2;
/// Good probes in a row that bring a node back, at first.
pub const UP_AFTER: u8 = 2;
/// The most good probes that are asked of a node that keeps falling.
pub const UP_AFTER_MAX: u8 = 16;
/// Two falls closer than this are flapping, milliseconds.
pub const FLAP_WINDOW_MS: u64 = 60_000;
/// A node not heard of for this long is no longer sure to be up, milliseconds.
pub const SILENCE_MS: u64 = 30_000;

/// What a node says of itself when probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// Takes requests.
    Ready,
    /// Not yet.
    Starting,
    /// No longer.
    Draining,
}

/// Something that was learnt about a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It answered a probe.
    Answered {
        /// What it says of itself.
        readiness: Readiness,
        /// Requests that wait there.
        queued: u32,
        /// Models it holds ready.
        models: Vec<ModelName>,
    },
    /// It did not answer a probe in time, or not as a node of this fleet.
    Unanswered,
    /// It answered a client's request, whatever the status.
    Served,
    /// A client's request could not be sent, or was cut off before an answer began.
    Broke,
    /// It refused a client's request because it is full.
    TurnedAway,
    /// It refused a client's request because it is about to stop.
    LeavingSoon,
}

/// What a node is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Never heard of.
    Unknown,
    /// Good.
    Up,
    /// Something went wrong once, or it has been silent: asked after the others.
    Suspect,
    /// Not asked.
    Down,
}

/// One node's health.
#[derive(Clone, Debug)]
pub struct NodeHealth {
    state: State,
    readiness: Readiness,
    models: Option<Vec<ModelName>>,
    load: Load,
    failures: u8,
    oks: u8,
    up_after: u8,
    fell_at_ms: Option<u64>,
    heard_at_ms: u64,
}

impl Default for NodeHealth {
    fn default() -> Self {
        Self {
            state: State::Unknown,
            readiness: Readiness::Ready,
            models: None,
            load: Load::default(),
            failures: 0,
            oks: 0,
            up_after: UP_AFTER,
            fell_at_ms: None,
            heard_at_ms: 0,
        }
    }
}

impl NodeHealth {
    /// Takes in one event.
    pub fn on(&mut self, event: Event, now_ms: u64) {
        match event {
            Event::Answered {
                readiness,
                queued,
                models,
            } => {
                self.readiness = readiness;
                self.models = Some(models);
                self.load.measured(queued);
                self.good_probe(now_ms);
            }
            Event::Served if self.state == State::Suspect => self.rise(now_ms),
            Event::Served => self.failures = 0,
            Event::Unanswered | Event::Broke => self.failed(now_ms),
            Event::TurnedAway => self.load.turned_away(now_ms),
            Event::LeavingSoon => self.readiness = Readiness::Draining,
        }
    }
    fn good_probe(&mut self, now_ms: u64) {
        self.heard_at_ms = now_ms;
        self.oks = self.oks.saturating_add(1);
        match self.state {
            State::Down if self.oks < self.up_after => self.failures = 0,
            _ => self.rise(now_ms),
        }
    }
    fn rise(&mut self, now_ms: u64) {
        self.state = State::Up;
        self.failures = 0;
        self.heard_at_ms = now_ms;
    }
    fn failed(&mut self, now_ms: u64) {
        self.oks = 0;
        self.failures = self.failures.saturating_add(1);
        match self.state {
            State::Up if self.failures < DOWN_AFTER => self.state = State::Suspect,
            State::Up | State::Suspect if self.failures >= DOWN_AFTER => self.fall(now_ms),
            State::Unknown => self.fall(now_ms),
            State::Up | State::Suspect | State::Down => {}
        }
    }
    fn fall(&mut self, now_ms: u64) {
        let flapping = self
            .fell_at_ms
            .is_some_and(|before| now_ms.saturating_sub(before) < FLAP_WINDOW_MS);
        self.up_after = if flapping {
            self.up_after.saturating_mul(2).min(UP_AFTER_MAX)
        } else {
            UP_AFTER
        };
        self.fell_at_ms = Some(now_ms);
        self.state = State::Down;
    }
    /// What it is good for at `now_ms`.
    #[must_use]
    pub fn state(&self, now_ms: u64) -> State {
        match self.state {
            State::Up if now_ms.saturating_sub(self.heard_at_ms) > SILENCE_MS => State::Suspect,
            state => state,
        }
    }
    /// What it last said of itself.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        self.readiness
    }
    /// Whether it holds `model` ready, as far as is known: a node that was never heard of may.
    #[must_use]
    pub fn may_hold(&self, model: &ModelName) -> bool {
        self.models.as_ref().is_none_or(|models| models.contains(model))
    }
    /// How busy it is.
    #[must_use]
    pub fn load(&self) -> Load {
        self.load
    }
}

/// The health of all nodes that anything was learnt about.
#[derive(Clone, Debug, Default)]
pub struct Health(HashMap<NodeId, NodeHealth>);

impl Health {
    /// Takes in what was learnt about `node`; gives its state before and after, for whoever logs changes.
    pub fn on(&mut self, node: &NodeId, event: Event, now_ms: u64) -> (State, State) {
        if !self.0.contains_key(node) {
            self.0.insert(node.clone(), NodeHealth::default());
        }
        let health = self.0.get_mut(node).expect("it was put there the line before");
        let before = health.state(now_ms);
        health.on(event, now_ms);
        (before, health.state(now_ms))
    }
    /// What is known of `node`, if anything.
    #[must_use]
    pub fn get(&self, node: &NodeId) -> Option<&NodeHealth> {
        self.0.get(node)
    }
    /// Forgets nodes that `keep` denies: those that left the fleet.
    pub fn retain(&mut self, keep: impl Fn(&NodeId) -> bool) {
        self.0.retain(|node, _| keep(node));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn answered() -> Event {
        Event::Answered {
            readiness: Readiness::Ready,
            queued: 0,
            models: Vec::new(),
        }
    }
    fn after(events: &[Event]) -> State {
        let mut health = NodeHealth::default();
        events.iter().for_each(|e| health.on(e.clone(), 1));
        health.state(1)
    }

    #[test]
    fn the_first_good_probe_puts_a_new_node_to_work() {
        assert_eq!(after(&[]), State::Unknown);
        assert_eq!(after(&[answered()]), State::Up);
    }

    #[test]
    fn one_failure_is_doubt_and_two_in_a_row_are_down() {
        assert_eq!(after(&[answered(), Event::Broke]), State::Suspect);
        assert_eq!(after(&[answered(), Event::Broke, Event::Served]), State::Up);
        assert_eq!(
            after(&[answered(), Event::Broke, Event::Served, Event::Broke]),
            State::Suspect
        );
        assert_eq!(after(&[answered(), Event::Broke, Event::Unanswered]), State::Down);
    }

    #[test]
    fn a_request_that_a_dying_node_completes_does_not_bring_it_back() {
        let down = [answered(), Event::Broke, Event::Broke];
        assert_eq!(
            after(&[&down[..], &[Event::Served, Event::Served, Event::Served]].concat()),
            State::Down
        );
        assert_eq!(after(&[&down[..], &[answered()]].concat()), State::Down);
        assert_eq!(after(&[&down[..], &[answered(), answered()]].concat()), State::Up);
    }

    #[test]
    fn a_node_that_keeps_falling_has_to_prove_more_each_time() {
        let mut health = NodeHealth::default();
        for (fall, want) in [(0u64, 2u8), (1, 4), (2, 8), (3, 16), (4, 16)] {
            health.on(Event::Unanswered, fall * 1_000);
            health.on(Event::Unanswered, fall * 1_000);
            let mut probes = 0;
            while health.state(fall * 1_000) == State::Down {
                health.on(answered(), fall * 1_000);
                probes += 1;
            }
            assert_eq!(probes, want, "fall {fall}");
        }
        health.on(Event::Unanswered, 4_000 + FLAP_WINDOW_MS);
        health.on(Event::Unanswered, 4_000 + FLAP_WINDOW_MS);
        health.on(answered(), 4_000 + FLAP_WINDOW_MS);
        health.on(answered(), 4_000 + FLAP_WINDOW_MS);
        assert_eq!(
            health.state(4_000 + FLAP_WINDOW_MS),
            State::Up,
            "a minute of calm forgives"
        );
    }

    #[test]
    fn a_silent_node_is_doubted_when_nobody_probes_any_more() {
        let mut health = NodeHealth::default();
        health.on(answered(), 0);
        assert_eq!(health.state(SILENCE_MS), State::Up);
        assert_eq!(health.state(SILENCE_MS + 1), State::Suspect);
    }

    fn any_event() -> impl Strategy<Value = Event> {
        prop_oneof![
            Just(answered()),
            Just(Event::Unanswered),
            Just(Event::Served),
            Just(Event::Broke),
            Just(Event::TurnedAway),
            Just(Event::LeavingSoon)
        ]
    }

    proptest! {
        /// Goal: hysteresis holds in every history. Method: whatever came before, two failures end in `Down`, and from
        /// `Down` one good probe is never enough, but `UP_AFTER_MAX` of them always are.
        #[test]
        fn no_history_makes_a_dead_node_look_up_or_keeps_a_live_one_down(
            history in proptest::collection::vec((any_event(), 0u64..100_000), 0..60)
        ) {
            let (mut health, mut now) = (NodeHealth::default(), 0);
            for (event, wait) in history {
                now += wait;
                health.on(event, now);
            }
            health.on(Event::Unanswered, now);
            health.on(Event::Unanswered, now);
            prop_assert_eq!(health.state(now), State::Down);
            health.on(answered(), now);
            prop_assert_eq!(health.state(now), State::Down);
            (1..UP_AFTER_MAX).for_each(|_| health.on(answered(), now));
            prop_assert_eq!(health.state(now), State::Up);
        }
    }
}
