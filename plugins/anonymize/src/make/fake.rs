//! Hash in, fake out: pure functions, fixed for ever.
//!
//! The same hash gives the same fake on every machine and in every later version; tests
//! pin them. Nothing here sees a source value but [`hide`] and [`phone`], which keep of it
//! only what their rule says (some characters; the places of the digits).

use kasho_plugin_sdk::{Hash, Out, Picks};

use crate::dictionary::{FIRST, LAST, List};

/// Characters of a suffix that makes a fake unique, with its separator.
const SUFFIX: usize = 17;
/// Hosts that RFC 2606 keeps for examples; all of one length.
const HOSTS: [&str; 3] = ["example.com", "example.net", "example.org"];
/// What passwords are made of.
const CHARS: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// A part of a fake. Parts draw from one hash in turn, so a list of parts is for ever.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Part {
    /// This text.
    Text(&'static str),
    /// An entry of a list.
    Word(&'static List),
    /// The same in lower case.
    Lower(&'static List),
    /// The same with its first letter in upper case.
    Capital(&'static List),
    /// So many digits.
    Digits(usize),
    /// A number between two.
    Range(u32, u32),
    /// The same with zeros in front, to so many digits.
    Zero(u32, u32, usize),
    /// So many letters and digits.
    Chars(usize),
    /// A host that is kept for examples.
    Host,
    /// If the fake is to be unique: this, and 80 bits of the hash as 16 characters.
    Suffix(char),
}

/// `Ada Lovelace`
pub(crate) static NAME: [Part; 4] =
    [Part::Word(&FIRST), Part::Text(" "), Part::Word(&LAST), Part::Suffix(' ')];
/// `ada.lovelace@example.com`
pub(crate) static EMAIL: [Part; 6] = [
    Part::Lower(&FIRST),
    Part::Text("."),
    Part::Lower(&LAST),
    Part::Suffix('.'),
    Part::Text("@"),
    Part::Host,
];

/// Writes the fake of `hash`.
#[inline(always)]
pub(crate) fn words(parts: &[Part], hash: Hash, unique: bool, out: &mut Out<'_>) {
    let mut picks = hash.picks();
    for part in parts {
        match *part {
            Part::Text(text) => out.push_str(text),
            Part::Word(list) => out.push_str(pick(&mut picks, &list.names)),
            Part::Lower(list) => lower(pick(&mut picks, &list.names), out),
            Part::Capital(list) => capital(pick(&mut picks, &list.names), out),
            Part::Digits(n) => (0..n).for_each(|_| out.push(digit(picks.next(10)))),
            Part::Range(from, to) => number(&mut picks, from, to, 1, out),
            Part::Zero(from, to, width) => number(&mut picks, from, to, width, out),
            Part::Chars(n) => (0..n).for_each(|_| out.push(char::from(CHARS[picks.next(62)]))),
            Part::Host => out.push_str(pick(&mut picks, &HOSTS)),
            Part::Suffix(before) if unique => {
                out.push(before);
                out.push_str(hash.short().as_str());
            }
            Part::Suffix(_) => {}
        }
    }
}

/// Characters of the longest fake.
pub(crate) fn longest(parts: &[Part], unique: bool) -> usize {
    let longest = |part: &Part| match *part {
        Part::Text(text) => text.len(),
        Part::Word(list) | Part::Lower(list) | Part::Capital(list) => list.longest,
        Part::Digits(n) | Part::Zero(_, _, n) | Part::Chars(n) => n,
        Part::Range(_, to) => to.to_string().len(),
        Part::Host => HOSTS[0].len(),
        Part::Suffix(_) => {
            if unique {
                SUFFIX
            } else {
                0
            }
        }
    };
    parts.iter().map(longest).sum()
}

/// How many fakes there are, without suffixes.
pub(crate) fn results(parts: &[Part]) -> u128 {
    let results = |part: &Part| match *part {
        Part::Text(_) | Part::Suffix(_) => 1,
        Part::Word(list) | Part::Lower(list) | Part::Capital(list) => list.names.len() as u128,
        Part::Digits(n) => 10_u128.saturating_pow(u32::try_from(n).unwrap_or(u32::MAX)),
        Part::Range(from, to) | Part::Zero(from, to, _) => u128::from(to - from) + 1,
        Part::Chars(n) => 62_u128.saturating_pow(u32::try_from(n).unwrap_or(u32::MAX)),
        Part::Host => HOSTS.len() as u128,
    };
    parts.iter().map(results).fold(1, u128::saturating_mul)
}

/// A number with a point, without the zeros at its end that a float does not print.
pub(crate) fn shortest(number: &str) -> &str {
    match number.contains('.') {
        true => number.trim_end_matches('0').trim_end_matches('.'),
        false => number,
    }
}

fn pick<'d>(picks: &mut Picks, from: &[&'d str]) -> &'d str {
    from.get(picks.next(from.len())).copied().unwrap_or_default()
}

fn lower(name: &str, out: &mut Out<'_>) {
    name.chars().for_each(|c| out.push(c.to_ascii_lowercase()));
}

fn capital(name: &str, out: &mut Out<'_>) {
    for (i, c) in name.chars().enumerate() {
        out.push(if i == 0 { c.to_ascii_uppercase() } else { c });
    }
}

fn number(picks: &mut Picks, from: u32, to: u32, width: usize, out: &mut Out<'_>) {
    let more = picks.next((to - from) as usize + 1);
    // A number always writes itself.
    let _ = write!(out, "{:0width$}", from as usize + more);
}

/// Degrees with six decimals, or for a float as many as it prints; `most` at either side of
/// zero at most.
pub(crate) fn degrees(most: u32, float: bool, hash: Hash, out: &mut Out<'_>) {
    let most = u64::from(most) * 1_000_000;
    let at = hash.pick(usize::try_from(2 * most + 1).unwrap_or(usize::MAX)) as u64;
    let sign = if at < most { "-" } else { "" };
    let size = at.abs_diff(most);
    let text = format!("{}.{:06}", size / 1_000_000, size % 1_000_000);
    out.push_str(sign);
    out.push_str(if float { shortest(&text) } else { &text });
}

/// The first `length` (at most 32) hexadecimal digits of a hash.
pub(crate) fn hex(hash: Hash, length: usize, out: &mut Out<'_>) {
    let text = hash.to_string();
    out.push_str(text.get(..length).unwrap_or(&text));
}

/// A hash as the text of a `uuid`; all 128 bits, so no version is marked in it.
pub(crate) fn uuid(hash: Hash, out: &mut Out<'_>) {
    for (i, c) in hash.to_string().chars().enumerate() {
        if matches!(i, 8 | 12 | 16 | 20) {
            out.push('-');
        }
        out.push(c);
    }
}

/// Replaces all but the first and last characters; all of them in a value that is not
/// longer than what would be kept.
pub(crate) fn hide(value: &str, first: usize, last: usize, with: char, out: &mut Out<'_>) {
    let length = value.chars().count();
    let kept = first.saturating_add(last);
    if kept >= length {
        return out.repeat(with, length);
    }
    // Where a character begins; in ASCII, at its own number.
    let place = |n: usize| match length == value.len() {
        true => n,
        false => value.char_indices().nth(n).map_or(value.len(), |(at, _)| at),
    };
    out.push_str(value.get(..place(first)).unwrap_or_default());
    out.repeat(with, length - kept);
    out.push_str(value.get(place(length - last)..).unwrap_or_default());
}

/// Most digits that 128 bits can fill.
pub(crate) const MOST_DIGITS: usize = 38;
/// Characters of the phone number that takes the place of what is none.
pub(crate) const PLAIN_PHONE: usize = 10;

/// The number of digits of what looks like a phone number: digits, and what people write
/// between them.
pub(crate) fn phone_digits(value: &str) -> Option<usize> {
    let digits = value.bytes().filter(u8::is_ascii_digit).count();
    let known = |b: u8| b.is_ascii_digit() || b" +-().,/#x".contains(&b);
    (value.bytes().all(known) && digits <= MOST_DIGITS).then_some(digits)
}

/// A phone number in the shape of `value` with digits of the hash, the first not 0; ten
/// digits that begin with 555 in place of what is no phone number.
pub(crate) fn phone(value: &str, hash: Hash, out: &mut Out<'_>) {
    let mut picks = hash.picks();
    let Some(3..) = phone_digits(value) else {
        out.push_str("555");
        (3..PLAIN_PHONE).for_each(|_| out.push(digit(picks.next(10))));
        return;
    };
    let mut first = true;
    for c in value.chars() {
        if !c.is_ascii_digit() {
            out.push(c);
            continue;
        }
        out.push(if first { digit(1 + picks.next(9)) } else { digit(picks.next(10)) });
        first = false;
    }
}

/// Characters of the number that takes the place of what is no social security number.
pub(crate) const PLAIN_SSN: usize = 11;

/// Whether a value is nine digits, whatever dashes and spaces are between them.
pub(crate) fn is_ssn(value: &str) -> bool {
    let known = |b: u8| b.is_ascii_digit() || b == b'-' || b == b' ';
    value.bytes().all(known) && value.bytes().filter(u8::is_ascii_digit).count() == 9
}

/// A social security number in the shape of `value`, or as `900-01-0001`: the areas from 900
/// on are no one's, and with groups below 50 no taxpayer's either.
pub(crate) fn ssn(value: &str, hash: Hash, out: &mut Out<'_>) {
    let mut picks = hash.picks();
    let area = 900 + picks.next(100);
    let group = 1 + picks.next(49);
    let serial = 1 + picks.next(9999);
    let digits = format!("{area:03}{group:02}{serial:04}");
    shaped(if is_ssn(value) { value } else { "000-00-0000" }, &digits, out);
}

/// Writes `value` with these digits in place of its own.
pub(crate) fn shaped(value: &str, digits: &str, out: &mut Out<'_>) {
    let mut digits = digits.chars();
    for c in value.chars() {
        out.push(if c.is_ascii_digit() { digits.next().unwrap_or(c) } else { c });
    }
}

/// The character of a digit.
pub(crate) fn digit(n: usize) -> char {
    u32::try_from(n).ok().and_then(|n| char::from_digit(n, 10)).unwrap_or('0')
}

#[cfg(test)]
mod tests;
