//! The only place that reads the machine's clocks. Everything else takes the time as an argument.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use proto::ids::UnixMs;

/// Milliseconds since 1970-01-01T00:00:00Z, for documents and logs. It may jump when the clock is set.
/// 0 when the machine's clock stands before 1970.
#[must_use]
#[allow(clippy::disallowed_methods, reason = "this module is the edge")]
pub fn now_ms() -> UnixMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMs::try_from(since.as_millis()).unwrap_or(UnixMs::MAX)
}

/// A reading of the steady clock, for durations and deadlines.
#[must_use]
#[allow(clippy::disallowed_methods, reason = "this module is the edge")]
pub fn instant() -> Instant {
    Instant::now()
}
