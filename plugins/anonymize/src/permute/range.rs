//! Numbers below a bound to numbers below it, one to one: integers, uuids.
//!
//! The number is written as `left × b + right` with two bases near the root of the bound; in
//! each of ten rounds one of them is moved, modulo its base, by a keyed hash of the other, the
//! round and the bound, which can be undone. The bases hold a few numbers more than the bound:
//! whoever lands there goes on until it is below (cycle walking, NIST SP 800-38G appendix),
//! which keeps the map one to one. Fixed for ever; tests pin it.

use kasho_plugin_sdk::{Hash, Texts};

/// Rounds, as FF1 has.
const ROUNDS: usize = 10;

/// A number below a bound. The bound is at most 2¹²² in use; anything beyond 2¹²⁶ would
/// overflow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ranged {
    /// The number.
    pub(crate) number: u128,
    /// The bound, not reached.
    pub(crate) bound: u128,
}

/// The bases of a bound: their product is at least it.
fn bases(bound: u128) -> (u128, u128) {
    let left = bound.isqrt().max(1);
    let left = if left * left < bound { left + 1 } else { left };
    (left, bound.div_ceil(left))
}

/// Permutes each number below its bound, `prf` being asked once a round for all of them.
pub(crate) fn permute(numbers: &mut [Ranged], mut prf: impl FnMut(&Texts, &mut Vec<Hash>)) {
    let mut walking: Vec<usize> =
        (0..numbers.len()).filter(|i| numbers[*i].number < numbers[*i].bound).collect();
    let (mut texts, mut hashes) = (Texts::default(), Vec::new());
    while !walking.is_empty() {
        for round in 0..ROUNDS {
            texts.clear();
            for i in &walking {
                let Ranged { number, bound } = numbers[*i];
                let (_, right) = bases(bound);
                let half = if round % 2 == 0 { number % right } else { number / right };
                texts.push(&format!("\0range/1\0{round}\0{bound}\0{half}"));
            }
            prf(&texts, &mut hashes);
            for (i, hash) in walking.iter().zip(&hashes) {
                let Ranged { number, bound } = &mut numbers[*i];
                let (left, right) = bases(*bound);
                let (mut l, mut r) = (*number / right, *number % right);
                match round % 2 {
                    0 => l = (l + hash.number() % left) % left,
                    _ => r = (r + hash.number() % right) % right,
                }
                *number = l * right + r;
            }
        }
        walking.retain(|i| numbers[*i].number >= numbers[*i].bound);
    }
}

/// The first and last numbers of each class that whole numbers are permuted within: of as
/// many digits, and on the same side of what `int2`, `int4` and `int8` hold, of which the
/// lowest is one further from 0 than the highest. So a number stays in its type and in its
/// length, and is the same whatever type it has.
fn class(size: u128, negative: bool) -> Option<(u128, u128)> {
    let beyond = u128::from(negative);
    let mut low = beyond;
    for digits in 1..=37 {
        let most = 10_u128.pow(digits) - 1;
        let inner = [32_767, 2_147_483_647, 9_223_372_036_854_775_807].map(|end| end + beyond);
        for end in inner.into_iter().filter(|end| *end < most).chain([most]) {
            if low <= end && size <= end {
                return Some((low, end));
            }
            low = low.max(end + 1);
        }
    }
    None
}

/// A whole number as a number of its class, and how to read the class's number again.
pub(crate) fn integer(text: &str) -> Option<(Ranged, Integer)> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let plain = digits == "0" || !digits.starts_with('0');
    if digits.is_empty()
        || digits.len() > 37
        || !plain
        || negative && digits == "0"
        || !digits.bytes().all(|b| b.is_ascii_digit())
    {
        return None;
    }
    let size = digits.parse().ok()?;
    let (low, high) = class(size, negative)?;
    Some((Ranged { number: size - low, bound: high - low + 1 }, Integer { negative, low }))
}

/// What a number of a class is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Integer {
    negative: bool,
    low: u128,
}

impl Integer {
    /// The text of a number of the class.
    pub(crate) fn text(self, number: u128) -> String {
        match self.negative {
            true => format!("-{}", self.low + number),
            false => format!("{}", self.low + number),
        }
    }
}

/// The bits of a uuid that say nothing of its version and variant, and those that do; `None`
/// if a text is no uuid as PostgreSQL prints it.
pub(crate) fn uuid(text: &str) -> Option<(Ranged, u128)> {
    let fits = |(i, b): (usize, u8)| match i {
        8 | 13 | 18 | 23 => b == b'-',
        _ => b.is_ascii_digit() || (b'a'..=b'f').contains(&b),
    };
    if text.len() != 36 || !text.bytes().enumerate().all(fits) {
        return None;
    }
    let bits = u128::from_str_radix(&text.replace('-', ""), 16).ok()?;
    let number = bits >> 80 << 74 | (bits >> 64 & 0xFFF) << 62 | (bits & LOW);
    Some((Ranged { number, bound: 1 << 122 }, bits & KIND))
}

/// The bits behind the variant.
const LOW: u128 = (1 << 62) - 1;
/// Where version and variant stand.
const KIND: u128 = 0xF << 76 | 0b11 << 62;

/// The uuid of these bits.
pub(crate) fn uuid_text(number: u128, kind: u128) -> String {
    let bits = number >> 74 << 80 | (number >> 62 & 0xFFF) << 64 | (number & LOW) | kind;
    let text = format!("{bits:032x}");
    let parts =
        [0..8, 8..12, 12..16, 16..20, 20..32].map(|part| text.get(part).unwrap_or_default());
    parts.join("-")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that meets one has failed")]

    use std::collections::BTreeSet;

    use kasho_plugin_sdk::keys::DomainKey;
    use proptest::prelude::*;

    use super::*;

    fn permuted(mut numbers: Vec<Ranged>) -> Vec<u128> {
        let key = DomainKey::derive(&[7; 32], "digits");
        permute(&mut numbers, |texts, out| {
            out.clear();
            out.extend(texts.iter().map(|text| Hash(key.prf(text.as_bytes()))));
        });
        numbers.into_iter().map(|n| n.number).collect()
    }

    fn integers(texts: &[String]) -> Vec<String> {
        let read: Vec<_> = texts.iter().map(|text| integer(text).unwrap()).collect();
        let numbers = permuted(read.iter().map(|(number, _)| *number).collect());
        read.iter().zip(numbers).map(|((_, integer), number)| integer.text(number)).collect()
    }

    #[test]
    fn small_bounds_are_permuted_whole() {
        for bound in [1, 2, 3, 5, 9, 10, 90, 97, 900, 1000, 22_768] {
            let out = permuted((0..bound).map(|number| Ranged { number, bound }).collect());
            let set: BTreeSet<u128> = out.iter().copied().collect();
            assert_eq!(set.len() as u128, bound);
            assert!(out.iter().all(|n| *n < bound));
            assert!(bound < 9 || out.iter().enumerate().any(|(i, n)| *n != i as u128));
        }
    }

    #[test]
    fn every_int2_becomes_another_int2() {
        let all: Vec<String> = (i16::MIN..=i16::MAX).map(|n| n.to_string()).collect();
        let out: BTreeSet<i16> = integers(&all).iter().map(|n| n.parse().unwrap()).collect();
        assert_eq!(out.len(), 65_536);
    }

    /// `numeric(p)` holds so many digits of either sign and not one number more.
    #[test]
    fn every_number_of_so_many_digits_becomes_one_of_as_many() {
        for digits in 1..=5_u32 {
            let (low, high) = (10_i64.pow(digits - 1), 10_i64.pow(digits) - 1);
            let low = if digits == 1 { 0 } else { low };
            for (sign, low) in [(1, low), (-1, low.max(1))] {
                let all: Vec<String> = (low..=high).map(|n| (sign * n).to_string()).collect();
                let is: BTreeSet<String> = all.iter().cloned().collect();
                let out: BTreeSet<String> = integers(&all).into_iter().collect();
                assert_eq!(out, is, "{digits} {sign}");
            }
        }
    }

    #[test]
    fn numbers_stay_in_their_type() {
        for (text, low, high) in [
            ("32767", 10_000, 32_767_i128),
            ("-32768", -32_768, -10_000),
            ("-10000", -32_768, -10_000),
            ("-32769", -99_999, -32_769),
            ("2147483647", 1_000_000_000, 2_147_483_647),
            ("-2147483648", -2_147_483_648, -1_000_000_000),
            ("9223372036854775807", 10_i128.pow(18), i64::MAX.into()),
            ("-9223372036854775808", i64::MIN.into(), -(10_i128.pow(18))),
            ("9223372036854775808", 9_223_372_036_854_775_808, 10_i128.pow(19) - 1),
        ] {
            let out: i128 = integers(&[text.to_owned()])[0].parse().unwrap();
            assert!((low..=high).contains(&out), "{text} {out}");
        }
        for wrong in ["", "-", "-0", "007", "1.5", "x", "+1", &"9".repeat(38)] {
            assert!(integer(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn a_uuid_keeps_its_kind() {
        let uuids =
            ["6ba7b810-9dad-11d1-80b4-00c04fd430c8", "00000000-0000-4000-8000-000000000000"];
        for text in uuids {
            let (ranged, kind) = uuid(text).unwrap();
            assert_eq!(uuid_text(ranged.number, kind), text);
            let out = uuid_text(permuted(vec![ranged])[0], kind);
            assert_ne!(out, text);
            assert_eq!(out.get(14..15), text.get(14..15));
            assert!(uuid(&out).is_some());
        }
        assert!(uuid("6BA7B810-9dad-11d1-80b4-00c04fd430c8").is_none());
        assert!(uuid("6ba7b8109dad11d180b400c04fd430c8").is_none());
    }

    /// Made by another implementation, in Python.
    #[test]
    fn golden() {
        let bound = 1 << 122;
        let numbers = [(0, 10), (9, 10), (1_234_567, 10_000_000), (42, bound)];
        let numbers = numbers.map(|(number, bound)| Ranged { number, bound });
        assert_eq!(permuted(numbers.to_vec()), GOLDEN);
    }

    const GOLDEN: [u128; 4] = [5, 9, 8_334_049, 3_991_854_216_452_847_407_366_786_523_265_260_329];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn different_numbers_stay_different(
            bound in 2..u128::MAX >> 4,
            seeds in prop::collection::btree_set(any::<u128>(), 2..40),
        ) {
            let numbers: BTreeSet<u128> = seeds.iter().map(|seed| seed % bound).collect();
            let out = permuted(numbers.iter().map(|n| Ranged { number: *n, bound }).collect());
            prop_assert!(out.iter().all(|n| *n < bound));
            prop_assert_eq!(out.iter().collect::<BTreeSet<_>>().len(), numbers.len());
        }

        #[test]
        fn different_digits_stay_different(numbers in prop::collection::btree_set("[0-9]{1,38}", 2..40)) {
            let out = super::super::tests::permuted(numbers.iter().map(String::as_str));
            prop_assert!(out.iter().zip(&numbers).all(|(a, b)| a.len() == b.len()));
            prop_assert_eq!(out.iter().collect::<BTreeSet<_>>().len(), numbers.len());
        }
    }
}
