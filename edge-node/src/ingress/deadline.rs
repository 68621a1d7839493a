//! How long a request may take: what the client says, bounded.

use std::time::Duration;

use http::HeaderMap;
use proto::limits::{DEADLINE_MS_DEFAULT, DEADLINE_MS_MAX};

use super::reply::Problem;

/// Milliseconds that the client waits from now on.
pub(super) const HEADER: &str = "meridian-deadline-ms";

/// What the head says.
pub(super) fn of_head(headers: &HeaderMap) -> Result<Duration, Problem> {
    let Some(value) = headers.get(HEADER) else {
        return Ok(Duration::from_millis(DEADLINE_MS_DEFAULT));
    };
    let ms = value
        .to_str()
        .ok()
        .and_then(|text| text.trim().parse::<u64>().ok())
        .filter(|&ms| ms > 0);
    let ms =
        ms.ok_or_else(|| Problem::bad_request("Meridian-Deadline-Ms is not a whole number of milliseconds from 1"))?;
    Ok(Duration::from_millis(ms.min(DEADLINE_MS_MAX)))
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
            let headers = HeaderMap::from_iter([(http::HeaderName::from_static(HEADER), value.parse().unwrap())]);
            of_head(&headers).ok().map(|d| d.as_millis())
        };
        assert_eq!(head("250"), Some(250));
        assert_eq!(head("99999999999"), Some(u128::from(DEADLINE_MS_MAX)));
        assert!(head("0").is_none() && head("-1").is_none() && head("soon").is_none());
        let second = Duration::from_secs(1);
        assert_eq!(with_body(second, Some(250)), Duration::from_micros(250));
        assert_eq!(with_body(second, Some(u64::MAX)), second);
    }
}
