//! Keyed hashes: the one function that turns a value into its fake, for ever.
//!
//! `K_domain = HKDF-SHA256(ikm = master, salt = none, info = "kasho/1\0" + domain)` (RFC
//! 5869), 32 bytes; `prf(value) = HMAC-SHA256(K_domain, value)[..16]` (RFC 2104). The host
//! computes it, so that a key never enters a guest; native tests of plugins use the same
//! code. Changing anything here changes every fake of every user: the golden vectors
//! below are made by another implementation and may never be edited.

use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::abi::PRF_BYTES;

/// Length of a master key.
pub const MASTER_BYTES: usize = 32;

/// The master key of fixtures and tests, which everybody knows, so that expected fakes can
/// be written down. The service refuses it.
pub const TEST_MASTER: [u8; MASTER_BYTES] = [7; MASTER_BYTES];

/// The key of one domain, ready to hash.
///
/// ```
/// use kasho_plugin_sdk::keys::{DomainKey, TEST_MASTER};
///
/// let emails = DomainKey::derive(&TEST_MASTER, "email");
/// assert_eq!(emails.prf(b"ada@lovelace.org"), emails.prf(b"ada@lovelace.org"));
/// assert_ne!(emails.prf(b"ada"), DomainKey::derive(&TEST_MASTER, "person").prf(b"ada"));
/// ```
#[derive(Clone)]
pub struct DomainKey {
    mac: Hmac<Sha256>,
}

impl std::fmt::Debug for DomainKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DomainKey(…)")
    }
}

impl DomainKey {
    /// Derives the key of `domain` from the master key.
    #[must_use]
    pub fn derive(master: &[u8; MASTER_BYTES], domain: &str) -> DomainKey {
        let mut key = [0; 32];
        // Neither can fail: 32 bytes are within HKDF's bound, HMAC takes keys of any length.
        // Should that ever change, a panic is right: a fixed key would be a silent leak.
        #[expect(clippy::expect_used, reason = "lengths are constants within both bounds")]
        Hkdf::<Sha256>::new(None, master)
            .expand_multi_info(&[b"kasho/1\0", domain.as_bytes()], &mut key)
            .expect("32 bytes are within HKDF's bound");
        #[expect(clippy::expect_used, reason = "HMAC takes keys of any length")]
        let mac = Hmac::<Sha256>::new_from_slice(&key).expect("HMAC takes any key");
        DomainKey { mac }
    }

    /// The keyed hash of a value.
    #[must_use]
    pub fn prf(&self, value: &[u8]) -> [u8; PRF_BYTES] {
        let mut mac = self.mac.clone();
        mac.update(value);
        let full = mac.finalize().into_bytes();
        let mut hash = [0; PRF_BYTES];
        hash.copy_from_slice(&full[..PRF_BYTES]);
        hash
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by Python's `hmac` and `hashlib`, HKDF written out by hand.
    #[test]
    fn golden_vectors() {
        let ascending: [u8; 32] = std::array::from_fn(|i| u8::try_from(i).unwrap());
        for (master, domain, value, want) in [
            (ascending, "email", "", 0xd1f3665ac96b5fbf3e2532dab0b300de),
            (ascending, "email", "ada@example.com", 0x9e5db7c3083be84f9da3b92109f44c26),
            (ascending, "email", "Grüße", 0x99b41f7b094b8862d87964affe9e8874),
            (ascending, "person", "", 0xdf63e2f854e7820102b8939bbf76b5ad),
            (ascending, "person", "ada@example.com", 0xd3f9ff542c8e3fdee236be5c7db474cd),
            (ascending, "person", "Grüße", 0xb25e9ba34f8bc1effc30667173c96ff7),
            (ascending, "", "", 0xe55629b39981cdf1be5442e1caed55c6),
            (ascending, "", "ada@example.com", 0xd9cc00f1f7babfd1a06ab016f0d3555d),
            (ascending, "", "Grüße", 0xb6235865298a3ce729670e959bc041ca),
            ([7; 32], "email", "", 0xde14bd1ef54fd32bead4d8e86fc33a34),
            ([7; 32], "email", "ada@example.com", 0x4e8de613bc1d7ad1ec8ac0b52d1ced0d),
            ([7; 32], "email", "Grüße", 0x8a1430d156f6b7d189e5fc0985ec4f5a),
            ([7; 32], "person", "", 0x8998c29c4dc258f0b9011f6875586570),
            ([7; 32], "person", "ada@example.com", 0xb2a3e7e27d27f890a620425dd3eed7c8),
            ([7; 32], "person", "Grüße", 0xccb99e61e4a3269fe37da0ebbfc2be16),
            ([7; 32], "", "", 0xc925eeba3180b8843fb5c96aa70c109b),
            ([7; 32], "", "ada@example.com", 0x81680af22c4f1d4ee245277564908094),
            ([7; 32], "", "Grüße", 0x0c1312a78595441f72f1132e47191919),
        ] {
            let hash = DomainKey::derive(&master, domain).prf(value.as_bytes());
            assert_eq!(u128::from_be_bytes(hash), want, "{domain} {value}");
        }
    }

    #[test]
    fn a_key_does_not_print() {
        assert_eq!(format!("{:?}", DomainKey::derive(&[7; 32], "email")), "DomainKey(…)");
    }
}
