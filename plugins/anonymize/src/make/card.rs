//! Card numbers that pass the check of Luhn (ISO/IEC 7812-1).
//!
//! Nothing can go wrong: what is no card number gets a plain one, and where numbers must
//! stay different it is the row that is in error.

use kasho_plugin_sdk::{Hash, Out};

use super::fake::{digit, shaped};

/// Digits of the number that takes the place of what is none.
pub(crate) const PLAIN: usize = 16;

/// Whether a value is 12 to 19 digits, whatever dashes and spaces are between them.
pub(crate) fn is_card(value: &str) -> bool {
    let known = |b: u8| b.is_ascii_digit() || b == b'-' || b == b' ';
    let digits = value.bytes().filter(u8::is_ascii_digit).count();
    value.bytes().all(known) && (12..=19).contains(&digits)
}

/// A card number in the shape of `value`, or of sixteen digits: its first digits are those
/// of a brand that has numbers of this length, the last one is right.
pub(crate) fn fake(value: &str, hash: Hash, out: &mut Out<'_>) {
    let is_card = is_card(value);
    let length = match is_card {
        true => value.bytes().filter(u8::is_ascii_digit).count(),
        false => PLAIN,
    };
    let mut picks = hash.picks();
    let prefixes: &[&str] = match length {
        14 => &["36"],
        15 => &["34", "37"],
        16 => &["4", "4", "51", "52", "53", "54", "55", "6011", "65"],
        _ => &["4"],
    };
    let mut digits = prefixes.get(picks.next(prefixes.len())).copied().unwrap_or("4").to_owned();
    while digits.len() + 1 < length {
        digits.push(digit(picks.next(10)));
    }
    digits.push(digit(check_digit(&digits)));
    shaped(if is_card { value } else { "0000000000000000" }, &digits, out);
}

/// The number with this body in place of `original`'s: right if that was right, and as far
/// from right as that was otherwise, so that different numbers stay different.
pub(crate) fn complete(original: &str, body: &str) -> String {
    let digits: String = original.chars().filter(char::is_ascii_digit).collect();
    let (old, last) = digits.split_at(digits.len().saturating_sub(1));
    let last: usize = last.parse().unwrap_or(0);
    let off = last + 10 - check_digit(old);
    format!("{body}{}", (check_digit(body) + off) % 10)
}

/// The digits of a value but the last.
pub(crate) fn body(value: &str) -> String {
    let mut digits: String = value.chars().filter(char::is_ascii_digit).collect();
    digits.pop();
    digits
}

/// The digit that makes a body right.
fn check_digit(body: &str) -> usize {
    let digits = body.bytes().rev().map(|b| usize::from(b.wrapping_sub(b'0')));
    let sum: usize = digits
        .enumerate()
        .map(|(i, d)| match i % 2 {
            0 => 2 * d - if d > 4 { 9 } else { 0 },
            _ => d,
        })
        .sum();
    (10 - sum % 10) % 10
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Test numbers that card brands publish.
    #[test]
    fn published_numbers_are_right() {
        for number in ["4111111111111111", "5555555555554444", "378282246310005", "36227206271667"]
        {
            let (body, last) = number.split_at(number.len() - 1);
            assert_eq!(check_digit(body).to_string(), last);
            let wrong = format!("{body}{}", (check_digit(body) + 3) % 10);
            assert_eq!(complete(number, body), number);
            assert_eq!(complete(&wrong, body), wrong);
        }
    }
}
