//! The names that fakes are made of, ours and fixed.
//!
//! Which name a value gets depends on the number of names and on their order, so a
//! published list never changes: a new one is a new file with a new version, which
//! fingerprints carry. A test holds the lists to their checksums.

use std::sync::LazyLock;

/// Version of the lists, as fingerprints have it.
pub(crate) const VERSION: u32 = 1;

/// A list and the length of its longest entry, in characters (all are ASCII letters).
pub(crate) struct Dictionary {
    /// The entries.
    pub(crate) names: Vec<&'static str>,
    /// Characters of the longest.
    pub(crate) longest: usize,
}

impl Dictionary {
    fn read(text: &'static str) -> Dictionary {
        let names: Vec<_> = text.lines().collect();
        let longest = names.iter().map(|name| name.len()).max().unwrap_or(0);
        Dictionary { names, longest }
    }
}

/// First names.
pub(crate) static FIRST: LazyLock<Dictionary> =
    LazyLock::new(|| Dictionary::read(include_str!("../data/first_names.txt")));

/// Last names.
pub(crate) static LAST: LazyLock<Dictionary> =
    LazyLock::new(|| Dictionary::read(include_str!("../data/last_names.txt")));

#[cfg(test)]
mod tests {
    use super::*;

    fn checksum(dictionary: &Dictionary) -> (usize, usize, u64) {
        let bytes = dictionary.names.iter().flat_map(|name| name.bytes().chain([0]));
        let fnv = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        (dictionary.names.len(), dictionary.longest, fnv)
    }

    #[test]
    fn published_lists_never_change() {
        assert_eq!(checksum(&FIRST), (452, 10, 0x1f22_990d_ff15_a87a));
        assert_eq!(checksum(&LAST), (609, 11, 0x4451_275b_4686_f9e6));
    }

    #[test]
    fn names_are_letters_and_stand_once() {
        for dictionary in [&FIRST, &LAST] {
            let mut names = dictionary.names.clone();
            assert!(
                names.iter().all(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_alphabetic()))
            );
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), dictionary.names.len());
        }
    }
}
