//! Moments as people write them: RFC 3339 in key files, and either that or a span such as `24h` on a command line.

use toml::value::{Datetime, Offset};

use crate::words::calendar::days_since_1970;

/// Longest span: a hundred years.
const SPAN_S_MAX: u64 = 100 * 366 * 86_400;

/// A text that is no moment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no moment: write a span such as `90s`, `30m`, `24h` or `7d`, or a date such as `2026-12-31T23:59:59Z`"
)]
pub struct MomentError(String);

/// Seconds since 1970 of a moment: one that lies a span after `now_s`, or one by its date. A date without a time is
/// its first second, one without an offset is in UTC.
///
/// # Errors
/// When it is neither, or lies before 1970.
pub fn parse(text: &str, now_s: u64) -> Result<u64, MomentError> {
    let error = || MomentError(text.chars().take(40).collect());
    if let Some(span_s) = span_s(text) {
        return now_s.checked_add(span_s).ok_or_else(error);
    }
    text.parse().ok().and_then(|datetime| unix_s(&datetime)).ok_or_else(error)
}

fn span_s(text: &str) -> Option<u64> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let unit_s = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return None,
    };
    let is_plain = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    let number: u64 = if is_plain { number.parse().ok()? } else { return None };
    number.checked_mul(unit_s).filter(|span_s| (1..=SPAN_S_MAX).contains(span_s))
}

/// Seconds since 1970; `None` without a date or before 1970. A leap second counts as the second after it.
#[must_use]
pub fn unix_s(datetime: &Datetime) -> Option<u64> {
    let date = datetime.date?;
    let days = days_since_1970(i64::from(date.year), i64::from(date.month), i64::from(date.day));
    let time_s = datetime.time.map_or(0, |time| {
        i64::from(time.hour) * 3600 + i64::from(time.minute) * 60 + i64::from(time.second.unwrap_or(0))
    });
    let offset_s = match datetime.offset {
        Some(Offset::Custom { minutes }) => i64::from(minutes) * 60,
        Some(Offset::Z) | None => 0,
    };
    u64::try_from(days * 86_400 + time_s - offset_s).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_and_spans_are_seconds() {
        const NOW: u64 = 1_800_000_000;
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", 0),
            ("1970-01-01", 0),
            ("2000-02-29T12:00:00Z", 951_825_600),
            ("2027-01-15T08:00:00Z", NOW),
            ("2027-01-15T09:00:00+01:00", NOW),
            ("2027-01-15T03:30:00-04:30", NOW),
            ("2100-03-01T00:00:00Z", 4_107_542_400),
            ("90s", NOW + 90),
            ("30m", NOW + 1800),
            ("24h", NOW + 86_400),
            ("7d", NOW + 604_800),
        ] {
            assert_eq!(parse(text, NOW), Ok(expected), "{text}");
        }
        for wrong in
            ["", "h", "0s", "-1h", "1.5h", "24", "1w", "99999999d", "08:00:00", "1969-12-31", "2027-02-30", "é"]
        {
            assert!(parse(wrong, NOW).is_err(), "{wrong}");
        }
    }
}
