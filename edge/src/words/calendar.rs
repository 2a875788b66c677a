//! Dates of the civil calendar in UTC. Source: Howard Hinnant, *chrono-compatible low-level date algorithms*.

use std::fmt;

const DAY_S: u64 = 86_400;
/// The last second of the year 9999: what formats with four digits for a year can say.
const LAST_UNIX_S: u64 = 253_402_300_799;

/// Days from 1970-01-01 to a date. The year starts in March, so that the leap day is its last.
#[must_use]
pub const fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// A second of the years 1970 to 9999, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(u64);

/// A moment as calendars and clocks write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Civil {
    pub year: u64,
    pub month: u64,
    pub day: u64,
    pub hour: u64,
    pub minute: u64,
    pub second: u64,
}

impl Moment {
    /// `None` after the year 9999.
    #[must_use]
    pub const fn from_unix_s(unix_s: u64) -> Option<Self> {
        if unix_s <= LAST_UNIX_S { Some(Self(unix_s)) } else { None }
    }

    #[must_use]
    pub const fn unix_s(self) -> u64 {
        self.0
    }

    #[must_use]
    pub const fn civil(self) -> Civil {
        let (days, second_of_day) = (self.0 / DAY_S + 719_468, self.0 % DAY_S);
        let (era, day_of_era) = (days / 146_097, days % 146_097);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        // Months count from March.
        let month = (5 * day_of_year + 2) / 153;
        Civil {
            year: year_of_era + era * 400 + if month >= 10 { 1 } else { 0 },
            month: if month < 10 { month + 3 } else { month - 9 },
            day: day_of_year - (153 * month + 2) / 5 + 1,
            hour: second_of_day / 3600,
            minute: second_of_day / 60 % 60,
            second: second_of_day % 60,
        }
    }
}

/// RFC 3339: `2026-11-28T16:32:13Z`.
impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Civil { year, month, day, hour, minute, second } = self.civil();
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_moments_are_written_as_they_are_known() {
        for (unix_s, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_825_600, "2000-02-29T12:00:00Z"),
            (1_800_000_000, "2027-01-15T08:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (LAST_UNIX_S, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(Moment::from_unix_s(unix_s).map(|moment| moment.to_string()).as_deref(), Some(text));
        }
        assert_eq!(Moment::from_unix_s(LAST_UNIX_S + 1), None);
    }

    proptest! {
        #[test]
        fn a_date_is_as_many_days_after_1970_as_it_was_made_of(unix_s in 0..=LAST_UNIX_S) {
            let Civil { year, month, day, .. } = Moment::from_unix_s(unix_s).expect("within the years").civil();
            let part = |value: u64| i64::try_from(value).expect("small");
            let days = days_since_1970(part(year), part(month), part(day));
            prop_assert_eq!(days, part(unix_s / DAY_S));
            prop_assert!((1..=12).contains(&month) && (1..=31).contains(&day));
        }
    }
}
