//! Masking keys: read once, never shown. A key is 32 bytes, from a file (raw, hexadecimal or
//! base64) or from an environment variable (hexadecimal or base64); there is no default.
//!
//! What can go wrong: not there, not readable, not 32 bytes, or so regular that nobody can
//! have drawn it by lot ([`KeyError`]). No error holds any part of a key.

use std::fmt;

use kasho_plugin_sdk::keys::{DomainKey, MASTER_BYTES, TEST_MASTER};
use secrecy::{ExposeSecret, SecretBox};

use super::config::KeySource;

/// A masking key.
pub struct Key {
    name: String,
    master: SecretBox<[u8; MASTER_BYTES]>,
    check: String,
}

/// Why there is no key. Never says what was found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read.
    #[error(
        "key `{name}`: cannot read {path}: {reason}; name a file that holds the key and that this \
         user may read (`openssl rand -hex 32` makes one for a copy that is new)"
    )]
    Unreadable {
        /// Name in `[keys]`.
        name: String,
        /// The file.
        path: String,
        /// The system's words.
        reason: String,
    },
    /// The variable is not set.
    #[error(
        "key `{name}`: the environment variable {variable} is not set: set it, or name \
         a file, {{ file = \"…\" }}"
    )]
    Unset {
        /// Name in `[keys]`.
        name: String,
        /// The variable.
        variable: String,
    },
    /// It is something else.
    #[error(
        "key `{0}` is not 32 bytes: give 64 hexadecimal digits, 44 characters of base64, or a \
         file of exactly 32 raw bytes (`openssl rand -hex 32` makes one)"
    )]
    NotAKey(String),
    /// It is a placeholder.
    #[error("key `{0}` is a placeholder, not random: `openssl rand -hex 32` makes a real one")]
    Placeholder(String),
}

impl Key {
    /// Reads a key.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn read(name: &str, source: &KeySource) -> Result<Key, KeyError> {
        let found = match source {
            KeySource::File(path) => std::fs::read(path).map_err(|e| KeyError::Unreadable {
                name: name.to_owned(),
                path: path.display().to_string(),
                reason: e.kind().to_string(),
            })?,
            KeySource::Env(variable) => std::env::var(variable)
                .map_err(|_| KeyError::Unset { name: name.to_owned(), variable: variable.clone() })?
                .into_bytes(),
        };
        let raw = matches!(source, KeySource::File(_));
        let found = SecretBox::new(Box::new(found));
        let bytes = decode(found.expose_secret(), raw);
        Key::new(name, bytes.ok_or_else(|| KeyError::NotAKey(name.to_owned()))?)
    }

    /// The key of fixtures, which everybody knows: for tools that run test data.
    pub(super) fn of_fixtures() -> Key {
        Key::whatever("fixtures", TEST_MASTER)
    }

    /// A key from its bytes.
    ///
    /// # Errors
    /// [`KeyError::Placeholder`] if all bytes are the same.
    pub fn new(name: &str, bytes: [u8; MASTER_BYTES]) -> Result<Key, KeyError> {
        if bytes.iter().all(|b| *b == bytes[0]) {
            return Err(KeyError::Placeholder(name.to_owned()));
        }
        Ok(Key::whatever(name, bytes))
    }

    fn whatever(name: &str, bytes: [u8; MASTER_BYTES]) -> Key {
        // Domains of plugins cannot hold a zero byte, so this one is nobody else's.
        let check = DomainKey::derive(&bytes, "\0check").prf(b"kasho");
        let check = check[..8].iter().map(|b| format!("{b:02x}")).collect();
        Key { name: name.to_owned(), master: SecretBox::new(Box::new(bytes)), check }
    }

    /// Its name in `[keys]`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The check value: 16 hexadecimal digits that say whether a key is the same and nothing
    /// else about it. It stands in the checkpoint; another key under the same epoch is refused.
    #[must_use]
    pub fn check_value(&self) -> &str {
        &self.check
    }

    /// The key of one domain.
    #[must_use]
    pub(super) fn domain(&self, domain: &str) -> DomainKey {
        DomainKey::derive(self.master.expose_secret(), domain)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({}, {})", self.name, self.check)
    }
}

fn decode(found: &[u8], raw_allowed: bool) -> Option<[u8; MASTER_BYTES]> {
    let hex_only = found.iter().all(u8::is_ascii_hexdigit);
    if raw_allowed && found.len() == MASTER_BYTES && !hex_only {
        return found.try_into().ok();
    }
    let text = std::str::from_utf8(found).ok()?.trim_ascii();
    match text.len() {
        64 => {
            let digit = |c: u8| char::from(c).to_digit(16).and_then(|d| u8::try_from(d).ok());
            let mut key = [0; MASTER_BYTES];
            for (byte, pair) in key.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
                *byte = digit(pair[0])? << 4 | digit(pair[1])?;
            }
            Some(key)
        }
        43 | 44 => base64(text.strip_suffix('=').unwrap_or(text)),
        _ => None,
    }
}

/// RFC 4648, sections 4 and 5; 43 characters without padding are 32 bytes and two spare bits.
fn base64(text: &str) -> Option<[u8; MASTER_BYTES]> {
    let mut key = [0; MASTER_BYTES];
    let (mut bits, mut have, mut at) = (0_u32, 0, 0);
    for c in text.bytes() {
        let digit = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(digit);
        have += 6;
        if have >= 8 {
            have -= 8;
            *key.get_mut(at)? = (bits >> have & 0xFF) as u8;
            at += 1;
        }
    }
    (at == MASTER_BYTES && bits & 3 == 0).then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(content: &[u8]) -> Result<Key, KeyError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, content).unwrap();
        Key::read("k1", &KeySource::File(path))
    }

    fn ascending() -> [u8; 32] {
        std::array::from_fn(|i| u8::try_from(i).unwrap())
    }

    #[test]
    fn three_spellings_are_one_key() {
        let hex = "000102030405060708090a0b0c0d0e0f101112131415161718191A1B1C1D1E1F\n";
        let base64 = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
        let want = Key::new("k1", ascending()).unwrap();
        for content in [&ascending()[..], hex.as_bytes(), base64.as_bytes()] {
            assert_eq!(file(content).unwrap().check_value(), want.check_value());
        }
    }

    /// Made by Python's `hmac` and `hashlib`, HKDF written out by hand.
    #[test]
    fn golden_vectors() {
        let key = Key::new("k1", ascending()).unwrap();
        let hash = |domain: &str, value: &str| {
            u128::from_be_bytes(key.domain(domain).prf(value.as_bytes()))
        };
        assert_eq!(hash("email", "ada@example.com"), 0x9e5d_b7c3_083b_e84f_9da3_b921_09f4_4c26);
        assert_eq!(hash("person", "Grüße"), 0xb25e_9ba3_4f8b_c1ef_fc30_6671_73c9_6ff7);
        assert_eq!(key.check_value(), "df7dbd25367f8ae6");
    }

    #[test]
    fn what_is_no_key_is_refused_without_showing_it() {
        let short = file(b"c0ffee").unwrap_err();
        assert_eq!(short, KeyError::NotAKey("k1".to_owned()));
        assert!(file(&[b'a'; 32]).is_err(), "16 bytes in hexadecimal are not 32 raw ones");
        assert!(file(&[b'z'; 44]).is_err());
        assert_eq!(file(&[0; 32]).unwrap_err(), KeyError::Placeholder("k1".to_owned()));
        let unset = Key::read("k1", &KeySource::Env("KASHO_NO_SUCH_KEY".to_owned()));
        assert!(matches!(unset, Err(KeyError::Unset { .. })));
        let missing = Key::read("k1", &KeySource::File("/nonexistent/key".into()));
        assert!(matches!(missing, Err(KeyError::Unreadable { .. })));
        assert!(!format!("{:?}", Key::new("k1", ascending())).contains("000102"));
    }
}
