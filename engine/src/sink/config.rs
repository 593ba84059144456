//! `[redis]` of the configuration file: where and how changes are published. What can go
//! wrong: values that make no sense, which `Config::invalid` names all at once.

use std::fmt;
use std::path::PathBuf;

use secrecy::SecretString;
use serde::Deserialize;
use serde::de::{Deserializer, Error, Visitor};

use crate::config::{Findings, Size, secret};

/// `[redis]`: where changes are published.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct Config {
    /// `redis://`, `rediss://` or `redis+unix://`. Required.
    #[serde(deserialize_with = "secret")]
    pub url: Option<SecretString>,
    /// Keys are `{prefix}:…`.
    pub prefix: String,
    /// How rows are written.
    pub encoding: Encoding,
    /// Rows that an entry of the load holds at most; 1 = each row has one. None where the
    /// file says nothing: [`Config::load_rows`] is what holds.
    pub load_rows: Option<u64>,
    /// What counts as durable.
    pub durability: Durability,
    /// A durability wait that takes longer is an error, and tried again.
    pub durability_timeout_ms: u64,
    /// Longest wait for a connection.
    pub connect_timeout_ms: u64,
    /// Longest wait for a reply.
    pub response_timeout_ms: u64,
    /// PostgreSQL is told of a change when it has been durable for this long, …
    pub ack_lag_ms: u64,
    /// … or lies this many bytes of its log behind the newest one.
    pub ack_lag_bytes: Size,
    /// Dead letters that may lie there; publishing waits while there are so many.
    pub dead_letters: u64,
    /// Certificates (PEM) to trust instead of the system's.
    pub tls_ca: Option<PathBuf>,
    /// Client certificate (PEM).
    pub tls_cert: Option<PathBuf>,
    /// Its key (PEM).
    pub tls_key: Option<PathBuf>,
    /// How much of Redis' memory each stream may take.
    pub budget: Budget,
    /// Ceilings that hold whoever still wants the data.
    pub retention: Retention,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            url: None,
            prefix: "kasho".to_owned(),
            encoding: Encoding::Msgpack,
            load_rows: None,
            durability: Durability::Reply,
            durability_timeout_ms: 10_000,
            connect_timeout_ms: 5_000,
            response_timeout_ms: 30_000,
            ack_lag_ms: 5_000,
            ack_lag_bytes: Size::mib(64),
            dead_letters: 10_000,
            tls_ca: None,
            tls_cert: None,
            tls_key: None,
            budget: Budget::default(),
            retention: Retention::default(),
        }
    }
}

/// `redis.encoding`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// MessagePack.
    Msgpack,
    /// JSON.
    Json,
}

impl Encoding {
    /// As in the configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Encoding::Msgpack => "msgpack",
            Encoding::Json => "json",
        }
    }
}

/// [`Encoding::name`] of none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no encoding of this version")]
pub struct UnknownEncoding;

impl std::str::FromStr for Encoding {
    type Err = UnknownEncoding;

    fn from_str(name: &str) -> Result<Encoding, UnknownEncoding> {
        let all = [Encoding::Msgpack, Encoding::Json];
        all.into_iter().find(|encoding| encoding.name() == name).ok_or(UnknownEncoding)
    }
}

/// `redis.durability`: what a write must have reached before PostgreSQL may forget it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// Redis' memory.
    Reply,
    /// Its append-only file, synced.
    Aof,
    /// The memory of this many replicas.
    Replicas(u32),
}

/// `[redis.budget]`.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct Budget {
    /// Of the changes stream.
    pub changes: Share,
    /// Of the bootstrap stream.
    pub bootstrap: Share,
}

impl Default for Budget {
    fn default() -> Budget {
        Budget { changes: Share::Part(0.5), bootstrap: Share::Part(0.3) }
    }
}

/// `[redis.retention]`: ceilings of the changes stream; 0 = none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Retention {
    /// Changes that committed longer ago go.
    pub max_age_ms: u64,
    /// The oldest changes go while there are more.
    pub max_length: u64,
}

/// A part of `maxmemory`, or bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Share {
    /// 0 < part ≤ 1; no limit where `maxmemory` is 0.
    Part(f64),
    /// Bytes.
    Bytes(Size),
}

/// For those who read it where it is stored: a part has a point in it, bytes have none.
impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Share::Part(part) => write!(f, "{part:?}"),
            Share::Bytes(size) => write!(f, "{}", size.0),
        }
    }
}

impl Share {
    /// What [`Display`](fmt::Display) has written.
    #[must_use]
    pub fn stored(text: &str) -> Option<Share> {
        match text.parse() {
            Ok(bytes) => Some(Share::Bytes(Size(bytes))),
            Err(_) => text.parse().ok().map(Share::Part),
        }
    }
}

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Share, D::Error> {
        struct Any;
        impl Visitor<'_> for Any {
            type Value = Share;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a share of maxmemory (0.5), or a size (\"512MiB\")")
            }
            fn visit_f64<E: Error>(self, part: f64) -> Result<Share, E> {
                let share = (part > 0.0 && part <= 1.0).then_some(Share::Part(part));
                share.ok_or_else(|| E::custom("a share is greater than 0 and at most 1"))
            }
            fn visit_i64<E: Error>(self, number: i64) -> Result<Share, E> {
                match u64::try_from(number) {
                    Ok(1) => Ok(Share::Part(1.0)),
                    Ok(bytes @ 2..) => Ok(Share::Bytes(Size(bytes))),
                    _ => Err(E::custom("a budget is greater than 0")),
                }
            }
            fn visit_u64<E: Error>(self, bytes: u64) -> Result<Share, E> {
                Ok(Share::Bytes(Size(bytes)))
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Share, E> {
                match text.parse().map_err(E::custom)? {
                    Size(0) => Err(E::custom("a budget is greater than 0")),
                    size => Ok(Share::Bytes(size)),
                }
            }
        }
        from.deserialize_any(Any)
    }
}

/// Rows of an entry of the load, if its bytes do not end it before.
const LOAD_ROWS: u64 = 500;
/// Rows of an entry that one may ask for: a reader has to hold them all.
const MOST_LOAD_ROWS: u64 = 10_000;

impl Config {
    /// Rows that an entry of the load holds at most. JSON is chosen by those who read entries
    /// with tools and by eye: they find one row in each, unless they ask for more.
    #[must_use]
    pub fn load_rows(&self) -> u64 {
        self.load_rows.unwrap_or(match self.encoding {
            Encoding::Msgpack => LOAD_ROWS,
            Encoding::Json => 1,
        })
    }

    /// What makes no sense.
    pub(crate) fn invalid(&self) -> Findings {
        let mut found = Findings::default();
        let url = "is required: set it, redis.url_file, or the variable KV_URL";
        found.must(self.url.is_some(), "url", url);
        let plain = !self.prefix.is_empty() && !self.prefix.contains(['{', '}']);
        found.must(plain, "prefix", "must be a name without braces: they are added");
        found.must(self.durability != Durability::Replicas(0), "durability", "needs a replica");
        found.above_zero(&[
            ("durability_timeout_ms", self.durability_timeout_ms),
            ("connect_timeout_ms", self.connect_timeout_ms),
            ("response_timeout_ms", self.response_timeout_ms),
        ]);
        let rows = self.load_rows.is_none_or(|rows| (1..=MOST_LOAD_ROWS).contains(&rows));
        let text = "must lie between 1 (one entry a row) and 10000: readers hold an entry whole";
        found.must(rows, "load_rows", text);
        let text = "must lie between 1 and 100000: all of them are kept in Redis";
        found.must((1..=100_000).contains(&self.dead_letters), "dead_letters", text);
        let half = if self.tls_cert.is_some() { "tls_cert" } else { "tls_key" };
        let whole = self.tls_cert.is_some() == self.tls_key.is_some();
        found.must(whole, half, "tls_cert and tls_key belong together");
        if let (Share::Part(a), Share::Part(b)) = (self.budget.changes, self.budget.bootstrap) {
            let message = "the two shares are more than all of maxmemory";
            found.must(a + b <= 1.0, "budget", message);
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_read_as_it_is_stored() {
        for share in [Share::Part(0.5), Share::Part(1.0), Share::Part(1e-9), Share::Bytes(Size(1))]
        {
            assert_eq!(Share::stored(&share.to_string()), Some(share));
        }
        assert_eq!(Share::stored(""), None);
    }
}
