//! `timestamptz` in ISO form with any offset, brought to UTC as `timestamptz_out` prints
//! it under `timezone = UTC`: fractions as they are, years before Christ with ` BC`,
//! years past 9999 with as many digits as they need, offsets with minutes and seconds.

use kasho_plugin_sdk::moment::{civil, days};

use super::Malformed;

const SECONDS: i64 = 86_400;

/// As [`super::convert`].
pub(super) fn to_utc(text: &[u8], out: &mut Vec<u8>) -> Result<bool, Malformed> {
    let at_utc = text.ends_with(b"+00") || text.ends_with(b"+00 BC");
    if at_utc || text == b"infinity" || text == b"-infinity" {
        return Ok(false);
    }
    let stamp = parse(text).ok_or(Malformed("timestamp with time zone"))?;
    let seconds = stamp.seconds - stamp.offset;
    let days = stamp.days + seconds.div_euclid(SECONDS);
    let seconds = seconds.rem_euclid(SECONDS);
    let (year, month, day) = civil(days);
    let (year, era) = if year > 0 { (year, "") } else { (1 - year, " BC") };
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let head = format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}");
    out.extend_from_slice(head.as_bytes());
    out.extend_from_slice(stamp.fraction);
    out.extend_from_slice(b"+00");
    out.extend_from_slice(era.as_bytes());
    Ok(true)
}

struct Stamp<'a> {
    /// Since 1970-01-01.
    days: i64,
    /// Of the day.
    seconds: i64,
    /// `.5`, or nothing.
    fraction: &'a [u8],
    /// East of Greenwich, in seconds.
    offset: i64,
}

fn parse(text: &[u8]) -> Option<Stamp<'_>> {
    let mut rest = text;
    let year = number(&mut rest, 4, 7)?;
    let month = after(b'-', &mut rest, 2)?;
    let day = after(b'-', &mut rest, 2)?;
    let hour = after(b' ', &mut rest, 2)?;
    let minute = after(b':', &mut rest, 2)?;
    let second = after(b':', &mut rest, 2)?;
    let in_range = hour <= 24 && minute < 60 && second <= 60;
    let digits = rest.iter().skip(1).take_while(|b| b.is_ascii_digit()).count();
    let fraction = if rest.first() == Some(&b'.') && digits > 0 { digits + 1 } else { 0 };
    let (fraction, mut rest) = rest.split_at(fraction);
    let sign = match rest.first()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    rest = &rest[1..];
    let mut offset = number(&mut rest, 2, 3)? * 3600;
    for unit in [60, 1] {
        if rest.first() == Some(&b':') {
            offset += after(b':', &mut rest, 2)? * unit;
        }
    }
    let year = match rest {
        b"" => year,
        b" BC" => 1 - year,
        _ => return None,
    };
    let days = days(year, month, day)?;
    let seconds = hour * 3600 + minute * 60 + second;
    in_range.then_some(Stamp { days, seconds, fraction, offset: sign * offset })
}

/// A number of that many digits.
fn number(rest: &mut &[u8], least: usize, most: usize) -> Option<i64> {
    let len = rest.iter().take_while(|b| b.is_ascii_digit()).count();
    let (digits, behind) = rest.split_at(len);
    *rest = behind;
    let value = digits.iter().fold(0, |n: i64, b| n.wrapping_mul(10) + i64::from(b - b'0'));
    (least..=most).contains(&len).then_some(value)
}

/// A number of so many digits behind a mark.
fn after(mark: u8, rest: &mut &[u8], digits: usize) -> Option<i64> {
    let (first, behind) = rest.split_first()?;
    *rest = behind;
    (*first == mark).then(|| number(rest, digits, digits))?
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn utc(text: &str) -> Option<String> {
        let mut out = Vec::new();
        let changed = to_utc(text.as_bytes(), &mut out).ok()?;
        Some(if changed { String::from_utf8(out).unwrap() } else { text.to_owned() })
    }

    #[test]
    fn offsets_fall_away() {
        // Made by PostgreSQL 15: the same value under another time zone, and under UTC.
        for (foreign, expected) in [
            ("2026-03-29 01:30:00+01", "2026-03-29 00:30:00+00"),
            ("2026-03-29 02:30:00.5+02", "2026-03-29 00:30:00.5+00"),
            ("1900-01-01 00:23:28+05:53:28", "1899-12-31 18:30:00+00"),
            ("1899-12-31 13:34:02-04:56:02", "1899-12-31 18:30:04+00"),
            ("2023-12-31 23:59:59.999999-10", "2024-01-01 09:59:59.999999+00"),
            ("2024-03-01 00:30:00+01", "2024-02-29 23:30:00+00"),
            ("1900-03-01 00:30:00+01", "1900-02-28 23:30:00+00"),
            ("0001-01-01 00:00:00+01", "0001-12-31 23:00:00+00 BC"),
            ("0001-12-31 23:30:00-01 BC", "0001-01-01 00:30:00+00"),
            ("4714-11-24 00:00:00-01 BC", "4714-11-24 01:00:00+00 BC"),
            ("10000-01-01 04:30:00+05:30", "9999-12-31 23:00:00+00"),
            ("294276-12-31 13:59:59.999999-10", "294276-12-31 23:59:59.999999+00"),
        ] {
            assert_eq!(utc(foreign).as_deref(), Some(expected), "{foreign}");
        }
    }

    #[test]
    fn what_is_utc_stays_and_what_is_no_timestamp_is_refused() {
        for same in ["infinity", "-infinity", "2024-01-01 00:00:00+00", "0044-03-15 00:00:00+00 BC"]
        {
            assert_eq!(utc(same).as_deref(), Some(same));
        }
        for wrong in [
            "",
            "2024-01-01 00:00:00",
            "01/02/2024 10:00:00 CET",
            "2024-01-01T00:00:00+01",
            "2024-13-01 00:00:00+01",
            "2023-02-29 00:00:00+01",
            "2024-01-01 00:00:00.+01",
            "2024-01-01 00:00:00+01 AD",
            "2024-01-01 00:00:00+1",
        ] {
            assert_eq!(utc(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_timestamp_or_an_error(text in "[0-9 :+.BC-]{0,40}") {
            let _ = utc(&text);
        }
    }
}
