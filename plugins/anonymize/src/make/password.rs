//! Hashes of new passwords: bcrypt, scrypt, PBKDF2, Argon2id.
//!
//! The salt is the keyed hash of the cleartext (or of the value, or of nothing), never a
//! plain hash of anything. A hash is slow by design, so each is computed once for each
//! cleartext and salt and kept. What can go wrong is a parameter the algorithm refuses, which
//! is told when rules are read.

mod bcrypt;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use argon2::Argon2;
use kasho_plugin_sdk::{Error, Hash, Result};
use sha2::{Sha256, Sha384, Sha512};

use super::template::Template;
use crate::catalog::Maker;
use crate::rules::Options;

/// Bytes of a hash but bcrypt's.
const BYTES: usize = 32;
/// Hashes that are kept.
const KEPT: usize = 4096;

/// The algorithm with its costs.
#[derive(Clone, Copy, Debug)]
enum Algorithm {
    Bcrypt { cost: u32 },
    Scrypt { log_n: u8, r: u32, p: u32 },
    Pbkdf2 { rounds: u32, hash: Digest },
    Argon2id { time: u32, memory: u32, threads: u32 },
}

#[derive(Clone, Copy, Debug)]
enum Digest {
    Sha256,
    Sha384,
    Sha512,
}

/// What a salt is made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Salt {
    /// Nothing: one for all.
    One,
    /// The cleartext.
    Cleartext,
    /// The value.
    Value,
}

/// A password's hash.
#[derive(Clone, Debug)]
pub(crate) struct Password {
    algorithm: Algorithm,
    /// The new password.
    pub(crate) cleartext: Template,
    /// What the salt is made from.
    pub(crate) salt: Salt,
    phc: bool,
}

/// What hashing costs, roughly, in the guest.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    /// Milliseconds.
    pub(crate) millis: u32,
    /// Of memory.
    pub(crate) mib: u32,
}

impl Password {
    /// What a rule asks for.
    pub(crate) fn read(options: &Options) -> Result<Password> {
        let n = |name, range| {
            options.integer(name, range).map(|n| u32::try_from(n).unwrap_or(u32::MAX))
        };
        let algorithm = match options.entry.maker {
            Maker::Bcrypt => Algorithm::Bcrypt { cost: n("cost", 4..=20)? },
            Maker::Scrypt => {
                let (cost, r, p) = (n("n", 2..=1 << 24)?, n("r", 1..=64)?, n("p", 1..=64)?);
                if !cost.is_power_of_two() {
                    return Err(Error::new("`n` is a power of two"));
                }
                let log_n = u8::try_from(cost.trailing_zeros()).unwrap_or(1);
                scrypt::Params::new(log_n, r, p)
                    .map_err(|_| Error::new("scrypt does not take these `n`, `r` and `p`"))?;
                Algorithm::Scrypt { log_n, r, p }
            }
            Maker::Pbkdf2 => {
                let hash = match options.text("hash").unwrap_or("SHA256") {
                    "SHA256" => Digest::Sha256,
                    "SHA384" => Digest::Sha384,
                    "SHA512" => Digest::Sha512,
                    _ => return Err(Error::new("`hash` is SHA256, SHA384 or SHA512")),
                };
                Algorithm::Pbkdf2 { rounds: n("iterations", 1..=100_000_000)?, hash }
            }
            _ => {
                let (time, threads) = (n("time", 1..=1000)?, n("threads", 1..=64)?);
                let memory = n("memory", 8..=1 << 21)?;
                argon(time, memory, threads)
                    .map_err(|_| Error::new("`memory` is 8 for each of `threads` at least"))?;
                Algorithm::Argon2id { time, memory, threads }
            }
        };
        let salt = match (options.flag("use_salt"), options.flag("salt_per_value")) {
            (false, true) => return Err(Error::new("`salt_per_value` goes with `use_salt`")),
            (_, true) => Salt::Value,
            (true, _) => Salt::Cleartext,
            (false, _) => Salt::One,
        };
        let phc = match options.text("format").unwrap_or("hex") {
            "hex" => false,
            "phc" => true,
            _ => return Err(Error::new("`format` is hex or phc")),
        };
        let cleartext = Template::read(options.needs("cleartext")?)?;
        Ok(Password { algorithm, cleartext, salt, phc })
    }

    /// Whether each row may have a hash of its own.
    pub(crate) fn per_row(&self) -> bool {
        self.salt == Salt::Value || !self.cleartext.fields.is_empty()
    }

    /// Characters of the longest hash.
    pub(crate) fn longest(&self) -> usize {
        match (self.algorithm, self.phc) {
            (Algorithm::Bcrypt { .. }, _) => 60,
            (_, false) => 32 + 1 + 2 * BYTES,
            (_, true) => 128,
        }
    }

    /// What one hash costs, by what was measured natively, and twice that for the guest.
    pub(crate) fn cost(&self) -> Cost {
        let (millis, bytes) = match self.algorithm {
            Algorithm::Bcrypt { cost } => (88 * (1_u64 << cost) / 1024, 0),
            Algorithm::Scrypt { log_n, r, p } => {
                let block = (128 * u64::from(r)) << log_n;
                (574 * block * u64::from(p) / (1 << 27), block)
            }
            Algorithm::Pbkdf2 { rounds, .. } => (224 * u64::from(rounds) / 600_000, 0),
            Algorithm::Argon2id { time, memory, .. } => {
                let memory = u64::from(memory) << 10;
                (400 * memory * u64::from(time) / (3 << 26), memory)
            }
        };
        let small = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        Cost { millis: small(millis), mib: small(bytes.div_ceil(1 << 20)) }
    }

    /// The hash of a cleartext; empty if the algorithm refuses, which [`Password::read`]
    /// rules out.
    fn hash(&self, cleartext: &str, salt: Hash) -> String {
        let (password, salt) = (cleartext.as_bytes(), salt.0);
        let mut out = [0; BYTES];
        match self.algorithm {
            Algorithm::Bcrypt { cost } => return bcrypt::hash(cost, salt, password),
            Algorithm::Scrypt { log_n, r, p } => {
                let Ok(params) = scrypt::Params::new(log_n, r, p) else { return String::new() };
                if scrypt::scrypt(password, &salt, &params, &mut out).is_err() {
                    return String::new();
                }
            }
            Algorithm::Pbkdf2 { rounds, hash } => match hash {
                Digest::Sha256 => pbkdf2::pbkdf2_hmac::<Sha256>(password, &salt, rounds, &mut out),
                Digest::Sha384 => pbkdf2::pbkdf2_hmac::<Sha384>(password, &salt, rounds, &mut out),
                Digest::Sha512 => pbkdf2::pbkdf2_hmac::<Sha512>(password, &salt, rounds, &mut out),
            },
            Algorithm::Argon2id { time, memory, threads } => {
                let Ok(argon) = argon(time, memory, threads) else { return String::new() };
                if argon.hash_password_into(password, &salt, &mut out).is_err() {
                    return String::new();
                }
            }
        }
        if self.phc {
            format!("${}${}${}", self.named(), base64(&salt), base64(&out))
        } else {
            format!("{}${}", hex(&salt), hex(&out))
        }
    }

    /// Name and parameters in the PHC notation.
    fn named(&self) -> String {
        match self.algorithm {
            Algorithm::Bcrypt { cost } => format!("2a${cost:02}"),
            Algorithm::Scrypt { log_n, r, p } => format!("scrypt$ln={log_n},r={r},p={p}"),
            Algorithm::Pbkdf2 { rounds, hash } => {
                let digest = match hash {
                    Digest::Sha256 => "sha256",
                    Digest::Sha384 => "sha384",
                    Digest::Sha512 => "sha512",
                };
                format!("pbkdf2-{digest}$i={rounds},l={BYTES}")
            }
            Algorithm::Argon2id { time, memory, threads } => {
                format!("argon2id$v=19$m={memory},t={time},p={threads}")
            }
        }
    }
}

/// Hashes that were computed before.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kept(BTreeMap<(String, [u8; 16]), String>);

impl Kept {
    /// The hash of a cleartext, computed if it is not known.
    pub(crate) fn hash(&mut self, password: &Password, cleartext: &str, salt: Hash) -> &str {
        if self.0.len() >= KEPT {
            self.0.clear();
        }
        self.0
            .entry((cleartext.to_owned(), salt.0))
            .or_insert_with(|| password.hash(cleartext, salt))
    }
}

fn argon(time: u32, memory: u32, threads: u32) -> Result<Argon2<'static>, argon2::Error> {
    let params = argon2::Params::new(memory, time, threads, Some(BYTES))?;
    Ok(Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // A `String` takes whatever is written.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Base 64 (RFC 4648) without padding, as the PHC notation has it.
fn base64(bytes: &[u8]) -> String {
    base64_of(bytes, b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")
}

fn base64_of(bytes: &[u8], alphabet: &[u8; 64]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits =
            (0..3).fold(0, |n: u32, i| n << 8 | u32::from(group.get(i).copied().unwrap_or(0)));
        for i in 0..=group.len() {
            text.push(char::from(alphabet[(bits >> (18 - 6 * i) & 63) as usize]));
        }
    }
    text
}

#[cfg(test)]
mod tests;
