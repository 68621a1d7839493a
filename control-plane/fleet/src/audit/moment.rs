//! Moments as people write them: RFC 3339. Seconds may be left out.

use proto::ids::UnixMs;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::AuditError;

/// Milliseconds since 1970 of a text such as `2026-11-14T09:00Z`.
pub(super) fn read(text: &str) -> Result<UnixMs, AuditError> {
    let wrong = || AuditError::Moment {
        text: text.chars().take(80).collect(),
    };
    // `T`, two digits, `:`, two digits: then seconds or the offset.
    let seconds_at = text.find(['T', 't']).map_or(usize::MAX, |t| t.saturating_add(6));
    let full = match text.split_at_checked(seconds_at) {
        Some((minutes, rest)) if !rest.starts_with(':') => format!("{minutes}:00{rest}"),
        _ => text.to_owned(),
    };
    let moment = OffsetDateTime::parse(&full, &Rfc3339).map_err(|_| wrong())?;
    u64::try_from(moment.unix_timestamp_nanos() / 1_000_000).map_err(|_| wrong())
}

/// The moment in UTC.
pub(super) fn write(ms: UnixMs) -> String {
    let moment = OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000).ok();
    // Beyond the year 9999 there is no RFC 3339 text; the number then says more than none.
    moment
        .and_then(|m| m.format(&Rfc3339).ok())
        .unwrap_or_else(|| format!("{ms} ms"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_moment_may_leave_out_its_seconds_and_name_any_offset() {
        let nine = read("2026-11-14T09:00:00Z").unwrap();
        for text in [
            "2026-11-14T09:00Z",
            "2026-11-14T10:00+01:00",
            "2026-11-14T09:00:00.000Z",
            "2026-11-14T01:00:00-08:00",
        ] {
            assert_eq!(read(text).unwrap(), nine, "{text}");
        }
        assert_eq!(write(nine), "2026-11-14T09:00:00Z");
        for text in [
            "",
            "2026-11-14",
            "09:00",
            "2026-11-14T09Z",
            "2026-11-14 09:00",
            "1969-12-31T23:59Z",
            "T",
            "2026-13-14T09:00Z",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_written_moment_reads_back_as_itself(ms in 0..253_402_300_800_000_u64) {
            prop_assert_eq!(read(&write(ms)).unwrap(), ms);
        }
        #[test]
        fn no_text_makes_the_reader_panic(text in "[0-9T:Zé+\\- ]{0,30}") {
            let _ = read(&text);
        }
    }
}
