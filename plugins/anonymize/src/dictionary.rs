//! The lists that fakes are made of, ours and fixed.
//!
//! Which entry a value gets depends on the number of entries and on their order, so a
//! published list never changes: a new one is a new file with a new version, which
//! fingerprints carry. A test holds the lists to their checksums.

use std::sync::LazyLock;

/// Version of the lists, as fingerprints have it.
pub(crate) const VERSION: u32 = 1;

/// A list and the length of its longest entry, in characters (all are ASCII).
#[derive(Debug)]
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

/// A list that is read when it is first used.
pub(crate) type List = LazyLock<Dictionary>;

macro_rules! lists {
    ($($name:ident = $file:literal;)*) => {
        $(
            pub(crate) static $name: List =
                LazyLock::new(|| Dictionary::read(include_str!(concat!("../data/", $file, ".txt"))));
        )*

        /// All lists by the names of their files.
        #[cfg(test)]
        pub(crate) static ALL: &[(&str, &List)] = &[$(($file, &$name)),*];
    };
}

lists! {
    FIRST = "first_names";
    LAST = "last_names";
    ADJECTIVES = "adjectives";
    CARD_KINDS = "card_kinds";
    CITIES = "cities";
    COMPANY_KINDS = "company_kinds";
    COUNTRIES = "countries";
    CURRENCIES = "currencies";
    GENDERS = "genders";
    INDUSTRIES = "industries";
    JOB_AREAS = "job_areas";
    JOB_LEVELS = "job_levels";
    JOB_ROLES = "job_roles";
    MATERIALS = "materials";
    MONTHS = "months";
    NOUNS = "nouns";
    PRODUCTS = "products";
    STATES = "states";
    STATE_CODES = "state_codes";
    STREETS = "streets";
    STREET_KINDS = "street_kinds";
    TITLES = "titles";
    WEEKDAYS = "weekdays";
    WORDS = "words";
}

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
        let now: Vec<String> = ALL
            .iter()
            .map(|(name, list)| {
                let (entries, longest, fnv) = checksum(list);
                format!("{name} {entries} {longest} {fnv:016x}\n")
            })
            .collect();
        assert_eq!(now.concat(), include_str!("../data/checksums"));
        assert_eq!(checksum(&FIRST), (452, 10, 0x1f22_990d_ff15_a87a));
        assert_eq!(checksum(&LAST), (609, 11, 0x4451_275b_4686_f9e6));
    }

    #[test]
    fn entries_are_plain_and_stand_once() {
        for (name, list) in ALL {
            let mut names = list.names.clone();
            let plain = |n: &&str| !n.trim().is_empty() && n.trim() == *n && n.is_ascii();
            assert!(names.iter().all(plain), "{name}");
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), list.names.len(), "{name}");
        }
        for list in [&FIRST, &LAST, &ADJECTIVES, &NOUNS, &WORDS, &STREETS] {
            assert!(list.names.iter().all(|n| n.bytes().all(|b| b.is_ascii_alphabetic())));
        }
        assert_eq!(STATES.names.len(), STATE_CODES.names.len());
    }
}
