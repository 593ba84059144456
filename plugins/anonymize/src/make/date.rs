//! Days: dates of birth, and dates moved by some days.
//!
//! Dates are PostgreSQL's text form under the pinned `DateStyle` (ISO): `1987-06-05`, a time
//! behind it, ` BC` at the end. Days are counted from 1970-01-01 in the proleptic Gregorian
//! calendar, by the arithmetic of Howard Hinnant's `days_from_civil`. A text that is no date,
//! or would leave the years that PostgreSQL knows, is a row's error.

use kasho_plugin_sdk::{Hash, Out, Result};

use crate::rules::Options;

/// Years of `timestamp`, the narrower type; `date` knows more, which no one needs.
const YEARS: std::ops::RangeInclusive<i64> = -4711..=294_275;

/// A day between two years.
#[derive(Clone, Debug)]
pub(crate) struct Birth {
    first: i64,
    /// How many there are.
    pub(crate) days: u32,
}

impl Birth {
    /// What a rule asks for.
    pub(crate) fn read(options: &Options) -> Result<Birth> {
        let from = options.integer("from", 1..=9999)?;
        let to = options.integer("to", from..=9999)?;
        let year = |year: u64| i64::try_from(year).unwrap_or(1970);
        let first = days(year(from), 1, 1);
        let days = u32::try_from(days(year(to) + 1, 1, 1) - first).unwrap_or(1);
        Ok(Birth { first, days })
    }

    /// Writes a day of a hash.
    pub(crate) fn write(&self, hash: Hash, out: &mut Out<'_>) {
        let more = i64::try_from(hash.pick(self.days as usize)).unwrap_or(0);
        date(self.first + more, out);
    }
}

/// Writes `value` moved by between 1 and `most` days, back or forth; `infinity` stays. `None`
/// if it is no date, or leaves what PostgreSQL knows.
pub(crate) fn shift(value: &str, most: u32, hash: Hash, out: &mut Out<'_>) -> Option<()> {
    if matches!(value, "infinity" | "-infinity") {
        out.push_str(value);
        return Some(());
    }
    let (written, era) = match value.strip_suffix(" BC") {
        Some(written) => (written, true),
        None => (value, false),
    };
    let end = written.find([' ', 'T']).unwrap_or(written.len());
    let (day, time) = written.split_at(end);
    let mut parts = day.split('-');
    let number = |part: Option<&str>| {
        part.filter(|p| p.len() >= 2 && p.len() <= 7 && p.bytes().all(|b| b.is_ascii_digit()))
            .and_then(|p| p.parse::<i64>().ok())
    };
    let (year, month, day) = (number(parts.next())?, number(parts.next())?, number(parts.next())?);
    if parts.next().is_some() || !(1..=12).contains(&month) || !(1..=31).contains(&day) || year < 1
    {
        return None;
    }
    let most = i64::from(most);
    let pick = i64::try_from(hash.pick(usize::try_from(2 * most).ok()?)).ok()?;
    let by = if pick < most { pick - most } else { pick - most + 1 };
    let moved = days(if era { 1 - year } else { year }, month, day) + by;
    let (year, ..) = civil(moved);
    if !YEARS.contains(&year) {
        return None;
    }
    date_and(moved, time, out);
    Some(())
}

/// Writes a day.
fn date(day: i64, out: &mut Out<'_>) {
    date_and(day, "", out);
}

fn date_and(day: i64, time: &str, out: &mut Out<'_>) {
    let (year, month, day) = civil(day);
    let (shown, era) = if year < 1 { (1 - year, " BC") } else { (year, "") };
    // A number always writes itself.
    let _ = write!(out, "{shown:04}-{month:02}-{day:02}{time}{era}");
}

/// Days from 1970-01-01 to a day; the year before 1 is 0.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// The day that is so many after 1970-01-01.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that meets one has failed")]

    use kasho_plugin_sdk::Scratch;

    use super::*;

    fn moved(value: &str, number: u128, most: u32) -> Option<String> {
        let mut scratch = Scratch::default();
        shift(value, most, Hash(number.to_be_bytes()), &mut scratch.out())?;
        Some(scratch.as_str().to_owned())
    }

    #[test]
    fn the_calendar_is_gregorian() {
        // From Python's `datetime`.
        for (date, day) in [
            ((1970, 1, 1), 0),
            ((2000, 2, 29), 11_016),
            ((1900, 3, 1), -25_508),
            ((1, 1, 1), -719_162),
            ((-43, 3, 15), -735160),
            ((294_276, 12, 31), 106762939),
        ] {
            assert_eq!(days(date.0, date.1, date.2), day, "{date:?}");
            assert_eq!(civil(day), date);
        }
        for day in (-800_000..800_000).step_by(37) {
            let (y, m, d) = civil(day);
            assert_eq!(days(y, m, d), day);
        }
    }

    #[test]
    fn only_the_day_moves() {
        assert_eq!(moved("2000-03-01", 0, 1).unwrap(), "2000-02-29");
        assert_eq!(moved("2000-02-28", u128::MAX, 1).unwrap(), "2000-02-29");
        assert_eq!(
            moved("1999-12-31 23:59:59.5+02", u128::MAX, 1).unwrap(),
            "2000-01-01 23:59:59.5+02"
        );
        assert_eq!(moved("0001-01-01", 0, 1).unwrap(), "0001-12-31 BC");
        assert_eq!(moved("0001-12-31 12:00:00 BC", u128::MAX, 1).unwrap(), "0001-01-01 12:00:00");
        assert_eq!(moved("infinity", 5, 30).unwrap(), "infinity");
        for wrong in
            ["", "soon", "1-2-3", "2000-13-01", "2000-01-00", "2000-01-01-01", "4713-01-01 BC"]
        {
            assert_eq!(moved(wrong, 0, 3650), None, "{wrong}");
        }
    }

    #[test]
    fn it_never_stays_and_never_goes_too_far() {
        for n in 0..=100_u128 {
            let out = moved("2000-01-31", u128::MAX / 100 * n, 30).unwrap();
            assert!(("2000-01-01".."2000-03-02").contains(&out.as_str()), "{out}");
            assert_ne!(out, "2000-01-31");
        }
    }
}
