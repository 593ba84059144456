//! Numbers near a number.
//!
//! All is done on decimal digits, so that there are as many decimals as before and no
//! rounding differs anywhere. `NaN` and infinities stay. A text that is no number is a row's
//! error.

use kasho_plugin_sdk::{Error, Hash, Out, Result};

use super::fake::shortest;
use crate::check::{Form, Target};
use crate::rules::Options;

/// Digits that take part; those behind them become zeros.
const DIGITS: usize = 28;
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

    /// Writes a number near `value`, within what the column holds. `None` if it is none.
    pub(crate) fn write(
        &self,
        value: &str,
        hash: Hash,
        target: &Target,
        out: &mut Out<'_>,
    ) -> Option<()> {
        if matches!(value, "NaN" | "Infinity" | "-Infinity") {
            out.push_str(value);
            return Some(());
        }
        let (mantissa, exponent) = match value.find(['e', 'E']) {
            Some(at) => value.split_at(at),
            None => (value, ""),
        };
        let (negative, unsigned) = match mantissa.strip_prefix('-') {
            Some(unsigned) => (true, unsigned),
            None => (false, mantissa),
        };
        let (digits, scale, zeros) = leading(unsigned)?;
        let number = if negative { -digits } else { digits };
        let moved = number + self.step(digits, scale, zeros, hash);
        let moved = if exponent.is_empty() { clamp(moved, scale, zeros, target) } else { moved };
        let mut text = moved.unsigned_abs().to_string();
        text.extend(std::iter::repeat_n('0', zeros));
        let width = scale + 1;
        let text = format!("{text:0>width$}");
        let (whole, fraction) = text.split_at(text.len() - scale);
        let sign = if moved < 0 { "-" } else { "" };
        let point = if fraction.is_empty() { "" } else { "." };
        let text = format!("{sign}{whole}{point}{fraction}");
        out.push_str(if target.form == Form::Float { shortest(&text) } else { &text });
        out.push_str(exponent);
        Some(())
    }

    /// How far the digits move.
    fn step(&self, digits: i128, scale: usize, zeros: usize, hash: Hash) -> i128 {
        let most = match *self {
            Noise::Ratio(parts) => i128::from(parts),
            Noise::Amount(amount, decimals) => {
                let shift = |by: usize| 10_i128.checked_pow(u32::try_from(by).unwrap_or(99));
                let amount = i128::from(amount);
                // Into the unit of the last digit that takes part.
                match (scale.checked_sub(decimals), zeros) {
                    (Some(more), 0) => shift(more).and_then(|s| amount.checked_mul(s)),
                    (None, 0) => shift(decimals - scale).map(|s| amount / s),
                    // The amount is far below what so long a number shows.
                    _ => Some(0),
                }
                .unwrap_or(0)
                .min(i128::from(i64::MAX))
            }
        };
        let Ok(choices) = u64::try_from(2 * most + 1) else { return 0 };
        // In 128 bits: a `usize` of WebAssembly has 32.
        let pick = scaled(hash.number(), choices);
        let step = pick - most;
        match self {
            Noise::Ratio(_) => {
                let product = digits * step;
                let half = if product < 0 { -PARTS / 2 } else { PARTS / 2 };
                (product + half) / PARTS
            }
            Noise::Amount(..) => step,
        }
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
fn clamp(number: i128, scale: usize, zeros: usize, target: &Target) -> i128 {
    let Some((low, high)) = target.range(scale) else { return number };
    if zeros > 0 { number } else { number.clamp(low, high) }
}

/// The first digits as a number, the number of decimals, and how many digits behind them are
/// left out.
fn leading(text: &str) -> Option<(i128, usize, usize)> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let all = || whole.bytes().chain(fraction.bytes());
    if whole.is_empty() || !all().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let zeros = all().take_while(|b| *b == b'0').count();
    let taken = (zeros + DIGITS).min(whole.len() + fraction.len());
    let digits = all().take(taken).fold(0, |n: i128, b| n * 10 + i128::from(b - b'0'));
    Some((digits, fraction.len(), whole.len() + fraction.len() - taken))
}

/// An option's digits and how many of them are decimals.
fn decimal(text: &str) -> Option<(u128, usize)> {
    let (digits, scale, zeros) = leading(text)?;
    (zeros == 0).then_some((u128::try_from(digits).ok()?, scale))
}

#[cfg(test)]
mod tests {
    use kasho_plugin_sdk::Scratch;

    use super::*;

    fn near(noise: &Noise, value: &str, number: u128, target: &Target) -> Option<String> {
        let mut scratch = Scratch::default();
        noise.write(value, Hash(number.to_be_bytes()), target, &mut scratch.out())?;
        Some(scratch.as_str().to_owned())
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
        let long = format!("{}.5", "123456789".repeat(5));
        let out = near(&tenth, &long, u128::MAX, &any).unwrap_or_default();
        assert!(
            out.len() == long.len() && out.starts_with("1358") && out.ends_with("00.0"),
            "{out}"
        );
        for wrong in ["", "x", "1.2.3", "--1", "1 "] {
            assert_eq!(near(&tenth, wrong, 0, &any), None, "{wrong}");
        }
    }
}
