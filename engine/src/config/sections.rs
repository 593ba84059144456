//! The sections of the file: what can be set, in which unit, and to what it defaults.
//!
//! `config/kasho.toml` shows the same to operators; a test compares the two.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use secrecy::SecretString;
use serde::Deserialize;
use serde::de::{Deserializer, Error, Visitor};

use super::read::VERBATIM;
use super::secret::KeyConfig;
use super::size::Size;

/// `[source]`: the database that is copied.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct SourceConfig {
    /// libpq's connection URL or `key=value` text. Required.
    #[serde(deserialize_with = "secret")]
    pub url: Option<SecretString>,
    /// The replication slot.
    pub slot: String,
    /// The publications to read.
    pub publications: Vec<String>,
    /// Prefixes of `pg_logical_emit_message` messages that are published.
    pub messages: Vec<String>,
    /// Between two heartbeats that move an idle slot; 0 = none.
    pub heartbeat_ms: u64,
    /// Between two status updates at least.
    pub status_interval_ms: u64,
    /// What may wait between the socket and the pipeline.
    pub queue_bytes: Size,
    /// The largest message that is accepted: a row, with the old row beside it.
    pub max_message_bytes: Size,
    /// Longest wait for a connection.
    pub connect_timeout_ms: u64,
}

impl Default for SourceConfig {
    fn default() -> SourceConfig {
        SourceConfig {
            url: None,
            slot: "kasho_slot".to_owned(),
            publications: vec!["kasho_pub".to_owned()],
            messages: Vec::new(),
            heartbeat_ms: 10_000,
            status_interval_ms: 10_000,
            queue_bytes: Size::mib(16),
            max_message_bytes: Size::mib(1024),
            connect_timeout_ms: 10_000,
        }
    }
}

/// `[redis]`: where changes are published.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct RedisConfig {
    /// `redis://`, `rediss://` or `redis+unix://`. Required.
    #[serde(deserialize_with = "secret")]
    pub url: Option<SecretString>,
    /// Keys are `{prefix}:…`.
    pub prefix: String,
    /// How rows are written.
    pub encoding: Encoding,
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

impl Default for RedisConfig {
    fn default() -> RedisConfig {
        RedisConfig {
            url: None,
            prefix: "kasho".to_owned(),
            encoding: Encoding::Msgpack,
            durability: Durability::Reply,
            durability_timeout_ms: 10_000,
            connect_timeout_ms: 5_000,
            response_timeout_ms: 30_000,
            ack_lag_ms: 5_000,
            ack_lag_bytes: Size::mib(64),
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

/// `[bootstrap]`: the initial load.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct BootstrapConfig {
    /// Connections that load at once.
    pub workers: u32,
    /// A table is split into ranges of about this many MiB.
    pub range_mib: u64,
    /// Ceiling of what is read from the source in a second, in bytes; 0 = none.
    pub max_rate: Size,
    /// The target is filled by other means: stream from the consistent point, load nothing.
    pub no_initial_data: bool,
    /// Where the snapshot holder is found again after a restart of the engine.
    pub state_dir: PathBuf,
}

impl Default for BootstrapConfig {
    fn default() -> BootstrapConfig {
        BootstrapConfig {
            workers: 2,
            range_mib: 256,
            max_rate: Size(0),
            no_initial_data: false,
            state_dir: PathBuf::from("/var/lib/kasho"),
        }
    }
}

/// `[plugins]`: where plugins are and what is kept of them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct PluginsConfig {
    /// The folder of the `.wasm` files.
    pub folder: PathBuf,
    /// Where the generations in use and compiled code are kept.
    pub store: PathBuf,
    /// Between two looks at the files, beside the notices of the operating system.
    pub poll_ms: u64,
}

impl Default for PluginsConfig {
    fn default() -> PluginsConfig {
        PluginsConfig { folder: "plugins".into(), store: "store".into(), poll_ms: 2_000 }
    }
}

/// `[log]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct LogConfig {
    /// `error`, `warn`, `info`, `debug`, `trace`, or directives such as
    /// `info,kasho::source=debug`. Changes at run time.
    pub level: String,
    /// How lines look.
    pub format: LogFormat,
}

impl Default for LogConfig {
    fn default() -> LogConfig {
        LogConfig { level: "info".to_owned(), format: LogFormat::Text }
    }
}

/// `log.format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// `unruled_tables`: what happens to a row of a table that no binding names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unruled {
    /// Nothing passes until somebody decided.
    Halt,
    /// Its rows are left out.
    Drop,
    /// Its rows leave as they are. Needs `allow_unmasked = true`.
    Pass,
}

/// `[keys]`: masking keys by name.
pub type Keys = BTreeMap<String, KeyConfig>;

/// `[[transform]]`: a plugin attached to tables.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Binding {
    /// Its name in logs, status and dead letters.
    pub name: String,
    /// The file in the plugin folder.
    pub plugin: String,
    /// Digest that the file must have, in hexadecimal.
    #[serde(default)]
    pub sha256: Option<String>,
    /// `schema.table`, or `schema.*`.
    pub tables: Vec<String>,
    /// What an error verdict of a row does.
    #[serde(default)]
    pub on_error: OnError,
    /// What a column does that no rule names.
    #[serde(default)]
    pub new_columns: NewColumns,
    /// Rows may leave unmasked where this binding says `pass`.
    #[serde(default)]
    pub allow_unmasked: bool,
    /// A filter that reads other than identity columns: inserts only.
    #[serde(default)]
    pub insert_only: bool,
    /// Ceiling of the plugin's memory, in MiB.
    #[serde(default = "default_memory_mib")]
    pub memory_mib: u32,
    /// Ceiling of a call's time, beside what the plugin declares for each row.
    #[serde(default = "default_deadline_ms")]
    pub deadline_ms: u64,
    /// Ceiling of the rows in a call.
    #[serde(default = "default_max_rows")]
    pub max_rows: u32,
    /// The plugin's own configuration, given to it as it stands.
    #[serde(default)]
    pub rules: Rules,
}

fn default_memory_mib() -> u32 {
    64
}

fn default_deadline_ms() -> u64 {
    100
}

fn default_max_rows() -> u32 {
    1024
}

/// `on_error`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnError {
    /// Nothing more is acknowledged until somebody decided.
    #[default]
    Halt,
    /// The row goes to the dead letters.
    DeadLetter,
    /// The row is left out.
    Drop,
    /// The row leaves as it is. Needs `allow_unmasked = true`.
    Pass,
}

/// `new_columns`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NewColumns {
    /// Nothing of the table passes until a rule names the column.
    #[default]
    Halt,
    /// Its values are NULL.
    Null,
    /// Its values leave as they are. Needs `allow_unmasked = true`.
    Pass,
}

/// A plugin's own configuration. Its texts stand as written, `${…}` included.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rules(pub serde_json::Map<String, serde_json::Value>);

impl<'de> Deserialize<'de> for Rules {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Rules, D::Error> {
        struct Inner;
        impl<'de> Visitor<'de> for Inner {
            type Value = Rules;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table")
            }
            fn visit_newtype_struct<D: Deserializer<'de>>(
                self,
                from: D,
            ) -> Result<Rules, D::Error> {
                serde_json::Map::deserialize(from).map(Rules)
            }
        }
        from.deserialize_newtype_struct(VERBATIM, Inner)
    }
}

fn secret<'de, D: Deserializer<'de>>(from: D) -> Result<Option<SecretString>, D::Error> {
    String::deserialize(from).map(|text| Some(SecretString::from(text)))
}
