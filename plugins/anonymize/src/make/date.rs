//! Days: dates of birth, and dates moved by some days.
//!
//! Dates are PostgreSQL's text form, read by the SDK's `moment` to their end. A text that is
//! no date, has anything beside one, or would leave the years that PostgreSQL knows, is a
//! row's error.

use kasho_plugin_sdk::moment::{Moment, civil, days};
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
        let begins = |year: i64| days(year, 1, 1).unwrap_or(0);
        let first = begins(year(from));
        let days = u32::try_from(begins(year(to) + 1) - first).unwrap_or(1);
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
    let Moment::At(stamp) = Moment::parse(value)? else {
        out.push_str(value);
        return Some(());
    };
    let most = i64::from(most);
    let pick = i64::try_from(hash.pick(usize::try_from(2 * most).ok()?)).ok()?;
    let by = if pick < most { pick - most } else { pick - most + 1 };
    let moved = stamp.day + by;
    let (year, ..) = civil(moved);
    if !YEARS.contains(&year) {
        return None;
    }
    date_and(moved, stamp.clock, out);
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
        for wrong in [
            "",
            "soon",
            "1-2-3",
            "2000-13-01",
            "2000-01-00",
            "2000-02-30",
            "2000-01-01-01",
            "4713-01-01 BC",
            "1987-06-05 born in Paris, SSN 123-45-6789",
            "1987-06-05 ",
            "1987-06-05 12:30:00 and more",
            "born 1987-06-05",
        ] {
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
