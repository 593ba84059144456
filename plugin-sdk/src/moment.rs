//! Dates and times in PostgreSQL's text form under `DateStyle` ISO: `1987-06-05`,
//! `1987-06-05 12:30:00.5+02`, `0044-03-15 BC`, `infinity`.
//!
//! A text is read to its end or not at all: what has anything in front of it, behind it or
//! out of its range is none. Days are counted from 1970-01-01 in the proleptic Gregorian
//! calendar, which PostgreSQL uses throughout (manual, B.6), by the arithmetic of Howard
//! Hinnant's `days_from_civil`.

/// The last year of `date`.
const LAST_YEAR: i64 = 5_874_897;
/// Microseconds of a second.
const SECOND: i64 = 1_000_000;
/// Microseconds of a day.
pub const DAY: i64 = 86_400 * SECOND;

/// A date or timestamp as it is written.
///
/// ```
/// use kasho_plugin_sdk::moment::{Moment, Stamp};
///
/// let read = Moment::parse("1970-01-02 00:00:01+02");
/// let (time, offset) = (Some(1_000_000), Some(7_200_000_000));
/// let stamp = Stamp { day: 1, time, offset, clock: " 00:00:01+02" };
/// assert_eq!(read, Some(Moment::At(stamp)));
/// assert_eq!(Moment::parse("1970-01-02 and more"), None);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment<'a> {
    /// `-infinity`.
    Earliest,
    /// All between.
    At(Stamp<'a>),
    /// `infinity`.
    Latest,
}

/// A day, and what stands behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp<'a> {
    /// Days since 1970-01-01.
    pub day: i64,
    /// Microseconds of the day, where a time is written.
    pub time: Option<i64>,
    /// Microseconds that it is ahead of UTC, where an offset is written.
    pub offset: Option<i64>,
    /// What is written behind the day, with the space in front of it and without ` BC`.
    pub clock: &'a str,
}

impl<'a> Moment<'a> {
    /// Reads a date or timestamp; an offset is `Z`, `+hh`, `+hh:mm` or `+hh:mm:ss`. `None`
    /// if the text is anything else.
    #[must_use]
    pub fn parse(text: &'a str) -> Option<Moment<'a>> {
        if text.eq_ignore_ascii_case("infinity") {
            return Some(Moment::Latest);
        }
        if text.eq_ignore_ascii_case("-infinity") {
            return Some(Moment::Earliest);
        }
        let (written, before_christ) = match text.strip_suffix(" BC") {
            Some(written) => (written, true),
            None => (text, false),
        };
        let end = written.find([' ', 'T']).unwrap_or(written.len());
        let (date, clock) = written.split_at(end);
        let day = date_of(date, before_christ)?;
        let Some(time) = clock.get(1..) else {
            return Some(Moment::At(Stamp { day, time: None, offset: None, clock }));
        };
        let zone = time.find(['+', '-', 'Z']).unwrap_or(time.len());
        let (time, zone) = time.split_at(zone);
        let time = Some(time_of_day(time)?);
        let offset = if zone.is_empty() { None } else { Some(offset_of(zone)?) };
        Some(Moment::At(Stamp { day, time, offset, clock }))
    }
}

/// Microseconds of `hh:mm`, `hh:mm:ss` or `hh:mm:ss.ffffff`; 24:00:00 is the last of them.
/// `None` if the text is anything else.
#[must_use]
pub fn time_of_day(text: &str) -> Option<i64> {
    let (clock, fraction) = match text.split_once('.') {
        Some((clock, fraction)) => (clock, Some(fraction)),
        None => (text, None),
    };
    let mut parts = clock.split(':');
    let (hour, minute) = (two(parts.next()?)?, two(parts.next()?)?);
    let second = match (parts.next(), fraction) {
        (Some(second), _) => two(second)?,
        (None, None) => 0,
        (None, Some(_)) => return None,
    };
    if parts.next().is_some() || hour > 24 || minute > 59 || second > 60 {
        return None;
    }
    let micros = match fraction {
        Some(fraction) if fraction.len() <= 6 => {
            number(fraction)?;
            number(&format!("{fraction:0<6}"))?
        }
        Some(_) => return None,
        None => 0,
    };
    let time = ((hour * 60 + minute) * 60 + second) * SECOND + micros;
    (time <= DAY).then_some(time)
}

/// The day that is so many after 1970-01-01: year, month and day. The year before 1 is 0.
#[must_use]
pub fn civil(days: i64) -> (i64, i64, i64) {
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

/// Days from 1970-01-01 to a day; the year before 1 is 0. `None` if there is no such day.
#[must_use]
pub fn days(year: i64, month: i64, day: i64) -> Option<i64> {
    let leap = year.rem_euclid(4) == 0 && (year.rem_euclid(100) != 0 || year.rem_euclid(400) == 0);
    let longest = match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if !(1..=longest).contains(&day) || year.abs() > LAST_YEAR {
        return None;
    }
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    Some(era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468)
}

/// The day of `yyyy-mm-dd`; there is no year 0.
fn date_of(text: &str, before_christ: bool) -> Option<i64> {
    let mut parts = text.split('-');
    let (year, month, day) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() || !(4..=7).contains(&year.len()) {
        return None;
    }
    let year = number(year).filter(|year| *year > 0)?;
    days(if before_christ { 1 - year } else { year }, two(month)?, two(day)?)
}

/// Microseconds of an offset; PostgreSQL knows none of sixteen hours or more.
fn offset_of(text: &str) -> Option<i64> {
    if text == "Z" {
        return Some(0);
    }
    let (sign, parts) = match text.strip_prefix('-') {
        Some(parts) => (-1, parts),
        None => (1, text.strip_prefix('+')?),
    };
    let (mut seconds, mut unit) = (0, 3600);
    for part in parts.split(':') {
        let most = if unit == 3600 { 15 } else { 59 };
        seconds += two(part).filter(|n| unit > 0 && *n <= most)? * unit;
        unit /= 60;
    }
    Some(sign * seconds * SECOND)
}

fn two(digits: &str) -> Option<i64> {
    if digits.len() == 2 { number(digits) } else { None }
}

fn number(digits: &str) -> Option<i64> {
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| digits.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that meets one has failed")]

    use super::*;

    #[test]
    fn the_calendar_is_gregorian() {
        // From Python's `datetime`.
        for (date, day) in [
            ((1970, 1, 1), 0),
            ((2000, 2, 29), 11_016),
            ((1900, 3, 1), -25_508),
            ((1, 1, 1), -719_162),
            ((-43, 3, 15), -735_160),
            ((294_276, 12, 31), 106_762_939),
        ] {
            assert_eq!(days(date.0, date.1, date.2), Some(day), "{date:?}");
            assert_eq!(civil(day), date);
        }
        for day in (-800_000..800_000).step_by(37) {
            let (y, m, d) = civil(day);
            assert_eq!(days(y, m, d), Some(day));
        }
        for (y, m, d) in [(2023, 2, 29), (1900, 2, 29), (2000, 13, 1), (2000, 0, 1), (2000, 4, 31)]
        {
            assert_eq!(days(y, m, d), None);
        }
    }

    #[test]
    fn a_text_is_read_to_its_end_or_not_at_all() {
        let at = |text| match Moment::parse(text) {
            Some(Moment::At(stamp)) => stamp,
            other => panic!("{text}: {other:?}"),
        };
        let stamp = at("0044-03-15 01:02:03.04-05:30 BC");
        assert_eq!(stamp.day, -735_160);
        assert_eq!(stamp.clock, " 01:02:03.04-05:30");
        assert_eq!((stamp.time, stamp.offset), (Some(3_723_040_000), Some(-19_800_000_000)));
        assert_eq!(at("1970-01-02T10:00Z").offset, Some(0));
        assert_eq!((at("10000-01-01").time, at("10000-01-01").clock), (None, ""));
        assert_eq!(at("2024-01-01 24:00:00").time, Some(DAY));
        assert_eq!(Moment::parse("infinity"), Some(Moment::Latest));
        assert_eq!(Moment::parse("-Infinity"), Some(Moment::Earliest));
        for wrong in [
            "",
            "2024",
            "2024-1-1",
            "024-01-01",
            "0000-01-01",
            "2024-13-01",
            "2023-02-29",
            "soon",
            "2024-01-01 ",
            "2024-01-01 25:00",
            "2024-01-01 24:00:01",
            "2024-01-01 10",
            "2024-01-01 10:00+5",
            "2024-01-01 10:00+16",
            "2024-01-01 10:00:00.",
            "2024-01-01 10:00:00.1234567",
            "2024-01-01 10:00.5",
            "2024-01-01 10:00:00+01:02:03:04",
            "2024-01-01 10:00:00+",
            "2024-01-01 10:00:00Z+01",
            "2024-01-01 10:00:00 ",
            "2024-01-01+02",
            "1987-06-05 born in Paris, SSN 123-45-6789",
            "1987-06-05 BC BC",
            "12024-01-01-01",
            "-2024-01-01",
            "2024-01-01 10:00:00+é",
        ] {
            assert_eq!(Moment::parse(wrong), None, "{wrong}");
        }
        assert_eq!(time_of_day("00:00:01.5"), Some(1_500_000));
        assert_eq!(time_of_day("١٢:٠٠"), None);
    }
}
