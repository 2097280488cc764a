//! The calendar date of a point in time.

/// A date and time of day in UTC, in the fields of a CMOS clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DateTime {
    /// 0 to 99.
    pub(super) century: u8,
    /// 0 to 99.
    pub(super) year_of_century: u8,
    /// 1 to 12.
    pub(super) month: u8,
    /// 1 to 31.
    pub(super) day: u8,
    /// 0 to 6, from Sunday.
    pub(super) day_of_week: u8,
    /// 0 to 23.
    pub(super) hour: u8,
    /// 0 to 59.
    pub(super) minute: u8,
    /// 0 to 59.
    pub(super) second: u8,
}

impl DateTime {
    /// The date at `seconds` after the Unix epoch; the century wraps after the year 9999.
    pub(super) fn from_unix_time(seconds: u64) -> Self {
        let days = seconds / 86_400;
        let second_of_day = seconds % 86_400;
        let (year, month, day) = civil_from_days(days);
        Self {
            century: narrow(year / 100 % 100),
            year_of_century: narrow(year % 100),
            month: narrow(month),
            day: narrow(day),
            // The epoch was a Thursday.
            day_of_week: narrow((days + 4) % 7),
            hour: narrow(second_of_day / 3600),
            minute: narrow(second_of_day / 60 % 60),
            second: narrow(second_of_day % 60),
        }
    }
}

/// Year, month and day of the Gregorian calendar, `days` after 1970-01-01.
///
/// Counts in years that begin on the first of March, so that the leap day ends a year, and in eras of
/// 400 years, after which the calendar repeats.
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    const DAYS_PER_ERA: u64 = 146_097;
    /// From 0000-03-01 to 1970-01-01.
    const DAYS_TO_EPOCH: u64 = 719_468;
    let days = days + DAYS_TO_EPOCH;
    let era = days / DAYS_PER_ERA;
    let day_of_era = days % DAYS_PER_ERA;
    // Takes out the leap days: one in 4 years, but not in 100, but in 400.
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // Months from March have 31, 30, 31, 30, 31 days, which is 153 in each five.
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

fn narrow(value: u64) -> u8 {
    u8::try_from(value).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_follow_each_other_for_four_centuries() {
        let (mut year, mut month, mut day) = (1970, 1, 1);
        for days in 0..150_000 {
            assert_eq!(civil_from_days(days), (year, month, day));
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let length = match month {
                2 => 28 + u64::from(leap),
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            day += 1;
            if day > length {
                (day, month) = (1, month + 1);
            }
            if month > 12 {
                (month, year) = (1, year + 1);
            }
        }
    }

    #[test]
    fn known_moments_have_their_weekday() {
        let date = DateTime::from_unix_time(951_827_696);
        assert_eq!(
            (date.century, date.year_of_century, date.month, date.day),
            (20, 0, 2, 29)
        );
        assert_eq!((date.hour, date.minute, date.second), (12, 34, 56));
        assert_eq!(date.day_of_week, 2);
        // The last second that a clock can tell, and one that only nonsense can.
        DateTime::from_unix_time(u64::MAX);
    }
}
