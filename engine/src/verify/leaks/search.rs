//! Finding many values in a text at once. Pure.
//!
//! A value counts where it stands alone: neither a letter nor a digit touches it, so that a
//! number is not found in a longer one. What can go wrong: values that are too plain to tell
//! anything are found everywhere by chance; [`telling`] says which are worth looking for.

use std::hash::{BuildHasher, RandomState};

/// All values are longer than this.
const HEAD: usize = 6;
/// Bits of the filter for each value, and at least altogether (as a power of two).
const FILTER_BITS: u32 = 16;
const FILTER_LEAST: u32 = 20;
const LONGEST: usize = 4_096;

/// Whether a value would hardly be found by chance: long enough, and more than one word.
pub(super) fn telling(value: &str) -> bool {
    let digits = value.chars().filter(char::is_ascii_digit).count();
    let letters = value.chars().any(char::is_alphabetic);
    let other = value.chars().any(|c| !c.is_alphabetic());
    match letters {
        true => value.len() >= 8 && value.len() <= LONGEST && other,
        // Dates, amounts and most counters are shorter.
        false => digits >= 9 && value.len() <= 64,
    }
}

/// Values that are gathered to be looked for.
#[derive(Default)]
pub(super) struct Gathered {
    hasher: RandomState,
    /// Of each value its hash, its head and length, and whose it is.
    values: Vec<(u64, u32, u64)>,
    fakes: Vec<u64>,
}

impl Gathered {
    /// A value of the column with this number.
    pub(super) fn value(&mut self, value: &str, owner: u32) {
        let Some(head) = head(value.as_bytes()) else { return };
        let len = value.len().min(LONGEST) as u64;
        self.values.push((self.hasher.hash_one(value), owner, head << 16 | len));
    }

    /// What a plugin gives: it may stand anywhere by right.
    pub(super) fn fake(&mut self, value: &str) {
        self.fakes.push(self.hasher.hash_one(value));
    }

    /// What is looked for. Of several columns with the same value the first one has it.
    pub(super) fn done(mut self) -> Needles {
        self.fakes.sort_unstable();
        self.values.retain(|(hash, ..)| self.fakes.binary_search(hash).is_err());
        self.values.sort_unstable();
        self.values.dedup_by_key(|(hash, ..)| *hash);
        let mut heads: Vec<u64> = self.values.iter().map(|(_, _, head)| *head).collect();
        heads.sort_unstable();
        heads.dedup();
        let wanted = (self.values.len() as u64 * u64::from(FILTER_BITS)).next_power_of_two();
        let bits = wanted.trailing_zeros().max(FILTER_LEAST);
        let mut filter = vec![0; 1 << (bits - 6)];
        for head in &heads {
            let bit = bit(head >> 16, bits);
            if let Some(word) = filter.get_mut((bit >> 6) as usize) {
                *word |= 1 << (bit & 63);
            }
        }
        let known = self.values.iter().map(|(hash, owner, _)| (*hash, *owner)).collect();
        Needles { hasher: self.hasher, known, heads, filter, bits }
    }
}

/// Values to be looked for: their hashes, so that they take as little memory as there is, and
/// are not in it.
#[derive(Debug)]
pub(super) struct Needles {
    hasher: RandomState,
    /// Hashes, in order, and the number of the column that each is of.
    known: Vec<(u64, u32)>,
    /// The head and the length of each value, in order: many begin alike.
    heads: Vec<u64>,
    /// Most of a text fails here, without a look at the others.
    filter: Vec<u64>,
    bits: u32,
}

/// The first bytes of a value as a number.
fn head(bytes: &[u8]) -> Option<u64> {
    let head = bytes.first_chunk::<HEAD>()?;
    Some(head.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

fn bit(head: u64, bits: u32) -> u64 {
    head.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (64 - bits)
}

fn touches(c: Option<char>) -> bool {
    c.is_some_and(char::is_alphanumeric)
}

impl Needles {
    pub(super) fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Tells one text from another; spaces at the end, which a type may add, make none.
    pub(super) fn digest(&self, text: &str) -> u64 {
        self.hasher.hash_one(text.trim_end())
    }

    /// The column whose value stands in a text: of several values the first.
    pub(super) fn find(&self, text: &str) -> Option<u32> {
        let bytes = text.as_bytes();
        (0..bytes.len().saturating_sub(HEAD - 1)).find_map(|at| {
            let head = head(&bytes[at..])?;
            let bit = bit(head, self.bits);
            let word = self.filter.get((bit >> 6) as usize).copied().unwrap_or(0);
            if word >> (bit & 63) & 1 == 0 { None } else { self.at(text, at, head) }
        })
    }

    /// The same of a value that begins there.
    fn at(&self, text: &str, at: usize, head: u64) -> Option<u32> {
        let (before, rest) = (text.get(..at)?, text.get(at..)?);
        if touches(before.chars().next_back()) {
            return None;
        }
        let first = self.heads.partition_point(|known| *known < head << 16);
        let alike = self.heads.iter().skip(first).take_while(|known| **known >> 16 == head);
        alike.map(|known| (known & 0xffff) as usize).find_map(|len| {
            let (value, after) = (rest.get(..len)?, rest.get(len..)?);
            if touches(after.chars().next()) {
                return None;
            }
            let hash = self.hasher.hash_one(value);
            let known = self.known.binary_search_by_key(&hash, |(hash, _)| *hash).ok()?;
            self.known.get(known).map(|(_, owner)| *owner)
        })
    }

    /// The same within a document: its texts without the escapes of JSON.
    pub(super) fn find_in_json(&self, text: &str) -> Option<u32> {
        if !text.contains('\\') {
            return self.find(text);
        }
        match serde_json::from_str(text) {
            Ok(document) => self.walk(&document),
            Err(_) => self.find(text),
        }
    }

    fn walk(&self, value: &serde_json::Value) -> Option<u32> {
        match value {
            serde_json::Value::String(text) => self.find(text),
            serde_json::Value::Array(all) => all.iter().find_map(|value| self.walk(value)),
            serde_json::Value::Object(all) => {
                all.iter().find_map(|(key, value)| self.find(key).or_else(|| self.walk(value)))
            }
            serde_json::Value::Number(number) => self.find(&number.to_string()),
            serde_json::Value::Null | serde_json::Value::Bool(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needles() -> Needles {
        let values = ["ann@example.com", "078-05-1120", "Grüße aus Köln 7", "a \"quoted\" one"];
        gathered(&values).done()
    }

    fn gathered(values: &[&str]) -> Gathered {
        let mut gathered = Gathered::default();
        for (owner, value) in values.iter().enumerate() {
            gathered.value(value, u32::try_from(owner).unwrap());
        }
        gathered
    }

    #[test]
    fn a_value_is_the_first_column_s_and_no_fake() {
        let values = ["bob@example.com", "ann@example.com", "ann@example.com", "ann@example.org"];
        let mut all = gathered(&values);
        all.fake("ann@example.org");
        let needles = all.done();
        assert_eq!(needles.find("from ann@example.com"), Some(1));
        assert_eq!(needles.find("from ann@example.org"), None);
        assert_eq!(needles.find("ann@example or bob@example.com"), Some(0));
    }

    #[test]
    fn many_values_that_begin_alike_are_told_apart() {
        let mut all = Gathered::default();
        (0..20_000).for_each(|n| all.value(&format!("https://example.com/{n}"), n));
        let needles = all.done();
        for n in [0, 7, 4711, 19_999] {
            let text = format!("(https://example.com/{n})");
            assert_eq!(needles.find(&text), Some(n), "{text}");
        }
        assert_eq!(needles.find("see https://example.com/20000"), None);
    }

    #[test]
    fn what_stands_alone_is_found() {
        let needles = needles();
        for text in [
            "ann@example.com",
            "write to <ann@example.com>, please",
            "ssn=078-05-1120",
            "viele Grüße aus Köln 7!",
            "«ann@example.com»",
        ] {
            assert!(needles.find(text).is_some(), "{text}");
        }
        for text in ["", "ann", "joann@example.com", "ann@example.community", "1078-05-1120", "ünn"]
        {
            assert!(needles.find(text).is_none(), "{text}");
        }
    }

    #[test]
    fn documents_are_searched_without_their_escapes() {
        let needles = needles();
        for text in [
            r#"{"to": "ann@example.com"}"#,
            r#"{"to": ["x", {"y": "ann\u0040example.com"}]}"#,
            r#"{"a \"quoted\" one": 1}"#,
        ] {
            assert!(needles.find_in_json(text).is_some(), "{text}");
        }
        assert!(needles.find_in_json(r#"{"to": "bob\u0040example.com"}"#).is_none());
    }

    #[test]
    fn plain_values_tell_nothing() {
        for value in ["", "Smith", "Jamestown", "52000", "1980-05-17", "12345678", "a b", "true"] {
            assert!(!telling(value), "{value}");
        }
        for value in ["ann@x.org", "John Smith", "555-123-4567", "078051120"] {
            assert!(telling(value), "{value}");
        }
        assert!(Gathered::default().done().is_empty());
    }
}
