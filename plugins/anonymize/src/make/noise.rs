//! Numbers near a number.
//!
//! All is done on decimal digits, so that there are as many decimals as before and no
//! rounding differs anywhere; a float, which prints no zeros at its end, has those of an
//! `amount`, too. `NaN` and infinities stay. A text that is no number from its first to its
//! last character, or one too long for the arithmetic, is a row's error, and so is a number
//! whose last digit is more than the whole `amount`, which would stay what it is.

use kasho_plugin_sdk::{Error, Hash, Out, Result};

use super::fake::shortest;
use crate::check::{Form, Target};
use crate::rules::Options;

/// Most digits of a number, without zeros in front.
const DIGITS: usize = 28;
/// Digits of a float that PostgreSQL tells from the next one, whatever they are.
const FLOAT_DIGITS: u32 = 15;
/// Parts of the ratio.
const PARTS: i128 = 1_000_000;

/// How much a number moves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Noise {
    /// By so many millionths of it at most.
    Ratio(u32),
    /// By this at most: digits, and how many of them are decimals.
    Amount(u64, usize),
}

impl Noise {
    /// What a rule asks for.
    pub(crate) fn read(options: &Options) -> Result<Noise> {
        let wrong = || Error::new("`ratio` is above 0 and at most 1, `amount` above 0");
        let (ratio, amount) = (options.number("ratio"), options.number("amount"));
        match (ratio, amount) {
            (Some(_), Some(_)) => Err(Error::new("give `ratio` or `amount`, not both")),
            (_, Some(amount)) => {
                let (digits, scale) = decimal(&amount).ok_or_else(wrong)?;
                let digits = u64::try_from(digits).map_err(|_| wrong())?;
                if digits == 0 || scale > 9 {
                    Err(wrong())
                } else {
                    Ok(Noise::Amount(digits, scale))
                }
            }
            (ratio, None) => {
                let ratio = ratio.unwrap_or_else(|| "0.1".to_owned());
                let (digits, scale) = decimal(&ratio).ok_or_else(wrong)?;
                if scale > 6 {
                    return Err(Error::new("`ratio` has six decimals at most"));
                }
                let parts = digits * 10_u128.pow(6 - u32::try_from(scale).unwrap_or(6));
                match u32::try_from(parts) {
                    Ok(parts @ 1..=1_000_000) => Ok(Noise::Ratio(parts)),
                    _ => Err(wrong()),
                }
            }
        }
    }

    /// Whether it moves a number of so many decimals at all.
    pub(crate) fn moves(&self, decimals: usize) -> bool {
        match *self {
            Noise::Ratio(_) => true,
            Noise::Amount(amount, scale) => {
                in_units(amount, scale, decimals).is_some_and(|n| n > 0)
            }
        }
    }

    /// Writes a number near `value`, within what the column holds.
    ///
    /// # Errors
    /// [`Fault`].
    pub(crate) fn write(
        &self,
        value: &str,
        hash: Hash,
        target: &Target,
        out: &mut Out<'_>,
    ) -> Result<(), Fault> {
        if matches!(value, "NaN" | "Infinity" | "-Infinity") {
            out.push_str(value);
            return Ok(());
        }
        let float = target.form == Form::Float;
        let mut number = Decimal::read(value).ok_or(Fault::NoNumber)?;
        if let Noise::Amount(_, decimals) = *self {
            let least = if float { decimals } else { 0 };
            number = number.plain(least).ok_or(Fault::NoNumber)?;
        }
        let step = self.step(&number, hash, float).ok_or(Fault::Stays)?;
        let moved = number.digits + step;
        let scale = number.scale;
        let moved = if number.exponent == 0 { clamp(moved, scale, target) } else { moved };
        let width = scale + 1;
        let text = format!("{:0>width$}", moved.unsigned_abs());
        let (whole, fraction) = text.split_at(text.len() - scale);
        let sign = if moved < 0 { "-" } else { "" };
        let point = if fraction.is_empty() { "" } else { "." };
        let text = format!("{sign}{whole}{point}{fraction}");
        out.push_str(if float { shortest(&text) } else { &text });
        out.push_str(number.written);
        Ok(())
    }

    /// How far the digits move; `None` if an amount is too small to move them.
    fn step(&self, number: &Decimal<'_>, hash: Hash, float: bool) -> Option<i128> {
        let most = match *self {
            Noise::Ratio(parts) => i128::from(parts),
            Noise::Amount(amount, decimals) => {
                let most = in_units(amount, decimals, number.scale).filter(|most| *most > 0)?;
                let shown = most.saturating_mul(10_i128.pow(FLOAT_DIGITS));
                if float && shown < number.digits.abs() {
                    return None;
                }
                most.min(i128::from(i64::MAX))
            }
        };
        let choices = u64::try_from(2 * most + 1).unwrap_or(u64::MAX);
        // In 128 bits: a `usize` of WebAssembly has 32.
        let step = scaled(hash.number(), choices) - most;
        Some(match self {
            Noise::Ratio(_) => {
                let product = number.digits.abs() * step;
                let half = if product < 0 { -PARTS / 2 } else { PARTS / 2 };
                (product + half) / PARTS
            }
            Noise::Amount(..) => step,
        })
    }
}

/// Why a value has no number near it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is no number, or has too many digits.
    NoNumber,
    /// The amount is less than its last digit.
    Stays,
}

/// An amount in units of the last of so many decimals.
fn in_units(amount: u64, scale: usize, decimals: usize) -> Option<i128> {
    let shift = |by: usize| 10_i128.checked_pow(u32::try_from(by).ok()?);
    let amount = i128::from(amount);
    match decimals.checked_sub(scale) {
        Some(more) => amount.checked_mul(shift(more)?),
        None => Some(amount / shift(scale - decimals)?),
    }
}

/// A number as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Decimal<'v> {
    /// All of its digits.
    digits: i128,
    /// How many of them are decimals.
    scale: usize,
    /// Power of ten.
    exponent: i32,
    /// The same with its letter, as it stands behind the digits.
    written: &'v str,
}

impl<'v> Decimal<'v> {
    /// Reads a number to its end.
    fn read(text: &'v str) -> Option<Decimal<'v>> {
        let (mantissa, written) = match text.find(['e', 'E']) {
            Some(at) => text.split_at(at),
            None => (text, ""),
        };
        let exponent = match written.get(1..) {
            Some(exponent) => {
                let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
                let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
                plain.then(|| exponent.parse().ok()).flatten()?
            }
            None => 0,
        };
        let (sign, unsigned) = match mantissa.strip_prefix('-') {
            Some(unsigned) => (-1, unsigned),
            None => (1, mantissa),
        };
        let (digits, scale) = digits(unsigned)?;
        Some(Decimal { digits: sign * digits, scale, exponent, written })
    }

    /// The same without an exponent, and with so many decimals at least; `None` if it has too
    /// many digits then.
    fn plain(self, decimals: usize) -> Option<Decimal<'v>> {
        let scale = i32::try_from(self.scale).ok()?.checked_sub(self.exponent)?;
        let wanted = scale.max(i32::try_from(decimals).ok()?);
        let shift = 10_i128.checked_pow(u32::try_from(wanted - scale).ok()?)?;
        let digits = self.digits.checked_mul(shift)?;
        let fits = digits.unsigned_abs() < 10_u128.pow(u32::try_from(DIGITS).ok()?);
        let scale = usize::try_from(wanted).ok()?;
        fits.then_some(Decimal { digits, scale, exponent: 0, written: "" })
    }
}

/// `(number × choices) >> 128`.
fn scaled(number: u128, choices: u64) -> i128 {
    let (high, low) = (number >> 64, number & u128::from(u64::MAX));
    let choices = u128::from(choices);
    let product = high * choices + ((low * choices) >> 64);
    i128::try_from(product >> 64).unwrap_or(0)
}

/// What the column's type can hold.
fn clamp(number: i128, scale: usize, target: &Target) -> i128 {
    target.range(scale).map_or(number, |(low, high)| number.clamp(low, high))
}

/// The digits of a number without a sign, and how many of them are decimals; `None` if it is
/// none or too long.
fn digits(text: &str) -> Option<(i128, usize)> {
    let (whole, fraction) = match text.split_once('.') {
        Some((_, "")) => return None,
        Some(parts) => parts,
        None => (text, ""),
    };
    let all = || whole.bytes().chain(fraction.bytes());
    if whole.is_empty() || !all().all(|b| b.is_ascii_digit()) {
        return None;
    }
    if all().skip_while(|b| *b == b'0').count() > DIGITS {
        return None;
    }
    Some((all().fold(0, |n: i128, b| n * 10 + i128::from(b - b'0')), fraction.len()))
}

/// An option's digits and how many of them are decimals.
fn decimal(text: &str) -> Option<(u128, usize)> {
    let (digits, scale) = digits(text)?;
    Some((u128::try_from(digits).ok()?, scale))
}

#[cfg(test)]
mod tests {
    use kasho_plugin_sdk::Scratch;

    use super::*;

    fn near(noise: &Noise, value: &str, number: u128, target: &Target) -> Option<String> {
        told(noise, value, number, target).ok()
    }

    fn told(noise: &Noise, value: &str, number: u128, target: &Target) -> Result<String, Fault> {
        let mut scratch = Scratch::default();
        noise.write(value, Hash(number.to_be_bytes()), target, &mut scratch.out())?;
        Ok(scratch.as_str().to_owned())
    }

    #[test]
    fn the_ends_of_the_range_are_reached() {
        let any = Target::text();
        let tenth = Noise::Ratio(100_000);
        let amount = Noise::Amount(25, 1);
        for (noise, value, low, high) in [
            (&tenth, "100", "90", "110"),
            (&tenth, "-100.00", "-110.00", "-90.00"),
            (&tenth, "0", "0", "0"),
            (&tenth, "0.05", "0.04", "0.06"),
            (&tenth, "1.5e+20", "1.3e+20", "1.7e+20"),
            (&amount, "10.00", "7.50", "12.50"),
            (&amount, "1", "-1", "3"),
            (&amount, "NaN", "NaN", "NaN"),
        ] {
            let ends = [near(noise, value, 0, &any), near(noise, value, u128::MAX, &any)];
            let ends = ends.map(|end| end.unwrap_or_default());
            assert_eq!(ends, [low.to_owned(), high.to_owned()], "{value}");
        }
        let float = Target { form: Form::Float, ..Target::text() };
        assert_eq!(near(&amount, "10.5", 0, &float).as_deref(), Some("8"));
        assert_eq!(near(&amount, "-1.5", u128::MAX, &float).as_deref(), Some("1"));
        assert_eq!(near(&amount, "1.5e-02", 0, &float).as_deref(), Some("-2.485"));
        assert_eq!(near(&amount, "1e+3", u128::MAX, &any).as_deref(), Some("1002"));
    }

    #[test]
    fn what_is_no_number_to_its_end_is_told() {
        let (any, tenth) = (Target::text(), Noise::Ratio(100_000));
        let long = "123456789".repeat(5);
        for wrong in [
            "",
            "x",
            "1.2.3",
            "--1",
            "1 ",
            "1.",
            "4eme rue de Paris, porte 12",
            "4e",
            "1e+",
            "1e5x",
            "1e99999999999",
            &long,
            &format!("0.{long}"),
        ] {
            for noise in [&tenth, &Noise::Amount(1, 0), &Noise::Amount(1, 9)] {
                assert_eq!(told(noise, wrong, 0, &any), Err(Fault::NoNumber), "{wrong}");
            }
        }
        let zeros = format!("0.{}15", "0".repeat(40));
        assert!(near(&tenth, &zeros, 0, &any).is_some_and(|out| out.ends_with("0013")));
    }

    #[test]
    fn an_amount_that_moves_nothing_is_told() {
        let half = Noise::Amount(5, 1);
        let float = Target { form: Form::Float, ..Target::text() };
        assert!(!half.moves(0) && half.moves(1) && half.moves(2));
        assert_eq!(told(&half, "10", 0, &Target::text()), Err(Fault::Stays));
        assert_eq!(near(&half, "10.0", 0, &Target::text()).as_deref(), Some("9.5"));
        assert_eq!(near(&half, "10", 0, &float).as_deref(), Some("9.5"));
        assert_eq!(told(&half, "1.5e+20", 0, &float), Err(Fault::Stays));
    }
}
