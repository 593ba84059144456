//! Values as their types compare them: numbers exactly, dates as moments, texts as texts.
//!
//! Nothing is rounded: a number is its decimal digits, however many, as PostgreSQL's
//! `numeric` has them. What can go wrong is a text that is no value of its type.

use std::borrow::Cow;
use std::cmp::Ordering;

use kasho_plugin_sdk::moment::{DAY, Moment, Stamp, time_of_day};
use kasho_plugin_sdk::{Column, Normaliser};

use crate::expression::Literal;

/// How values of a column compare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// As numbers.
    Number,
    /// As texts, ordered by code point (as under COLLATE "C").
    Text,
    /// The same, without spaces at the end.
    Padded,
    /// The same, in lower case: as `citext` compares where the database's locale lowers
    /// every letter by itself.
    Lower,
    /// True and false.
    Bool,
    /// As dates, which have no time.
    Date,
    /// As timestamps, which have no offset.
    Timestamp,
    /// As moments: in UTC unless they say another offset.
    Timestamptz,
    /// As times of day.
    Time,
    /// As UUIDs.
    Uuid,
    /// In the order of the labels.
    Enum(Vec<String>),
    /// As texts that are the same, or not.
    Opaque,
}

/// A value, ready to be compared with another of its kind.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key<'a> {
    Number(Number<'a>),
    Micros(i128),
    Text(Cow<'a, str>),
    Rank(usize),
    Bool(bool),
}

impl Kind {
    /// The kind of a column.
    pub(crate) fn of(column: &Column) -> Kind {
        if let Some(labels) = &column.labels {
            return Kind::Enum(labels.clone());
        }
        match column.base.as_str() {
            "int2" | "int4" | "int8" | "numeric" | "float4" | "float8" | "oid" => Kind::Number,
            "text" | "varchar" | "name" => Kind::Text,
            "bpchar" => Kind::Padded,
            "citext" => Kind::Lower,
            "bool" => Kind::Bool,
            "date" => Kind::Date,
            "timestamp" => Kind::Timestamp,
            "timestamptz" => Kind::Timestamptz,
            "time" => Kind::Time,
            "uuid" => Kind::Uuid,
            _ => Kind::Opaque,
        }
    }

    /// Whether one of them can be less than another.
    pub(crate) fn ordered(&self) -> bool {
        !matches!(self, Kind::Bool | Kind::Opaque)
    }

    /// A value; none if it is none of this kind.
    pub(crate) fn key<'a>(&self, text: &'a str) -> Option<Key<'a>> {
        Some(match self {
            Kind::Number => Key::Number(Number::parse(text)?),
            Kind::Text | Kind::Opaque => Key::Text(text.into()),
            Kind::Padded => Key::Text(text.trim_end_matches(' ').into()),
            Kind::Lower => Key::Text(Normaliser::Citext.apply(text)),
            Kind::Bool => Key::Bool(truth(text)?),
            // SQL would cut the time off a date, and the offset off a timestamp.
            Kind::Date => Key::Micros(moment(text, |stamp| stamp.time.is_none())?),
            Kind::Timestamp => Key::Micros(moment(text, |stamp| stamp.offset.is_none())?),
            Kind::Timestamptz => Key::Micros(moment(text, |_| true)?),
            Kind::Time => Key::Micros(time_of_day(text)?.into()),
            Kind::Uuid => Key::Text(uuid(text)?),
            Kind::Enum(labels) => Key::Rank(labels.iter().position(|label| label == text)?),
        })
    }

    /// A constant that is compared with values of this kind.
    ///
    /// # Errors
    /// What it should be.
    pub(crate) fn constant(&self, literal: &Literal) -> Result<Key<'static>, &'static str> {
        let textual = matches!(self, Kind::Text | Kind::Padded | Kind::Lower);
        let key = match (self, literal) {
            (_, Literal::Loose(text) | Literal::Text(text)) => self.key(text),
            (Kind::Number, Literal::Number(number)) => self.key(number),
            (Kind::Bool, Literal::Bool(truth)) => Some(Key::Bool(*truth)),
            _ if textual => return Err("is compared with a text, in quotes"),
            _ => None,
        };
        key.map(Key::owned).ok_or(match self {
            Kind::Number => "is compared with a number",
            Kind::Bool => "is compared with true or false",
            Kind::Date => {
                "is compared with a date in quotes, without a time, such as \"2024-01-31\""
            }
            Kind::Timestamp => {
                "is compared with a date or time in quotes, without an offset, such as \
                 \"2024-01-31 12:00:00\""
            }
            Kind::Timestamptz => {
                "is compared with a date or time in quotes, such as \"2024-01-31 12:00:00+02\""
            }
            Kind::Time => "is compared with a time in quotes, such as \"12:00:00\"",
            Kind::Uuid => "is compared with a UUID, in quotes",
            Kind::Enum(_) => "is compared with one of its labels, in quotes",
            _ => "is compared with a text, in quotes",
        })
    }
}

impl Key<'_> {
    fn owned(self) -> Key<'static> {
        match self {
            Key::Number(n) => Key::Number(Number {
                class: n.class,
                scale: n.scale,
                digits: Cow::Owned(n.digits.into_owned()),
            }),
            Key::Text(text) => Key::Text(Cow::Owned(text.into_owned())),
            Key::Micros(n) => Key::Micros(n),
            Key::Rank(n) => Key::Rank(n),
            Key::Bool(b) => Key::Bool(b),
        }
    }
}

/// A decimal number, or one of the three that are none: PostgreSQL orders NaN above all.
#[derive(Clone, Debug)]
pub(crate) struct Number<'a> {
    /// -2 −∞, -1 below zero, 0 zero, 1 above, 2 ∞, 3 NaN.
    class: i8,
    /// It is 0.digits × 10^scale.
    scale: i64,
    /// From the first to the last that is not 0; a point in it does not count.
    digits: Cow<'a, str>,
}

impl<'a> Number<'a> {
    /// Reads what PostgreSQL prints of a number.
    pub(crate) fn parse(text: &'a str) -> Option<Number<'a>> {
        let text = text.trim_matches(' ');
        let special = |class| Some(Number { class, scale: 0, digits: "".into() });
        let (negative, unsigned) = match text.as_bytes().first()? {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        if unsigned.eq_ignore_ascii_case("nan") && unsigned.len() == text.len() {
            return special(3);
        }
        if ["infinity", "inf"].iter().any(|word| unsigned.eq_ignore_ascii_case(word)) {
            return special(if negative { -2 } else { 2 });
        }
        let (mantissa, exponent) = match unsigned.find(['e', 'E']) {
            Some(at) => (&unsigned[..at], unsigned[at + 1..].parse::<i32>().ok()?),
            None => (unsigned, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits_only = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
        if whole.len() + fraction.len() == 0 || !digits_only(whole) || !digits_only(fraction) {
            return None;
        }
        let significant = |c: char| c.is_ascii_digit() && c != '0';
        let (Some(first), Some(last)) = (mantissa.find(significant), mantissa.rfind(significant))
        else {
            return special(0);
        };
        let whole = i64::try_from(whole.len()).ok()?;
        let before = i64::try_from(first).ok()?;
        // Digits before the point that count, or zeros behind it that come first.
        let scale = if before < whole { whole - before } else { whole + 1 - before };
        Some(Number {
            class: if negative { -1 } else { 1 },
            scale: scale + i64::from(exponent),
            digits: mantissa[first..=last].into(),
        })
    }

    fn magnitude(&self) -> impl Iterator<Item = u8> {
        self.digits.bytes().filter(|b| *b != b'.')
    }
}

impl Ord for Number<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        let larger =
            || self.scale.cmp(&other.scale).then_with(|| self.magnitude().cmp(other.magnitude()));
        self.class.cmp(&other.class).then_with(|| match self.class {
            1 => larger(),
            -1 => larger().reverse(),
            _ => Ordering::Equal,
        })
    }
}

impl PartialOrd for Number<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Number<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Number<'_> {}

fn truth(text: &str) -> Option<bool> {
    match text {
        "t" | "true" => Some(true),
        "f" | "false" => Some(false),
        _ => None,
    }
}

/// As PostgreSQL prints it: lower case, with hyphens.
fn uuid(text: &str) -> Option<Cow<'_, str>> {
    let hyphen = |i: usize| matches!(i, 8 | 13 | 18 | 23);
    let right = |(i, b): (usize, u8)| {
        if hyphen(i) { b == b'-' } else { b.is_ascii_hexdigit() }
    };
    if text.len() != 36 || !text.bytes().enumerate().all(right) {
        return None;
    }
    let upper = text.bytes().any(|b| b.is_ascii_uppercase());
    Some(if upper { text.to_ascii_lowercase().into() } else { text.into() })
}

/// Microseconds since 1970 of a date or timestamp, in UTC unless it says another offset;
/// none if it is not of the form that is asked for.
fn moment(text: &str, form: impl Fn(&Stamp<'_>) -> bool) -> Option<i128> {
    Some(match Moment::parse(text)? {
        Moment::Earliest => i128::MIN,
        Moment::Latest => i128::MAX,
        Moment::At(stamp) if form(&stamp) => {
            let day = i128::from(stamp.day) * i128::from(DAY);
            day + i128::from(stamp.time.unwrap_or(0)) - i128::from(stamp.offset.unwrap_or(0))
        }
        Moment::At(_) => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_compare_exactly() {
        let rising = [
            "-Infinity",
            "-1e400",
            "-10.5",
            "-10.4999",
            "-0.001",
            "0",
            "1e-400",
            "0.0009",
            "0.001",
            "0.1",
            "0.10000000000000000000000000001",
            "1",
            "9",
            "10",
            "10.5",
            "99999999999999999999",
            "1e+20",
            "1e400",
            "Infinity",
            "NaN",
        ];
        for (i, a) in rising.iter().enumerate() {
            for (j, b) in rising.iter().enumerate() {
                let (x, y) = (Number::parse(a).unwrap(), Number::parse(b).unwrap());
                assert_eq!(x.cmp(&y), i.cmp(&j), "{a} {b}");
            }
        }
        for (a, b) in [
            ("1", "1.00"),
            ("0", "-0.0"),
            ("1e3", "1000"),
            ("0.001e3", "1"),
            ("100", "1E+2"),
            ("+7", "007"),
            ("12.50", "12.5"),
            (" 1", "1 "),
            ("nan", "NaN"),
            ("inf", "Infinity"),
        ] {
            assert_eq!(Number::parse(a), Number::parse(b), "{a} {b}");
        }
        for no in ["", "-", ".", "1.1.1", "1e", "e5", "0x1", "1 2", "--1", "-NaN", "٣"] {
            assert!(Number::parse(no).is_none(), "{no}");
        }
    }

    #[test]
    fn moments_stand_in_their_order() {
        let rising = [
            "-infinity",
            "4713-01-01 BC",
            "0001-12-31 BC",
            "0001-01-01",
            "1969-12-31 23:59:59.5",
            "1970-01-01",
            "1970-01-01 00:00:00.000001",
            "2024-02-29 12:00:00+05:30",
            "2024-02-29 12:00:00",
            "2024-02-29 12:00:00-03",
            "9999-12-31",
            "10000-01-01",
            "infinity",
        ];
        let any = |text| moment(text, |_| true);
        let keys: Vec<_> = rising.iter().map(|text| any(text).unwrap()).collect();
        assert!(keys.is_sorted() && keys.windows(2).all(|k| k[0] < k[1]), "{keys:?}");
        assert_eq!(any("1970-01-02T00:00:01Z"), Some(i128::from(DAY) + 1_000_000));
        assert_eq!(any("2000-03-01"), Some(11_017 * i128::from(DAY)));
        assert_eq!(any("2024-01-01 10:00"), any("2024-01-01 10:00:00+00"));
        assert!(any("yesterday").is_none());
    }

    #[test]
    fn a_constant_says_what_its_column_can_hold() {
        for (kind, yes, no) in [
            (Kind::Date, "2024-01-01", "2024-01-01 00:00:00"),
            (Kind::Date, "infinity", "2024-01-01 00:00:00+00"),
            (Kind::Timestamp, "2024-01-01", "2024-01-01 00:00:00Z"),
            (Kind::Timestamp, "2024-01-01 00:00:00", "2024-01-01 00:00:00+01"),
            (Kind::Timestamptz, "2024-01-01 00:00:00+01", "2024-01-01 00:00:00+99"),
            (Kind::Time, "12:00:00", "12:00:00+01"),
        ] {
            let constant = |text: &str| kind.constant(&Literal::Text(text.to_owned()));
            assert!(constant(yes).is_ok() && constant(no).is_err(), "{kind:?} {yes} {no}");
        }
    }
}
