//! The token of a value: a construction for ever, since whoever holds tokens wants to turn
//! them back.
//!
//! A synthetic IV as in SIV (RFC 5297) and deterministic authenticated encryption (Rogaway
//! and Shrimpton, 2006), made of the only keyed function that a guest may call, the host's
//! `prf(domain, text)`, 16 bytes: the key itself never enters a guest. For a value `v` (its
//! UTF-8 bytes) of domain `d`:
//!
//! ```text
//! s     = prf("tokenize/1/siv/" + d, v)
//! k_i   = prf("tokenize/1/stream/" + d, hex(s) + "/" + decimal(i)),   i = 0, 1, 2, …
//! c     = v XOR (k_0 ‖ k_1 ‖ …)
//! token = prefix + encode(s ‖ c)
//! ```
//!
//! `hex` is of lower case; `encode` is base64url without padding (RFC 4648, section 5) or
//! `hex`. Whoever has the key computes `k_i` from `s`, takes `v` from `c`, and knows that
//! nothing was changed when `prf(…, v)` is `s` again. Two values of a domain have one token
//! never: `s` and `c` together are injective. Nothing can go wrong here.

use kasho_plugin_sdk::{Domain, Hash, Out, Texts};

/// Bytes of the synthetic IV, and of one block of the stream.
pub(crate) const BLOCK: usize = 16;
/// Blocks that the host is asked for at once.
const ASKED: usize = 1024;

/// The domain of the synthetic IV.
pub(crate) fn siv_domain(domain: &str) -> String {
    format!("tokenize/1/siv/{domain}")
}

/// The domain of the key stream.
pub(crate) fn stream_domain(domain: &str) -> String {
    format!("tokenize/1/stream/{domain}")
}

/// How a token's bytes are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Encoding {
    /// Base 64, for URLs and file names, no padding.
    #[default]
    Base64Url,
    /// Hexadecimal digits, lower case.
    Hex,
}

impl Encoding {
    /// Its name in rules and fingerprints.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Encoding::Base64Url => "base64url",
            Encoding::Hex => "hex",
        }
    }

    /// Characters of so many bytes.
    pub(crate) fn length(self, bytes: usize) -> usize {
        match self {
            Encoding::Base64Url => (bytes * 4).div_ceil(3),
            Encoding::Hex => bytes * 2,
        }
    }

    fn write(self, bytes: &[u8], out: &mut Out<'_>) {
        let (alphabet, group, bits): (&[u8], usize, u32) = match self {
            Encoding::Base64Url => {
                (b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", 3, 6)
            }
            Encoding::Hex => (b"0123456789abcdef", 1, 4),
        };
        for chunk in bytes.chunks(group) {
            let wide = chunk.iter().fold(0_u32, |wide, byte| wide << 8 | u32::from(*byte));
            let have = 8 * u32::try_from(chunk.len()).unwrap_or(0);
            let digits = have.div_ceil(bits);
            let wide = wide << (digits * bits - have);
            for digit in (0..digits).rev() {
                let place = wide >> (digit * bits) & ((1 << bits) - 1);
                out.push(char::from(alphabet[place as usize]));
            }
        }
    }
}

/// Buffers that are kept from value to value.
#[derive(Debug, Default)]
pub(crate) struct Work {
    asked: Texts,
    stream: Vec<Hash>,
    bytes: Vec<u8>,
}

impl Work {
    /// Writes the token of a value whose synthetic IV is `siv`.
    pub(crate) fn token(
        &mut self,
        value: &str,
        siv: Hash,
        stream: Domain,
        encoding: Encoding,
        out: &mut Out<'_>,
    ) {
        self.bytes.clear();
        self.bytes.extend_from_slice(&siv.0);
        let blocks = value.len().div_ceil(BLOCK);
        for from in (0..blocks).step_by(ASKED) {
            self.asked.clear();
            for block in from..blocks.min(from + ASKED) {
                self.asked.push(&format!("{siv}/{block}"));
            }
            stream.hash_all(&self.asked, &mut self.stream);
            let keys = self.stream.iter().flat_map(|hash| hash.0);
            let rest = &value.as_bytes()[from * BLOCK..];
            self.bytes.extend(rest.iter().zip(keys).map(|(byte, key)| byte ^ key));
        }
        encoding.write(&self.bytes, out);
    }
}
