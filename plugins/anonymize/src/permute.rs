//! Digits to digits, one to one: phone numbers that stay unique.
//!
//! A Feistel network over decimal digits, built as FF1 is (NIST SP 800-38G): the digits
//! are split in two halves, and in each of ten rounds one half is moved, modulo its power
//! of ten, by a keyed hash of the other half, the round and the number of digits. Every
//! round can be undone, so two numbers of one length never become one; what stands
//! between the digits stays, so neither do two of different shape. It is not FF1 itself:
//! the round function is the host's HMAC. Half of one digit is nothing, and rounds of nothing
//! would only count on from it: single digits are permuted as numbers below ten, [`range`].
//! Fixed for ever; tests pin it.

pub(crate) mod range;

use kasho_plugin_sdk::{Hash, Texts};

use range::Ranged;

/// Rounds, as FF1 has.
const ROUNDS: usize = 10;
/// Fewest digits of a phone number that is worth permuting.
pub(crate) const FEWEST: usize = 4;

/// A number on its way: two halves and their lengths in digits.
#[derive(Clone, Copy, Debug)]
struct Halves {
    left: u128,
    right: u128,
    left_len: usize,
    right_len: usize,
}

/// Permutes the digits of each value, `prf` being asked once a round for all of them.
/// Each has between 1 and 38 digits.
pub(crate) fn permute<'v>(
    values: impl Iterator<Item = &'v str>,
    mut prf: impl FnMut(&Texts, &mut Vec<Hash>),
) -> Vec<String> {
    let mut numbers: Vec<Halves> = values.map(split).collect();
    single(&mut numbers, &mut prf);
    let (mut texts, mut hashes) = (Texts::default(), Vec::new());
    let mut longer: Vec<&mut Halves> = numbers.iter_mut().filter(|n| n.left_len > 0).collect();
    for round in 0..ROUNDS {
        texts.clear();
        for n in &longer {
            let digits = n.left_len + n.right_len;
            // A zero byte is in no value of PostgreSQL's, so this collides with none.
            texts.push(&format!("\0digits/1\0{round}\0{digits}\0{}", n.right));
        }
        prf(&texts, &mut hashes);
        for (n, hash) in longer.iter_mut().zip(&hashes) {
            let modulus = power(n.left_len);
            let moved = (n.left + hash.number() % modulus) % modulus;
            **n = Halves {
                left: n.right,
                right: moved,
                left_len: n.right_len,
                right_len: n.left_len,
            };
        }
    }
    numbers.iter().map(join).collect()
}

/// Permutes the numbers of one digit.
fn single(numbers: &mut [Halves], prf: impl FnMut(&Texts, &mut Vec<Hash>)) {
    let single = numbers.iter_mut().filter(|n| n.left_len == 0 && n.right_len == 1);
    let mut single: Vec<&mut Halves> = single.collect();
    let mut digits: Vec<Ranged> =
        single.iter().map(|n| Ranged { number: n.right, bound: 10 }).collect();
    range::permute(&mut digits, prf);
    for (n, digit) in single.iter_mut().zip(digits) {
        n.right = digit.number;
    }
}

fn split(value: &str) -> Halves {
    let digits: Vec<u32> = value.chars().filter_map(|c| c.to_digit(10)).collect();
    let (left, right) = digits.split_at(digits.len() / 2);
    let number = |half: &[u32]| half.iter().fold(0, |n: u128, d| n * 10 + u128::from(*d));
    Halves {
        left: number(left),
        right: number(right),
        left_len: left.len(),
        right_len: right.len(),
    }
}

fn join(n: &Halves) -> String {
    if n.left_len == 0 {
        return format!("{:0right$}", n.right, right = n.right_len);
    }
    format!("{:0left$}{:0right$}", n.left, n.right, left = n.left_len, right = n.right_len)
}

fn power(digits: usize) -> u128 {
    (0..digits).fold(1, |n: u128, _| n.saturating_mul(10))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use kasho_plugin_sdk::keys::DomainKey;

    use super::*;

    pub(super) fn permuted<'v>(values: impl Iterator<Item = &'v str>) -> Vec<String> {
        let key = DomainKey::derive(&[7; 32], "phone");
        permute(values, |texts, out| {
            out.clear();
            out.extend(texts.iter().map(|text| Hash(key.prf(text.as_bytes()))));
        })
    }

    #[test]
    fn every_number_of_a_length_is_reached_once() {
        for digits in [1, 2, 3, 4, 5] {
            let all: Vec<String> = (0..10_usize.pow(digits))
                .map(|n| format!("{n:0w$}", w = digits as usize))
                .collect();
            let out: BTreeSet<String> =
                permuted(all.iter().map(String::as_str)).into_iter().collect();
            assert_eq!(out.into_iter().collect::<Vec<_>>(), all);
        }
    }

    #[test]
    fn a_digit_says_nothing_of_the_next() {
        let digits: Vec<String> = (0..10).map(|n| n.to_string()).collect();
        let out: Vec<u32> = permuted(digits.iter().map(String::as_str))
            .iter()
            .map(|digit| digit.parse().unwrap_or(99))
            .collect();
        let steps: BTreeSet<u32> =
            out.windows(2).map(|pair| (pair[1] + 10 - pair[0]) % 10).collect();
        assert!(steps.len() > 2, "a rotation: {out:?}");
    }

    /// Made by another implementation, in Python.
    #[test]
    fn golden() {
        let long = "1".repeat(38);
        let out = permuted(["0000", "+1 (415) 555-0132", "4155550133", &long].into_iter());
        assert_eq!(
            out,
            ["4986", "08763789375", "0359703276", "18509018308018768669306125208208378350"]
        );
    }
}
