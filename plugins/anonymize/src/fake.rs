//! Hash in, fake out: pure functions, fixed for ever.
//!
//! The same hash gives the same fake on every machine and in every later version; tests
//! pin them. Nothing here sees a source value but [`hide`] and [`phone`], which keep of it
//! only what their rule says (some characters; the places of the digits).

use kasho_plugin_sdk::{Hash, Out, Picks};

use crate::dictionary::{FIRST, LAST};

/// Characters of a suffix that makes a fake unique, with its separator.
const SUFFIX: usize = 17;
/// Hosts that RFC 2606 keeps for examples; all of one length.
const HOSTS: [&str; 3] = ["example.com", "example.net", "example.org"];

/// A fake made of dictionary words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Words {
    /// `Ada Lovelace`
    Name,
    /// `Ada`
    FirstName,
    /// `Lovelace`
    LastName,
    /// `ada.lovelace@example.com`
    Email,
}

impl Words {
    /// Writes the fake of `hash`; if `unique`, with 80 bits of it as 16 characters.
    pub(crate) fn write(self, hash: Hash, unique: bool, out: &mut Out<'_>) {
        let mut picks = hash.picks();
        match self {
            Words::Name => {
                out.push_str(pick(&mut picks, &FIRST.names));
                out.push(' ');
                out.push_str(pick(&mut picks, &LAST.names));
            }
            Words::FirstName => out.push_str(pick(&mut picks, &FIRST.names)),
            Words::LastName => out.push_str(pick(&mut picks, &LAST.names)),
            Words::Email => {
                lower(pick(&mut picks, &FIRST.names), out);
                out.push('.');
                lower(pick(&mut picks, &LAST.names), out);
            }
        }
        if unique {
            out.push(if self == Words::Email { '.' } else { ' ' });
            out.push_str(hash.short().as_str());
        }
        if self == Words::Email {
            out.push('@');
            out.push_str(pick(&mut picks, &HOSTS));
        }
    }

    /// Characters of the longest fake.
    pub(crate) fn longest(self, unique: bool) -> usize {
        let words = match self {
            Words::Name => FIRST.longest + 1 + LAST.longest,
            Words::FirstName => FIRST.longest,
            Words::LastName => LAST.longest,
            Words::Email => FIRST.longest + 1 + LAST.longest + 1 + HOSTS[0].len(),
        };
        words + if unique { SUFFIX } else { 0 }
    }
}

fn pick<'d>(picks: &mut Picks, from: &[&'d str]) -> &'d str {
    from.get(picks.next(from.len())).copied().unwrap_or_default()
}

fn lower(name: &str, out: &mut Out<'_>) {
    name.chars().for_each(|c| out.push(c.to_ascii_lowercase()));
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

/// The character of a digit.
pub(crate) fn digit(n: usize) -> char {
    u32::try_from(n).ok().and_then(|n| char::from_digit(n, 10)).unwrap_or('0')
}

#[cfg(test)]
mod tests;
