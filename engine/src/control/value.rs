//! PostgreSQL's text as the typed values of the original's clients.
//!
//! Only what cannot lose anything is typed: a text that is not exactly what its type's
//! OID promises (a plugin may have rewritten it) stays a string. So nothing can go wrong
//! here; at worst a value is a string.

use std::borrow::Cow;

use crate::control::proto::kasho::{ColumnValue, column_value::Value};

const BOOL: u32 = 16;
const INT8: u32 = 20;
const INT2: u32 = 21;
const INT4: u32 = 23;
const FLOAT4: u32 = 700;
const FLOAT8: u32 = 701;
const TIMESTAMPTZ: u32 = 1184;

/// The value of a column of type `oid` with this text; `None` is NULL.
#[must_use]
pub(super) fn typed(oid: u32, text: Option<Cow<'_, str>>) -> ColumnValue {
    let value = text.map(|text| {
        let typed = match oid {
            BOOL => match text.as_ref() {
                "t" => Some(Value::BoolValue(true)),
                "f" => Some(Value::BoolValue(false)),
                _ => None,
            },
            INT2 | INT4 | INT8 => text.parse().ok().map(Value::IntValue),
            FLOAT4 | FLOAT8 => text.parse().ok().map(Value::FloatValue),
            TIMESTAMPTZ => rfc3339(&text).map(Value::TimestampValue),
            _ => None,
        };
        typed.unwrap_or_else(|| Value::StringValue(text.into_owned()))
    });
    ColumnValue { value }
}

/// `2026-11-22 23:00:01.5+00` as `2026-11-22T23:00:01.5Z`. None for what RFC 3339 has no
/// words for: infinity, years before 1 or after 9999, offsets with seconds.
fn rfc3339(text: &str) -> Option<String> {
    let (date, rest) = text.split_once(' ')?;
    let (year, month_day) = date.split_at_checked(4)?;
    let in_range = |text: &str, from: u8, to: u8| {
        let digits = text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit());
        digits && text.parse::<u8>().is_ok_and(|n| (from..=to).contains(&n))
    };
    let (month, day) = month_day.strip_prefix('-')?.split_once('-')?;
    let year = year.bytes().all(|b| b.is_ascii_digit()) && year != "0000";
    if !(year && in_range(month, 1, 12) && in_range(day, 1, 31)) {
        return None;
    }
    let (time, offset) = rest.split_at_checked(rest.rfind(['+', '-'])?)?;
    let (clock, fraction) = time.split_at_checked(8)?;
    let mut parts = clock.split(':');
    let mut next = |to| parts.next().is_some_and(|part| in_range(part, 0, to));
    let digits = fraction
        .strip_prefix('.')
        .is_some_and(|f| !f.is_empty() && f.bytes().all(|b| b.is_ascii_digit()));
    if !(next(23) && next(59) && next(59) && (fraction.is_empty() || digits)) {
        return None;
    }
    let (hours, minutes) = offset[1..].split_once(':').unwrap_or((&offset[1..], "00"));
    if !(in_range(hours, 0, 23) && in_range(minutes, 0, 59)) {
        return None;
    }
    let zone = match (hours, minutes) {
        ("00", "00") => "Z".to_owned(),
        _ => format!("{}{hours}:{minutes}", &offset[..1]),
    };
    Some(format!("{date}T{time}{zone}"))
}

/// Microseconds since 1970-01-01 UTC as RFC 3339; empty for what that has no words for.
pub(super) fn rfc3339_us(us: i64) -> String {
    const DAY: i64 = 86_400_000_000;
    let (days, of_day) = (us.div_euclid(DAY), us.rem_euclid(DAY));
    // Years are counted from March, so that the leap day is the last of one.
    let (era, of_era) =
        ((days + 719_468).div_euclid(146_097), (days + 719_468).rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = era * 400 + year + i64::from(month <= 2);
    if !(1..=9999).contains(&year) {
        return String::new();
    }
    let (seconds, micros) = (of_day / 1_000_000, of_day % 1_000_000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
}

#[cfg(test)]
mod tests {
    #[test]
    fn times_are_told_in_utc() {
        for (us, text) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (951_868_799_000_001, "2000-02-29T23:59:59.000001Z"),
            (-1, "1969-12-31T23:59:59.999999Z"),
            (i64::MAX, ""),
        ] {
            assert_eq!(super::rfc3339_us(us), text);
        }
    }

    use super::*;
    use proptest::prelude::*;

    fn value(oid: u32, text: &str) -> Value {
        typed(oid, Some(text.into())).value.unwrap()
    }

    #[test]
    fn the_typing_rules() {
        assert_eq!(typed(INT4, None).value, None);
        assert_eq!(value(INT2, "-32768"), Value::IntValue(-32768));
        assert_eq!(value(INT8, "9223372036854775807"), Value::IntValue(i64::MAX));
        assert_eq!(value(FLOAT8, "-Infinity"), Value::FloatValue(f64::NEG_INFINITY));
        assert!(matches!(value(FLOAT8, "NaN"), Value::FloatValue(n) if n.is_nan()));
        assert_eq!(value(FLOAT4, "1.1"), Value::FloatValue(1.1));
        assert_eq!(value(BOOL, "t"), Value::BoolValue(true));
        // numeric, text, date and json keep their text, whatever they look like.
        for oid in [1700, 25, 1082, 3802, 26] {
            assert_eq!(value(oid, "007"), Value::StringValue("007".into()));
        }
        // A plugin's word where a number stood.
        assert_eq!(value(INT4, "***"), Value::StringValue("***".into()));
        assert_eq!(value(BOOL, ""), Value::StringValue(String::new()));
    }

    #[test]
    fn timestamps() {
        for (text, expected) in [
            ("2026-11-22 23:00:01+00", "2026-11-22T23:00:01Z"),
            ("2026-11-22 23:00:01.123456+00", "2026-11-22T23:00:01.123456Z"),
            ("0001-01-01 00:00:00+00", "0001-01-01T00:00:00Z"),
            ("2026-11-22 23:00:01-05", "2026-11-22T23:00:01-05:00"),
            ("2026-11-22 23:00:01+05:30", "2026-11-22T23:00:01+05:30"),
        ] {
            assert_eq!(value(TIMESTAMPTZ, text), Value::TimestampValue(expected.into()));
        }
        for text in [
            "infinity",
            "-infinity",
            "0044-03-15 12:00:00+00 BC",
            "294276-12-31 23:59:59.999999+00",
            "2026-11-22 23:00:01+00:19:32",
            "2026-13-22 23:00:01+00",
            "2026-11-22 23:00:01",
            "2026-11-22",
            "",
        ] {
            assert_eq!(value(TIMESTAMPTZ, text), Value::StringValue(text.into()));
        }
    }

    proptest! {
        #[test]
        fn any_text_of_any_type_is_a_value(oid in any::<u32>(), text in "\\PC{0,40}") {
            prop_assert!(typed(oid, Some(text.as_str().into())).value.is_some());
            prop_assert!(typed(TIMESTAMPTZ, Some(text.as_str().into())).value.is_some());
        }
    }
}
