//! Passwords, tokens and masking keys, which no `Debug` shows.
//!
//! What can go wrong: a file that cannot be read, or a text that is not 32 bytes.

use std::fmt;
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretBox, SecretString};
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};

/// For a text that is a secret: `#[serde(deserialize_with = "secret")]`.
pub(crate) fn secret<'de, D: Deserializer<'de>>(from: D) -> Result<Option<SecretString>, D::Error> {
    String::deserialize(from).map(|text| Some(SecretString::from(text)))
}

/// Bytes of a key.
pub const KEY_BYTES: usize = 32;

/// Where a masking key is, and, once loaded, the key.
///
/// Written `{ file = "/run/secrets/masking_key" }` (32 raw bytes, or 64 hexadecimal
/// digits), or `"${MASKING_KEY}"` (64 hexadecimal digits).
#[derive(Debug)]
pub enum KeyConfig {
    /// Not read yet.
    File(PathBuf),
    /// The key.
    Loaded(SecretBox<[u8; KEY_BYTES]>),
}

impl Clone for KeyConfig {
    fn clone(&self) -> KeyConfig {
        match self {
            KeyConfig::File(path) => KeyConfig::File(path.clone()),
            KeyConfig::Loaded(key) => KeyConfig::Loaded(boxed(*key.expose_secret())),
        }
    }
}

impl KeyConfig {
    /// The key; `None` before [`KeyConfig::load`].
    #[must_use]
    pub fn key(&self) -> Option<&SecretBox<[u8; KEY_BYTES]>> {
        match self {
            KeyConfig::File(_) => None,
            KeyConfig::Loaded(key) => Some(key),
        }
    }

    /// Reads the file, if it is one; relative to `folder`.
    ///
    /// # Errors
    /// The file cannot be read or does not hold a key.
    pub fn load(&mut self, folder: &Path) -> Result<(), String> {
        let KeyConfig::File(path) = self else { return Ok(()) };
        let path = folder.join(path);
        let bytes = std::fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let key = parse(&bytes).ok_or_else(|| format!("{}: {NO_KEY}", path.display()))?;
        *self = KeyConfig::Loaded(boxed(key));
        Ok(())
    }
}

const NO_KEY: &str = "no key: expected 64 hexadecimal digits, or a file of 32 bytes \
                      (\"openssl rand -hex 32\" makes one)";

/// Thirty-two bytes as they are, or in hexadecimal with white space around them.
fn parse(bytes: &[u8]) -> Option<[u8; KEY_BYTES]> {
    if let Ok(raw) = bytes.try_into() {
        return Some(raw);
    }
    let digits = bytes.trim_ascii();
    let mut key = [0; KEY_BYTES];
    if digits.len() != 2 * KEY_BYTES {
        return None;
    }
    for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
        let [high, low] = pair else { return None };
        let digit = |c: &u8| char::from(*c).to_digit(16).and_then(|d| u8::try_from(d).ok());
        *byte = digit(high)? << 4 | digit(low)?;
    }
    Some(key)
}

fn boxed(key: [u8; KEY_BYTES]) -> SecretBox<[u8; KEY_BYTES]> {
    SecretBox::new(Box::new(key))
}

impl<'de> Deserialize<'de> for KeyConfig {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<KeyConfig, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = KeyConfig;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("{ file = \"…\" } or \"${VARIABLE}\"")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<KeyConfig, E> {
                // Raw bytes are for files: 32 letters on a line are a pass-phrase.
                let key = (text.len() > KEY_BYTES).then(|| parse(text.as_bytes())).flatten();
                key.map(|key| KeyConfig::Loaded(boxed(key))).ok_or_else(|| E::custom(NO_KEY))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<KeyConfig, A::Error> {
                let key = map.next_key::<String>()?;
                if key.as_deref() != Some("file") {
                    return Err(A::Error::custom("a key is { file = \"…\" } or \"${VARIABLE}\""));
                }
                let path = map.next_value()?;
                match map.next_key::<String>()? {
                    None => Ok(KeyConfig::File(path)),
                    Some(_) => Err(A::Error::custom("a key has nothing beside file = \"…\"")),
                }
            }
        }
        from.deserialize_any(Any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_32_bytes_or_64_digits() {
        let hex = "00ff".repeat(16);
        let key = parse(format!(" {hex}\n").as_bytes()).unwrap();
        assert_eq!(key[..2], [0, 255]);
        assert_eq!(parse(&[7; 32]), Some([7; 32]));
        for bad in ["", "00", &hex[1..], &hex.replace('f', "g"), &"00".repeat(33)] {
            assert_eq!(parse(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn no_debug_shows_it() {
        let loaded = KeyConfig::Loaded(boxed([171; 32]));
        let shown = format!("{:?}", KeyConfig::clone(&loaded));
        assert!(!shown.contains("171") && !shown.contains("ab"), "{shown}");
        assert!(loaded.key().is_some());
    }
}
