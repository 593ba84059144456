//! Finding many values in a text at once. Pure.
//!
//! A value counts where it stands alone: neither a letter nor a digit touches it, so that a
//! number is not found in a longer one. What can go wrong: values that are too plain to tell
//! anything are found everywhere by chance; [`telling`] says which are worth looking for.

use std::collections::HashMap;

/// All values are longer than this.
const HEAD: usize = 6;
const FILTER_BITS: u64 = 1 << 20;
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

/// Values to be looked for.
#[derive(Debug, Default)]
pub(super) struct Needles {
    values: Vec<String>,
    by_head: HashMap<[u8; HEAD], Vec<u32>>,
    /// Most of a text fails here, without a look into the map.
    filter: Vec<u64>,
}

fn bit(head: &[u8]) -> u64 {
    let mut wide = [0; 8];
    wide[..HEAD].copy_from_slice(&head[..HEAD]);
    u64::from_le_bytes(wide).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 44
}

impl Needles {
    /// Takes values that are [`telling`]; others are left out.
    pub(super) fn new(values: impl IntoIterator<Item = String>) -> Needles {
        let mut needles = Needles { filter: vec![0; 1 << 14], ..Needles::default() };
        for value in values.into_iter().filter(|value| telling(value)) {
            let Some(head) = value.as_bytes().first_chunk::<HEAD>().copied() else { continue };
            let bit = bit(&head) % FILTER_BITS;
            if let Some(word) = needles.filter.get_mut((bit >> 6) as usize) {
                *word |= 1 << (bit & 63);
            }
            let number = u32::try_from(needles.values.len()).unwrap_or(u32::MAX);
            needles.by_head.entry(head).or_default().push(number);
            needles.values.push(value);
        }
        needles
    }

    /// A value by its number.
    pub(super) fn value(&self, number: u32) -> &str {
        self.values.get(number as usize).map_or("", String::as_str)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The first value that stands in a text.
    pub(super) fn find(&self, text: &str) -> Option<u32> {
        let bytes = text.as_bytes();
        bytes.windows(HEAD).enumerate().find_map(|(at, head)| {
            let bit = bit(head) % FILTER_BITS;
            let word = self.filter.get((bit >> 6) as usize).copied().unwrap_or(0);
            if word >> (bit & 63) & 1 == 0 {
                return None;
            }
            let head = head.first_chunk::<HEAD>()?;
            let known = self.by_head.get(head)?;
            known.iter().copied().find(|number| self.stands_at(text, at, *number))
        })
    }

    fn stands_at(&self, text: &str, at: usize, number: u32) -> bool {
        let value = self.value(number);
        let (Some(before), Some(rest)) = (text.get(..at), text.get(at..)) else { return false };
        let Some(after) = rest.strip_prefix(value) else { return false };
        let touches = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
        !touches(before.chars().next_back()) && !touches(after.chars().next())
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
        Needles::new(values.map(str::to_owned))
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
        assert!(Needles::new(["Smith".to_owned()]).is_empty());
    }
}
