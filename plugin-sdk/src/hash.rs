//! What a keyed hash is used for: picking, spelling out, and normalising before it.
//!
//! A fake is a pure function of its hash, and hashes are for ever (`keys.rs`), so the
//! arithmetic here is part of every user's data: it may be added to, never changed.

use std::borrow::Cow;
use std::fmt;

/// The keyed hash of a value, 128 bits.
///
/// ```
/// use kasho_plugin_sdk::Hash;
///
/// let hash = Hash([0xAB; 16]);
/// assert_eq!(hash.to_string(), "ab".repeat(16));
/// assert_eq!(hash.short().as_str().len(), 16);
/// assert_eq!(["Ada", "Bob", "Cyd"][hash.pick(3)], "Cyd");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Hash(pub [u8; 16]);

impl Hash {
    /// As a number, big-endian.
    #[must_use]
    pub fn number(self) -> u128 {
        u128::from_be_bytes(self.0)
    }

    /// A choice among `len`, each as likely: `(number × len) >> 128`. 0 if `len` is 0.
    #[must_use]
    pub fn pick(self, len: usize) -> usize {
        self.picks().next(len)
    }

    /// Several choices that do not depend on one another, while 128 bits last.
    #[must_use]
    pub fn picks(self) -> Picks {
        Picks(self.number())
    }

    /// The last 80 bits in 16 characters of `a-z2-7` (base 32, RFC 4648, lower case):
    /// what makes a fake unique.
    #[must_use]
    pub fn short(self) -> Short {
        let alphabet = b"abcdefghijklmnopqrstuvwxyz234567";
        let number = self.number();
        Short(std::array::from_fn(|i| alphabet[(number >> (75 - 5 * i)) as usize & 31]))
    }
}

/// All 128 bits as 32 hexadecimal digits.
impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = b"0123456789abcdef";
        let mut text = [0; 32];
        for (pair, byte) in text.chunks_exact_mut(2).zip(self.0) {
            pair[0] = digits[usize::from(byte >> 4)];
            pair[1] = digits[usize::from(byte & 15)];
        }
        f.write_str(ascii(&text))
    }
}

/// See [`Hash::short`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Short([u8; 16]);

impl Short {
    /// The characters.
    #[must_use]
    pub fn as_str(&self) -> &str {
        ascii(&self.0)
    }
}

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

fn ascii(text: &[u8]) -> &str {
    std::str::from_utf8(text).unwrap_or_default()
}

/// Choices drawn from one hash, each from what the one before left over.
///
/// ```
/// use kasho_plugin_sdk::Hash;
///
/// let mut picks = Hash([0xAB; 16]).picks();
/// let (first, last) = (picks.next(1_000), picks.next(1_000));
/// assert!(first < 1_000 && last < 1_000);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Picks(u128);

impl Picks {
    /// The next choice among `len`: the high word of `state × len`; the low word is the
    /// next state.
    #[must_use]
    pub fn next(&mut self, len: usize) -> usize {
        let (len, mask) = (len as u128, u128::from(u64::MAX));
        let low = (self.0 & mask) * len;
        let high = (self.0 >> 64) * len + (low >> 64);
        self.0 = high << 64 | low & mask;
        usize::try_from(high >> 64).unwrap_or(0)
    }
}

/// What is made equal before hashing, so that equal things get equal fakes.
///
/// ```
/// use kasho_plugin_sdk::Normaliser;
///
/// assert_eq!(Normaliser::Lower.apply("  Ada@X.org "), "ada@x.org");
/// assert_eq!(Normaliser::Numeric.apply("1.00"), Normaliser::Numeric.apply("1e0"));
/// assert_eq!(Normaliser::named("trim"), Some(Normaliser::Trim));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Normaliser {
    /// The text itself.
    #[default]
    Exact,
    /// Without spaces at either end, as `char(n)` pads.
    Trim,
    /// Trimmed, then in lower case (Unicode).
    Lower,
    /// The number, whatever its zeros and exponent: `1`, `1.00` and `1e0` are equal. A
    /// text that is no decimal number is trimmed.
    Numeric,
    /// Without spaces at the end, as `char(n)` compares.
    Char,
    /// In lower case, as `citext` compares: letter by letter, each by Unicode's simple mapping.
    /// PostgreSQL does so under most locales of UTF-8; under `C` it knows ASCII letters only,
    /// and ICU looks at the letters around one (`ΟΔΟΣ`), so there the two may differ.
    Citext,
}

impl Normaliser {
    /// All of them.
    pub const ALL: [Normaliser; 6] = [
        Normaliser::Exact,
        Normaliser::Trim,
        Normaliser::Lower,
        Normaliser::Numeric,
        Normaliser::Char,
        Normaliser::Citext,
    ];

    /// The one called `exact`, `trim`, `lower`, `numeric`, `char` or `citext`.
    #[must_use]
    pub fn named(name: &str) -> Option<Normaliser> {
        Normaliser::ALL.into_iter().find(|n| n.name() == name)
    }

    /// Its name in rules and fingerprints.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Normaliser::Exact => "exact",
            Normaliser::Trim => "trim",
            Normaliser::Lower => "lower",
            Normaliser::Numeric => "numeric",
            Normaliser::Char => "char",
            Normaliser::Citext => "citext",
        }
    }

    /// The normal form of a value.
    #[must_use]
    pub fn apply(self, value: &str) -> Cow<'_, str> {
        let trimmed = value.trim_matches(' ');
        match self {
            Normaliser::Exact => value.into(),
            Normaliser::Trim => trimmed.into(),
            Normaliser::Lower => lower(trimmed),
            Normaliser::Char => value.trim_end_matches(' ').into(),
            Normaliser::Citext => lower(value),
            Normaliser::Numeric => numeric(trimmed).map_or(trimmed.into(), Cow::from),
        }
    }
}

/// Letter by letter: [`str::to_lowercase`] ends a word in another sigma.
fn lower(text: &str) -> Cow<'_, str> {
    let is_lower = |b: u8| b.is_ascii() && !b.is_ascii_uppercase();
    let letter = |c: char| c.to_lowercase().next().unwrap_or(c);
    if text.bytes().all(is_lower) { text.into() } else { text.chars().map(letter).collect() }
}

/// `-12.50` → `-125e-1`: sign, digits without zeros at either end, exponent of ten.
fn numeric(text: &str) -> Option<String> {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i64>().ok()?),
        None => (text, 0),
    };
    let (sign, mantissa) = match mantissa.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", mantissa.strip_prefix('+').unwrap_or(mantissa)),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let kept = digits.trim_end_matches('0');
    let zeros = i64::try_from(digits.len() - kept.len()).ok()?;
    let exponent = exponent.checked_add(zeros)?.checked_sub(i64::try_from(fraction.len()).ok()?)?;
    match kept.trim_start_matches('0') {
        "" => Some("0e0".to_owned()),
        kept => Some(format!("{sign}{kept}e{exponent}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn picks_are_the_high_word_of_a_product() {
        let hash = Hash(0xfedc_ba98_7654_3210_0123_4567_89ab_cdef_u128.to_be_bytes());
        assert_eq!(hash.pick(1000), 995);
        assert_eq!(hash.pick(0), 0);
        assert_eq!(hash.pick(1), 0);
        assert_eq!(Hash([0xFF; 16]).pick(usize::MAX), usize::MAX - 1);
        let mut picks = hash.picks();
        assert_eq!([picks.next(256), picks.next(256), picks.next(65536)], [0xfe, 0xdc, 0xba98]);
    }

    #[test]
    fn a_hash_is_spelt_out() {
        let hash = Hash(0xfedc_ba98_7654_3210_0123_4567_89ab_cdef_u128.to_be_bytes());
        assert_eq!(hash.to_string(), "fedcba98765432100123456789abcdef");
        assert_eq!(hash.short().as_str(), "giiaci2fm6e2xtpp");
    }

    #[test]
    fn equal_things_are_made_equal() {
        for (normaliser, a, b) in [
            (Normaliser::Trim, "ab   ", "ab"),
            (Normaliser::Lower, "Ada@Example.COM ", "ada@example.com"),
            (Normaliser::Lower, "GRÜSSE", "grüsse"),
            (Normaliser::Numeric, "1.00", "1"),
            (Normaliser::Numeric, "+0012.50", "12.5"),
            (Normaliser::Numeric, "1e+3", "1000"),
            (Normaliser::Numeric, "-0.0", "0"),
            (Normaliser::Numeric, " NaN", "NaN"),
            (Normaliser::Char, "ab   ", "ab"),
            (Normaliser::Citext, "Ada@Example.COM", "ada@example.com"),
            (Normaliser::Citext, "ΟΔΟΣ", "οδοσ"),
            (Normaliser::Lower, "ΟΔΟΣ ", "Οδοσ"),
            (Normaliser::Citext, "İ", "i"),
        ] {
            assert_eq!(normaliser.apply(a), normaliser.apply(b), "{a} {b}");
        }
        for (a, b) in [("1", "10"), ("1", "-1"), ("0.1", "1"), ("1.1.1", "1.11"), ("", "0")] {
            assert_ne!(Normaliser::Numeric.apply(a), Normaliser::Numeric.apply(b), "{a} {b}");
        }
        for (normaliser, a, b) in [
            (Normaliser::Exact, "A", "a"),
            (Normaliser::Char, " a", "a"),
            (Normaliser::Char, "A", "a"),
            (Normaliser::Citext, "a ", "a"),
            (Normaliser::Citext, "οδος", "οδοσ"),
        ] {
            assert_ne!(normaliser.apply(a), normaliser.apply(b), "{a} {b}");
        }
        assert_eq!(Normaliser::Exact.apply(" A "), " A ");
        assert_eq!(Normaliser::named("lower"), Some(Normaliser::Lower));
        assert_eq!(Normaliser::named("Lower"), None);
    }
}
