//! Service classes: named promises about time that an operator gives a model. A client's own words come first.

use std::time::Duration;

use proto::limits::{DEADLINE_MS_DEFAULT, DEADLINE_MS_MAX};
use serde::Deserialize;

/// Levels of priority; 1 goes first. Higher numbers that a client sends are taken as the last.
pub const LEVELS: usize = 5;

/// A level of priority, 0 to [`LEVELS`] - 1 inside, 1 to [`LEVELS`] outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Level(usize);

impl Level {
    /// The level of the protocol's parameter `priority`; `None` for 0, which leaves it to the model's class.
    #[must_use]
    pub fn asked(priority: u64) -> Option<Self> {
        let place = priority.checked_sub(1)?;
        Some(Self(usize::try_from(place).unwrap_or(usize::MAX).min(LEVELS - 1)))
    }
    /// Its place, first is 0.
    #[must_use]
    pub fn place(self) -> usize {
        self.0
    }
}

/// What requests of a model get that do not ask for anything else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// Answered within 50 ms or refused.
    #[serde(rename = "realtime-50")]
    Realtime50,
    /// Within 100 ms.
    #[serde(rename = "realtime-100")]
    Realtime100,
    /// Within 200 ms.
    #[serde(rename = "realtime-200")]
    Realtime200,
    /// Within a second.
    MicroBatch,
    /// Whenever there is time.
    Batch,
    /// No class was named.
    #[default]
    Standard,
}

impl Class {
    /// How long a request may take that does not say so.
    #[must_use]
    pub fn deadline(self) -> Duration {
        Duration::from_millis(match self {
            Self::Realtime50 => 50,
            Self::Realtime100 => 100,
            Self::Realtime200 => 200,
            Self::MicroBatch => 1_000,
            Self::Batch => DEADLINE_MS_MAX,
            Self::Standard => DEADLINE_MS_DEFAULT,
        })
    }
    /// Longest wait for company. The node's own bound holds besides.
    #[must_use]
    pub fn delay_max(self) -> Duration {
        Duration::from_millis(match self {
            Self::Realtime50 => 2,
            Self::Realtime100 => 4,
            Self::Realtime200 => 8,
            Self::MicroBatch | Self::Standard => 10,
            Self::Batch => 50,
        })
    }
    /// Where requests queue that do not say so.
    #[must_use]
    pub fn level(self) -> Level {
        Level(match self {
            Self::Realtime50 | Self::Realtime100 | Self::Realtime200 => 1,
            Self::MicroBatch | Self::Standard => 2,
            Self::Batch => LEVELS - 1,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn priority_one_goes_first_zero_is_the_models_own_and_large_ones_go_last() {
        assert_eq!(Level::asked(0), None);
        assert_eq!(Level::asked(1).map(Level::place), Some(0));
        assert_eq!(Level::asked(u64::MAX).map(Level::place), Some(LEVELS - 1));
        assert!(
            Level::asked(1) < Some(Class::Realtime50.level()),
            "a client can go before every class"
        );
        assert!(Class::Realtime200.level() < Class::Standard.level() && Class::Standard.level() < Class::Batch.level());
    }
}
