//! `[redis]` of the configuration file. What can go wrong: values out of range, which
//! [`Config::validate`] names all at once.

use std::fmt;
use std::path::PathBuf;

use secrecy::SecretString;
use serde::Deserialize;
use serde::de::{Deserializer, Visitor};

use super::entry::Encoding;

/// Where and how changes are published.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `redis://[user[:password]@]host[:port][/db]`, `rediss://…` for TLS, or
    /// `redis+unix:///path`.
    #[serde(deserialize_with = "secret")]
    pub url: SecretString,
    /// Keys are `{prefix}:…`.
    pub prefix: String,
    /// How rows are written.
    pub encoding: Encoding,
    /// What counts as durable.
    pub durability: Durability,
    /// A durability wait that takes longer is an error and is tried again.
    pub durability_timeout_ms: u64,
    /// Longest wait for a connection.
    pub connect_timeout_ms: u64,
    /// Longest wait for a reply.
    pub response_timeout_ms: u64,
    /// PostgreSQL is told of a change only when it has been durable for this long, …
    pub ack_lag_ms: u64,
    /// … or lies this many bytes of WAL behind the newest one.
    pub ack_lag_bytes: u64,
    /// CA certificates (PEM) to trust instead of the system's.
    pub tls_ca: Option<PathBuf>,
    /// Client certificate (PEM).
    pub tls_cert: Option<PathBuf>,
    /// Its key (PEM).
    pub tls_key: Option<PathBuf>,
    /// How much of Redis's memory each stream may take.
    pub budget: Budget,
    /// Ceilings that hold whoever still wants the data.
    pub retention: Retention,
}

/// Memory of the two streams. In ACCUMULATING nobody may consume changes, so they must
/// not be able to starve the load: hence two.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Budget {
    /// Of the changes stream.
    pub changes: Share,
    /// Of the bootstrap stream.
    pub bootstrap: Share,
}

/// Ceilings of the changes stream; 0 = none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retention {
    /// Changes that committed longer ago go.
    pub max_age_ms: u64,
    /// The oldest changes go while there are more.
    pub max_length: u64,
}

/// A part of `maxmemory` (0 < x ≤ 1) or a number of bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Share {
    /// Of `maxmemory`; no limit where that is 0.
    Part(f64),
    /// Bytes.
    Bytes(u64),
}

/// What a write must have reached before PostgreSQL may forget it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// Redis's memory.
    #[default]
    Reply,
    /// Its append-only file, synced.
    Aof,
    /// The memory of this many replicas.
    Replicas(u32),
}

impl Default for Config {
    fn default() -> Config {
        Config {
            url: SecretString::from("redis://127.0.0.1:6379"),
            prefix: "kasho".to_owned(),
            encoding: Encoding::default(),
            durability: Durability::default(),
            durability_timeout_ms: 10_000,
            connect_timeout_ms: 5_000,
            response_timeout_ms: 30_000,
            ack_lag_ms: 5_000,
            ack_lag_bytes: 64 << 20,
            tls_ca: None,
            tls_cert: None,
            tls_key: None,
            budget: Budget::default(),
            retention: Retention::default(),
        }
    }
}

impl Default for Budget {
    fn default() -> Budget {
        Budget { changes: Share::Part(0.5), bootstrap: Share::Part(0.3) }
    }
}

impl Config {
    /// Everything that is wrong with the values, as `(key, what to do)`.
    #[must_use]
    pub fn validate(&self) -> Vec<(&'static str, String)> {
        let mut wrong = Vec::new();
        if self.prefix.is_empty() || self.prefix.contains(['{', '}']) {
            wrong.push(("redis.prefix", "must be a name without braces".to_owned()));
        }
        if self.durability == Durability::Replicas(0) {
            wrong.push(("redis.durability", "replicas must be at least 1".to_owned()));
        }
        for (key, ms) in [
            ("redis.durability_timeout_ms", self.durability_timeout_ms),
            ("redis.connect_timeout_ms", self.connect_timeout_ms),
            ("redis.response_timeout_ms", self.response_timeout_ms),
        ] {
            if ms == 0 {
                wrong.push((key, "must be greater than 0".to_owned()));
            }
        }
        if self.tls_cert.is_some() != self.tls_key.is_some() {
            wrong.push(("redis.tls_cert", "tls_cert and tls_key belong together".to_owned()));
        }
        if let (Share::Part(a), Share::Part(b)) = (self.budget.changes, self.budget.bootstrap)
            && a + b > 1.0
        {
            wrong.push(("redis.budget", "the two shares are more than all of maxmemory".to_owned()));
        }
        wrong
    }
}

impl Share {
    /// In bytes, of a server with this `maxmemory`; `None` = no limit.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a share of a memory size, to the byte or not"
    )]
    pub fn bytes(self, maxmemory: u64) -> Option<u64> {
        match self {
            Share::Bytes(bytes) => Some(bytes),
            Share::Part(_) if maxmemory == 0 => None,
            Share::Part(part) => Some((maxmemory as f64 * part) as u64),
        }
    }
}

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Share, D::Error> {
        struct Any;
        impl Visitor<'_> for Any {
            type Value = Share;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a share of maxmemory (0.5) or a size (\"512MiB\")")
            }
            fn visit_f64<E: serde::de::Error>(self, part: f64) -> Result<Share, E> {
                if part > 0.0 && part <= 1.0 {
                    return Ok(Share::Part(part));
                }
                Err(E::custom("a share lies between 0 and 1; sizes are written \"512MiB\""))
            }
            fn visit_i64<E: serde::de::Error>(self, n: i64) -> Result<Share, E> {
                match u64::try_from(n) {
                    Ok(1) => Ok(Share::Part(1.0)),
                    Ok(bytes) if bytes > 1 => Ok(Share::Bytes(bytes)),
                    _ => Err(E::custom("a budget is greater than 0")),
                }
            }
            fn visit_u64<E: serde::de::Error>(self, n: u64) -> Result<Share, E> {
                self.visit_i64(i64::try_from(n).unwrap_or(i64::MAX))
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Share, E> {
                let bytes = size(text).filter(|bytes| *bytes > 0);
                bytes.map(Share::Bytes).ok_or_else(|| E::custom("not a size such as \"512MiB\""))
            }
        }
        from.deserialize_any(Any)
    }
}

/// `512MiB`, `2 GiB`, `64kB`, `1000`.
fn size(text: &str) -> Option<u64> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim() {
        "" | "B" => 1,
        "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

fn secret<'de, D: Deserializer<'de>>(from: D) -> Result<SecretString, D::Error> {
    String::deserialize(from).map(SecretString::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_value_is_read() {
        let config: Config = toml::from_str(
            "url = 'redis://u:hunter2@h'\ndurability = { replicas = 2 }\nencoding = 'json'\n\
             [budget]\nchanges = '512MiB'\nbootstrap = 0.25\n[retention]\nmax_length = 5",
        )
        .unwrap();
        assert_eq!(config.durability, Durability::Replicas(2));
        assert_eq!(config.budget.changes, Share::Bytes(512 << 20));
        assert_eq!(config.budget.bootstrap.bytes(1000), Some(250));
        assert_eq!(config.budget.bootstrap.bytes(0), None);
        assert!(!format!("{config:?}").contains("hunter2"));
        assert!(config.validate().is_empty());
        assert!(toml::from_str::<Config>("durability = 'aof'").is_ok());
    }

    #[test]
    fn values_out_of_range_are_named() {
        for text in ["[budget]\nchanges = 1.5", "[budget]\nchanges = 0", "[budget]\nchanges = '5x'"]
        {
            assert!(toml::from_str::<Config>(text).is_err(), "{text}");
        }
        let config = Config {
            prefix: "{a}".to_owned(),
            durability: Durability::Replicas(0),
            connect_timeout_ms: 0,
            tls_key: Some("k".into()),
            budget: Budget { changes: Share::Part(0.8), bootstrap: Share::Part(0.8) },
            ..Config::default()
        };
        assert_eq!(config.validate().len(), 5);
    }
}
