//! Turns the tokens of the `tokenize` plugin back into values: what they are made of is told
//! in that plugin's README.
//!
//! What can go wrong: a text that is no token, or not of this key and domain
//! ([`TokenError`]). No error holds a token or a value.

use kasho_plugin_sdk::keys::DomainKey;

use super::keys::Key;

/// Bytes of the synthetic IV, and of one block of the stream.
const BLOCK: usize = 16;

/// How a token's bytes are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// RFC 4648, section 5, without padding.
    Base64Url,
    /// Lower-case hexadecimal digits.
    Hex,
}

/// Why a text is not turned back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It does not begin with the prefix.
    #[error("it does not begin with the prefix")]
    Prefix,
    /// It is nothing that the encoding writes, or too short.
    #[error("it is no token in this encoding, or was cut")]
    Malformed,
    /// It was changed, or made otherwise.
    #[error("it is no token of this key and domain, or was changed")]
    Foreign,
}

/// What turns the tokens of one domain back.
#[derive(Debug)]
pub struct Opener {
    siv: DomainKey,
    stream: DomainKey,
    prefix: String,
    encoding: Encoding,
}

impl Opener {
    /// For the tokens of a domain, as a rule of the plugin names it.
    #[must_use]
    pub fn new(key: &Key, domain: &str, prefix: &str, encoding: Encoding) -> Opener {
        Opener {
            siv: key.domain(&format!("tokenize/1/siv/{domain}")),
            stream: key.domain(&format!("tokenize/1/stream/{domain}")),
            prefix: prefix.to_owned(),
            encoding,
        }
    }

    /// The value of a token.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn open(&self, token: &str) -> Result<String, TokenError> {
        let written = token.strip_prefix(&self.prefix).ok_or(TokenError::Prefix)?;
        let (digits, bits): (fn(u8) -> Option<u32>, _) = match self.encoding {
            Encoding::Base64Url => (base64, 6),
            Encoding::Hex => (hex, 4),
        };
        let bytes = unpack(written, digits, bits).ok_or(TokenError::Malformed)?;
        let (siv, rest) = bytes.split_first_chunk::<BLOCK>().ok_or(TokenError::Malformed)?;
        let name: String = siv.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut value = Vec::with_capacity(rest.len());
        for (block, text) in rest.chunks(BLOCK).enumerate() {
            let key = self.stream.prf(format!("{name}/{block}").as_bytes());
            value.extend(text.iter().zip(key).map(|(byte, key)| byte ^ key));
        }
        let same = subtle::ConstantTimeEq::ct_eq(&self.siv.prf(&value)[..], &siv[..]);
        if !bool::from(same) {
            return Err(TokenError::Foreign);
        }
        String::from_utf8(value).map_err(|_| TokenError::Foreign)
    }
}

fn base64(c: u8) -> Option<u32> {
    Some(u32::from(match c {
        b'A'..=b'Z' => c - b'A',
        b'a'..=b'z' => c - b'a' + 26,
        b'0'..=b'9' => c - b'0' + 52,
        b'-' => 62,
        b'_' => 63,
        _ => return None,
    }))
}

fn hex(c: u8) -> Option<u32> {
    char::from(c).to_digit(16).filter(|_| !c.is_ascii_uppercase())
}

/// Digits of `bits` bits each; what is left over at the end is zero, or it is no token.
fn unpack(text: &str, digit: fn(u8) -> Option<u32>, bits: u32) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let (mut wide, mut have) = (0_u32, 0);
    for c in text.bytes() {
        wide = wide << bits | digit(c)?;
        have += bits;
        if have >= 8 {
            have -= 8;
            bytes.push(u8::try_from(wide >> have).ok()?);
            wide &= (1 << have) - 1;
        }
    }
    (wide == 0 && have < bits).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opener(domain: &str, encoding: Encoding) -> Opener {
        // Not `Key::new`, which takes no such key: the vectors are those of the plugin.
        let key = |name: &str| DomainKey::derive(&[7; 32], &format!("tokenize/1/{name}/{domain}"));
        Opener { siv: key("siv"), stream: key("stream"), prefix: "tok_".to_owned(), encoding }
    }

    /// The plugin's golden vectors, the other way round.
    #[test]
    fn golden_vectors_come_back() {
        use Encoding::{Base64Url, Hex};
        for (domain, encoding, value, token) in [
            ("email", Base64Url, "", "YZ6lkgoEwO30PitrQ3hrfQ"),
            ("email", Base64Url, "ada@example.com", "RvCzVYgVCmceQC0Ldt7rkeaa7cDP03QkWe_ttBwHJA"),
            ("email", Hex, "Grüße", "1c9ae423e0a768af12c4229f3e46c0869740e422272727"),
            ("person", Base64Url, "ada@example.com", "fmLihrmNcXjSKQY61CMxk1U7VnbANDy6mlguZbYXOA"),
            ("email", Base64Url, "exactly 16 bytes", "5DPQb4ED_IPZXB4C7GCOvyeiEnHGAPcfHbC43VoHaNY"),
            (
                "email",
                Hex,
                "a value of thirty-three bytes: 33",
                "ede7af37d07c95b6dfc650c27dfded8fff529c92e1c9e2ab908fceb06365f0d2698753f5a2dadfc6d592177935e7c9a5af",
            ),
        ] {
            let opened = opener(domain, encoding).open(&format!("tok_{token}"));
            assert_eq!(opened.as_deref(), Ok(value), "{domain} {token}");
        }
    }

    #[test]
    fn what_is_no_token_is_refused() {
        let good = "tok_RvCzVYgVCmceQC0Ldt7rkeaa7cDP03QkWe_ttBwHJA";
        let email = opener("email", Encoding::Base64Url);
        for (token, want) in [
            (&good[4..], TokenError::Prefix),
            ("tok_", TokenError::Malformed),
            ("tok_RvCzVYgVCmceQC0Ldt7r", TokenError::Malformed),
            ("tok_RvCz+YgVCmceQC0Ldt7rkeaa7cDP03QkWe_ttBwHJA", TokenError::Malformed),
            // A bit that no byte holds.
            ("tok_RvCzVYgVCmceQC0Ldt7rkeaa7cDP03QkWe_ttBwHJB", TokenError::Malformed),
            (&good[..good.len() - 2], TokenError::Foreign),
            ("tok_SvCzVYgVCmceQC0Ldt7rkeaa7cDP03QkWe_ttBwHJA", TokenError::Foreign),
        ] {
            assert_eq!(email.open(token), Err(want), "{token}");
        }
        assert_eq!(opener("person", Encoding::Base64Url).open(good), Err(TokenError::Foreign));
        let upper = "tok_1C9AE423E0A768AF12C4229F3E46C0869740E422272727";
        assert_eq!(opener("email", Encoding::Hex).open(upper), Err(TokenError::Malformed));
    }
}
