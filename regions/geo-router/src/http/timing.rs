//! `Server-Timing` of an answer that came through here: the node's stages, with this router's own time in `route`.
//!
//! A node tells `route`, `queue`, `batch`, `exec`, `encode` and their sum, `total`. What the client waited beyond that until
//! the answer's head was here was steering, the way to the node and back, and nodes that turned it away: it is added to
//! `route` and to `total`, so that the stages still sum to the total.

use std::fmt::Write;

use http::HeaderValue;

/// The node's `told` with the rest of `whole_ms` added; `None` where it does not say its total.
pub(super) fn with_route(told: &HeaderValue, whole_ms: f64) -> Option<HeaderValue> {
    let parts: Option<Vec<(&str, f64)>> = told.to_str().ok()?.split(',').map(part).collect();
    let parts = parts?;
    let (_, total) = parts.iter().find(|(name, _)| *name == "total")?;
    let ours = (whole_ms - total).max(0.0);
    let mut text = String::with_capacity(128);
    if !parts.iter().any(|(name, _)| *name == "route") {
        tell(&mut text, "route", ours);
    }
    for (name, ms) in &parts {
        let more = if matches!(*name, "route" | "total") { ours } else { 0.0 };
        tell(&mut text, name, ms + more);
    }
    HeaderValue::from_str(&text).ok()
}

/// `name;dur=1.5`: only that form, which is the one that nodes write.
fn part(text: &str) -> Option<(&str, f64)> {
    let (name, ms) = text.trim().split_once(";dur=")?;
    let ms: f64 = ms.parse().ok()?;
    (ms.is_finite() && ms >= 0.0).then_some((name, ms))
}

fn tell(text: &mut String, name: &str, ms: f64) {
    let comma = if text.is_empty() { "" } else { ", " };
    let _ = write!(text, "{comma}{name};dur={ms:.3}"); // memory takes what is written
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn told(text: &str, whole_ms: f64) -> Option<String> {
        let value = with_route(&HeaderValue::from_str(text).ok()?, whole_ms)?;
        Some(value.to_str().unwrap().to_owned())
    }

    #[test]
    fn the_time_that_a_router_adds_is_routing_and_counts_in_the_total() {
        let node = "route;dur=0.100, exec;dur=8.000, total;dur=8.100";
        let through = "route;dur=2.100, exec;dur=8.000, total;dur=10.100";
        assert_eq!(told(node, 10.1).unwrap(), through);
        let kept = "encode;dur=0.004, total;dur=0.004";
        assert_eq!(
            told(kept, 1.0).unwrap(),
            "route;dur=0.996, encode;dur=0.004, total;dur=1.000"
        );
    }

    #[test]
    fn what_is_not_told_as_nodes_tell_it_is_left_alone() {
        for other in [
            "",
            "exec;dur=1",
            "total",
            "total;dur=x",
            "total;dur=-1",
            "total;dur=inf",
            "total;desc=a;dur=1",
        ] {
            assert_eq!(told(other, 5.0), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn no_header_makes_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..64), whole in any::<f64>()) {
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                let _ = with_route(&value, whole);
            }
        }
    }
}
