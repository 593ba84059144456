//! bcrypt (Provos and Mazières, 1999), on the Blowfish of RustCrypto: only the key schedule's
//! loop and the notation are here. Nothing can go wrong; a password beyond 72 bytes counts
//! with its first 72, as everywhere.

use blowfish::Blowfish;

/// What is encrypted, 64 times.
const TEXT: [u32; 6] =
    [0x4f72_7068, 0x6561_6e42, 0x6568_6f6c, 0x6465_7253, 0x6372_7944, 0x6f75_6274];
/// bcrypt's own base 64.
const ALPHABET: &[u8; 64] = b"./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
/// Bytes of a password that count, with the zero behind it.
const MOST: usize = 72;

/// `$2a$`, the cost, the salt and the hash.
pub(super) fn hash(cost: u32, salt: [u8; 16], password: &[u8]) -> String {
    let mut key: Vec<u8> = password.iter().copied().chain([0]).collect();
    key.truncate(MOST);
    let mut state = Blowfish::bc_init_state();
    state.salted_expand_key(&salt, &key);
    for _ in 0..1_u64 << cost {
        state.bc_expand_key(&key);
        state.bc_expand_key(&salt);
    }
    let mut words = TEXT;
    for pair in words.chunks_exact_mut(2) {
        let mut halves = [pair[0], pair[1]];
        for _ in 0..64 {
            halves = state.bc_encrypt(halves);
        }
        pair.copy_from_slice(&halves);
    }
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).take(23).collect();
    let spelt = |bytes: &[u8]| super::base64_of(bytes, ALPHABET);
    format!("$2a${cost:02}${}{}", spelt(&salt), spelt(&bytes))
}
