//! `[source]` of the configuration file: which database is read, and how. What can go
//! wrong: values that make no sense, which `Config::invalid` names all at once.

use secrecy::SecretString;
use serde::Deserialize;

use crate::config::{Findings, Size, secret};

/// `[source]`: the database that is copied.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct Config {
    /// libpq's connection URL or `key=value` text. Required.
    #[serde(deserialize_with = "secret")]
    pub url: Option<SecretString>,
    /// The replication slot.
    pub slot: String,
    /// Standbys keep a copy of the slot (PostgreSQL 17 and later).
    pub failover: bool,
    /// The publications to read.
    pub publications: Vec<String>,
    /// Prefixes of `pg_logical_emit_message` messages that are published.
    pub messages: Vec<String>,
    /// Between two heartbeats that move an idle slot; 0 = none.
    pub heartbeat_ms: u64,
    /// Between two status updates at most.
    pub status_interval_ms: u64,
    /// What may wait between the socket and the pipeline.
    pub queue_bytes: Size,
    /// The largest message that is accepted: a row, with the old row beside it.
    pub max_message_bytes: Size,
    /// Longest wait for a connection.
    pub connect_timeout_ms: u64,
    /// The most log that the source may keep for the slot; 0 = no limit.
    pub max_retained_wal: Size,
    /// What happens there.
    pub on_limit: OnLimit,
}

/// `source.on_limit`: what happens at `max_retained_wal`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnLimit {
    /// The slot is dropped, and a new bootstrap needed: the source lives.
    Drop,
    /// Nothing but warnings: the source's disk may fill up.
    Hold,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            url: None,
            slot: "kasho_slot".to_owned(),
            failover: false,
            publications: vec!["kasho_pub".to_owned()],
            messages: Vec::new(),
            heartbeat_ms: 10_000,
            status_interval_ms: 10_000,
            queue_bytes: Size::mib(16),
            max_message_bytes: Size::mib(1024),
            connect_timeout_ms: 10_000,
            max_retained_wal: Size::mib(64 << 10),
            on_limit: OnLimit::Drop,
        }
    }
}

impl Config {
    /// What makes no sense.
    pub(crate) fn invalid(&self) -> Findings {
        let mut found = Findings::default();
        let url = "is required: set it, source.url_file, or the variable PRIMARY_DATABASE_URL";
        found.must(self.url.is_some(), "url", url);
        found.must(!self.publications.is_empty(), "publications", "names no publication");
        found.must(is_slot_name(&self.slot), "slot", SLOT_NAME);
        found.above_zero(&[
            ("status_interval_ms", self.status_interval_ms),
            ("connect_timeout_ms", self.connect_timeout_ms),
            ("queue_bytes", self.queue_bytes.0),
            ("max_message_bytes", self.max_message_bytes.0),
        ]);
        found
    }
}

const SLOT_NAME: &str = "a slot's name is 1 to 63 of a-z, 0-9 and _";

/// PostgreSQL manual, 27.2.6.1 "Replication slots".
fn is_slot_name(name: &str) -> bool {
    let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    (1..=63).contains(&name.len()) && name.bytes().all(legal)
}
