//! A text for a text, one to one and of any length: deterministic encryption.
//!
//! As SIV does (RFC 5297): the keyed hash of the text is its nonce, the text is added to a
//! stream made of that nonce, and both are spelt out in base 32. Whoever has the key could
//! undo it, so no two texts become one. It is not AES-SIV: all is made of the host's HMAC.
//! Fixed for ever; tests pin it. Nothing can go wrong.

use kasho_plugin_sdk::Hash;

/// What is hashed for block `i` of a text's stream. A zero byte is in no value of
/// PostgreSQL's, so this collides with none.
pub(crate) fn block(nonce: Hash, i: usize) -> String {
    format!("\0token/1\0{nonce}\0{i}")
}

/// Blocks that a text needs.
pub(crate) fn blocks(text: &str) -> usize {
    text.len().div_ceil(16)
}

/// The token of a text.
pub(crate) fn token(text: &str, nonce: Hash, stream: &[Hash]) -> String {
    let stream = stream.iter().flat_map(|hash| hash.0);
    let sealed = text.bytes().zip(stream).map(|(a, b)| a ^ b);
    let bytes: Vec<u8> = nonce.0.into_iter().chain(sealed).collect();
    base32(&bytes)
}

/// Base 32 (RFC 4648) in lower case, without padding.
fn base32(bytes: &[u8]) -> String {
    let alphabet = b"abcdefghijklmnopqrstuvwxyz234567";
    let (mut text, mut held, mut bits) = (String::new(), 0_u32, 0);
    for byte in bytes {
        held = (held << 8) | u32::from(*byte);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            text.push(char::from(alphabet[(held >> bits & 31) as usize]));
        }
        held &= (1 << bits) - 1;
    }
    if bits > 0 {
        text.push(char::from(alphabet[(held << (5 - bits) & 31) as usize]));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base32_is_rfc_4648s() {
        for (text, want) in [("", ""), ("f", "my"), ("fo", "mzxq"), ("foobar", "mzxw6ytboi")] {
            assert_eq!(base32(text.as_bytes()), want);
        }
    }
}
