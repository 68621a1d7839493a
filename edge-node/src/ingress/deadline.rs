//! How long a request may take: what the client says, bounded.

use std::time::Duration;

use http::HeaderMap;
use http::header::HeaderName;
use proto::limits::{DEADLINE_MS_DEFAULT, DEADLINE_MS_MAX};

use super::reply::Problem;

/// Milliseconds that the client waits from now on.
pub(super) const HEADER: HeaderName = HeaderName::from_static("meridian-deadline-ms");

/// What the head of a call over gRPC says besides: the client library cancels the call by itself then.
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// How long a request may take, and by whose word.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    pub(super) time: Duration,
    /// Whether the client named it.
    pub(super) is_named: bool,
}

impl Budget {
    /// What a client says, within the bound, which it is where they say nothing.
    fn of(named: Option<Duration>) -> Self {
        let default = Duration::from_millis(DEADLINE_MS_DEFAULT);
        Self {
            time: named.unwrap_or(default).min(Duration::from_millis(DEADLINE_MS_MAX)),
            is_named: named.is_some(),
        }
    }
}

/// What the head says.
pub(super) fn of_head(headers: &HeaderMap) -> Result<Budget, Problem> {
    named(headers).map(Budget::of)
}

/// What the head of a call over gRPC says: the shorter of its two words.
pub(super) fn of_call(headers: &HeaderMap) -> Result<Budget, Problem> {
    let words = [named(headers)?, of_grpc(headers)?];
    Ok(Budget::of(words.into_iter().flatten().min()))
}

fn named(headers: &HeaderMap) -> Result<Option<Duration>, Problem> {
    let Some(value) = headers.get(HEADER) else {
        return Ok(None);
    };
    let text = value.to_str().unwrap_or_default().trim();
    let is_number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    // More digits than a number of ours holds are a long time, not a mistake.
    let ms = is_number.then(|| text.parse().unwrap_or(u64::MAX)).filter(|&ms| ms > 0);
    let ms =
        ms.ok_or_else(|| Problem::bad_request("Meridian-Deadline-Ms is not a whole number of milliseconds from 1"))?;
    Ok(Some(Duration::from_millis(ms)))
}

/// How long a call may take in all: at most eight digits and a unit.
///
/// # Source
/// `PROTOCOL-HTTP2.md` of github.com/grpc/grpc.
pub(super) fn of_grpc(headers: &HeaderMap) -> Result<Option<Duration>, Problem> {
    let Some(value) = headers.get(GRPC_TIMEOUT) else {
        return Ok(None);
    };
    let wrong = || Problem::bad_request("grpc-timeout is not up to eight digits and one of H, M, S, m, u, n");
    let text = value.to_str().map_err(|_| wrong())?;
    let (digits, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(wrong)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(wrong());
    }
    let n: u64 = digits.parse().map_err(|_| wrong())?;
    Ok(Some(match unit {
        "H" => Duration::from_secs(n * 3600),
        "M" => Duration::from_secs(n * 60),
        "S" => Duration::from_secs(n),
        "m" => Duration::from_millis(n),
        "u" => Duration::from_micros(n),
        "n" => Duration::from_nanos(n),
        _ => return Err(wrong()),
    }))
}

/// The shorter of the head's and the body's word.
pub(super) fn with_body(head: Duration, timeout_us: Option<u64>) -> Duration {
    timeout_us.map_or(head, |us| head.min(Duration::from_micros(us)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_the_clients_own_up_to_the_bound() {
        let head = |value: &str| {
            let headers = HeaderMap::from_iter([(HEADER, value.parse().unwrap())]);
            of_head(&headers).ok().map(|budget| budget.time.as_millis())
        };
        assert_eq!(head("250"), Some(250));
        for long in ["99999999999", "1070007706088238350336"] {
            assert_eq!(head(long), Some(u128::from(DEADLINE_MS_MAX)), "{long}");
        }
        assert!(head("0").is_none() && head("-1").is_none() && head("soon").is_none());
        let unnamed = of_head(&HeaderMap::new()).unwrap();
        assert_eq!(
            (unnamed.time, unnamed.is_named),
            (Duration::from_millis(DEADLINE_MS_DEFAULT), false)
        );
        let second = Duration::from_secs(1);
        assert_eq!(with_body(second, Some(250)), Duration::from_micros(250));
        assert_eq!(with_body(second, Some(u64::MAX)), second);
    }

    #[test]
    fn a_call_has_the_shorter_of_its_two_deadlines() {
        let call = |ms: &str, timeout: &str| {
            let words = [(HEADER, ms), (GRPC_TIMEOUT, timeout)];
            let given = words.into_iter().filter(|(_, value)| !value.is_empty());
            let headers = given.map(|(name, value)| (name, value.parse().unwrap()));
            of_call(&headers.collect()).ok().map(|budget| budget.time.as_micros())
        };
        assert_eq!(call("", "250m"), Some(250_000));
        assert_eq!(
            (call("100", "250m"), call("500", "250000u")),
            (Some(100_000), Some(250_000))
        );
        assert_eq!(
            (call("", "1M"), call("", "2S"), call("", "5000n")),
            (Some(60_000_000), Some(2_000_000), Some(5))
        );
        assert_eq!(call("", "99999999H"), Some(u128::from(DEADLINE_MS_MAX) * 1000));
        assert_eq!(call("", ""), Some(u128::from(DEADLINE_MS_DEFAULT) * 1000));
        for wrong in ["1", "S", "-1S", "+1S", "1s", "123456789m", "1.5S"] {
            assert!(call("", wrong).is_none(), "{wrong}");
        }
    }
}
